"""A fake reader whose activations are known, and the index computed from them in plain Python, one number at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from saeserve_server.catalog import Catalog, FloatArray, Kind, ModelInfo, SourceInfo
from saeserve_server.records.building.hashing import content_hash, feature_hash, place_hash
from saeserve_server.records.made_of import Keeping
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

    @property
    def computed(self) -> dict[str, str]:
        return {"threads": "1"}

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
    active: list[int]
    weight: float = 1.0


@dataclass(frozen=True)
class Expected:
    tokens: int
    fires: int
    blocks: int
    texts: int
    mean: float
    maximum: float
    histogram: dict[tuple[float, float], int]
    top_tokens: list[tuple[int, int, float]]
    peak_counts: dict[int, tuple[float, ...]]
    records: list[ExpectedRecord]
    sample: list[ExpectedRecord]
    near_misses: list[ExpectedRecord]
    sketch: list[int]


@dataclass(frozen=True)
class _Block:
    text: int
    start: int
    ids: list[int]
    values: list[float]
    peak: int
    """-1 where it does not fire."""

    @property
    def most(self) -> float:
        return self.values[self.peak] if self.peak >= 0 else 0.0


def expected(
    reader: FakeReader,
    rank: int,
    feature: int,
    texts: list[str],
    context: int,
    keeping: Keeping,
    fold: Callable[[int], int] = lambda token: token,
) -> Expected:
    """What an index over `texts` must say of one feature; `fold` gives tokens that are alike but for case a number."""
    bos = reader.catalog.model.bos_id
    is_latent = reader.catalog.sources[rank].kind is Kind.LATENT
    blocks = list[_Block]()
    for text, ids in enumerate(tokenise(texts)):
        for start in range(0, len(ids), context):
            block = ids[start : start + context]
            values = [reader.value(rank, token, place, feature) for place, token in enumerate(block)]
            counted = [value if token != bos else 0.0 for value, token in zip(values, block, strict=True)]
            peak = max(range(len(block)), key=counted.__getitem__) if max(counted) > 0 else -1
            blocks.append(_Block(text, start, block, values, peak))

    def active(block: _Block, place: int) -> list[int]:
        if not is_latent:
            return []
        others = range(reader.catalog.sources[rank].n_features)
        fires = [(reader.value(rank, block.ids[place], place, one), one) for one in others]
        return [one for value, one in sorted(fires, key=lambda pair: (-pair[0], pair[1])) if value > 0][:16]

    def shown(block: _Block, place: int, value: float, weight: float = 1.0) -> ExpectedRecord:
        first, end = max(0, place - 16), min(len(block.ids), place + 17)
        return ExpectedRecord(
            block.ids[first:end],
            block.values[first:end],
            value,
            place - first,
            block.text,
            block.start + first,
            active(block, place),
            weight,
        )

    firing = [block for block in blocks if block.peak >= 0]
    by_value = sorted(firing, key=lambda block: (-block.most, _content(block.ids), block.text, block.start))
    kept = by_value[: keeping.records]
    by_power: dict[int, list[_Block]] = {}
    for block in firing:
        by_power.setdefault(math.frexp(block.most)[1], []).append(block)
    sample = list[ExpectedRecord]()
    for members in by_power.values():
        members.sort(key=lambda block: int(feature_hash(*map(np.array, ([feature], [block.text], [block.start])))[0]))
        some = members[: keeping.per_power]
        sample += [shown(block, block.peak, block.most, len(members) / len(some)) for block in some]
    sample.sort(key=lambda one: (-one.max_activation, one.text_index, one.text_position))

    peaks: dict[int, list[float]] = {}
    for block in kept:
        peaks.setdefault(block.ids[block.peak], []).append(block.most)
    ranked = sorted((-len(values), -max(values), token) for token, values in peaks.items())
    top = [(token, -count, -maximum) for count, maximum, token in ranked[:20]]
    every: dict[int, list[float]] = {}
    for block in firing:
        every.setdefault(block.ids[block.peak], []).append(block.most)
    alike = {token: [v for other in every if fold(other) == fold(token) for v in every[other]] for token in every}

    places = [
        (_hash(block.text, block.start + place), block, place)
        for block in blocks
        for place, token in enumerate(block.ids)
        if token != bos
    ]
    near = list[tuple[int, ExpectedRecord]]()
    for token, _, _ in top[:5]:
        of_token = sorted((one for one in places if one[1].ids[one[2]] == token), key=lambda one: one[0])
        near += [
            (key, shown(block, place, max(0.0, *block.values)))
            for key, block, place in of_token[:16]
            if block.values[place] <= 0
        ]
    near.sort(key=lambda one: one[0])
    values = [block.values[place] for _, block, place in places if block.values[place] > 0]
    return Expected(
        tokens=len(places),
        fires=len(values),
        blocks=len(firing),
        texts=len({block.text for block in firing}),
        mean=sum(values) / len(values) if values else 0.0,
        maximum=max(values, default=0.0),
        histogram=histogram(values),
        top_tokens=top,
        peak_counts={
            token: (
                len(every[token]),
                min(every[token]),
                max(every[token]),
                len(alike[token]),
                min(alike[token]),
                max(alike[token]),
            )
            for token in every
        },
        records=[shown(block, block.peak, block.most) for block in kept],
        sample=sample,
        near_misses=[record for _, record in near[: keeping.near_misses]],
        sketch=sorted(key for key, block, place in places if block.values[place] > 0)[:128],
    )


def _hash(text: int, position: int) -> int:
    return int(place_hash(np.array([text]), np.array([position]))[0])


def _content(ids: list[int]) -> int:
    return int(content_hash(np.array(ids), np.array([0, len(ids)]))[0])


def histogram(values: list[float]) -> dict[tuple[float, float], int]:
    """Counts in eighths of powers of two, by their edges; empty cells are left out."""
    cells: dict[tuple[float, float], int] = {}
    for value in values:
        mantissa, exponent = math.frexp(value)  # 0.5 <= mantissa < 1
        place = int(mantissa * 16) - 8
        lower = math.ldexp((8 + place) / 16, exponent)
        cell = (lower, lower + math.ldexp(1 / 16, exponent))
        cells[cell] = cells.get(cell, 0) + 1
    return dict(sorted(cells.items()))


def with_context(context_tokens: int) -> ModelInfo:
    return replace(MODEL, context_tokens=context_tokens)
