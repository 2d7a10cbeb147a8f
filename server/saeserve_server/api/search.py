"""Search: which features fire on this text?"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from functools import partial

from saeserve.v1 import feature_service_pb2 as service
from saeserve_server.api import wire
from saeserve_server.api.build import Timing, bos_token, call_info
from saeserve_server.api.cached import read_at_desk, reads_as_search
from saeserve_server.api.call import Call, current_call
from saeserve_server.api.large import refuse_large_answer
from saeserve_server.api.parse import check_count, parse_count, parse_filter, parse_input
from saeserve_server.api.results import describe
from saeserve_server.api.texts import Shown
from saeserve_server.cache.answer import Answer
from saeserve_server.engine.work import expect, leading_bos
from saeserve_server.errors import FailedPrecondition, InvalidArgument
from saeserve_server.ranking.work import Aggregate, Ranking, SearchDone, SearchWork, SourceFilter, row_count
from saeserve_server.records.density import Origin, maximum_origin_of
from saeserve_server.serving.limits import Limits
from saeserve_server.serving.serving import Serving
from saeserve_server.text.sort_tokens import SortTokens

DEFAULT_MIN_FIRES = 10
MATCH_SECONDS = 0.6e-6
FACTS_SECONDS = 20e-6
VALUE_SECONDS = 60e-9
COUNT_SECONDS = 2e-6
ENTRY_SECONDS = 1.5e-6
"""Of a core: for a sort token to be looked for in a token, a feature's facts, an activation of it and on how many
tokens it is as active to be written, and one of a token's top features. About what was measured, but for the count,
which is a guess."""
ENTRY_BYTES = 7
"""What a feature takes at least in a token's top K: its place in the table, value and match."""
VALUE_BYTES = 4
KEPT_FILTERS = 256
KEPT_FILTER_BYTES = 256
"""Filters that are remembered, and how large the largest of them is, as a message."""
_CALL_INFO = wire.key(service.SearchResponse, "call_info")
_FLAGS = {
    (bos, cut): service.SearchResponse(bos_included=bos, truncated=cut).SerializeToString()
    for bos in (False, True)
    for cut in (False, True)
}
_RANKINGS = {
    service.RANKING_UNSPECIFIED: Ranking.RAW,
    service.RANKING_RAW: Ranking.RAW,
    service.RANKING_RELATIVE_TO_MAX: Ranking.RELATIVE,
    service.RANKING_SURPRISAL: Ranking.SURPRISAL,
}


async def search(serving: Serving, request: service.SearchRequest) -> bytes:
    """A serialised SearchResponse: check, tokenise, let the engine rank, describe what it found."""
    limits = serving.limits
    serving.check_model(request.model)
    limit = parse_count(
        request.limit if request.HasField("limit") else None, limits.default_limit, limits.max_limit, "limit"
    )
    ranked_by, min_fires = _parse_ranking(request)
    filters = _select(serving, request, min_fires)
    _need_statistics(serving, filters, ranked_by)
    began = time.perf_counter()
    text, truncated = await parse_input(serving, request.input, request.truncate)
    timing = Timing(tokenize=time.perf_counter() - began)
    leads = request.include_bos or request.rank_bos
    bos = leading_bos(serving.catalog, (one.source for one in filters)) if leads else None
    lead = 0 if bos is None else 1
    chosen = await _sort_positions(serving, request, text, lead)
    rows = _rows_that_rank(text, chosen, lead, serving.catalog.model.bos_id, request.rank_bos)
    over_rows = Aggregate.MAX if chosen is None else Aggregate.SUM
    work = SearchWork(
        ids=text.ids,
        bos_row=bos is not None,
        filters=filters,
        aggregate=Aggregate.EACH if request.by_token else over_rows,
        rows=rows,
        limit=limit,
        ranking=ranked_by,
        bos_ranks=request.rank_bos,
    )
    positions = chosen or []
    _refuse_what_cannot_fit(serving, work)
    if filters:
        call = current_call()
        answer = await serving.answers.get(
            serving.keys.search(work, positions),
            lambda: _compute(serving, work, positions, call),
            partial(read_at_desk, serving, partial(reads_as_search, serving.catalog, work, positions)),
        )
        timing.add(answer.spent, answer.tier)
        payload = answer.payload
    else:
        payload = service.SearchResponse(sort_positions=positions).SerializeToString()
    # Joined in the order of their numbers, none in two of them: then the bytes are those of the whole.
    info = _CALL_INFO + wire.sized(call_info(serving, timing).SerializeToString())
    return b"".join((info, bos_token(serving, bos), text.tokens, _FLAGS[bos is not None, truncated], payload))


async def _compute(serving: Serving, work: SearchWork, positions: list[int], call: Call) -> Answer:
    """All of the answer but the tokens and what the call cost."""
    computed = await serving.compute(work, client=call.lane, deadline=call.deadline)
    done = expect(SearchDone, computed.done)
    found = sum(len(ranked.index) for ranked in done.ranked)
    if work.aggregate is Aggregate.EACH:
        refuse_large_answer(serving, found * ENTRY_BYTES, LESS)
        seconds = found * (ENTRY_SECONDS + FACTS_SECONDS / 10)  # many tokens share a feature
    else:
        seconds = found * (FACTS_SECONDS + row_count(work) * VALUE_SECONDS)
        if work.ranking is Ranking.SURPRISAL:
            seconds += found * COUNT_SECONDS
    payload = await serving.desk.do(describe, serving, work, done, positions, seconds=seconds, client=call.lane)
    return Answer(payload, computed.tier, computed.spent)


LESS = ": a smaller limit, sort_tokens, or a shorter text"


def _refuse_what_cannot_fit(serving: Serving, work: SearchWork) -> None:
    """Before anything is computed: what is asked for, if there is so much to be found."""
    limit = min(work.limit, sum(serving.catalog.sources[one.source].n_features for one in work.filters))
    each = work.aggregate is Aggregate.EACH
    values = limit * (len(work.rows) * ENTRY_BYTES if each else row_count(work) * VALUE_BYTES)
    refuse_large_answer(serving, values, LESS)


def _parse_ranking(request: service.SearchRequest) -> tuple[Ranking, int | None]:
    """How activations are compared, and on how many tokens of the index a feature must fire; None if it need not."""
    ranking = _RANKINGS.get(request.ranking)
    if ranking is None:
        raise InvalidArgument.field("ranking", f"{request.ranking}; a value of the enum is expected")
    given = request.HasField("min_fires")
    if ranking is Ranking.RAW:
        if given:
            raise InvalidArgument.field(
                "min_fires", "set without RANKING_RELATIVE_TO_MAX or RANKING_SURPRISAL, which alone use it"
            )
        return ranking, None
    return ranking, request.min_fires if given else DEFAULT_MIN_FIRES


def _need_statistics(serving: Serving, filters: tuple[SourceFilter, ...], ranking: Ranking) -> None:
    """Raises FailedPrecondition where it is not known of a source what activations are to be compared with."""
    if ranking is Ranking.RAW:
        return
    sources = [serving.catalog.sources[one.source] for one in filters]
    origins = {source.id: maximum_origin_of(source, serving.index, serving.imported) for source in sources}
    if ranking is Ranking.SURPRISAL:
        without = [name for name, origin in origins.items() if origin is not Origin.INDEX]
        needs = "RANKING_SURPRISAL needs an index of top activations"
    else:
        without = [name for name, origin in origins.items() if origin is None]
        needs = "RANKING_RELATIVE_TO_MAX needs an index of top activations, or imported maxima"
    if without:
        raise FailedPrecondition(
            f"{needs}; there is none for {', '.join(without[:5])}{', …' if len(without) > 5 else ''}",
            reason="INDEX_REQUIRED",
        )


def _select(serving: Serving, request: service.SearchRequest, min_fires: int | None) -> tuple[SourceFilter, ...]:
    """The sources that take part. What most ask, nothing or little, is remembered."""
    asked = request.filter.SerializeToString() if request.HasField("filter") else b""
    if len(asked) > KEPT_FILTER_BYTES:
        return serving.directory.select(parse_filter(request.filter, serving.limits), min_fires)
    return _selected(serving, asked, min_fires)


@functools.lru_cache(maxsize=KEPT_FILTERS)
def _selected(serving: Serving, asked: bytes, min_fires: int | None) -> tuple[SourceFilter, ...]:
    return serving.directory.select(parse_filter(service.Filter.FromString(asked), serving.limits), min_fires)


def _rows_that_rank(
    text: Shown, chosen: list[int] | None, lead: int, bos_id: int | None, bos_ranks: bool
) -> tuple[int, ...]:
    """Rows of the answer, ascending: the sort tokens', or all; a BOS, wherever it stands, only if it ranks."""
    own = range(len(text.ids) + lead) if chosen is None else chosen
    return tuple(row for row in own if bos_ranks or (row >= lead and text.ids[row - lead] != bos_id))


async def _sort_positions(serving: Serving, request: service.SearchRequest, text: Shown, lead: int) -> list[int] | None:
    """Rows of the answer that the sort tokens name, ascending; None where none are given. `lead` rows come before those
    of the text."""
    given = request.sort_tokens
    if not given:
        return None
    check_count(given, "sort_tokens", serving.limits.max_sort_tokens, "sort tokens")
    if any(sort.HasField("bos") for sort in given):
        _check_bos(given, request.rank_bos, lead)
    data = request.input.text.encode() if request.input.HasField("text") else None
    seconds = len(given) * len(text.ids) * MATCH_SECONDS
    return await serving.desk.do(
        _positions, text, data, given, serving.limits, lead, seconds=seconds, client=current_call().lane
    )


def _check_bos(given: Sequence[service.SortToken], rank_bos: bool, lead: int) -> None:
    """Raises InvalidArgument for a sort token that is a BOS row which does not rank, or is not there."""
    for place, sort in enumerate(given):
        field = f"sort_tokens[{place}].bos"
        if not sort.HasField("bos"):
            continue
        if not sort.bos:
            raise InvalidArgument.field(field, "false; true is expected, or another sort token")
        if not rank_bos:
            raise InvalidArgument.field(field, "set without rank_bos, without which the BOS does not rank")
        if not lead:
            raise InvalidArgument.field(field, "neither the model nor a source that takes part has a BOS")


def _positions(
    text: Shown, data: bytes | None, given: Sequence[service.SortToken], limits: Limits, lead: int
) -> list[int]:
    """The same. `data` is the text; None for ids, whose tokens are all there is."""
    tokens = text.read() if any(sort.HasField("text") for sort in given) else []
    named = SortTokens(tokens, data)
    positions: set[int] = set()
    for place, sort in enumerate(given):
        field = f"sort_tokens[{place}]"
        which = sort.WhichOneof("token")
        if which is None:
            raise InvalidArgument.field(field, "missing; position, text or bos is expected")
        if which == "bos":
            positions.add(-lead)
            continue
        if which == "position":
            if sort.position >= len(text.ids):
                raise InvalidArgument.field(
                    f"{field}.position", f"{sort.position}; the text's positions are 0 to {len(text.ids) - 1}"
                )
            positions.add(sort.position)
            continue
        size = len(sort.text.encode())
        if size > limits.max_sort_text_bytes:
            raise InvalidArgument.field(
                f"{field}.text",
                f"{size} bytes; at most {limits.max_sort_text_bytes} are taken",
                reason="TEXT_TOO_LARGE",
            )
        found = named.match(sort.text)
        if not found:
            listed = ", ".join(f"'{token.display}'" for token in tokens[:40])  # as it can be asked for
            more = f", … ({len(tokens)} in all)" if len(tokens) > 40 else ""
            raise InvalidArgument.field(
                f"{field}.text",
                f"{sort.text[:80]!r} is none of the tokens {listed}{more}",
                reason="SORT_TOKEN_NOT_FOUND",
            )
        positions.update(found)
    return [position + lead for position in sorted(positions)]
