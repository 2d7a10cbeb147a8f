"""OpenAI's NeuronRecord: one JSON document a neuron, with its strongest records and samples of the others.

`{dataclass_name, neuron_id{layer_index, neuron_index}, random_sample, random_sample_by_quantile, quantile_boundaries,
mean, variance, skewness, kurtosis, most_positive_activation_records}`; a record is `{tokens, activations}`. Some files
leave out the class names, call the ids `layer` and `idx`, or give them in the path alone: `{layer}/{index}.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final

from saeserve_server.errors import shown
from saeserve_server.records.imported.items import (
    Activations,
    BadLine,
    Facts,
    Feature,
    Item,
    Naming,
    index_of,
    number_of,
    tokens_and_values,
    whole,
    without,
)
from saeserve_server.records.imported.schema import FIRST_QUANTILE, RANDOM, TOP

NAME: Final = "neuron-records"

POSITIVE: Final = "most_positive_activation_records"
SAMPLE: Final = "random_sample"
QUANTILES: Final = "random_sample_by_quantile"
MOMENTS: Final = ("mean", "variance", "skewness", "kurtosis")
LAYERS: Final = ("layer_index", "layer")
INDICES: Final = ("neuron_index", "idx", "index", "neuron", "latent_index")
MOST_RECORDS: Final = 100_000
"""Of one neuron."""


def recognises(line: Mapping[str, Any]) -> bool:
    """Whether it looks like one."""
    return POSITIVE in line or line.get("dataclass_name") == "NeuronRecord"


def read(line: Mapping[str, Any], file: PurePath, naming: Naming) -> Iterator[Item]:
    """What it holds: the neuron's facts, then its records. Raises BadLine."""
    feature = neuron_of(line, file, naming)
    for name in MOMENTS:
        number_of(line, name)
    kept = without(line, POSITIVE, SAMPLE, QUANTILES)
    groups: list[tuple[int, str, list[Any]]] = []
    for group, name in ((TOP, POSITIVE), (RANDOM, SAMPLE)):
        if name in line:
            records = _records(line[name], name)
            kept[name] = None if records is None else len(records)
            groups.append((group, name, records or []))
    if QUANTILES in line:
        quantiles = _records(line[QUANTILES], QUANTILES)
        kept[QUANTILES] = None if quantiles is None else len(quantiles)
        for place, part in enumerate(quantiles or ()):
            name = f"{QUANTILES}[{place}]"
            groups.append((FIRST_QUANTILE + place, name, _records(part, name) or []))
    if sum(len(records) for _, _, records in groups) > MOST_RECORDS:
        raise BadLine(f"more than {MOST_RECORDS} records of one neuron")
    yield Facts(feature, kept=kept)
    for group, name, records in groups:
        for place, record in enumerate(records):
            if not isinstance(record, dict):
                raise BadLine(f"{name}[{place}]: expected a record, got {shown(record)}")
            try:
                tokens, values, rest = tokens_and_values(record, "activations")
            except BadLine as error:
                raise BadLine(f"{name}[{place}]: {error}") from None
            yield Activations(feature, group, tokens, values, rest)


def neuron_of(line: Mapping[str, Any], file: PurePath, naming: Naming) -> Feature:
    """Which neuron the line is about: by `neuron_id`, by its own fields, else by the path. Raises BadLine."""
    named = line.get("neuron_id")
    for fields in (named, line):
        if isinstance(fields, dict):
            layer = next((fields[name] for name in LAYERS if name in fields), None)
            index = next((fields[name] for name in INDICES if name in fields), None)
            if index is not None and (layer is not None or naming.source is not None):
                return Feature(naming.of(layer), index_of(index, "neuron_id"))
    index, layer = whole(file.name.partition(".")[0]), whole(file.parent.name)
    if index is None or (layer is None and naming.source is None):
        raise BadLine("neuron_id: missing, and the path is not {layer}/{index}.json: give --source")
    return Feature(naming.of(layer), index_of(index, "the path"))


def _records(value: object, name: str) -> list[Any] | None:
    if value is not None and not isinstance(value, list):
        raise BadLine(f"{name}: expected a list, got {shown(value)}")
    return value
