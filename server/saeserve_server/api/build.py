"""Plain results into protobuf: tokens, facts, sources, statistics, call information."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

import saeserve_server
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.api import wire
from saeserve_server.api.call import current_call
from saeserve_server.api.imported import known_of, usual_pieces, warnings_of
from saeserve_server.api.texts import token_field
from saeserve_server.cache.answer import Spending, Tier
from saeserve_server.catalog import DEAD_DENSITY, FloatArray, Kind, SourceInfo
from saeserve_server.records.density import Origin, density_of, maximum_of, maximum_origin_of, origin_of
from saeserve_server.records.match import Match, UsualPieces
from saeserve_server.records.store import FeatureStatistics, PeakTokens
from saeserve_server.rows import Csr
from saeserve_server.serving.serving import Serving
from saeserve_server.text.tokenizer import Token

KEPT_FACTS = 16_384
"""Features whose facts are remembered, at about 1 KiB each."""
KINDS = {Kind.LATENT: types.FEATURE_KIND_LATENT, Kind.NEURON: types.FEATURE_KIND_NEURON}
_ORIGINS = {
    Origin.INDEX: types.DENSITY_ORIGIN_INDEX,
    Origin.FILE: types.DENSITY_ORIGIN_FILE,
    Origin.IMPORT: types.DENSITY_ORIGIN_IMPORT,
    None: types.DENSITY_ORIGIN_UNSPECIFIED,
}
_MATCHES = {
    Match.EXACT: types.MATCH_EXACT,
    Match.FOLDED: types.MATCH_FOLDED,
    Match.NONE: types.MATCH_NONE,
    Match.UNKNOWN: types.MATCH_UNKNOWN,
}


_TIERS = {
    None: types.CACHE_TIER_UNSPECIFIED,
    Tier.NONE: types.CACHE_TIER_NONE,
    Tier.LOCAL: types.CACHE_TIER_LOCAL,
    Tier.SHARED: types.CACHE_TIER_SHARED,
    Tier.INNER: types.CACHE_TIER_INNER,
}


@dataclass(slots=True)
class Timing:
    """What the parts of a call took, in seconds, and where its answer came from."""

    tokenize: float = 0.0
    queue: float = 0.0
    forward: float = 0.0
    encode: float = 0.0
    batch_size: int = 0
    tier: Tier | None = None
    """None where nothing is cached."""

    def add(self, spent: Spending, tier: Tier | None = None) -> None:
        """Counts a part of the call in: of several the slowest tells, and the tier that saved least."""
        self.queue = max(self.queue, spent.queue)
        self.forward = max(self.forward, spent.forward)
        self.encode = max(self.encode, spent.encode)
        self.batch_size = max(self.batch_size, spent.batch_size)
        self.tier = tier if self.tier is None or tier is None else max(self.tier, tier)


def call_info(serving: Serving, timing: Timing | None = None) -> types.CallInfo:
    """CallInfo of the call in progress, up to now."""
    call, timing = current_call(), timing or Timing()
    return types.CallInfo(
        request_id=call.request_id,
        batch_size=timing.batch_size,
        server_version=saeserve_server.__version__,
        model_revision=serving.catalog.model.revision,
        index_revision=serving.index.revision if serving.index else "",
        tokenize_micros=_micros(timing.tokenize),
        queue_micros=_micros(timing.queue),
        forward_micros=_micros(timing.forward),
        encode_micros=_micros(timing.encode),
        total_micros=_micros(call.elapsed()),
        cache=_TIERS[timing.tier],
    )


def token_message(token: Token) -> types.Token:
    """A token."""
    return types.Token(id=token.id, piece=token.piece, display=token.display, start=token.start, end=token.end)


def bos_token(serving: Serving, bos: int | None) -> bytes:
    """The leading row's token as one of an answer's `tokens`, serialised; nothing if there is no row for it."""
    return b"" if bos is None else token_field(serving.tokenizer.token(bos))


@dataclass(frozen=True, slots=True)
class Known:
    """What answers say of a feature."""

    facts: bytes
    """A FeatureFacts, serialised, led by its length."""
    pieces: UsualPieces
    """Of its usual tokens."""


class FactsBuilder:
    """Facts of features, and whether a token matches them. They do not change while a model is served: it remembers."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._known = functools.lru_cache(maxsize=KEPT_FACTS)(self._look_up)

    def facts(self, rank: int, index: int) -> bytes:
        """Facts of one feature, serialised and led by their length."""
        return self._known(rank, index).facts

    def match(self, rank: int, index: int, token_id: int | None) -> types.Match.ValueType:
        """Whether the token is one on which a feature usually fires. By its id: what is cached knows no text. None is a
        BOS, of which no index says anything."""
        if token_id is None:
            return types.MATCH_UNKNOWN
        return _MATCHES[self._known(rank, index).pieces.match(self._serving.tokenizer.piece(token_id))]

    def _look_up(self, rank: int, index: int) -> Known:
        facts = self.message(rank, index)
        pieces = UsualPieces([token.token.piece for token in facts.usual_tokens])
        return Known(wire.sized(facts.SerializeToString()), pieces)

    def message(self, rank: int, index: int) -> types.FeatureFacts:
        """Facts of one feature."""
        serving = self._serving
        source = serving.catalog.sources[rank]
        facts = types.FeatureFacts(
            feature=types.FeatureId(source=source.id, index=index),
            name=f"{source.name}:{index}",
            layer=source.layer,
            kind=KINDS[source.kind],
        )
        density = density_of(source, serving.index, serving.imported)
        if density is not None and not np.isnan(density[index]):
            facts.density = float(density[index])
            facts.density_origin = density_origin(serving, source)
        maximum = maximum_of(source, serving.index, serving.imported)
        if maximum is not None and not np.isnan(maximum[index]):
            facts.index_max_activation = float(maximum[index])
            facts.index_max_origin = _ORIGINS[maximum_origin_of(source, serving.index, serving.imported)]
        if serving.index is not None and serving.index.covers(source.id):
            facts.usual_tokens.extend(usual_tokens(serving, serving.index.usual_tokens(source.id, index)))
        else:
            facts.usual_tokens.extend(usual_pieces(serving.imported, source.id, index))
        facts.explanations.extend(known_of(serving.imported, source.id, index))
        return facts


@functools.lru_cache(maxsize=1)
def facts_builder(serving: Serving) -> FactsBuilder:
    """The builder of what is being served."""
    return FactsBuilder(serving)


def density_origin(serving: Serving, source: SourceInfo) -> types.DensityOrigin.ValueType:
    """Where a source's densities come from."""
    return _ORIGINS[origin_of(source, serving.index, serving.imported)]


def usual_tokens(serving: Serving, peaks: PeakTokens) -> list[types.UsualToken]:
    """Peak tokens."""
    return [
        types.UsualToken(token=token_message(serving.tokenizer.token(token_id)), count=count, max_activation=maximum)
        for token_id, count, maximum in zip(
            peaks.ids.tolist(), peaks.counts.tolist(), peaks.maxima.tolist(), strict=True
        )
    ]


def source_message(serving: Serving, source: SourceInfo) -> types.Source:
    """A source."""
    message = types.Source(
        id=source.id,
        name=source.name,
        set=source.set,
        aliases=source.aliases,
        layer=source.layer,
        kind=KINDS[source.kind],
        hook_name=source.hook_name,
        architecture=source.architecture,
        d_in=source.d_in,
        n_features=source.n_features,
        density_origin=density_origin(serving, source),
        normalization=source.normalization,
        fold_decoder_norm=source.fold_decoder_norm,
        memory_bytes=source.memory_bytes,
        revision=source.revision,
        warnings=(*source.warnings, *warnings_of(serving.imported, source.id)),
        bos_id=source.bos_id,
    )
    density = density_of(source, serving.index, serving.imported)
    if density is not None and not np.isnan(density).any():
        message.dead_features = int((density < DEAD_DENSITY).sum())
    return message


def statistics_message(serving: Serving, statistics: FeatureStatistics) -> types.FeatureStatistics:
    """What the index knows of a feature."""
    return types.FeatureStatistics(
        tokens=statistics.tokens,
        fires=statistics.fires,
        density=statistics.density,
        mean_activation=statistics.mean,
        max_activation=statistics.maximum,
        histogram=[
            types.HistogramBin(lower=lower, upper=upper, count=count)
            for (lower, upper), count in zip(
                statistics.histogram_edges.tolist(), statistics.histogram_counts.tolist(), strict=True
            )
        ],
        top_tokens=usual_tokens(serving, statistics.top_tokens),
        blocks=statistics.blocks,
        fires_in_texts=statistics.texts,
        texts=serving.index.texts if serving.index is not None else 0,
    )


def sparse_message(source: str, rows: Csr) -> service.SparseActivations:
    """CSR rows as little-endian buffers."""
    return service.SparseActivations(
        source=source,
        rows=len(rows.indptr) - 1,
        columns=rows.columns,
        indptr=rows.indptr.astype("<i8", copy=False).tobytes(),
        indices=rows.indices.astype("<u4", copy=False).tobytes(),
        data=rows.data.astype("<f4", copy=False).tobytes(),
    )


def dense_message(source: str, rows: FloatArray) -> service.DenseActivations:
    """[rows, columns] as a little-endian buffer."""
    return service.DenseActivations(
        source=source, rows=rows.shape[0], columns=rows.shape[1], data=np.ascontiguousarray(rows, dtype="<f4").tobytes()
    )


def _micros(seconds: float) -> int:
    return max(0, round(seconds * 1_000_000))
