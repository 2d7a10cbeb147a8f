"""Variants of a text side by side: one Encode, read as a Comparison."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from saeserve.answers.compare import Comparison
from saeserve.answers.compare import compare as aligned
from saeserve.arguments import timeouts
from saeserve.calls import request, select
from saeserve.calls.inputs import TextLike, each
from saeserve.calls.request import Call
from saeserve.transport.headers import Metadata


def compare(
    features: select.Features,
    texts: Iterable[TextLike],
    *,
    truncate: bool = False,
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[Comparison]:
    """How strongly do features fire on variants of a text? Returns a Comparison, which `print` shows as tables.

    features: one or several.
    texts: at least two; each a text or a sequence of token ids. The others are aligned with the first.
    truncate: cut texts that are too long instead of refusing them.

    Raises InvalidArgument, NotFound, and as every call ResourceExhausted, DeadlineExceeded, Unavailable and Internal.
    """
    if isinstance(texts, str) or len(variants := list(each(texts))) < 2:
        raise ValueError("texts has fewer than two texts: variants are compared with the first")
    call = request.encode(
        variants,
        features=features,
        truncate=truncate,
        model=model,
        timeout=timeout,
        metadata=metadata,
        request_id=request_id,
    )
    if not call.request.features:
        raise ValueError("features names nothing; at least one is compared")

    def read(answer: Any) -> Comparison:
        return aligned(call.read(answer))

    return Call(call.method, call.request, read, timeout, metadata, request_id)
