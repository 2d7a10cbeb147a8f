"""What comes back: the wire's messages read into frozen results.

Of the client it imports `arguments`, and of `transport` the errors alone, since an answer can be one. `calls` and what
stands on top import this.
"""
