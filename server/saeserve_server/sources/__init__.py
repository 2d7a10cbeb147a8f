"""Sources of features: SAEs on disk, synthetic SAEs, and MLP neurons. Imported by engine and commands only; torch is.

Where they lie (`paths`, `plan`), what files say (`formats/`, `weights/`, `releases`, `description`): so far nothing
imports torch, so that a wrong configuration is told at once. Then what is in them (`reading`), one maths of encoding
(`sae`, `steps`, `activations`), one way in (`registry.load_sources`). A new format is a module in `formats/`, a line in
`formats.ALL` and its name in `tables.FORMAT_NAMES`.
"""
