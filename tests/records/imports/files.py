"""Small files in the layouts of OpenAI's and Neuronpedia's data sets."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RED = [" a", " red", " car"]
CUT = [" caf", "\ufffd", "\ufffd", " bar"]
"""A character in two tokens, as these data sets write them."""


def activation_record(tokens: list[str], activations: list[float]) -> dict[str, Any]:
    return {"dataclass_name": "ActivationRecord", "tokens": tokens, "activations": activations}


def neuron_record(layer: int, index: int) -> dict[str, Any]:
    """A neuron's document."""
    return {
        "dataclass_name": "NeuronRecord",
        "neuron_id": {"dataclass_name": "NeuronId", "layer_index": layer, "neuron_index": index},
        "random_sample": [activation_record(CUT, [0.0, 0.5, 0.0, -0.25])],
        "random_sample_by_quantile": [[activation_record(RED, [0.0, 1.5, 0.0])], []],
        "quantile_boundaries": [0.5, 1.0],
        "mean": 0.25,
        "variance": 1.5,
        "skewness": float("nan"),
        "kurtosis": None,
        "most_positive_activation_records": [
            activation_record(RED, [0.0, 2.5 + index, 0.1]),
            activation_record(CUT, [0.0, 4.5, 0.0, 1.0]),
            activation_record(RED, [0.0, 2.5 + index, 0.0]),
        ],
    }


def explanation_line(layer: int, index: int, text: str, score: float) -> dict[str, Any]:
    return {
        "neuron_id": {"dataclass_name": "NeuronId", "layer_index": layer, "neuron_index": index},
        "scored_explanations": [
            {
                "dataclass_name": "ScoredExplanation",
                "explanation": text,
                "scored_simulation": {
                    "dataclass_name": "ScoredSimulation",
                    "ev_correlation_score": score,
                    "rsquared_score": score / 2,
                },
            }
        ],
    }


def neuronpedia_feature(source: str, index: int, density: float | None, maximum: float | None) -> dict[str, Any]:
    return {
        "modelId": "gpt2-small",
        "layer": source,
        "index": str(index),
        "creatorId": "someone",
        "createdAt": "2024-08-01T00:00:00.000Z",
        "maxActApprox": maximum,
        "frac_nonzero": density,
        "pos_str": [" red", " Red"],
        "pos_values": [1.25, 1.0],
        "neg_str": ["x"],
        "neg_values": [-0.5],
        "freq_hist_data_bar_heights": [3, 1],
        "freq_hist_data_bar_values": [0.5, 1.5],
        "hasVector": False,
        "vector": [],
        "hookName": None,
        "sourceSetName": source.partition("-")[2],
    }


def neuronpedia_activation(source: str, index: int, number: int, tokens: list[str], values: list[float]) -> Any:
    return {
        "id": f"a{number}",
        "modelId": "gpt2-small",
        "layer": source,
        "index": str(index),
        "tokens": tokens,
        "values": values,
        "maxValue": max(values),
        "maxValueTokenIndex": values.index(max(values)),
        "minValue": min(values),
        "creatorId": "someone",
        "binMin": 0.0,
        "binMax": 4.0,
        "binContains": 0.5,
        "qualifyingTokenIndex": None,
        "dataSource": "text",
        "dataIndex": str(number),
    }


def neuronpedia_explanation(source: str, index: int, number: int, text: str) -> dict[str, Any]:
    return {
        "id": f"e{number}",
        "modelId": "gpt2-small",
        "layer": source,
        "index": str(index),
        "description": text,
        "authorId": "someone",
        "typeName": "oai_token-act-pair",
        "explanationModelName": "gpt-4o-mini",
        "notes": None,
    }


def write_neuron_records(folder: Path, layers: Iterable[int] = (0, 1), indices: Iterable[int] = (0, 3, 12)) -> Path:
    """`{layer}/{index}.json`."""
    for layer in layers:
        (folder / str(layer)).mkdir(parents=True)
        for index in indices:
            (folder / str(layer) / f"{index}.json").write_text(json.dumps(neuron_record(layer, index), indent=1))
    return folder


def write_neuronpedia(folder: Path, source: str = "0-demo", indices: Iterable[int] = (7, 2, 1500)) -> Path:
    """`v1/{model}/{source}/…`, not in the order of the indices."""
    place = folder / "v1" / "gpt2-small" / source
    indices = list(indices)
    about = {"model": {"id": "gpt2-small"}, "release": {"name": "r"}, "sourceset": {"name": "demo"}}
    for name, line in {**about, "source": {"id": source}}.items():
        _write(place / f"{name}.jsonl", [line], packed=False)
    features = [neuronpedia_feature(source, i, (n + 1) / 4096, 5.0 + n) for n, i in enumerate(indices)]
    _write(place / "features" / "batch-0.jsonl.gz", features)
    activations = []
    for number, index in enumerate(indices):
        activations += [
            neuronpedia_activation(source, index, 2 * number, ["<|endoftext|>", *RED], [90.0, 0.0, 3.5 + number, 0.0]),
            neuronpedia_activation(source, index, 2 * number + 1, CUT, [0.0, 0.3, 4.25, 0.0]),
        ]
    _write(place / "activations" / "batch-0.jsonl.gz", activations)
    words = [neuronpedia_explanation(source, i, n, f"the colour red, number {n}") for n, i in enumerate(indices)]
    _write(place / "explanations" / "batch-1.jsonl.gz", words)
    return folder


def _write(file: Path, lines: Iterable[Mapping[str, Any]], *, packed: bool = True) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file.write_bytes(gzip.compress(data) if packed else data)
