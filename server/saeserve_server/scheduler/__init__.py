"""Between the callers and the engine: the queue, and the batches made of it. Knows items and their tokens, not models.

Imports the engine's plain data only. Admission and cancellation between stages go into `queue.py` and `scheduler.py`.
"""
