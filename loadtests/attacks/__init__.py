"""Attacks on a running server, each in a process of its own at low priority, beside callers who only want an answer.

python -m loadtests.attacks --help
"""
