"""Features like one, read from the wire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import SupportsIndex, overload

from saeserve.answers import convert
from saeserve.answers.names import FeatureName
from saeserve.answers.seen import Shown, Tabular
from saeserve.answers.types import CallInfo, Feature
from saeserve.v1 import feature_service_pb2 as service


@dataclass(frozen=True, slots=True, repr=False)
class Similar(Shown):
    """A feature like the one asked about."""

    feature: Feature
    value: float
    """Cosine, -1 to 1, or overlap, 0 to 1."""
    positions: int | None
    """Of an overlap: on how many sampled positions, or records, it rests."""
    interval: tuple[float, float] | None
    """Of an overlap of positions: Wilson's of 95%; None on fewer than 16 positions."""
    contained: float | None
    """By firing positions: share of those of the feature asked about on which this one fires too; of a sample."""
    contains: float | None
    """By firing positions: share of this one's on which the feature asked about fires too; of a sample."""

    @property
    def name(self) -> FeatureName:
        """The feature's name."""
        return self.feature.name


@dataclass(frozen=True, slots=True)
class NotCompared:
    """Sources that have nothing that could be compared."""

    sources: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, repr=False)
class SimilarFeatures(Tabular):
    """The features most like one, by value falling. Iterating gives them."""

    call_info: CallInfo
    feature: Feature | None
    """The one asked about; None where a vector was."""
    similar: tuple[Similar, ...]
    features_compared: int
    left_out: tuple[NotCompared, ...]
    space: str
    """In which directions were compared; empty for overlaps."""

    def __iter__(self) -> Iterator[Similar]:
        return iter(self.similar)

    def __len__(self) -> int:
        return len(self.similar)

    @overload
    def __getitem__(self, place: SupportsIndex) -> Similar: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Similar, ...]: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Similar | tuple[Similar, ...]:
        """One of them by its rank from 0, or a slice."""
        return self.similar[place]


def similar_features(answer: service.SimilarFeaturesResponse) -> SimilarFeatures:
    """The answer."""
    return SimilarFeatures(
        call_info=convert.call_info(answer.call_info),
        feature=convert.feature(answer.facts) if answer.HasField("facts") else None,
        similar=tuple(map(_similar, answer.similar)),
        features_compared=answer.features_compared,
        left_out=tuple(NotCompared(tuple(one.sources), one.reason) for one in answer.left_out),
        space=answer.space,
    )


def _similar(message: service.SimilarFeature) -> Similar:
    return Similar(
        feature=convert.feature(message.facts),
        value=message.value,
        positions=message.positions if message.HasField("positions") else None,
        interval=(message.lower, message.upper) if message.HasField("lower") and message.HasField("upper") else None,
        contained=message.contained if message.HasField("contained") else None,
        contains=message.contains if message.HasField("contains") else None,
    )
