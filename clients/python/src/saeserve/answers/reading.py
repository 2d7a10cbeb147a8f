"""Protobuf in, frozen types out: the answers of every call.

An answer whose parts do not fit together raises Internal with reason MALFORMED_ANSWER; it is never half read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

from grpc import StatusCode

from saeserve.answers import convert, results, types
from saeserve.answers.activations import Csr, Floats, dense_from_buffer
from saeserve.answers.by_source import BySource, aliases
from saeserve.answers.names import FeatureName
from saeserve.transport.errors import Internal
from saeserve.v1 import feature_service_pb2 as service

P = ParamSpec("P")
T = TypeVar("T")


def _checked(read: Callable[P, T]) -> Callable[P, T]:
    """Turn the errors of reading a senseless answer into the client's own."""

    @wraps(read)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except (ValueError, IndexError) as error:
            message = f"the server's answer does not fit together: {error}"
            raise Internal(message, code=StatusCode.INTERNAL, reason="MALFORMED_ANSWER") from error

    return checked


@_checked
def search(answer: service.SearchResponse) -> results.SearchResult:
    tokens = convert.tokens(answer.tokens)
    features = [convert.feature(facts) for facts in answer.features]
    return results.SearchResult(
        call_info=convert.call_info(answer.call_info),
        tokens=tokens,
        bos_included=answer.bos_included,
        truncated=answer.truncated,
        results=tuple(_hit(result, tokens) for result in answer.results),
        token_results=tuple(
            results.TokenHits(
                position=row.position,
                token=tokens[row.position],
                features=tuple(features[position] for position in row.features),
                values=convert.floats(row.values),
                matches=tuple(convert.match(value) for value in row.matches),
            )
            for row in answer.token_results
        ),
        sort_positions=tuple(answer.sort_positions),
        sources_considered=tuple(answer.sources_considered),
        features_considered=answer.features_considered,
    )


def _hit(result: service.FeatureResult, tokens: tuple[types.Token, ...]) -> results.Hit:
    if len(result.activations) != len(tokens) or result.max_position >= len(tokens):
        raise ValueError(
            f"{len(result.activations)} activations, largest at {result.max_position}, for {len(tokens)} tokens"
        )
    return results.Hit(
        feature=convert.feature(result.facts),
        value=result.value,
        tokens=tokens,
        activations=convert.floats(result.activations),
        max_activation=result.max_activation,
        max_position=result.max_position,
        match=convert.match(result.match),
        tokens_at_least=result.tokens_at_least if result.HasField("tokens_at_least") else None,
        beyond_index=result.beyond_index,
    )


def sparse(block: service.SparseActivations) -> Csr:
    return Csr.from_buffers((block.rows, block.columns), block.indptr, block.indices, block.data)


def dense(block: service.DenseActivations) -> Floats:
    return dense_from_buffer((block.rows, block.columns), block.data)


def encoded_text(
    text: service.EncodedText,
    features: tuple[FeatureName, ...],
    dense: Floats | None,
    sparse: Mapping[str, Csr],
    neurons: Mapping[str, Floats],
    projections: tuple[str, ...] = (),
) -> results.EncodedText:
    return results.EncodedText(
        tokens=convert.tokens(text.tokens),
        bos_included=text.bos_included,
        truncated=text.truncated,
        features=features,
        dense=dense,
        sparse=sparse,
        neurons=neurons,
        projections=projections,
    )


@_checked
def encode(
    answer: service.EncodeResponse,
    features: Sequence[FeatureName],
    sources: Sequence[str],
    projections: Sequence[str] = (),
) -> results.EncodeResult:
    """`features`, `sources` and `projections` are those asked for: the answer does not repeat their names."""
    offsets = tuple(answer.text_offsets)
    if len(offsets) != len(answer.texts) + 1:
        raise ValueError(f"{len(offsets)} offsets for {len(answer.texts)} texts")
    blocks = {block.source: sparse(block) for block in answer.sparse}
    called = aliases(sources, list(blocks))
    array = dense(answer.dense) if answer.HasField("dense") else None
    for rows in [len(block) for block in blocks.values()] + ([len(array)] if array is not None else []):
        if rows != offsets[-1]:
            raise ValueError(f"a block of {rows} rows for {offsets[-1]} tokens")
    names, hooks = tuple(features), tuple(projections)
    texts = []
    for text, start, end in zip(answer.texts, offsets, offsets[1:], strict=False):
        part = None if array is None else array[start:end]
        own = BySource({name: block[start:end] for name, block in blocks.items()}, called)
        texts.append(encoded_text(text, names, part, own, BySource({}, {}), hooks))
    return results.EncodeResult(
        call_info=convert.call_info(answer.call_info),
        features=names,
        texts=tuple(texts),
        text_offsets=offsets,
        dense=array,
        sparse=BySource(blocks, called),
        projections=hooks,
    )


@_checked
def top_activations(answer: service.TopActivationsResponse) -> results.TopActivations:
    return results.TopActivations(
        call_info=convert.call_info(answer.call_info),
        feature=convert.feature(answer.facts),
        statistics=convert.statistics(answer.statistics),
        records=tuple(convert.record(record) for record in answer.records),
        next_page_token=answer.next_page_token,
    )


@_checked
def list_sources(answer: service.ListSourcesResponse) -> results.SourceList:
    return results.SourceList(
        call_info=convert.call_info(answer.call_info),
        sources=tuple(convert.source(source) for source in answer.sources),
    )


@_checked
def get_feature(answer: service.GetFeatureResponse) -> results.FeatureInfo:
    return results.FeatureInfo(
        call_info=convert.call_info(answer.call_info),
        feature=convert.feature(answer.facts),
        source=convert.source(answer.source),
        statistics=convert.statistics(answer.statistics) if answer.HasField("statistics") else None,
        dead=answer.dead if answer.HasField("dead") else None,
        decoder_norm=answer.decoder_norm if answer.HasField("decoder_norm") else None,
    )


@_checked
def tokenize(answer: service.TokenizeResponse) -> results.TokenizeResult:
    return results.TokenizeResult(
        call_info=convert.call_info(answer.call_info),
        tokens=convert.tokens(answer.tokens),
        bos_id=answer.bos_id if answer.HasField("bos_id") else None,
        over_limit=answer.over_limit,
    )


@_checked
def server_info(answer: service.GetServerInfoResponse) -> results.ServerInfo:
    return results.ServerInfo(
        call_info=convert.call_info(answer.call_info),
        version=answer.version,
        model=convert.model(answer.model),
        device=answer.device,
        kernels=dict(answer.kernels),
        deterministic=answer.deterministic,
        source_count=answer.source_count,
        feature_count=answer.feature_count,
        index=convert.index(answer.index) if answer.HasField("index") else None,
        limits=convert.limits(answer.limits),
        imports=convert.imports(answer.imports),
    )
