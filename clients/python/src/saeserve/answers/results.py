"""Answers, one type for each method of the clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, SupportsIndex, overload

import numpy as np

from saeserve.answers.activations import Csr, Floats
from saeserve.answers.names import FeatureLike, FeatureName
from saeserve.answers.seen import HeatMap, Histogram, Shown, Tabular
from saeserve.answers.types import (
    CallInfo,
    Feature,
    Import,
    Index,
    Limits,
    Match,
    Model,
    Record,
    Source,
    Statistics,
    Token,
)
from saeserve.transport.errors import SaeserveError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from saeserve.tables.matrix import FeatureMatrix


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Hit(Shown):
    """A feature that fires on the text."""

    feature: Feature
    value: float
    """What it was ranked by; > 0. A maximum, or a sum over the sort tokens; relative to the index maximum, or in bits,
    if asked."""
    tokens: tuple[Token, ...]
    """Those of the text: `SearchResult.tokens`."""
    activations: Floats
    """[tokens]; activation on each of them."""
    max_activation: float
    """The largest activation over the text, BOS left out."""
    max_position: int
    """The row of `SearchResult.tokens` that has it."""
    match: Match
    """Whether that token is one the feature usually fires on."""
    tokens_at_least: float | None
    """Ranked by surprisal: on how many tokens of the index the feature is at least as active as where it is most active
    among the tokens that rank; >= 1. None with other rankings."""
    beyond_index: bool
    """Ranked by surprisal: whether it is more active there than anywhere in the index: its value is a lower bound."""

    @property
    def name(self) -> FeatureName:
        """The feature's name."""
        return self.feature.name

    @property
    def token(self) -> Token:
        """The token on which it fires most."""
        return self.tokens[self.max_position]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TokenHits(Shown):
    """The top features of one token."""

    position: int
    """Row of `SearchResult.tokens`."""
    token: Token
    features: tuple[Feature, ...]
    """By falling value."""
    values: Floats
    """[features]; their activation on this token, > 0; relative to the index maximum, or in bits, if asked."""
    matches: tuple[Match, ...]
    """For each feature, whether this token is one it usually fires on."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SearchResult(Tabular, HeatMap):
    """Features that fire on a text. Iterating gives the hits; `found[0]` is the first, `found[:5]` the first five."""

    call_info: CallInfo
    tokens: tuple[Token, ...]
    """With `bos_included` the first row is the BOS."""
    bos_included: bool
    truncated: bool
    """Whether the text was cut to the token limit."""
    results: tuple[Hit, ...]
    """The features that fire most; empty with `by_token`."""
    token_results: tuple[TokenHits, ...]
    """With `by_token`: one entry for each token asked for."""
    sort_positions: tuple[int, ...]
    """The rows of `tokens` that the sort tokens resolved to."""
    sources_considered: tuple[str, ...]
    features_considered: int

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, place: SupportsIndex) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Hit | tuple[Hit, ...]:
        """The hit at a rank from 0, or a slice of them."""
        if self.token_results and not isinstance(place, slice):
            raise IndexError("asked by token: the features stand in token_results, one entry for each token")
        return self.results[place]

    def plot_layers(self, *, of: Literal["features", "value"] = "features", ax: Axes | None = None) -> Axes:
        """Draw how much of the answer each layer has, into `ax` or new Axes, and return them.

        of: the number of features, or the sum of their values. Asked by token, all tokens' features count.

        Raises ImportError without matplotlib: pip install "saeserve[plot]"; ValueError where no feature fires.
        """
        from saeserve.plots.layers import layer_profile

        return layer_profile(self, of, ax)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EncodedText(Tabular, HeatMap):
    """One text's activations: rows are its tokens."""

    tokens: tuple[Token, ...]
    """With `bos_included` the first is the BOS. Empty with `omit_tokens`."""
    bos_included: bool
    truncated: bool
    features: tuple[FeatureName, ...]
    """The first columns of `dense`, as asked for; empty where sources were asked for."""
    dense: Floats | None
    """[tokens, features, then projections]; None where sources were asked for."""
    sparse: Mapping[str, Csr]
    """By source id in any case, in the order asked for: [tokens, latents]."""
    neurons: Mapping[str, Floats]
    """By source id in any case: [tokens, neurons]. Whole neuron sources come only from `encode_stream`."""
    projections: tuple[str, ...] = ()
    """Hook points of the projections, which are the columns of `dense` after the features."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What the columns of `dense` are called: `0-DEMO:1633`, and for projections `blocks.1.hook_mlp_out [0]`."""
        return _columns(self)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EncodeResult(Tabular, HeatMap):
    """Activations of texts: all rows in one block, and `texts` with a view for each. Iterating gives the texts."""

    call_info: CallInfo
    features: tuple[FeatureName, ...]
    """The columns of `dense`, as asked for; empty where sources were asked for."""
    texts: tuple[EncodedText, ...]
    text_offsets: tuple[int, ...]
    """Text i has the rows from text_offsets[i] to text_offsets[i + 1]."""
    dense: Floats | None
    """[tokens of all texts, features, then projections]; None where sources were asked for."""
    sparse: Mapping[str, Csr]
    """By source id in any case: [tokens of all texts, latents]."""
    projections: tuple[str, ...] = ()
    """Hook points of the projections, which are the columns of `dense` after the features."""

    def __iter__(self) -> Iterator[EncodedText]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, text: SupportsIndex) -> EncodedText: ...
    @overload
    def __getitem__(self, text: slice) -> tuple[EncodedText, ...]: ...
    def __getitem__(self, text: SupportsIndex | slice) -> EncodedText | tuple[EncodedText, ...]:
        """A text by its place, or a slice of them."""
        return self.texts[text]

    @property
    def columns(self) -> tuple[str, ...]:
        """What the columns of `dense` are called: `0-DEMO:1633`, and for projections `blocks.1.hook_mlp_out [0]`."""
        return _columns(self)

    def column(self, feature: FeatureLike) -> Floats:
        """[tokens of all texts]; one feature. Raises KeyError if it was not asked for."""
        name = FeatureName.of(feature)
        if self.dense is not None and name in self.features:
            return self.dense[:, self.features.index(name)]
        if name.source in self.sparse and name.index < self.sparse[name.source].shape[1]:
            return self.sparse[name.source].column(name.index)
        raise KeyError(str(name))

    def to_scipy(self) -> FeatureMatrix:
        """All texts as one sparse matrix, tokens × features, with the names of rows and columns.

        Of a stream's items `saeserve.collect` makes the same. Raises ImportError without SciPy:
        pip install "saeserve[scipy]".
        """
        from saeserve.tables.matrix import of_answer

        return of_answer(self)


def _columns(encoded: EncodedText | EncodeResult) -> tuple[str, ...]:
    projected = (f"{hook} [{place}]" for place, hook in enumerate(encoded.projections))
    return (*map(str, encoded.features), *projected)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StreamItem(Shown):
    """The answer to one text of a stream: a result, or why there is none."""

    sequence: int
    """Which text, from 0 in the order they were given."""
    call_info: CallInfo | None
    result: EncodedText | None
    error: SaeserveError | None

    def unwrap(self) -> EncodedText:
        """The result; raises the item's error if it has none."""
        if self.error is not None:
            raise self.error
        if self.result is None:
            raise ValueError(f"item {self.sequence} has neither a result nor an error")
        return self.result


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TopActivations(Tabular, Histogram):
    """One page of a feature's records, by falling activation. Iterating gives the records."""

    call_info: CallInfo
    feature: Feature
    statistics: Statistics
    records: tuple[Record, ...]
    """None for a feature that never fired."""
    next_page_token: str
    """Empty on the last page."""

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, place: SupportsIndex) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Record | tuple[Record, ...]:
        """A record of this page by its place, or a slice of them."""
        return self.records[place]

    @property
    def name(self) -> FeatureName:
        """The feature's name."""
        return self.feature.name


@dataclass(frozen=True, slots=True, repr=False)
class SourceList(Tabular):
    """What is served: by layer, latents before neurons. Iterating gives the sources."""

    call_info: CallInfo
    sources: tuple[Source, ...]

    def __iter__(self) -> Iterator[Source]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, source: SupportsIndex | str) -> Source: ...
    @overload
    def __getitem__(self, source: slice) -> tuple[Source, ...]: ...
    def __getitem__(self, source: SupportsIndex | str | slice) -> Source | tuple[Source, ...]:
        """By position, a slice, or by id, name or alias in any case. Raises IndexError or KeyError."""
        if not isinstance(source, str):
            return self.sources[source]
        for candidate in self.sources:
            if source.lower() in (candidate.id, *(alias.lower() for alias in candidate.aliases)):
                return candidate
        raise KeyError(f"{source!r} is none of {', '.join(one.id for one in self.sources)}")


@dataclass(frozen=True, slots=True, repr=False)
class FeatureInfo(Shown, Histogram):
    """One feature's facts."""

    call_info: CallInfo
    feature: Feature
    source: Source
    statistics: Statistics | None
    """None without an index."""
    dead: bool | None
    """Whether it never fires; None where no density is known."""
    decoder_norm: float | None
    """Norm of the latent's decoder row; None for neurons."""

    @property
    def name(self) -> FeatureName:
        """The feature's name."""
        return self.feature.name


@dataclass(frozen=True, slots=True, repr=False)
class TokenizeResult(Tabular):
    """How the model cuts a text. Iterating gives the tokens, without BOS."""

    call_info: CallInfo
    tokens: tuple[Token, ...]
    bos_id: int | None
    """The id that the server prepends; None for a model without BOS."""
    over_limit: bool
    """Whether the text has more tokens than search and encode take without `truncate`."""

    def __iter__(self) -> Iterator[Token]:
        return iter(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, place: SupportsIndex) -> Token: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Token, ...]: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Token | tuple[Token, ...]:
        """A token by its place, or a slice of them."""
        return self.tokens[place]

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens' ids."""
        return tuple(token.id for token in self.tokens)

    @property
    def offsets(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """[tokens, 2]; where each begins and ends, in bytes of UTF-8."""
        pairs = [(token.start, token.end) for token in self.tokens]
        return np.array(pairs, np.int64).reshape(len(pairs), 2)


@dataclass(frozen=True, slots=True, repr=False)
class ServerInfo(Shown):
    """What answers here."""

    call_info: CallInfo
    version: str
    model: Model
    device: str
    """`cpu`, `cuda:0`."""
    kernels: Mapping[str, str]
    """How the latents of each SAE are computed now, by source id: `plain`, `fbgemm-int8`, …"""
    deterministic: bool
    """Whether answers are the same to the bit whatever else is computed beside them."""
    source_count: int
    feature_count: int
    index: Index | None
    """The index of top activations; None without one."""
    limits: Limits
    imports: tuple[Import, ...] = ()
    """What was imported, in the order of import."""
