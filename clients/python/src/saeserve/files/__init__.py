"""Activations of whole data sets in files: texts read, encoded in parts that survive a kill, and read back.

May import arguments, answers, and of transport the errors; pyarrow and SciPy only where they are needed.
"""
