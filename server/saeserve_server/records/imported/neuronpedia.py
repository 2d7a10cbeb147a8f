"""Neuronpedia's export: batches of features, activations and explanations, a JSON line each.

`v1/{model}/{source}/{features,activations,explanations}/batch-N.jsonl.gz` beside `model.jsonl`, `release.jsonl`,
`sourceset.jsonl` and `source.jsonl`. Batches are not contiguous by index, and may be given in any order. `layer` holds
the source's id; a bare number is a layer's neurons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final

from saeserve_server.errors import shown
from saeserve_server.records.imported.items import (
    Activations,
    BadLine,
    Beside,
    Facts,
    Feature,
    Item,
    Naming,
    Words,
    index_of,
    number_of,
    text_of,
    tokens_and_values,
    without,
)
from saeserve_server.records.imported.schema import TOP

NAME: Final = "neuronpedia"

BESIDE: Final = ("model", "release", "sourceset", "source")
"""Files about the whole, by their names before the first dot."""
SCORES: Final = ("score", "scoreValue")


def recognises(line: Mapping[str, Any]) -> bool:
    """Whether it looks like one."""
    return "layer" in line and "index" in line and ("modelId" in line or "tokens" in line or "description" in line)


def is_beside(file: PurePath) -> bool:
    """Whether a file is about the whole, by its name."""
    return file.name.partition(".")[0] in BESIDE


def read(line: Mapping[str, Any], file: PurePath, naming: Naming) -> Iterator[Item]:
    """A feature, a record, an explanation, or a line about the whole. Raises BadLine."""
    if is_beside(file):
        yield Beside(file.name.partition(".")[0], line)
        return
    if "layer" not in line or "index" not in line:
        missing = "layer" if "layer" not in line else "index"
        raise BadLine(f"{missing}: missing; a feature, an activation or an explanation is expected")
    feature = Feature(naming.of(line["layer"]), index_of(line["index"], "index"))
    if "tokens" in line or "values" in line:
        tokens, values, rest = tokens_and_values(line, "values")
        yield Activations(feature, TOP, tokens, values, rest)
    elif "description" in line:
        text = text_of(line, "description")
        if not text:
            raise BadLine(f"description: expected a text, got {shown(line['description'])}")
        score = next((number_of(line, name) for name in SCORES if line.get(name) is not None), None)
        kept = without(line, "description")
        yield Words(feature, text, score, text_of(line, "typeName"), text_of(line, "explanationModelName"), kept)
    else:
        density = number_of(line, "frac_nonzero")
        if density is not None and not 0 <= density <= 1:
            raise BadLine(f"frac_nonzero: expected a share from 0 to 1, got {shown(density)}")
        maximum = number_of(line, "maxActApprox")
        yield Facts(feature, density, maximum, dict(line))
