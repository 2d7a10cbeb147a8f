"""The engine: token ids in, ranked features and activations out.

`work.py` and `process.py` are what the front end imports, without torch. `worker.py` is the main of the spawned process
that owns model and sources; `runner.py` computes a batch there; `ranking.py` is the exact top K.
"""
