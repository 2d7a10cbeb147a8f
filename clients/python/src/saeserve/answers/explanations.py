"""Explanations that hold some words, read from the wire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import SupportsIndex, overload

from saeserve.answers import convert
from saeserve.answers.names import FeatureName
from saeserve.answers.seen import Shown, Tabular
from saeserve.answers.types import CallInfo, Explanation, Feature
from saeserve.v1 import feature_service_pb2 as service


@dataclass(frozen=True, slots=True, repr=False)
class Explained(Shown):
    """An explanation that holds the words, and its feature."""

    feature: Feature
    """Without its explanations."""
    explanation: Explanation
    relevance: float
    """bm25; larger is better."""

    @property
    def name(self) -> FeatureName:
        """The feature's name."""
        return self.feature.name


@dataclass(frozen=True, slots=True, repr=False)
class ExplanationSearch(Tabular):
    """One page of explanations that hold all the words, the best first. Iterating gives them."""

    call_info: CallInfo
    results: tuple[Explained, ...]
    next_page_token: str
    """Empty on the last page."""

    def __iter__(self) -> Iterator[Explained]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, place: SupportsIndex) -> Explained: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Explained, ...]: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Explained | tuple[Explained, ...]:
        """One of this page by its place, or a slice of them."""
        return self.results[place]


def search_explanations(answer: service.SearchExplanationsResponse) -> ExplanationSearch:
    """The page."""
    return ExplanationSearch(
        call_info=convert.call_info(answer.call_info),
        results=tuple(
            Explained(convert.feature(one.facts), convert.explanation(one.explanation), one.relevance)
            for one in answer.results
        ),
        next_page_token=answer.next_page_token,
    )
