"""SimilarFeatures: which features point, fire or read like this one, or point where a vector does?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from saeserve.v1 import feature_service_pb2 as service
from saeserve_server.api.build import Timing, call_info, facts_builder
from saeserve_server.api.call import Call, current_call
from saeserve_server.api.parse import parse_count, parse_feature, parse_filter
from saeserve_server.api.vectors import parse_vector
from saeserve_server.catalog import Kind
from saeserve_server.errors import FailedPrecondition, InvalidArgument
from saeserve_server.ranking.similar import Preparing, Side, SimilarDone, SimilarWork
from saeserve_server.ranking.work import SourceFilter
from saeserve_server.records.overlap import BoolArray, Overlap, by_firing, by_records
from saeserve_server.selection import FeatureFilter
from saeserve_server.serving.serving import Serving

DEFAULT_LIMIT = 10
ROW_SECONDS = 8e-9
"""Of a core, for an entry of the sampled positions' rows, or a record, to be looked at."""
SKETCH_SECONDS = 40e-6
"""The same for two sketches to be compared."""
FACTS_SECONDS = 20e-6
NOT_INDEXED = "the index has no records of them"
_SIDES = {
    service.SIMILARITY_UNSPECIFIED: Side.DECODER,
    service.SIMILARITY_DECODER: Side.DECODER,
    service.SIMILARITY_ENCODER: Side.ENCODER,
}
_OVERLAPS = {service.SIMILARITY_FIRING: by_firing, service.SIMILARITY_RECORDS: by_records}


async def similar_features(
    serving: Serving, request: service.SimilarFeaturesRequest
) -> service.SimilarFeaturesResponse:
    """The features most like one, or like a vector. Raises FailedPrecondition for a feature without a direction, or
    without an index."""
    serving.check_model(request.model)
    limits = serving.limits
    limit = parse_count(request.limit if request.HasField("limit") else None, DEFAULT_LIMIT, limits.max_limit, "limit")
    if request.by not in _SIDES and request.by not in _OVERLAPS:
        raise InvalidArgument.field("by", f"{request.by}; a value of the enum is expected")
    if request.vector:
        return await _by_vector(serving, request, limit)
    rank, index = serving.directory.feature(parse_feature(request.feature))
    filters = serving.directory.select(_of_both_kinds(parse_filter(request.filter, limits)))
    if request.by in _SIDES:
        response = await _by_direction(serving, SimilarWork(_SIDES[request.by], rank, index, filters, limit))
    else:
        response = await _by_overlap(serving, request.by, rank, index, filters, limit)
    response.facts.CopyFrom(facts_builder(serving).message(rank, index))
    return response


async def _by_vector(
    serving: Serving, request: service.SimilarFeaturesRequest, limit: int
) -> service.SimilarFeaturesResponse:
    """The features that point most nearly where a vector in the residual stream does."""
    if request.HasField("feature"):
        raise InvalidArgument.field("vector", "given with feature; one of them is expected")
    if request.by not in _SIDES:
        raise InvalidArgument.field(
            "by", "an overlap, which vectors have none of; SIMILARITY_DECODER or SIMILARITY_ENCODER is expected"
        )
    vector = parse_vector(request.vector, serving.catalog.model.d_model, "vector", "the residual stream")
    if not vector.any():
        raise InvalidArgument.field("vector", "all numbers are 0; a direction is expected")
    filters = serving.directory.select(_of_both_kinds(parse_filter(request.filter, serving.limits)))
    return await _by_direction(serving, SimilarWork(_SIDES[request.by], -1, -1, filters, limit, vector.tobytes()))


def _of_both_kinds(chosen: FeatureFilter) -> FeatureFilter:
    if chosen.include.kinds:
        return chosen
    return replace(chosen, include=replace(chosen.include, kinds=(Kind.LATENT, Kind.NEURON)))


async def _by_direction(serving: Serving, work: SimilarWork) -> service.SimilarFeaturesResponse:
    call = current_call()
    timing = Timing()
    while True:
        outcome = await serving.scheduler.submit(work, client=call.lane, deadline=call.deadline)
        timing.add(outcome.spent)
        if not isinstance(outcome.done, Preparing):  # else a part was made, and others have had their turns
            break
    done = outcome.done
    if not isinstance(done, SimilarDone):
        raise TypeError(f"the engine answered with {type(done).__name__}, expected SimilarDone")
    if done.missing:
        source = serving.catalog.sources[work.source]
        raise FailedPrecondition(
            f"{source.name}:{work.index} cannot be compared by {work.side.value}: {done.missing}; by firing "
            "positions or records every feature of an index can",
            reason="NO_DIRECTION",
        )
    found = list(zip(done.source.tolist(), done.index.tolist(), strict=True))
    similar = await _described(serving, found, call)
    for one, value in zip(similar, done.value.tolist(), strict=True):
        one.value = value
    return service.SimilarFeaturesResponse(
        call_info=call_info(serving, timing),
        similar=similar,
        features_compared=done.compared,
        left_out=[_left_out(serving, one.sources, one.reason) for one in done.left_out],
        space=f"residual stream, {serving.catalog.model.d_model} wide",
    )


async def _by_overlap(
    serving: Serving,
    by: service.Similarity.ValueType,
    rank: int,
    index: int,
    filters: tuple[SourceFilter, ...],
    limit: int,
) -> service.SimilarFeaturesResponse:
    store, sources, call = serving.index, serving.catalog.sources, current_call()
    if store is None or not store.covers(sources[rank].id):
        raise FailedPrecondition(
            f"there is no index of top activations for {sources[rank].name}; `saeserve-server index build` makes one",
            reason="INDEX_REQUIRED",
        )
    ranks = [one.source for one in filters if store.covers(sources[one.source].id)]
    names = [sources[one].id for one in ranks]
    find = _OVERLAPS[by]

    def look() -> tuple[list[Overlap], int]:
        masks = {sources[one.source].id: _mask(serving, one) for one in filters}
        compared = sum(int(masks[name].sum()) for name in names)
        compared -= int(rank in ranks and masks[sources[rank].id][index])
        return find(store, names, masks, (sources[rank].id, index), limit), compared

    features = sum(sources[one].n_features for one in ranks)
    seconds = features * store.records_per_feature * ROW_SECONDS + (4 * limit + 256) * SKETCH_SECONDS
    found, compared = await serving.desk.do(look, seconds=seconds, client=call.lane, deadline=call.deadline)
    similar = await _described(serving, [(ranks[one.source], one.index) for one in found], call)
    for message, one in zip(similar, found, strict=True):
        message.value, message.positions = one.value, one.positions
        if by == service.SIMILARITY_FIRING:
            if one.interval is not None:
                message.lower, message.upper = one.interval
            if one.contained is not None:
                message.contained = one.contained
            if one.contains is not None:
                message.contains = one.contains
    without = [one.source for one in filters if one.source not in set(ranks)]
    return service.SimilarFeaturesResponse(
        call_info=call_info(serving),
        similar=similar,
        features_compared=compared,
        left_out=[_left_out(serving, without, NOT_INDEXED)] if without else [],
    )


def _mask(serving: Serving, chosen: SourceFilter) -> BoolArray:
    mask = serving.filters.mask(chosen)
    return np.ones(serving.catalog.sources[chosen.source].n_features, dtype=np.bool_) if mask is None else mask


async def _described(serving: Serving, found: list[tuple[int, int]], call: Call) -> list[service.SimilarFeature]:
    """Features with their facts."""

    def describe() -> list[service.SimilarFeature]:
        facts = facts_builder(serving)
        return [service.SimilarFeature(facts=facts.message(*feature)) for feature in found]

    return await serving.desk.do(describe, seconds=len(found) * FACTS_SECONDS, client=call.lane)


def _left_out(serving: Serving, ranks: Iterable[int], reason: str) -> service.NotCompared:
    return service.NotCompared(sources=[serving.catalog.sources[rank].id for rank in ranks], reason=reason)
