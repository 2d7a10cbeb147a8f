"""The RPCs that ask nothing of the model: records, sources, one feature's facts, tokens, the server itself."""

from __future__ import annotations

import time

import numpy as np

import saeserve_server
from saeserve.v1 import feature_service_pb2 as service
from saeserve_server.api.build import (
    Timing,
    call_info,
    facts_builder,
    source_message,
    statistics_message,
)
from saeserve_server.api.call import current_call
from saeserve_server.api.imported import import_messages
from saeserve_server.api.imported_records import import_to_answer, top_imported
from saeserve_server.api.parse import parse_count, parse_feature
from saeserve_server.api.records import page_of_index, parse_asked
from saeserve_server.api.texts import show_text
from saeserve_server.catalog import DEAD_DENSITY, Kind
from saeserve_server.errors import FailedPrecondition, InvalidArgument
from saeserve_server.records.density import density_of
from saeserve_server.records.diversity import Level
from saeserve_server.records.page import decode_page_token, encode_page_token
from saeserve_server.serving.serving import Serving


async def top_activations(serving: Serving, request: service.TopActivationsRequest) -> service.TopActivationsResponse:
    """A page of a feature's records, and what the index knows of it."""
    serving.check_model(request.model)
    limits = serving.limits
    size = parse_count(
        request.page_size if request.HasField("page_size") else None,
        limits.default_page_size,
        limits.max_page_size,
        "page_size",
    )
    asked = parse_asked(request)
    rank, index = serving.directory.feature(parse_feature(request.feature))
    imported = import_to_answer(serving, rank, asked)
    if imported is not None:
        return await top_imported(serving, imported, rank, index, asked, request.page_token, size)
    source, store = serving.catalog.sources[rank], serving.index
    if store is None or not store.covers(source.id):
        raise FailedPrecondition(
            f"there is no index of top activations for {source.name}; `saeserve-server index build` makes one",
            reason="INDEX_REQUIRED",
        )
    if asked.level is Level.SEMANTIC and source.kind is Kind.NEURON:
        raise InvalidArgument.field(
            "diversity", f"DIVERSITY_SEMANTIC compares latents that are active together; {source.name} has neurons"
        )
    key = asked.key("index")
    offset = decode_page_token(request.page_token, store.revision, source.id, index, key)
    records, more = await serving.desk.do(
        page_of_index,
        serving,
        store,
        source.id,
        index,
        asked,
        offset,
        size,
        seconds=asked.seconds(store.records_per_feature, size),
        client=current_call().lane,
    )
    response = service.TopActivationsResponse(
        facts=facts_builder(serving).message(rank, index),
        statistics=statistics_message(serving, store.statistics(source.id, index)),
        records=records,
    )
    if more:
        response.next_page_token = encode_page_token(store.revision, source.id, index, key, offset + size)
    response.call_info.CopyFrom(call_info(serving))
    return response


async def list_sources(serving: Serving, request: service.ListSourcesRequest) -> service.ListSourcesResponse:
    """All sources."""
    serving.check_model(request.model)
    sources = [source_message(serving, source) for source in serving.catalog.sources]
    return service.ListSourcesResponse(call_info=call_info(serving), sources=sources)


async def get_feature(serving: Serving, request: service.GetFeatureRequest) -> service.GetFeatureResponse:
    """One feature's facts."""
    serving.check_model(request.model)
    rank, index = serving.directory.feature(parse_feature(request.feature))
    source, store = serving.catalog.sources[rank], serving.index
    response = service.GetFeatureResponse(
        facts=facts_builder(serving).message(rank, index), source=source_message(serving, source)
    )
    if store is not None and store.covers(source.id):
        response.statistics.CopyFrom(statistics_message(serving, store.statistics(source.id, index)))
    density = density_of(source, serving.index, serving.imported)
    if density is not None and not np.isnan(density[index]):
        response.dead = bool(density[index] < DEAD_DENSITY)
    if source.decoder_norm is not None:
        response.decoder_norm = float(source.decoder_norm[index])
    response.call_info.CopyFrom(call_info(serving))
    return response


async def tokenize(serving: Serving, request: service.TokenizeRequest) -> bytes:
    """A text's tokens: a serialised TokenizeResponse."""
    serving.check_model(request.model)
    began = time.perf_counter()
    text = await show_text(serving, request.input)
    timing = Timing(tokenize=time.perf_counter() - began)
    rest = service.TokenizeResponse(
        bos_id=serving.catalog.model.bos_id, over_limit=len(text.ids) > serving.limits.max_tokens
    )
    # Joined in the order of their numbers, none in two of them: then the bytes are those of the whole.
    info = service.TokenizeResponse(call_info=call_info(serving, timing))
    return info.SerializeToString() + text.tokens + rest.SerializeToString()


async def get_server_info(serving: Serving, request: service.GetServerInfoRequest) -> service.GetServerInfoResponse:
    """Model, device, index, limits."""
    model, limits, store = serving.catalog.model, serving.limits, serving.index
    response = service.GetServerInfoResponse(
        version=saeserve_server.__version__,
        model=service.Model(
            name=model.name,
            n_layers=model.n_layers,
            d_model=model.d_model,
            context_tokens=model.context_tokens,
            vocabulary=model.vocabulary,
            bos_id=model.bos_id,
            revision=model.revision,
            special_ids=serving.tokenizer.special_ids,
        ),
        device=model.device,
        source_count=len(serving.catalog.sources),
        kernels=serving.kernels,
        deterministic=serving.deterministic,
        imports=import_messages(serving.imported),
        feature_count=sum(source.n_features for source in serving.catalog.sources),
        limits=service.Limits(
            max_text_bytes=limits.max_text_bytes,
            max_tokens=limits.max_tokens,
            max_inputs=limits.max_inputs,
            max_limit=limits.max_limit,
            default_limit=limits.default_limit,
            max_features=limits.max_features,
            max_sort_tokens=limits.max_sort_tokens,
            max_sort_text_bytes=limits.max_sort_text_bytes,
            max_page_size=limits.max_page_size,
            max_answer_bytes=limits.max_answer_bytes,
            max_request_bytes=limits.max_request_bytes,
            max_stream_items=limits.max_stream_items,
            max_chunk_bytes=limits.max_chunk_bytes,
            batch_tokens=limits.batch_tokens,
            max_batch=limits.max_batch or 0,
            queue_items=limits.queue_items,
            queue_gflop=limits.queue_gflop,
            queue_bytes=limits.queue_bytes,
            max_calls=limits.max_calls,
            max_streams=limits.max_streams,
            max_names=limits.max_names,
            max_fields=limits.max_fields,
            methods=[
                service.MethodLimit(method=method, max_request_bytes=size) for method, size in limits.methods.items()
            ],
            front_seconds=limits.front_seconds,
            answer_bytes=limits.answer_bytes,
            stall_timeout=limits.stall_timeout,
            max_connections=limits.max_connections,
            max_concurrent_streams=limits.max_concurrent_streams,
            max_watches=limits.max_watches,
            max_contrast_texts=limits.max_contrast_texts,
            max_projections=limits.max_projections,
            most_memory_bytes=limits.most_memory_bytes,
        ),
    )
    if store is not None:
        response.index.CopyFrom(
            service.IndexInfo(
                revision=store.revision,
                texts=store.texts,
                tokens=store.tokens,
                context=store.context,
                records_per_feature=store.records_per_feature,
                sources=[source.id for source in store.sources],
                kernels=store.kernels,
            )
        )
    response.call_info.CopyFrom(call_info(serving))
    return response
