"""Answers that need not be computed again: in this process, in a Redis that replicas share, and from kept activations.

Knows keys and bytes, and the engine's plain data; neither protobuf nor torch.
"""
