"""What a caller may give: what a text is, a number, numbers, a timeout. Every entry point reads its arguments here.

The bottom of the client: it imports nothing of it, and everything above may import this.
"""
