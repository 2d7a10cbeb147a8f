"""What a search found, as the bytes of its answer: facts are serialised once for each feature, and joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from saeserve.v1 import feature_service_pb2 as service
from saeserve_server.api import wire
from saeserve_server.api.build import FactsBuilder, facts_builder
from saeserve_server.ranking.work import Aggregate, Ranking, SearchDone, SearchWork
from saeserve_server.records.surprisal import Surprisal
from saeserve_server.serving.serving import Serving

_RESULTS = wire.key(service.SearchResponse, "results")
_TOKEN_RESULTS = wire.key(service.SearchResponse, "token_results")
_FEATURES = wire.key(service.SearchResponse, "features")

_FACTS = wire.key(service.FeatureResult, "facts")
_VALUE = wire.key(service.FeatureResult, "value")
_ACTIVATIONS = wire.key(service.FeatureResult, "activations")
_MAX_ACTIVATION = wire.key(service.FeatureResult, "max_activation")
_MAX_POSITION = wire.key(service.FeatureResult, "max_position")
_MATCH = wire.key(service.FeatureResult, "match")
_TOKENS_AT_LEAST = wire.key(service.FeatureResult, "tokens_at_least")
_BEYOND_INDEX = wire.key(service.FeatureResult, "beyond_index") + wire.varint(1)

_POSITION = wire.key(service.TokenResult, "position")
_PLACES = wire.key(service.TokenResult, "features")
_VALUES = wire.key(service.TokenResult, "values")
_MATCHES = wire.key(service.TokenResult, "matches")

_ZERO = bytes(4)
"""A float that is left out."""


def describe(serving: Serving, work: SearchWork, done: SearchDone, positions: Sequence[int]) -> bytes:
    """All of a SearchResponse but call information, tokens and flags, which have the lower numbers."""
    rest = service.SearchResponse(
        sort_positions=positions,
        sources_considered=[serving.catalog.sources[one.source].id for one in work.filters],
        features_considered=done.considered,
    )
    facts, bos_id = facts_builder(serving), serving.catalog.model.bos_id
    if work.aggregate is Aggregate.EACH:
        found = token_results(facts, work, done, bos_id)
    else:
        found = results(facts, work, done, bos_id, serving.filters.surprisal)
    return b"".join(found) + rest.SerializeToString()


def results(
    facts: FactsBuilder,
    work: SearchWork,
    done: SearchDone,
    bos_id: int | None,
    surprisal: Callable[[int], Surprisal],
) -> Iterator[bytes]:
    """`results`: the features of the text. The BOS, wherever it stands, is no maximum unless it ranks.

    `surprisal` is asked by rank of the source, where that is what features were ranked by.
    """
    if not done.ranked or done.activations is None:
        return
    ids = _ids_of_text(work, bos_id)
    scored = np.array([row for row, one in enumerate(ids) if one is not None or work.bos_ranks])
    ranked, rows = done.ranked[0], done.activations.shape[1]
    peaks = scored[done.activations[:, scored].argmax(axis=1)] if len(ranked.index) else scored[:0]
    values = ranked.value.astype("<f4", copy=False).tobytes()
    activations = np.ascontiguousarray(done.activations, "<f4").tobytes()
    ends = _in_the_index(work, done, surprisal) if work.ranking is Ranking.SURPRISAL else [b""] * len(peaks)
    lead_of_row = _ACTIVATIONS + wire.varint(4 * rows)
    for place, (rank, index, row, end) in enumerate(
        zip(ranked.source.tolist(), ranked.index.tolist(), peaks.tolist(), ends, strict=True)
    ):
        first = 4 * place * rows
        body = _FACTS + facts.facts(rank, index) + _VALUE + values[4 * place : 4 * place + 4]
        body += lead_of_row + activations[first : first + 4 * rows]
        peak = activations[first + 4 * row : first + 4 * row + 4]
        if peak != _ZERO:
            body += _MAX_ACTIVATION + peak
        if row:
            body += _MAX_POSITION + wire.varint(row)
        yield _RESULTS + wire.sized(body + _MATCH + wire.varint(facts.match(rank, index, ids[row])) + end)


def _ids_of_text(work: SearchWork, bos_id: int | None) -> list[int | None]:
    """Of each row its token's id; None where it is a BOS, which no index knows."""
    return [None] * work.bos_row + [None if one == bos_id else one for one in work.ids]


def _in_the_index(work: SearchWork, done: SearchDone, surprisal: Callable[[int], Surprisal]) -> list[bytes]:
    """Of each feature `tokens_at_least` and `beyond_index`, at its largest activation among the rows that rank."""
    ranked = done.ranked[0]
    if done.activations is None or not len(ranked.index):
        return []
    most = done.activations[:, list(work.rows)].max(axis=1)
    counts: npt.NDArray[np.float64] = np.zeros(len(most))
    beyond = np.zeros(len(most), dtype=np.bool_)
    for rank in np.unique(ranked.source).tolist():
        own = np.flatnonzero(ranked.source == rank)
        known, index = surprisal(rank), ranked.index[own]
        counts[own] = known.tokens_at_least(index, most[own])
        beyond[own] = most[own] > known.maxima[index]
    written = counts.astype("<f8", copy=False).tobytes()
    return [
        _TOKENS_AT_LEAST + written[8 * place : 8 * place + 8] + (_BEYOND_INDEX if more else b"")
        for place, more in enumerate(beyond.tolist())
    ]


def token_results(facts: FactsBuilder, work: SearchWork, done: SearchDone, bos_id: int | None) -> Iterator[bytes]:
    """`token_results` and then `features`: the features of each token, and one table of their facts."""
    table: dict[tuple[int, int], int] = {}
    ids = _ids_of_text(work, bos_id)
    for row, ranked in zip(work.rows, done.ranked, strict=True) if done.ranked else ():
        features = list(zip(ranked.source.tolist(), ranked.index.tolist(), strict=True))
        places = [table.setdefault(feature, len(table)) for feature in features]
        body = _POSITION + wire.varint(row) if row else b""
        if features:
            body += _PLACES + wire.sized(b"".join(map(wire.varint, places)))
            body += _VALUES + wire.sized(ranked.value.astype("<f4", copy=False).tobytes())
            body += _MATCHES + wire.sized(bytes(facts.match(*feature, ids[row]) for feature in features))
        yield _TOKEN_RESULTS + wire.sized(body)
    for feature in table:
        yield _FEATURES + facts.facts(*feature)
