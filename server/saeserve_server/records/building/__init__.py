"""How an index is made: texts in chunks, rows of activations folded into sums and unions, merged, finished.

Everything that is kept of a chunk is a sum of whole numbers or a union that is cut under a total order (`best.py`), so
chunks may be folded and merged in any order and grouping, to the same bytes. What depends on the whole waits for the
second pass (`second.py`).
"""
