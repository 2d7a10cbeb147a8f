"""Vectors in requests, checked; and GetVectors: which directions does a feature read and write?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from saeserve.v1 import feature_service_pb2 as service
from saeserve_server.api.build import Timing, call_info, facts_builder
from saeserve_server.api.call import current_call
from saeserve_server.api.parse import check_count, parse_feature
from saeserve_server.catalog import FloatArray
from saeserve_server.engine.work import expect
from saeserve_server.errors import FailedPrecondition, InvalidArgument, NotFound, nearest
from saeserve_server.ranking.similar import Direction, Side, VectorsDone, VectorsWork
from saeserve_server.ranking.work import Projection
from saeserve_server.serving.serving import Serving

NUMBER_SECONDS = 60e-9
"""Of a core, for a number of a vector to be taken out of a message, or written into one."""
LARGEST = 1e20
"""Of a number in a vector: its products with activations have to fit into float32."""
_SIDES = {
    service.VECTOR_SIDE_UNSPECIFIED: (Side.ENCODER, Side.DECODER),
    service.VECTOR_SIDE_ENCODER: (Side.ENCODER,),
    service.VECTOR_SIDE_DECODER: (Side.DECODER,),
}


async def parse_projections(serving: Serving, given: Sequence[service.Projection]) -> tuple[Projection, ...]:
    """The projections of a request. Raises InvalidArgument, and NotFound for a hook point that no source reads."""
    check_count(given, "projections", serving.limits.max_projections, "projections")
    if not given:
        return ()
    widths = {source.hook_name: source.d_in for source in serving.catalog.sources}
    for place, one in enumerate(given):
        _check_hook(one.hook_name, widths, f"projections[{place}].hook_name")

    def parse() -> tuple[Projection, ...]:
        return tuple(
            _projection(one, widths[one.hook_name], f"projections[{place}].vector") for place, one in enumerate(given)
        )

    seconds = sum(len(one.vector) for one in given) * NUMBER_SECONDS
    return await serving.desk.do(parse, seconds=seconds, client=current_call().lane)


def _projection(given: service.Projection, width: int, field: str) -> Projection:
    vector = parse_vector(given.vector, width, field, given.hook_name).tobytes()
    return Projection(given.hook_name, vector, hashlib.sha256(vector).digest())


def parse_vector(given: Sequence[float], width: int, field: str, space: str) -> FloatArray:
    """float32 [width]. Raises InvalidArgument for another width, and for numbers that are none or too large."""
    if len(given) != width:
        raise InvalidArgument.field(field, f"{len(given)} numbers; {width} are expected: {space} is so wide")
    vector = np.fromiter(given, dtype=np.float32, count=width)
    wrong = np.flatnonzero(~(np.abs(vector) <= LARGEST))
    if len(wrong):
        place = int(wrong[0])
        raise InvalidArgument.field(
            f"{field}[{place}]", f"{vector[place]:g}; finite numbers of at most {LARGEST:g} in size are expected"
        )
    return vector


def _check_hook(name: str, widths: dict[str, int], field: str) -> None:
    if not name:
        raise InvalidArgument.field(field, "missing; a hook point that a served source reads is expected")
    if name in widths:
        return
    raise NotFound(
        f"{field}: no served source reads the hook point {name[:80]!r}{nearest(name, widths)}", reason="HOOK_NOT_FOUND"
    )


async def get_vectors(serving: Serving, request: service.GetVectorsRequest) -> service.GetVectorsResponse:
    """A feature's directions. Raises FailedPrecondition where it lacks one that is asked for."""
    serving.check_model(request.model)
    if request.side not in _SIDES:
        raise InvalidArgument.field("side", f"{request.side}; a value of the enum is expected")
    rank, index = serving.directory.feature(parse_feature(request.feature))
    work = VectorsWork(rank, index, _SIDES[request.side])
    call, timing = current_call(), Timing()
    outcome = await serving.scheduler.submit(work, client=call.lane, deadline=call.deadline)
    timing.add(outcome.spent)
    done = expect(VectorsDone, outcome.done)
    response = service.GetVectorsResponse(facts=facts_builder(serving).message(rank, index))
    for side, found in zip(work.sides, done.found, strict=True):
        if isinstance(found, str):
            other = Side.DECODER if side is Side.ENCODER else Side.ENCODER
            alone = f"; its {other.value} can be asked for alone" if len(work.sides) > 1 else ""
            raise FailedPrecondition(
                f"{serving.catalog.sources[rank].name}:{index} has no {side.value} direction: {found}{alone}",
                reason="NO_DIRECTION",
            )
        message = response.encoder if side is Side.ENCODER else response.decoder
        seconds = len(found.values) * NUMBER_SECONDS
        await serving.desk.do(_write, message, found, seconds=seconds, client=call.lane)
    response.call_info.CopyFrom(call_info(serving, timing))
    return response


def _write(message: service.Direction, found: Direction) -> None:
    message.hook_name = found.hook_name
    message.values.extend(found.values.tolist())
