"""How answers look: in one line as `repr`, and as HTML in a notebook, without a library.

It imports `answers` and `arguments`; the answers' own methods load it when it is asked for.
"""
