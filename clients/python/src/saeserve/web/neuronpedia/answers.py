"""What Neuronpedia's calls answer: rows as its web app reads them, in camelCase, which `snake` changes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from saeserve.answers.activations import Csr, Floats
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types

KEPT = frozenset({"activeFeatures", "hookName"})
"""Names that are camelCase whatever the others are."""
DECIMALS = 3
_UPPER = re.compile(r"[A-Z]")
_NO_DFA = {"dfaValues": None, "dfaTargetIndex": None, "dfaMaxValue": None}


def strings(tokens: Iterable[types.Token]) -> list[str]:
    """Tokens as texts; bytes that are no character by themselves are U+FFFD."""
    return [token.piece.decode("utf-8", "replace") for token in tokens]


def values_of(values: Floats) -> dict[str, Any]:
    """`values`, and where they are largest: the first place of several."""
    place = int(values.argmax())
    return {"values": values.tolist(), "maxValue": float(values[place]), "maxValueIndex": place}


def activation(source: str, index: int, values: Floats, summed: float) -> dict[str, Any]:
    """A feature's row of `all`."""
    return {"source": source, "index": index, "sumValues": summed, **values_of(values), **_NO_DFA}


def single(values: Floats, tokens: Sequence[types.Token], special: frozenset[int]) -> dict[str, Any]:
    """The answer of `single`, for one prompt."""
    return {
        "activation": {**values_of(values), **_NO_DFA},
        "tokens": strings(tokens),
        "tokensIsSpecial": [token.id in special for token in tokens],
    }


def top_of_token(
    place: int, token: types.Token, special: frozenset[int], found: Sequence[tuple[int, float]]
) -> dict[str, Any]:
    """A token's row of `topk-by-token`; `found` are features and their values."""
    return {
        "tokenPosition": place,
        "token": strings([token])[0],
        "isSpecial": token.id in special,
        "topFeatures": [{"featureIndex": index, "activationValue": value} for index, value in found],
    }


def active_features(rows: Csr, first: int) -> dict[str, list[list[float]]]:
    """`activeFeatures` of `source`: by feature its positions and values, in the order of the text, from row `first`."""
    row = np.repeat(np.arange(len(rows)), np.diff(rows.indptr))
    found: dict[str, list[list[float]]] = {}
    for place, index, value in zip(row.tolist(), rows.indices.tolist(), rows.data.tolist(), strict=True):
        if place >= first:
            found.setdefault(str(index), []).append([place, round(value, DECIMALS)])
    return found


def following(taken: set[int], count: int, width: int) -> Iterator[int]:
    """The first features of a source that are not taken, at most `count`."""
    left = count
    for index in range(width):
        if left <= 0:
            return
        if index not in taken:
            left -= 1
            yield index


def similar(
    asked: dict[str, Any], model: str, source: str, found: Iterable[service.SimilarFeature]
) -> list[dict[str, Any]]:
    """Rows of the cosine call. What was asked for itself comes first, as it does there."""
    rows = [] if asked["feature"] is None else [(asked["feature"]["index"], 1.0)]
    rows += [(one.facts.feature.index, one.value) for one in found]
    return [
        {"feature": {"model": model, "source": source, "index": index}, "cosineSimilarity": value}
        for index, value in rows
    ]


def snake(answer: Any) -> Any:
    """The same with snake_case names."""
    if isinstance(answer, dict):
        return {_snake(name): snake(value) if name not in KEPT else value for name, value in answer.items()}
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        return [snake(one) for one in answer]
    return answer


def _snake(name: str) -> str:
    return name if name in KEPT else _UPPER.sub(lambda found: f"_{found[0].lower()}", name)
