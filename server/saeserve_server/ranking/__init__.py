"""What a question asks of rows of activations, and its answer: the one ranking. NumPy only; below engine and front end.

*Rows* (`saeserve_server/rows.py`) are what a source gives on the tokens of a text. The worker ranks fresh ones, the
front end those that were kept of a text, with the same code, so the two cannot differ.
"""
