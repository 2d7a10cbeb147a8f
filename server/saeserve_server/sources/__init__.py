"""Sources of features: SAEs on disk, synthetic SAEs, and MLP neurons. Only the engine imports this package; torch is.

One file for each format (`openai`, `saelens`), one maths of encoding (`sae`), one way in (`registry.load_sources`).
A new format is a module with the three functions of `formats.Format` and a line in `formats.FORMATS`.
"""
