"""The calls of Neuronpedia's inference server, answered by ours: `saeserve web --neuronpedia`.

A request's way: `routes` (secret, errors) → `requests` (body to fields) → `calls` (the RPCs that answer it) → `answers`
(rows and casing). It ranks nothing: it adds rows of zeros, changes names and rounds. Meanings are those of
Neuronpedia's server, also where ours differ; clients/web/neuronpedia.md says which.
"""
