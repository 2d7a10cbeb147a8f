"""The index of top activations: its format, its reader, its builder.

`layout`, `store`, `writer`, `peaks`, `page`, `match` and `corpus` know numpy and nothing of torch or protobuf; only
`builder` imports torch. api, scheduler and engine may import this package; it imports `errors` and `catalog` only.
"""
