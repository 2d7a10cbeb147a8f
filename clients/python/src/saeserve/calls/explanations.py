"""SearchExplanations from friendly arguments."""

from __future__ import annotations

from saeserve.answers import explanations as answers
from saeserve.arguments import timeouts
from saeserve.arguments.numbers import Number, number
from saeserve.arguments.texts import text as as_text
from saeserve.calls import select
from saeserve.calls.filters import chosen
from saeserve.calls.request import Call
from saeserve.transport.headers import Metadata
from saeserve.v1 import feature_service_pb2 as service


def search_explanations(
    query: str,
    *,
    kinds: select.Kinds = None,
    sets: select.Names = None,
    sources: select.Names = None,
    layers: select.Layers = None,
    features: select.Features = None,
    exclude_kinds: select.Kinds = None,
    exclude_sets: select.Names = None,
    exclude_sources: select.Names = None,
    exclude_layers: select.Layers = None,
    exclude_features: select.Features = None,
    min_density: float | None = None,
    max_density: float | None = None,
    page_size: Number | None = None,
    page_token: str = "",
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[answers.ExplanationSearch]:
    """Which features are explained in these words? Over what was imported. Returns one page, an ExplanationSearch.

    query: words, all of which an explanation must hold, whatever their case or ending; `"in quotes"` a phrase.
    kinds, sets, sources, layers, features, exclude_..., min_density, max_density: among which features to look, as in
        `search`; kinds unset: latents and neurons.
    page_size: how many: 1 to 100, default 10.
    page_token: `next_page_token` of the page before; empty for the first.

    Raises InvalidArgument, NotFound, FailedPrecondition (reason RECORDS_REQUIRED, where nothing is imported), Aborted
    (reason STORE_CHANGED), and as every call ResourceExhausted, DeadlineExceeded, Unavailable and Internal.
    """
    request = service.SearchExplanationsRequest(
        model=as_text(model, "model"),
        query=as_text(query, "query"),
        filter=chosen(
            select.include(kinds, sets, sources, layers, features),
            select.exclude(exclude_kinds, exclude_sets, exclude_sources, exclude_layers, exclude_features),
            min_density,
            max_density,
        ),
        page_size=None if page_size is None else number(page_size, "page_size"),
        page_token=as_text(page_token, "page_token"),
    )
    return Call("SearchExplanations", request, answers.search_explanations, timeout, metadata, request_id)
