"""Answers as tables: their columns, said once, in the hands of pandas, Polars, Arrow and SciPy.

It imports `answers` and `arguments`, and a library where a table is asked for; the answers' own methods load it then.
"""
