"""What the documentation's pages report, made anew: each program prints its tables, and asserts nothing.

Beside the server, not in it: nothing there may import this.
"""
