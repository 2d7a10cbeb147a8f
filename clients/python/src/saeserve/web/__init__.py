"""`saeserve web`: HTTP and a page before one or several servers. Only the command imports it; needs `saeserve[web]`.

A request's way: `guard` (who may ask, how many, headers, counting) → `app` (which path) → `calls` (body to message, the
RPC through `gateway`, message to JSON). It ranks nothing and keeps nothing.
"""
