"""Kinds of corpora besides text and JSON lines: tables of rows (`tables.py`), and the folders that data sets lie in
(`data_sets.py`): Hugging Face's, saved or as on the hub. Used by `records/corpus.py`."""
