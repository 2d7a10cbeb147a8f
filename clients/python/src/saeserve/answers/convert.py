"""Protobuf in, frozen types out: the nouns. The answers are in `answers`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from saeserve.answers import types
from saeserve.answers.activations import Floats
from saeserve.answers.names import FeatureName
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire

# Enums are open on the wire: a number that this version does not know becomes UNKNOWN.
_KINDS = {wire.FEATURE_KIND_LATENT: types.Kind.LATENT, wire.FEATURE_KIND_NEURON: types.Kind.NEURON}
_ORIGINS = {
    wire.DENSITY_ORIGIN_INDEX: types.DensityOrigin.INDEX,
    wire.DENSITY_ORIGIN_FILE: types.DensityOrigin.FILE,
    wire.DENSITY_ORIGIN_IMPORT: types.DensityOrigin.IMPORT,
}
_MATCHES = {
    wire.MATCH_EXACT: types.Match.EXACT,
    wire.MATCH_FOLDED: types.Match.FOLDED,
    wire.MATCH_NONE: types.Match.NONE,
}
_RECORD_ORIGINS = {
    wire.RECORD_ORIGIN_INDEX: types.RecordOrigin.INDEX,
    wire.RECORD_ORIGIN_IMPORT: types.RecordOrigin.IMPORT,
}
_CACHES = {
    wire.CACHE_TIER_NONE: types.Cache.NONE,
    wire.CACHE_TIER_LOCAL: types.Cache.LOCAL,
    wire.CACHE_TIER_SHARED: types.Cache.SHARED,
    wire.CACHE_TIER_INNER: types.Cache.INNER,
}


def floats(values: Sequence[float]) -> Floats:
    """[values]; a packed field as a read-only array."""
    array = np.array(values, np.float32)
    array.flags.writeable = False
    return array


def match(value: wire.Match.ValueType) -> types.Match:
    return _MATCHES.get(value, types.Match.UNKNOWN)


def call_info(info: wire.CallInfo) -> types.CallInfo:
    return types.CallInfo(
        request_id=info.request_id,
        batch_size=info.batch_size,
        server_version=info.server_version,
        model_revision=info.model_revision,
        index_revision=info.index_revision,
        tokenize_micros=info.tokenize_micros,
        queue_micros=info.queue_micros,
        forward_micros=info.forward_micros,
        encode_micros=info.encode_micros,
        total_micros=info.total_micros,
        cache=_CACHES.get(info.cache),
    )


def token(message: wire.Token) -> types.Token:
    return types.Token(message.id, message.piece, message.display, message.start, message.end)


def tokens(messages: Iterable[wire.Token]) -> tuple[types.Token, ...]:
    return tuple(token(message) for message in messages)


def _usual(messages: Iterable[wire.UsualToken]) -> tuple[types.UsualToken, ...]:
    return tuple(types.UsualToken(token(m.token), m.count, m.max_activation) for m in messages)


def feature(facts: wire.FeatureFacts) -> types.Feature:
    return types.Feature(
        name=FeatureName(facts.feature.source, facts.feature.index),
        layer=facts.layer,
        kind=_KINDS.get(facts.kind, types.Kind.UNKNOWN),
        density=facts.density if facts.HasField("density") else None,
        density_origin=_ORIGINS.get(facts.density_origin, types.DensityOrigin.UNKNOWN),
        index_max_activation=facts.index_max_activation if facts.HasField("index_max_activation") else None,
        index_max_origin=_ORIGINS.get(facts.index_max_origin, types.DensityOrigin.UNKNOWN),
        usual_tokens=_usual(facts.usual_tokens),
        explanations=tuple(explanation(one) for one in facts.explanations),
    )


def explanation(message: wire.Explanation) -> types.Explanation:
    return types.Explanation(
        text=message.text,
        score=message.score if message.HasField("score") else None,
        type=message.type,
        model=message.model,
        origin=message.origin,
    )


def source(message: wire.Source) -> types.Source:
    return types.Source(
        id=message.id,
        name=message.name,
        set=message.set,
        aliases=tuple(message.aliases),
        layer=message.layer,
        kind=_KINDS.get(message.kind, types.Kind.UNKNOWN),
        hook_name=message.hook_name,
        architecture=message.architecture,
        d_in=message.d_in,
        n_features=message.n_features,
        dead_features=message.dead_features if message.HasField("dead_features") else None,
        density_origin=_ORIGINS.get(message.density_origin, types.DensityOrigin.UNKNOWN),
        normalization=message.normalization,
        fold_decoder_norm=message.fold_decoder_norm,
        memory_bytes=message.memory_bytes,
        revision=message.revision,
        warnings=tuple(message.warnings),
        bos_id=message.bos_id if message.HasField("bos_id") else None,
    )


def statistics(message: wire.FeatureStatistics) -> types.Statistics:
    return types.Statistics(
        tokens=message.tokens,
        fires=message.fires,
        density=message.density,
        mean_activation=message.mean_activation,
        max_activation=message.max_activation,
        histogram=tuple(types.HistogramBin(cell.lower, cell.upper, cell.count) for cell in message.histogram),
        top_tokens=_usual(message.top_tokens),
        blocks=message.blocks,
        fires_in_texts=message.fires_in_texts,
        texts=message.texts,
    )


def record(message: wire.ActivationRecord) -> types.Record:
    return types.Record(
        tokens=tokens(message.tokens),
        activations=floats(message.activations),
        max_activation=message.max_activation,
        max_position=message.max_position,
        text_index=message.text_index,
        text_position=message.text_position,
        origin=_RECORD_ORIGINS.get(message.origin, types.RecordOrigin.UNKNOWN),
        import_name=message.import_name,
        stands_for=message.stands_for,
        is_lower_bound=message.is_lower_bound,
        least_activation=message.least_activation,
        most_activation=message.most_activation,
        examples=tuple(
            types.RecordExample(example.text, example.activation, example.text_index) for example in message.examples
        ),
        active_features=tuple(message.active_features),
    )


def model(message: service.Model) -> types.Model:
    return types.Model(
        name=message.name,
        n_layers=message.n_layers,
        d_model=message.d_model,
        context_tokens=message.context_tokens,
        vocabulary=message.vocabulary,
        bos_id=message.bos_id if message.HasField("bos_id") else None,
        revision=message.revision,
        special_ids=tuple(message.special_ids),
    )


def index(message: service.IndexInfo) -> types.Index:
    return types.Index(
        revision=message.revision,
        texts=message.texts,
        tokens=message.tokens,
        context=message.context,
        records_per_feature=message.records_per_feature,
        sources=tuple(message.sources),
    )


def imports(messages: Iterable[service.ImportInfo]) -> tuple[types.Import, ...]:
    return tuple(types.Import(m.name, m.format, m.features, m.records, m.explanations) for m in messages)


def limits(message: service.Limits) -> types.Limits:
    return types.Limits(
        max_text_bytes=message.max_text_bytes,
        max_tokens=message.max_tokens,
        max_inputs=message.max_inputs,
        max_limit=message.max_limit,
        default_limit=message.default_limit,
        max_features=message.max_features,
        max_sort_tokens=message.max_sort_tokens,
        max_sort_text_bytes=message.max_sort_text_bytes,
        max_page_size=message.max_page_size,
        max_answer_bytes=message.max_answer_bytes,
        max_request_bytes=message.max_request_bytes,
        max_stream_items=message.max_stream_items,
        max_chunk_bytes=message.max_chunk_bytes,
        batch_tokens=message.batch_tokens,
        max_batch=message.max_batch,
        queue_items=message.queue_items,
        queue_gflop=message.queue_gflop,
        queue_bytes=message.queue_bytes,
        max_calls=message.max_calls,
        max_streams=message.max_streams,
        max_names=message.max_names,
        max_fields=message.max_fields,
        request_bytes={one.method: one.max_request_bytes for one in message.methods},
        front_seconds=message.front_seconds,
        answer_bytes=message.answer_bytes,
        stall_timeout=message.stall_timeout,
        max_connections=message.max_connections,
        max_concurrent_streams=message.max_concurrent_streams,
        max_watches=message.max_watches,
        most_memory_bytes=message.most_memory_bytes,
        max_contrast_texts=message.max_contrast_texts,
        max_projections=message.max_projections,
    )
