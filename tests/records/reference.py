"""A fake reader whose activations are known, and the index computed from them in plain Python, one number at a time."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from saeserve_server.catalog import Catalog, FloatArray, Kind, ModelInfo, SourceInfo
from saeserve_server.rows import SourceRows, as_csr

BOS = 0
MODEL = ModelInfo(
    name="fake",
    n_layers=2,
    d_model=4,
    context_tokens=12,
    vocabulary=26,
    bos_id=BOS,
    tokenizer_json="{}",
    revision="model-1",
    device="cpu",
    dtype="float32",
)


def tokenise(texts: list[str]) -> list[list[int]]:
    """A letter is a token; `a` is the BOS."""
    return [[ord(letter) - ord("a") for letter in text] for text in texts]


def source(source_id: str, n_features: int, kind: Kind = Kind.LATENT, revision: str = "r1") -> SourceInfo:
    return SourceInfo(
        id=source_id,
        set="fake" if kind is Kind.LATENT else "neurons",
        layer=0,
        kind=kind,
        hook_name="blocks.0.mlp.hook_post",
        architecture="standard" if kind is Kind.LATENT else "neurons",
        d_in=4,
        n_features=n_features,
        revision=revision,
    )


class FakeReader:
    """Activations depend on token and place in the block: multiples of 1/4, so that ties abound and sums are exact.

    Latents are clipped at 0, neurons keep negative values; feature 0 of every source never fires.
    """

    def __init__(self, n_features: int = 5, model: ModelInfo = MODEL, seed: int = 0, steps: int = 4) -> None:
        self.catalog = Catalog(model, (source("0-fake", n_features), source("1", n_features, Kind.NEURON)))
        draw = random.Random(seed)
        self._by_token = [
            [[draw.randint(-8, 8) / steps for _ in range(n_features)] for _ in range(26)] for _ in self.catalog.sources
        ]
        self._by_place = [[draw.randint(-2, 2) / steps for _ in range(n_features)] for _ in range(7)]

    def value(self, rank: int, token: int, place: int, feature: int) -> float:
        if feature == 0:
            return 0.0
        value = self._by_token[rank][token][feature] + self._by_place[place % 7][feature]
        return max(value, 0.0) if self.catalog.sources[rank].kind is Kind.LATENT else value

    def dense(self, rank: int, blocks: Sequence[Sequence[int]]) -> FloatArray:
        """Every activation of a source: [sum of the blocks' lengths, n_features]."""
        n_features = self.catalog.sources[rank].n_features
        return np.array(
            [
                [self.value(rank, token, place, feature) for feature in range(n_features)]
                for block in blocks
                for place, token in enumerate(block)
            ],
            dtype=np.float32,
        )

    def encode_blocks(self, blocks: Sequence[Sequence[int]]) -> Iterator[tuple[int, SourceRows]]:
        for rank in reversed(range(len(self.catalog.sources))):
            rows = self.dense(rank, blocks)
            yield rank, as_csr(rows) if self.catalog.sources[rank].kind is Kind.LATENT else rows


@dataclass(frozen=True)
class ExpectedRecord:
    token_ids: list[int]
    activations: list[float]
    max_activation: float
    max_position: int
    text_index: int
    text_position: int


@dataclass(frozen=True)
class Expected:
    tokens: int
    fires: int
    mean: float
    maximum: float
    histogram: dict[tuple[float, float], int]
    top_tokens: list[tuple[int, int, float]]
    records: list[ExpectedRecord]


def expected(reader: FakeReader, rank: int, feature: int, texts: list[str], context: int, k: int) -> Expected:
    """What an index over `texts` must say of one feature."""
    tokens, firing, candidates = 0, list[float](), list[tuple[float, int, int, ExpectedRecord, int]]()
    for text_index, ids in enumerate(tokenise(texts)):
        for start in range(0, len(ids), context):
            block = ids[start : start + context]
            values = [reader.value(rank, token, place, feature) for place, token in enumerate(block)]
            best, peak = 0.0, -1
            for place, (token, value) in enumerate(zip(block, values, strict=True)):
                if token == reader.catalog.model.bos_id:
                    continue
                tokens += 1
                if value > 0:
                    firing.append(value)
                if value > best:
                    best, peak = value, place
            if peak < 0:
                continue
            first, last = max(0, peak - 16), min(len(block), peak + 17)
            record = ExpectedRecord(
                token_ids=block[first:last],
                activations=values[first:last],
                max_activation=best,
                max_position=peak - first,
                text_index=text_index,
                text_position=start + first,
            )
            candidates.append((-best, text_index, start, record, block[peak]))
    candidates.sort(key=lambda candidate: candidate[:3])
    kept = candidates[:k]
    peaks: dict[int, list[float]] = {}
    for value, _, _, _, token in kept:
        peaks.setdefault(token, []).append(-value)
    ranked = sorted((-len(values), -max(values), token) for token, values in peaks.items())
    return Expected(
        tokens=tokens,
        fires=len(firing),
        mean=sum(firing) / len(firing) if firing else 0.0,
        maximum=max(firing, default=0.0),
        histogram=histogram(firing),
        top_tokens=[(token, -count, -maximum) for count, maximum, token in ranked[:20]],
        records=[candidate[3] for candidate in kept],
    )


def histogram(values: list[float]) -> dict[tuple[float, float], int]:
    """Counts in powers of two by their edges, cells between the first and the last filled one included."""
    edges = [0.0, *(2.0**exponent for exponent in range(-20, 21)), math.inf]
    cells = dict.fromkeys(itertools.pairwise(edges), 0)
    for value in values:
        cells[next((lower, upper) for lower, upper in cells if lower <= value < upper)] += 1
    filled = [cell for cell, count in cells.items() if count]
    return {cell: count for cell, count in cells.items() if filled and filled[0] <= cell <= filled[-1]}


def with_context(context_tokens: int) -> ModelInfo:
    return replace(MODEL, context_tokens=context_tokens)
