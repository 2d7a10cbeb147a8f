"""The index of top activations: its format, its reader, its builder.

Only `builder` imports torch; the rest knows numpy, and nothing of torch or protobuf. api, scheduler and
engine may import this package; it imports `errors` and `catalog` only.
"""
