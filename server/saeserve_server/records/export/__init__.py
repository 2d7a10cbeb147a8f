"""Exports: what is known of features, of an index or of a store of imports, written in the formats of others.

`features` reads both as one kind of thing; a module for each format writes it. It knows NumPy; commands may import it.
"""
