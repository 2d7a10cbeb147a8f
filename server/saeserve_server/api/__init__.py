"""The gRPC face: protobuf in, protobuf out. The only package that knows protobuf.

`server.py` runs the server; `interceptor.py` is what every call passes through; `servicer.py` lists the RPCs; each of
`search.py`, `encode.py`, `encode_stream.py`, `lookups.py` answers some; `parse.py` reads requests, `build.py` writes
answers.
"""
