"""What is asked: requests from friendly arguments, and streams that resume.

Imports `answers`, `transport` and `arguments`. The two clients, which send what is made here, and what uses them import
this.
"""
