"""Which answer is drawn by what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saeserve.answers import results, types
from saeserve.answers.compare import Comparison
from saeserve.answers.contrast import Contrast, Distinction
from saeserve.answers.explanations import Explained, ExplanationSearch
from saeserve.answers.match_table import MatchTable
from saeserve.answers.similar import Similar, SimilarFeatures
from saeserve.notebook import encoded, features, lists, searches

_DRAWN: dict[type, Callable[[Any], str]] = {
    results.SearchResult: searches.search,
    results.Hit: searches.hit,
    results.TokenHits: searches.token_hits,
    results.EncodeResult: encoded.result,
    results.EncodedText: encoded.text,
    results.StreamItem: encoded.item,
    Comparison: encoded.comparison,
    types.Feature: features.feature,
    types.Statistics: features.statistics,
    types.Record: features.record,
    results.FeatureInfo: features.info,
    results.TopActivations: features.top,
    SimilarFeatures: lists.similar,
    Similar: lists.one_similar,
    Contrast: lists.contrast,
    Distinction: lists.distinction,
    ExplanationSearch: lists.explanations,
    Explained: lists.explained,
    results.SourceList: lists.sources,
    types.Source: lists.source,
    results.TokenizeResult: lists.tokenized,
    MatchTable: lists.matches,
    results.ServerInfo: lists.server,
}


def html(answer: Any) -> str:
    """The answer as HTML. Raises TypeError for what is none."""
    draw = next((_DRAWN[kind] for kind in type(answer).__mro__ if kind in _DRAWN), None)
    if draw is None:
        raise TypeError(f"{type(answer).__name__} is not drawn")
    return draw(answer)
