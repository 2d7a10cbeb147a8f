"""GetVectors from friendly arguments."""

from __future__ import annotations

from typing import Literal

from saeserve.answers import vectors as answers
from saeserve.answers.names import FeatureLike
from saeserve.arguments import timeouts
from saeserve.arguments.texts import text as as_text
from saeserve.calls import select
from saeserve.calls.request import Call
from saeserve.transport.headers import Metadata
from saeserve.v1 import feature_service_pb2 as service

SIDES = {
    "both": service.VECTOR_SIDE_UNSPECIFIED,
    "encoder": service.VECTOR_SIDE_ENCODER,
    "decoder": service.VECTOR_SIDE_DECODER,
}


def vectors(
    feature: FeatureLike,
    *,
    side: Literal["both", "encoder", "decoder"] = "both",
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[answers.Vectors]:
    """Which directions does a feature read and write? Returns a Vectors.

    side: "encoder", what it reads: a latent's encoder column, a neuron's column of W_in; "decoder", what it writes: a
        latent's decoder row as its file has it (SAELens' `W_dec`), a neuron's row of W_out; or "both".

    Raises NotFound, InvalidArgument, FailedPrecondition (reason NO_DIRECTION, of a feature that lacks one that is asked
    for), and as every call ResourceExhausted, DeadlineExceeded, Unavailable and Internal.
    """
    request = service.GetVectorsRequest(
        model=as_text(model, "model"),
        feature=select.feature_id(feature),
        side=select.one_of(SIDES, side, "side"),
    )
    return Call("GetVectors", request, answers.vectors, timeout, metadata, request_id)
