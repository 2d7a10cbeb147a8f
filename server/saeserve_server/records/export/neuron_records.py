"""Exports to OpenAI's formats: a NeuronRecord a feature, `{set}/{layer}/{index}.json`, and `explanations.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from saeserve_server.catalog import NEURON_SET
from saeserve_server.records.export.features import (
    SAMPLE,
    OutExplanation,
    OutFeature,
    OutRecord,
    layer_of,
    shorts,
    text_of,
)
from saeserve_server.records.imported.neuron_records import MOMENTS, POSITIVE, QUANTILES
from saeserve_server.records.imported.neuron_records import SAMPLE as RANDOM_SAMPLE
from saeserve_server.records.imported.openai_explanations import EXPLANATIONS, SCORE, SIMULATION
from saeserve_server.records.imported.schema import FIRST_QUANTILE, RANDOM, TOP

NAME: Final = "neuron-records"

NOT_HELD: Final = (
    "which source a feature is of: only its layer and index; here a folder for each set",
    "densities, histograms and usual tokens",
    "where a record's window lies in its text, and which latents are active at its peak",
    "how many blocks a record of the sample stands for; it is written as quantiles, one a power of two",
    "near misses, firing positions, peak tokens beyond those of the records",
    "tokens that are part of a character: their bytes become U+FFFD",
)
"""Of an index of ours."""
NOT_KNOWN: Final = (
    "variance, skewness, kurtosis: null, and of neurons the mean",
    "random_sample: null, since ours is by size; see random_sample_by_quantile",
)
"""What the format has and an index of ours does not."""


def write(features: Iterable[OutFeature], out: Path) -> int:
    """Writes them all; returns how many."""
    count = 0
    made: set[Path] = set()
    with (out / "explanations.jsonl").open("w", encoding="utf-8") as explained:
        for feature in features:
            count += 1
            layer, group = layer_of(feature.source)
            folder = out / group / str(layer)
            if folder not in made:
                folder.mkdir(parents=True, exist_ok=True)
                made.add(folder)
            if feature.records or feature.kept is not None or feature.statistics is not None:
                document = json.dumps(neuron_record(feature))
                (folder / f"{feature.index}.json").write_text(document, encoding="utf-8")
            if feature.explanations:
                explained.write(json.dumps(explanation_line(feature)) + "\n")
    return count


def neuron_record(feature: OutFeature) -> dict[str, Any]:
    """A feature as a NeuronRecord; one that was imported as such comes out as it was."""
    kept = dict(feature.kept or {})
    if POSITIVE not in kept:
        return _ours(feature)
    document = {name: value for name, value in kept.items() if name not in (POSITIVE, RANDOM_SAMPLE, QUANTILES)}
    for name, group in ((POSITIVE, TOP), (RANDOM_SAMPLE, RANDOM)):
        if name in kept:
            document[name] = None if kept[name] is None else _records(feature.records, group)
    if QUANTILES in kept:
        count = kept[QUANTILES]
        document[QUANTILES] = (
            None if count is None else [_records(feature.records, FIRST_QUANTILE + place) for place in range(count)]
        )
    return document


def explanation_line(feature: OutFeature) -> dict[str, Any]:
    """A feature's explanations as OpenAI's line."""
    explanations = sorted(feature.explanations, key=lambda one: int(one.kept.get("place", 0)))
    outside = next((one.kept["line"] for one in explanations if "line" in one.kept), None)
    line = dict(outside) if outside is not None else {"neuron_id": _neuron_id(feature)}
    return {**line, EXPLANATIONS: [_explanation(one) for one in explanations]}


def _explanation(one: OutExplanation) -> dict[str, Any]:
    kept: Mapping[str, Any] = one.kept.get("explanation", {})
    simulation = kept.get(SIMULATION) or ({} if one.score is None else {SCORE: one.score})
    return {**kept, "explanation": one.text, SIMULATION: simulation}


def _ours(feature: OutFeature) -> dict[str, Any]:
    sample: dict[int, list[OutRecord]] = {}
    for record in feature.records:
        if record.group == SAMPLE:
            sample.setdefault(exponent_of(record.maximum), []).append(record)
    powers = sorted(sample)
    statistics = feature.statistics
    # Over all tokens, as theirs is. Of neurons, which may be negative, an index knows the mean of what is over 0 only.
    is_latent = layer_of(feature.source)[1] != NEURON_SET
    mean = statistics.mean * statistics.density if statistics is not None and is_latent else None
    return {
        "dataclass_name": "NeuronRecord",
        "neuron_id": _neuron_id(feature),
        RANDOM_SAMPLE: None,
        QUANTILES: [[_record(record) for record in sample[power]] for power in powers] if powers else None,
        "quantile_boundaries": [2.0**power for power in powers[1:]] if powers else None,
        **dict.fromkeys(MOMENTS),
        "mean": mean,
        POSITIVE: [_record(record) for record in feature.top],
    }


def exponent_of(value: float) -> int:
    """The power of two under a value over 0: 5 lies in [4, 8), whose exponent is 2."""
    return math.frexp(value)[1] - 1


def _neuron_id(feature: OutFeature) -> dict[str, Any]:
    return {"dataclass_name": "NeuronId", "layer_index": layer_of(feature.source)[0], "neuron_index": feature.index}


def _records(records: Sequence[OutRecord], group: int) -> list[dict[str, Any]]:
    return [_record(record) for record in records if record.group == group]


def _record(record: OutRecord) -> dict[str, Any]:
    kept = record.kept or {"dataclass_name": "ActivationRecord"}
    return {**kept, "tokens": [text_of(token) for token in record.tokens], "activations": shorts(record.values)}
