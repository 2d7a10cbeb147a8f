"""Readers, encoding and registry, held against files written here and formulas written down anew."""
