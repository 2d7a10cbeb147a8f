"""A MatchTable, from a search in each layer among the features of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

from saeserve.answers.match_table import MatchTable, count
from saeserve.answers.results import SearchResult, SourceList
from saeserve.answers.types import Kind, Source
from saeserve.arguments import timeouts
from saeserve.arguments.numbers import Number, number
from saeserve.arguments.texts import text as as_text
from saeserve.calls import request, select
from saeserve.calls.inputs import each
from saeserve.calls.request import Call
from saeserve.calls.steps import Steps
from saeserve.transport.headers import Metadata
from saeserve.v1 import feature_service_pb2 as service

_ORDER = (Kind.LATENT, Kind.NEURON)


def match_table(
    texts: str | Iterable[str] | Mapping[str, str],
    *,
    kinds: select.Kinds = None,
    sets: select.Names = None,
    layers: select.Layers = None,
    min_density: float | None = None,
    max_density: float | None = None,
    ranking: Literal["raw", "relative", "surprisal"] = "raw",
    min_fires: Number | None = None,
    limit: Number = 25,
    truncate: bool = False,
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
) -> Steps[MatchTable]:
    """Of the features that fire most, how many do so on a token that they usually fire on? Returns a MatchTable.

    One search for each text, layer and kind: the model runs once a text, the rest is ranked from what it kept.

    texts: one text, several, or several by name, which then stands in the table: `saeserve.EXAMPLES` are such.
    kinds, sets, layers: only features in all of these, as in `search`; unset: all of both kinds.
    min_density, max_density, ranking, min_fires, truncate: as in `search`.
    limit: how many features of each layer and kind: 1 to 1000, default 25.
    timeout: of each search.

    Raises InvalidArgument, NotFound, FailedPrecondition (reason INDEX_REQUIRED), and as every call ResourceExhausted,
    DeadlineExceeded, Unavailable and Internal. Without an index no usual tokens are known: see MatchRow.unknown.
    """
    named = _named(texts)
    most = number(limit, "limit", 1)
    ask = partial(
        request.search,
        min_density=min_density,
        max_density=max_density,
        ranking=ranking,
        min_fires=min_fires,
        limit=most,
        truncate=truncate,
        model=model,
        timeout=timeout,
        metadata=metadata,
    )
    # Built now: what is wrong is told before anything is sent.
    whole = ask(next(iter(named.values())), kinds="all" if kinds is None else kinds, sets=sets, layers=layers)
    sources = request.list_sources(model=model, timeout=timeout, metadata=metadata)
    return _steps(named, ranking, most, sources, whole, partial(ask, sets=sets))


def _steps(
    named: Mapping[str, str],
    ranking: str,
    limit: int,
    sources: Call[SourceList],
    whole: Call[SearchResult],
    ask: Callable[..., Call[SearchResult]],
) -> Steps[MatchTable]:
    served: SourceList = yield sources
    known = [source for source in served if source.kind in _ORDER]  # a newer server may have others
    wanted = whole.request.filter.include
    parts = sorted({(source.layer, _ORDER.index(source.kind)) for source in known if _in(source, wanted)})
    if not parts:  # the server says which name is wrong
        yield whole
    rows = []
    for text, given in enumerate(named.values()):
        for layer, place in parts:
            kind = _ORDER[place]
            found: SearchResult = yield ask(given, kinds=kind, layers=layer)
            rows.append(count(text, layer, kind, found))
    return MatchTable(texts=tuple(named), ranking=ranking, limit=limit, rows=tuple(rows))


def _in(source: Source, wanted: service.FeatureSelector) -> bool:
    """Whether features of the source are asked for."""
    return (
        select.KINDS[source.kind.value][0] in wanted.kinds
        and (not wanted.sets or source.set in wanted.sets)
        and (not wanted.layers or any(span.first <= source.layer <= span.last for span in wanted.layers))
    )


def _named(texts: Any) -> dict[str, str]:
    """The texts by what they are called: by themselves where they have no names."""
    if isinstance(texts, Mapping):
        named = {as_text(name, "a name in texts"): as_text(value, f"texts[{name!r}]") for name, value in texts.items()}
    elif isinstance(texts, str):
        named = {as_text(texts, "texts"): as_text(texts, "texts")}
    else:
        given = [as_text(value, f"texts[{place}]") for place, value in enumerate(each(texts))]
        named = {value: value for value in given}
    if not named:
        raise ValueError("texts names nothing: give at least one text")
    return named
