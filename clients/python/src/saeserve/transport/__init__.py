"""The way to a server: its address, its channel, the headers of a call, and how it fails.

Of the client it imports `arguments`. Everything above may import this.
"""
