"""Planted features among ordinary ones, at layers whose activations grow: which ranking finds them?

Nothing is trained: the index is counts of drawn activations, and texts are drawn rows. At every layer

* ordinary features fire on a random share of tokens, from one in 10,000 to one in ten, whatever the text is about;
* rogue features fire on most tokens, and strongly;
* planted features fire on the tokens of one concept and nowhere else: a known density. A concept has three known modes,
  as a word has senses, on which its features fire at 1, 0.5 and 0.25 of their strength.

A text is random tokens and one of a concept. What should come first are that concept's features, one of each layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray, Kind, SourceInfo
from saeserve_server.ranking.answer import answer_from
from saeserve_server.ranking.filters import Filters
from saeserve_server.ranking.work import Aggregate, Ranking, SearchDone, SearchWork, SourceFilter
from saeserve_server.records import bins as binning
from saeserve_server.records.surprisal import Surprisal
from saeserve_server.rows import as_csr

TOKENS: Final = 1_000_000
LAYERS: Final = 6
ORDINARY: Final = 1000
ROGUES: Final = 10
CONCEPTS: Final = 40
MODES: Final = (1.0, 0.5, 0.25)
SPREAD: Final = 0.5
"""Of ordinary activations: standard deviation of their logarithm. Planted ones spread less."""
PLANTED_SPREAD: Final = 0.1
ROGUE_SCALE: Final = 3.0
TEXTS: Final = 300
LENGTH: Final = 12
MIN_FIRES: Final = 10
TOP: Final = 25


@dataclass(slots=True)
class Layer:
    """A layer's features: ordinary, then rogue, then one for each concept."""

    scale: float
    """Activations of deeper layers are larger, as they are in GPT-2's residual stream."""
    density: npt.NDArray[np.float64]  # [ordinary + rogue]
    strength: npt.NDArray[np.float64]  # [features] median activation

    def fires(self, tokens: int, generator: np.random.Generator) -> FloatArray:
        """[tokens, ordinary + rogue] activations on random tokens."""
        on = generator.random((tokens, len(self.density))) < self.density
        strength = self.strength[: len(self.density)]
        drawn = strength * np.exp(SPREAD * generator.standard_normal(on.shape))
        return np.where(on, drawn, 0).astype(np.float32)

    def planted(self, concept: int, modes: npt.NDArray[np.int64], generator: np.random.Generator) -> FloatArray:
        """[tokens] activations of a concept's feature on tokens of these modes."""
        strength = self.strength[len(self.density) + concept] * np.array(MODES)[modes]
        drawn: FloatArray = (strength * np.exp(PLANTED_SPREAD * generator.standard_normal(len(modes)))).astype(
            np.float32
        )
        return drawn


@dataclass(slots=True)
class Counted:
    """What rankings ask of an index, counted from drawn activations."""

    tokens: int = TOKENS
    activations: dict[str, list[FloatArray]] = field(default_factory=dict)

    def covers(self, source: str) -> bool:
        return source in self.activations

    def fires(self, source: str) -> npt.NDArray[np.int64]:
        return np.array([len(own) for own in self.activations[source]])

    def maximum(self, source: str) -> FloatArray:
        return np.array([own.max(initial=0) for own in self.activations[source]], np.float32)

    def surprisal(self, source: str) -> Surprisal:
        counted = [np.unique(binning.bin_of(own), return_counts=True) for own in self.activations[source]]
        offsets = np.cumsum([0, *(len(found) for found, _ in counted)])
        bins = np.concatenate([found + binning.FIRST_CODE for found, _ in counted]).astype(np.uint16)
        counts = np.concatenate([counts for _, counts in counted]).astype(np.uint64)
        return Surprisal(self.tokens, self.maximum(source), offsets, bins, counts)


@dataclass(frozen=True, slots=True)
class Finding:
    """How well a ranking finds the planted features."""

    mean_rank: float
    """Of a planted feature among all that fire, from 1."""
    in_top: float
    """Share of the planted features that stand in the top 25."""
    by_mode: tuple[float, ...]
    """The same where the text has the concept's first, second and third mode."""
    rogues: float
    """Share of the top 25 that rogue features take."""


def experiment(seed: int = 0) -> dict[Ranking, Finding]:
    """Each ranking's findings over the same texts."""
    generator = np.random.default_rng(seed)
    concept_density = 10 ** generator.uniform(-4.5, -2.5, CONCEPTS)
    layers = [_layer(2.0**number, generator) for number in range(LAYERS)]
    infos = [
        SourceInfo(
            f"{number}-planted", "planted", number, Kind.LATENT, "hook", "standard", 8, ORDINARY + ROGUES + CONCEPTS
        )
        for number in range(LAYERS)
    ]
    index = Counted()
    modes = [generator.integers(0, len(MODES), generator.poisson(TOKENS * density)) for density in concept_density]
    for info, layer in zip(infos, layers, strict=True):
        index.activations[info.id] = _indexed(layer, modes, generator)
    # It answers all that rankings ask of a RecordStore.
    filters = Filters(infos, index)  # type: ignore[arg-type]
    seen: dict[Ranking, list[tuple[int, list[int], float]]] = {ranking: [] for ranking in Ranking}
    for _ in range(TEXTS):
        concept, mode = int(generator.integers(CONCEPTS)), int(generator.integers(len(MODES)))
        kept = {}
        for rank, layer in enumerate(layers):
            rows = np.concatenate([layer.fires(LENGTH, generator), np.zeros((LENGTH, CONCEPTS), np.float32)], axis=1)
            own = layer.planted(concept, np.array([mode]), generator)
            rows[generator.integers(LENGTH), ORDINARY + ROGUES + concept] = own[0]
            kept[rank] = as_csr(rows)
        for ranking in Ranking:
            fires = None if ranking is Ranking.RAW else MIN_FIRES
            chosen = tuple(SourceFilter(rank, min_fires=fires) for rank in range(LAYERS))
            ids = tuple(range(LENGTH))
            work = SearchWork(ids, False, chosen, Aggregate.MAX, ids, LAYERS * infos[0].n_features, ranking)
            done = answer_from(work, kept, filters)
            if not isinstance(done, SearchDone):
                raise TypeError("a search was answered as an encoding")
            found = done.ranked[0].index
            places = np.flatnonzero(found == ORDINARY + ROGUES + concept) + 1
            rogue = ((found[:TOP] >= ORDINARY) & (found[:TOP] < ORDINARY + ROGUES)).mean()
            seen[ranking].append((mode, places.tolist(), float(rogue)))
    return {ranking: _finding(rows) for ranking, rows in seen.items()}


def _layer(scale: float, generator: np.random.Generator) -> Layer:
    density = np.concatenate([10 ** generator.uniform(-4, -1, ORDINARY), generator.uniform(0.5, 0.95, ROGUES)])
    strength = scale * np.exp(SPREAD * generator.standard_normal(len(density) + CONCEPTS))
    strength[ORDINARY : ORDINARY + ROGUES] *= ROGUE_SCALE
    return Layer(scale, density, strength)


def _indexed(layer: Layer, modes: list[npt.NDArray[np.int64]], generator: np.random.Generator) -> list[FloatArray]:
    """Of each feature its activations > 0 over the index."""
    found = []
    for density, strength in zip(layer.density, layer.strength, strict=False):
        count = generator.binomial(TOKENS, density)
        found.append((strength * np.exp(SPREAD * generator.standard_normal(count))).astype(np.float32))
    return found + [layer.planted(concept, own, generator) for concept, own in enumerate(modes)]


def _finding(rows: list[tuple[int, list[int], float]]) -> Finding:
    places = np.array([place for _, found, _ in rows for place in found])
    mode = np.array([mode for mode, found, _ in rows for _ in found])
    in_top = places <= TOP
    # A planted feature that does not rank, for too few firings, is not in the top either.
    of_mode = np.bincount([mode for mode, _, _ in rows], minlength=len(MODES)) * LAYERS
    return Finding(
        mean_rank=float(places.mean()),
        in_top=float(in_top.sum() / (len(rows) * LAYERS)),
        by_mode=tuple((np.bincount(mode[in_top], minlength=len(MODES)) / of_mode).tolist()),
        rogues=float(np.mean([rogue for _, _, rogue in rows])),
    )
