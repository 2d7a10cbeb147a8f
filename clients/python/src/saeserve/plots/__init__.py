"""Answers as pictures: matplotlib draws them into an Axes, and is loaded where one is asked for.

It imports `answers`, `arguments` and `tables`; the answers' own methods load it when they are called.
"""
