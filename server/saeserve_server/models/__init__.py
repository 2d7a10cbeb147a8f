"""Language models: found, loaded through TransformerLens, and run up to the hook points that are asked for.

Imported by the engine only (it imports torch and transformer_lens). `locate.py` turns a name into files, `load.py`
loads them, `hooks.py` maps hook points to modules, `forward.py` runs the model.
"""
