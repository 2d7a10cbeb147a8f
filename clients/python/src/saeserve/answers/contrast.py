"""What tells two sets of texts apart, read from the wire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, SupportsIndex, overload

from saeserve.answers import convert
from saeserve.answers.names import FeatureName
from saeserve.answers.seen import Shown, Tabular
from saeserve.answers.types import CallInfo, Feature
from saeserve.v1 import feature_service_pb2 as service

Side = Literal["a", "b", ""]


@dataclass(frozen=True, slots=True, repr=False)
class Distinction(Shown):
    """A feature that fires in texts of one side more often than in those of the other."""

    feature: Feature
    side: Side
    """The side on which it fires more often."""
    texts_a: int
    """Texts of A in which it fires."""
    texts_b: int
    difference: float
    """Share of A's texts in which it fires, minus B's."""
    log_odds: float
    """Natural logarithm of the odds of firing in A over those in B, half a text added to each count."""
    p_value: float
    """Two-sided p of Fisher's exact test."""
    q_value: float
    """The least false discovery rate at which it counts, after Benjamini and Hochberg over all features tested."""
    auc: float
    """Chance that a text of A has a larger maximum than one of B, ties counted half."""
    auc_error: float
    """By how much that may be off."""
    max_a: float
    """Largest activation in A's texts; 0 where it does not fire."""
    max_b: float

    @property
    def name(self) -> FeatureName:
        """The feature's name."""
        return self.feature.name


@dataclass(frozen=True, slots=True, repr=False)
class Contrast(Tabular):
    """The features that tell two sets of texts apart, by p rising. Iterating gives them."""

    call_info: CallInfo
    """Of the last text."""
    results: tuple[Distinction, ...]
    """Of both sides; `of_a` and `of_b` are those of one."""
    texts_a: int
    texts_b: int
    features_tested: int
    """Those that fire in any text."""
    features_considered: int
    sources_considered: tuple[str, ...]

    @property
    def of_a(self) -> tuple[Distinction, ...]:
        """Features that fire more often in A's texts."""
        return tuple(one for one in self.results if one.side == "a")

    @property
    def of_b(self) -> tuple[Distinction, ...]:
        """Features that fire more often in B's texts."""
        return tuple(one for one in self.results if one.side == "b")

    def __iter__(self) -> Iterator[Distinction]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, place: SupportsIndex) -> Distinction: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Distinction, ...]: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Distinction | tuple[Distinction, ...]:
        """One of them by its rank from 0, or a slice."""
        return self.results[place]


_SIDES: dict[int, Side] = {service.CONTRAST_SIDE_A: "a", service.CONTRAST_SIDE_B: "b"}


def contrast(answer: service.ContrastResponse) -> Contrast:
    """The answer."""
    return Contrast(
        call_info=convert.call_info(answer.call_info),
        results=tuple(map(_distinction, answer.results)),
        texts_a=answer.texts_a,
        texts_b=answer.texts_b,
        features_tested=answer.features_tested,
        features_considered=answer.features_considered,
        sources_considered=tuple(answer.sources_considered),
    )


def _distinction(message: service.ContrastResult) -> Distinction:
    return Distinction(
        feature=convert.feature(message.facts),
        side=_SIDES.get(message.side, ""),
        texts_a=message.texts_a,
        texts_b=message.texts_b,
        difference=message.difference,
        log_odds=message.log_odds,
        p_value=message.p_value,
        q_value=message.q_value,
        auc=message.auc,
        auc_error=message.auc_error,
        max_a=message.max_a,
        max_b=message.max_b,
    )
