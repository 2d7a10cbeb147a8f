"""The index of top activations: its format, its reader, its builder.

It knows numpy, and nothing of torch or protobuf. api, engine and ranking may import this package; it imports
`errors`, `catalog` and `rows` only.
"""
