"""Imported records and explanations: reading their files, and the store that they are kept in.

One SQLite file a store, which is never changed in place: an import writes another beside it and moves it there whole.
Tokens are kept as the strings of the file and never cut anew. It knows NumPy and SQLite; ranking, engine, serving and
api may import `store`, commands all of it.
"""
