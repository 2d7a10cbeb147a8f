"""SearchExplanations: which features are explained in these words? And explanations as other answers carry them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

import numpy as np

from saeserve.v1 import feature_service_pb2 as service
from saeserve_server.api.build import Timing, call_info, facts_builder
from saeserve_server.api.call import current_call
from saeserve_server.api.imported import explanation_message
from saeserve_server.api.parse import parse_count, parse_filter
from saeserve_server.catalog import Kind
from saeserve_server.errors import Aborted, FailedPrecondition, InvalidArgument
from saeserve_server.ranking.work import SourceFilter
from saeserve_server.records.imported.query import match_expression
from saeserve_server.records.imported.store import Found, ImportedStore
from saeserve_server.records.page import decode_page_token, encode_page_token
from saeserve_server.serving.serving import Serving

LEAST_SECONDS: Final = 0.002
EXPLANATION_SECONDS: Final = 2e-6
"""Of a core: for a search, and for each explanation that there is. One that is found takes 5 µs, and most are not."""
_SUBJECT: Final = "explanations"


async def search_explanations(
    serving: Serving, request: service.SearchExplanationsRequest
) -> service.SearchExplanationsResponse:
    """A page of explanations that hold the words, the best first."""
    serving.check_model(request.model)
    limits = serving.limits
    size = parse_count(
        request.page_size if request.HasField("page_size") else None,
        limits.default_page_size,
        limits.max_page_size,
        "page_size",
    )
    match = match_expression(request.query)
    chosen = _select(serving, request.filter)
    imported = _need(serving.imported)
    asked = hashlib.sha256(match.encode() + b"\0" + request.filter.SerializeToString(deterministic=True)).hexdigest()
    offset = _offset(request.page_token, imported, asked)
    total = sum(one.explanations for one in imported.imports)
    found, order = await serving.desk.do(
        _find,
        serving,
        imported,
        match,
        chosen,
        seconds=LEAST_SECONDS + total * EXPLANATION_SECONDS,
        client=current_call().lane,
    )
    response = service.SearchExplanationsResponse()
    for place in order[offset : offset + size].tolist():
        facts = facts_builder(serving).message(int(found.ranks[place]), int(found.indices[place]))
        del facts.explanations[:]
        response.results.add(
            facts=facts,
            explanation=explanation_message(imported.explanation(int(found.rows[place]))),
            relevance=float(found.relevance[place]),
        )
    if offset + size < len(order):
        response.next_page_token = encode_page_token(imported.revision, _SUBJECT, 0, asked, offset + size)
    response.call_info.CopyFrom(call_info(serving, Timing()))
    return response


def _find(
    serving: Serving, imported: ImportedStore, match: str, chosen: tuple[SourceFilter, ...]
) -> tuple[Found, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """What holds the words, and places of what the filter leaves of it: by relevance, source, index, as they came."""
    found = imported.find(match)
    keep = np.zeros(len(found.rows), np.bool_)
    for one in chosen:
        of_source = found.ranks == one.source
        mask = serving.filters.mask(one)
        keep |= of_source if mask is None else of_source & mask[np.where(of_source, found.indices, 0)]
    order = np.lexsort((found.rows, found.indices, found.ranks, -found.relevance))
    return found, order[keep[order]]


def _select(serving: Serving, given: service.Filter) -> tuple[SourceFilter, ...]:
    """The sources that take part: of both kinds, unless kinds are named. Raises InvalidArgument or NotFound."""
    chosen = parse_filter(given, serving.limits)
    if not chosen.include.kinds:
        chosen = replace(chosen, include=replace(chosen.include, kinds=(Kind.LATENT, Kind.NEURON)))
    return serving.directory.select(chosen)


def _need(imported: ImportedStore | None) -> ImportedStore:
    if imported is None:
        raise FailedPrecondition(
            "no explanations are imported; `saeserve-server records import` makes a store of them, and the setting "
            "`imports` serves it",
            reason="RECORDS_REQUIRED",
        )
    return imported


def _offset(token: str, imported: ImportedStore, asked: str) -> int:
    """Where the page begins. Raises InvalidArgument and Aborted."""
    try:
        return decode_page_token(token, imported.revision, _SUBJECT, 0, asked)
    except InvalidArgument:
        raise InvalidArgument.field(
            "page_token",
            "not of this search; expected `next_page_token` of an earlier answer to the same query and filter",
            reason="INVALID_PAGE_TOKEN",
        ) from None
    except Aborted:
        raise Aborted(
            "other explanations are loaded since the page before: start again without a page token",
            reason="STORE_CHANGED",
        ) from None
