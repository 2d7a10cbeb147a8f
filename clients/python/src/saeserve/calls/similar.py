"""SimilarFeatures from friendly arguments."""

from __future__ import annotations

from typing import Literal

from saeserve.answers import similar as answers
from saeserve.answers.names import FeatureLike
from saeserve.arguments import timeouts
from saeserve.arguments.numbers import Number, number
from saeserve.arguments.texts import text as as_text
from saeserve.arguments.vectors import VectorLike
from saeserve.arguments.vectors import vector as as_vector
from saeserve.calls import select
from saeserve.calls.filters import chosen
from saeserve.calls.request import Call
from saeserve.transport.headers import Metadata
from saeserve.v1 import feature_service_pb2 as service

BY = {
    "decoder": service.SIMILARITY_DECODER,
    "encoder": service.SIMILARITY_ENCODER,
    "firing": service.SIMILARITY_FIRING,
    "records": service.SIMILARITY_RECORDS,
}


def similar(
    feature: FeatureLike | None = None,
    *,
    vector: VectorLike | None = None,
    by: Literal["decoder", "encoder", "firing", "records"] = "decoder",
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
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[answers.SimilarFeatures]:
    """Which features point, fire or read like this one, or point where a vector does? Returns a SimilarFeatures.

    feature, vector: a feature, or a direction in the residual stream, as many numbers as it is wide; exactly one.
    by: "decoder" or "encoder": cosine of what they write to, or read from, the residual stream; "firing": overlap of
        the positions of the index on which they fire, from a sample; "records": overlap of the blocks in which they
        fire most. Overlaps need an index; a vector has none, and is compared with what features write or read.
    kinds, sets, sources, layers, features, exclude_..., min_density, max_density: among which features to look, as in
        `search`; kinds unset: latents and neurons.
    limit: how many: 1 to 1000, default 10.

    A server's first answer by "decoder" or "encoder" takes longer than others: it makes copies of directions for it.

    Raises NotFound, InvalidArgument, FailedPrecondition (reason NO_DIRECTION, of a feature without a direction in the
    residual stream, or INDEX_REQUIRED), and as every call ResourceExhausted, DeadlineExceeded, Unavailable, Internal.
    """
    if as_text(by, "by") not in BY:
        raise ValueError(f"by {by!r} is none of {', '.join(map(repr, BY))}")
    if (feature is None) == (vector is None):
        raise ValueError("give either a feature or a vector")
    request = service.SimilarFeaturesRequest(
        model=as_text(model, "model"),
        feature=None if feature is None else select.feature_id(feature),
        vector=None if vector is None else as_vector(vector, "vector"),
        by=BY[by],
        filter=chosen(
            select.include(kinds, sets, sources, layers, features),
            select.exclude(exclude_kinds, exclude_sets, exclude_sources, exclude_layers, exclude_features),
            min_density,
            max_density,
        ),
        limit=None if limit is None else number(limit, "limit"),
    )
    return Call("SimilarFeatures", request, answers.similar_features, timeout, metadata, request_id)
