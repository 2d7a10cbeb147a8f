"""Exports to Neuronpedia's batches, which its web app imports: 1,024 features each, gzipped, and lines about the whole.

`v1/{model}/{source}/{features,activations,explanations}/batch-N.jsonl.gz` beside `model.jsonl`, `release.jsonl`,
`sourceset.jsonl`, `source.jsonl`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from saeserve_server.records.export.features import (
    SAMPLE,
    OutFeature,
    OutRecord,
    layer_of,
    short,
    shorts,
    text_of,
)
from saeserve_server.records.export.neuron_records import exponent_of
from saeserve_server.records.imported.schema import TOP

NAME: Final = "neuronpedia"
BATCH: Final = 1024
"""Features of a file."""
LEVEL: Final = 6

NOT_HELD: Final = (
    "texts in which a feature fires, peak tokens with their counts, surprisal: the histogram's bars alone are held",
    "how many blocks a record of the sample stands for, but for the share of its power of two (binContains)",
    "where a record's window lies in its text but for the text's number (dataIndex)",
    "which latents are active at a record's peak, near misses, firing positions",
    "tokens that are part of a character: their bytes become U+FFFD",
)
"""Of an index of ours."""
NOT_KNOWN: Final = (
    "pos_str, pos_values, neg_str, neg_values (what a feature writes to the logits): empty",
    "topkCosSimIndices, topkCosSimValues: empty",
    "vector: empty, hasVector false",
    "creatorId, createdAt, authorId: null",
)
"""What the format has and an index of ours does not."""


@dataclass(frozen=True, slots=True)
class About:
    """What lines say of the whole."""

    model: str
    release: str
    hooks: Mapping[str, str] = field(default_factory=dict)
    """By source, where known."""
    kept: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Lines of files, as they were imported."""


def write(features: Iterable[OutFeature], out: Path, about: About) -> int:
    """Writes them all, which come source by source; returns how many."""
    count = 0
    batch: list[OutFeature] = []
    number = 0
    source: str | None = None
    for feature in features:
        if batch and (len(batch) == BATCH or feature.source != batch[0].source):
            _write_batch(batch, out, about, number)
            number = number + 1 if feature.source == batch[0].source else 0
            batch = []
        if feature.source != source:
            source = feature.source
            _write_about(out, source, about)
        batch.append(feature)
        count += 1
    if batch:
        _write_batch(batch, out, about, number)
    return count


def feature_line(feature: OutFeature, about: About) -> dict[str, Any]:
    """A feature; one that was imported as such comes out as it was."""
    if feature.kept is not None and "index" in feature.kept:
        return dict(feature.kept)
    heights, values = _bars(feature)
    return {
        "modelId": about.model,
        "layer": feature.source,
        "index": str(feature.index),
        "creatorId": None,
        "createdAt": None,
        "maxActApprox": None if feature.maximum is None else short(feature.maximum),
        "frac_nonzero": feature.density,
        "pos_str": [],
        "pos_values": [],
        "neg_str": [],
        "neg_values": [],
        "freq_hist_data_bar_heights": heights,
        "freq_hist_data_bar_values": values,
        "topkCosSimIndices": [],
        "topkCosSimValues": [],
        "hasVector": False,
        "vector": [],
        "hookName": feature.hook_name or about.hooks.get(feature.source),
        "sourceSetName": layer_of(feature.source)[1],
    }


def activation_lines(feature: OutFeature, about: About) -> Iterator[dict[str, Any]]:
    """A line for each record."""
    weights: dict[int, float] = {}
    for record in feature.records:
        if record.group == SAMPLE:
            power = exponent_of(record.maximum)
            weights[power] = weights.get(power, 0.0) + record.weight
    total = sum(weights.values())
    shown = {_where(record) for record in feature.top}
    for place, record in enumerate(feature.records):
        if record.group == TOP or record.group >= 0:
            yield _activation(feature, record, place, about)
        elif record.group == SAMPLE and _where(record) not in shown:
            power = exponent_of(record.maximum)
            bounds = {"binMin": 2.0**power, "binMax": 2.0 ** (power + 1), "binContains": weights[power] / total}
            yield {**_activation(feature, record, place, about), **bounds}


def explanation_lines(feature: OutFeature, about: About) -> Iterator[dict[str, Any]]:
    """A line for each explanation."""
    for place, one in enumerate(feature.explanations):
        if "index" in one.kept:
            yield {**one.kept, "description": one.text}
            continue
        yield {
            "id": f"{feature.source}-{feature.index}-explanation-{place}",
            "modelId": about.model,
            "layer": feature.source,
            "index": str(feature.index),
            "description": one.text,
            "authorId": None,
            "typeName": one.type or None,
            "explanationModelName": one.model or None,
            "notes": None,
            **({} if one.score is None else {"score": one.score}),
        }


def _activation(feature: OutFeature, record: OutRecord, place: int, about: About) -> dict[str, Any]:
    told: dict[str, Any] = {
        "tokens": [text_of(token) for token in record.tokens],
        "values": shorts(record.values),
    }
    if "index" in record.kept:
        return {**record.kept, **told}
    return {
        "id": f"{feature.source}-{feature.index}-{place}",
        "modelId": about.model,
        "layer": feature.source,
        "index": str(feature.index),
        **told,
        "maxValue": short(record.maximum),
        "maxValueTokenIndex": record.peak,
        "minValue": short(record.values.min()),
        "creatorId": None,
        "binMin": None,
        "binMax": None,
        "binContains": None,
        "qualifyingTokenIndex": None if record.group == TOP else record.peak,
        "dataSource": None,
        "dataIndex": None if record.text_index is None else str(record.text_index),
    }


def _where(record: OutRecord) -> tuple[int | None, int | None]:
    return record.text_index, record.text_position


def _bars(feature: OutFeature) -> tuple[list[int], list[float]]:
    """Counts of a histogram's bins, and the middle of each."""
    if feature.statistics is None:
        return [], []
    edges = np.asarray(feature.statistics.histogram_edges).reshape(-1, 2)
    lower, upper = edges[:, 0], np.where(np.isfinite(edges[:, 1]), edges[:, 1], edges[:, 0])
    return feature.statistics.histogram_counts.tolist(), ((lower + upper) / 2).tolist()


def _write_about(out: Path, source: str, about: About) -> None:
    place = out / "v1" / about.model / source
    place.mkdir(parents=True)
    _, group = layer_of(source)
    kept = [(file, line) for file, line in about.kept if file != "source" or line.get("id", source) == source]
    lines: Sequence[tuple[str, Mapping[str, Any]]] = kept or (
        ("model", {"id": about.model, "displayName": about.model, "instruct": False}),
        ("release", {"name": about.release, "description": f"exported by saeserve from {about.release}"}),
        ("sourceset", {"modelId": about.model, "name": group, "releaseName": about.release}),
        ("source", {"modelId": about.model, "id": source, "setName": group, "hookName": about.hooks.get(source)}),
    )
    for name in dict.fromkeys(file for file, _ in lines):
        told = dict.fromkeys(json.dumps(line) + "\n" for file, line in lines if file == name)
        text = "".join(told)  # those of several sources of an import repeat each other
        (place / f"{name}.jsonl").write_text(text, encoding="utf-8")


def _write_batch(batch: Sequence[OutFeature], out: Path, about: About, number: int) -> None:
    place = out / "v1" / about.model / batch[0].source
    for kind, lines in {
        "features": (feature_line(feature, about) for feature in batch),
        "activations": (line for feature in batch for line in activation_lines(feature, about)),
        "explanations": (line for feature in batch for line in explanation_lines(feature, about)),
    }.items():
        folder = place / kind
        folder.mkdir(exist_ok=True)
        # Without a time in its head a file follows from its lines alone.
        with (folder / f"batch-{number}.jsonl.gz").open("wb") as raw, gzip.GzipFile("", "wb", LEVEL, raw, 0) as file:
            for line in lines:
                file.write(json.dumps(line).encode() + b"\n")
