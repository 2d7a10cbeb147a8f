"""Whether what a replica has written can be the answer to a question: it reads as one, whole, and in the right shape.

Numbers are believed, whatever an answer is put together by is not. So whoever can write to the shared cache can give a
wrong answer, unless values are signed (`cache_key_file`), but none that fails here or that a client cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.api.call import current_call
from saeserve_server.catalog import Catalog
from saeserve_server.ranking.work import Aggregate, EncodeWork, Ranking, SearchWork, row_count
from saeserve_server.serving.serving import Serving

SEARCH_FIELDS = {
    *("results", "token_results", "features", "sort_positions", "sources_considered", "features_considered"),
}
ENCODE_FIELDS = {"sparse", "dense"}
"""What is cached of an answer; the rest is made anew for each request."""

BYTE_SECONDS = 10e-9
"""Of a core, for a byte of an answer to be looked at; about what was measured for the dearest."""
MATCHES = frozenset(types.Match.values())
KINDS = frozenset(types.FeatureKind.values())
ORIGINS = frozenset(types.DensityOrigin.values())

M = TypeVar("M", bound=Message)


async def read_at_desk(serving: Serving, reads: Callable[[bytes], bool], payload: bytes) -> bool:
    """Whether a payload can be an answer, as `reads` sees it; the look is paid by the call in progress."""
    seconds = len(payload) * BYTE_SECONDS
    return await serving.desk.do(reads, payload, seconds=seconds, client=current_call().lane)


def reads_as_search(catalog: Catalog, work: SearchWork, positions: Sequence[int], payload: bytes) -> bool:
    """Whether a payload can be the answer to a search; `positions` are the rows that its sort tokens named."""
    found = _read(service.SearchResponse, payload, SEARCH_FIELDS)
    asked = [catalog.sources[one.source] for one in work.filters]
    if (
        found is None
        or list(found.sort_positions) != list(positions)
        or list(found.sources_considered) != [source.id for source in asked]
        or not len(found.results) + len(found.features)
        <= found.features_considered
        <= sum(source.n_features for source in asked)
    ):
        return False
    sizes = {source.id: source.n_features for source in asked}
    if work.aggregate is Aggregate.EACH:
        return not found.results and _is_table(found, work, sizes)
    return not found.features and not found.token_results and _is_ranking(found, work, sizes)


def reads_as_encode(catalog: Catalog, work: EncodeWork, payload: bytes) -> bool:
    """Whether a payload can be the answer to one text of an Encode."""
    found = _read(service.EncodeResponse, payload, ENCODE_FIELDS)
    if found is None or len(found.sparse) != len(work.sources) or found.HasField("dense") != bool(work.columns):
        return False
    rows = row_count(work)
    widths = [catalog.sources[rank].n_features for rank in work.sources]
    if work.columns:
        dense = found.dense
        shape = (dense.source, dense.rows, dense.columns, len(dense.data))
        if shape != ("", rows, work.columns, 4 * rows * work.columns):
            return False
    return all(_is_csr(block, rows, width) for block, width in zip(found.sparse, widths, strict=True))


def _read(kind: type[M], payload: bytes, fields: set[str]) -> M | None:
    """The message, if the payload is one with these fields and nothing else, in as few bytes as it takes."""
    message = kind()
    try:
        message.ParseFromString(payload)
    except DecodeError:
        return None
    message.DiscardUnknownFields()  # at whatever depth they stand
    known = {field.name for field, _ in message.ListFields()} <= fields
    return message if known and message.ByteSize() == len(payload) else None


def _is_ranking(found: service.SearchResponse, work: SearchWork, sizes: dict[str, int]) -> bool:
    rows, counted = row_count(work), work.ranking is Ranking.SURPRISAL
    return len(found.results) <= work.limit and all(
        _is_asked(one.facts, sizes)
        and one.value > 0
        and len(one.activations) == rows
        and one.max_position < rows
        and one.match in MATCHES
        and (one.tokens_at_least >= 1 if counted else not one.HasField("tokens_at_least"))
        and one.beyond_index <= counted
        for one in found.results
    )


def _is_table(found: service.SearchResponse, work: SearchWork, sizes: dict[str, int]) -> bool:
    if not all(_is_asked(one, sizes) for one in found.features):
        return False
    if [one.position for one in found.token_results] not in ([], list(work.rows)):
        return False
    return all(
        len(one.features) == len(one.values) == len(one.matches) <= work.limit
        and max(one.features, default=-1) < len(found.features)
        and set(one.matches) <= MATCHES
        for one in found.token_results
    )


def _is_asked(facts: types.FeatureFacts, sizes: dict[str, int]) -> bool:
    asked = facts.feature.index < sizes.get(facts.feature.source, 0)
    return asked and facts.kind in KINDS and {facts.density_origin, facts.index_max_origin} <= ORIGINS


def _is_csr(block: service.SparseActivations, rows: int, columns: int) -> bool:
    """Whether the rows are those of a source with so many features: ascending indices, values > 0."""
    if (block.source, block.rows, block.columns, len(block.indptr)) != ("", rows, columns, 8 * (rows + 1)):
        return False
    indptr = np.frombuffer(block.indptr, "<i8")
    entries = len(block.data) // 4
    if len(block.data) % 4 or len(block.indices) != 4 * entries:
        return False
    # Within bounds first: then no difference overflows.
    if (
        indptr[0] != 0
        or indptr[-1] != entries
        or indptr.min() < 0
        or indptr.max() > entries
        or (np.diff(indptr) < 0).any()
    ):
        return False
    indices = np.frombuffer(block.indices, "<u4").astype(np.int64)
    # One number for each entry that rises from entry to entry: row, then index.
    places = np.repeat(np.arange(rows) * columns, np.diff(indptr)) + indices
    values = np.frombuffer(block.data, "<f4")
    return bool((indices < columns).all() and (np.diff(places) > 0).all() and (values > 0).all())
