"""Contrast from friendly arguments."""

from __future__ import annotations

from collections.abc import Iterable

from saeserve.answers import contrast as answers
from saeserve.arguments import timeouts
from saeserve.arguments.numbers import Number, flag, number
from saeserve.arguments.shown import shown
from saeserve.arguments.texts import text as as_text
from saeserve.calls import select
from saeserve.calls.filters import chosen
from saeserve.calls.inputs import TextLike, each, one_input
from saeserve.calls.request import Call
from saeserve.transport.headers import Metadata
from saeserve.v1 import feature_service_pb2 as service


def contrast(
    a_texts: Iterable[TextLike],
    b_texts: Iterable[TextLike],
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
    limit: Number | None = None,
    truncate: bool = False,
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[answers.Contrast]:
    """Which features tell these texts from those? Returns a Contrast.

    a_texts, b_texts: the texts of either side, each a text or a sequence of token ids; at least 5 a side, and together
        at most `limits.max_contrast_texts` of `server_info`. In errors texts count from 0, those of A first.
    kinds, sets, sources, layers, features, exclude_..., min_density, max_density: which features take part, as in
        `search`.
    limit: how many features of each side: 1 to 1000, default 25.
    truncate: cut texts that are too long instead of refusing them.
    timeout: for all texts together.

    Raises InvalidArgument (reasons TOO_FEW_TEXTS, TOO_MANY_TEXTS, and what encode raises for a text, which is named),
    NotFound, and as every call ResourceExhausted, DeadlineExceeded, Unavailable and Internal.
    """
    config = service.ContrastConfig(
        model=as_text(model, "model"),
        filter=chosen(
            select.include(kinds, sets, sources, layers, features),
            select.exclude(exclude_kinds, exclude_sets, exclude_sources, exclude_layers, exclude_features),
            min_density,
            max_density,
        ),
        limit=None if limit is None else number(limit, "limit"),
        truncate=flag(truncate, "truncate"),
    )
    messages = [
        service.ContrastRequest(config=config),
        *_items(a_texts, service.CONTRAST_SIDE_A, "a_texts"),
        *_items(b_texts, service.CONTRAST_SIDE_B, "b_texts"),
    ]
    return Call("Contrast", tuple(messages), answers.contrast, timeout, metadata, request_id)


def _items(
    texts: Iterable[TextLike], side: service.ContrastSide.ValueType, what: str
) -> Iterable[service.ContrastRequest]:
    if isinstance(texts, str):
        raise TypeError(f"{what} is {shown(texts)}, one text: give several in a list")
    for place, text in enumerate(each(texts)):
        item = service.ContrastItem(side=side, input=one_input(text, f"{what}[{place}]"))
        yield service.ContrastRequest(item=item)
