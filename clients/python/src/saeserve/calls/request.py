"""Requests from friendly arguments: one function for each method, and the only place where its arguments are listed.

Each returns a Call, which a client sends. `Client` and `AsyncClient` take their methods' signatures and documentation
from here, so the two cannot drift apart. Arguments that the wire cannot carry raise ValueError or TypeError here; all
others are judged by the server.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from google.protobuf.message import Message

from saeserve.answers import reading, results
from saeserve.answers.names import FeatureLike
from saeserve.arguments import timeouts
from saeserve.arguments.numbers import Number, Numbers, flag, number, share
from saeserve.arguments.texts import text as as_text
from saeserve.calls import select
from saeserve.calls.inputs import TextLike, several, text_or_ids
from saeserve.calls.projections import Projections
from saeserve.calls.projections import projections as as_projections
from saeserve.transport.headers import Metadata
from saeserve.v1 import feature_service_pb2 as service

T = TypeVar("T")

_RANKINGS = {
    "raw": service.RANKING_RAW,
    "relative": service.RANKING_RELATIVE_TO_MAX,
    "surprisal": service.RANKING_SURPRISAL,
}


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary call: what to send, how to read the answer, and how to send it."""

    method: str
    """Name of the RPC."""
    request: Any
    """Its protobuf request; of a method that takes a stream, a tuple of all its messages."""
    read: Callable[[Any], T]
    """From the protobuf answer to the result."""
    timeout: timeouts.OfCall
    """Seconds, None for no limit; DEFAULT for the client's."""
    metadata: Metadata | None
    """Beside the client's own."""
    request_id: str | None
    """Sent as `x-request-id`; None for one made up."""
    token: str | None = None
    """Sent in place of the client's."""
    at_once: Collection[str] = ()
    """Reasons of errors after which it is not sent again."""

    def sent(self) -> Any:
        """What gRPC takes for one attempt."""
        return iter(self.request) if isinstance(self.request, tuple) else self.request


def document(method: Callable[..., Any], build: Callable[..., Any]) -> None:
    """Give a client's method the name, documentation and arguments of the function here that builds its call."""
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = inspect.signature(build).parameters.values()
    method.__name__ = build.__name__
    method.__doc__ = build.__doc__
    method.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]


def _count(value: Number | None, name: str) -> int | None:
    """A whole number; None where the server's default is meant."""
    return None if value is None else number(value, name)


def _share(value: float | None, name: str) -> float | None:
    return None if value is None else share(value, name)


def call(
    method: str,
    message: Message | Sequence[Message],
    *,
    token: str | None = None,
    at_once: Collection[str] = (),
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[Any]:
    """Send a ready protobuf request the way of every call, and return the protobuf answer.

    method: name of the RPC, `Search`; any but EncodeStream, whose answers are many.
    message: its request; of Contrast, all its messages in order.
    token: a bearer token of this call, in place of the client's. ValueError if it would go to another machine in plain
        text, as for the client's own.
    at_once: reasons of errors, `LOADING` say, that are raised though the call might succeed if it were sent again.
    """
    rpc = service.DESCRIPTOR.services_by_name["FeatureService"].methods_by_name.get(method)
    if rpc is None or rpc.server_streaming:
        raise ValueError(f"method {method!r} is none that is answered once: expected one such as Search")
    request = tuple(message) if rpc.client_streaming and not isinstance(message, Message) else message
    for one in request if isinstance(request, tuple) else (request,):
        if not isinstance(one, Message) or one.DESCRIPTOR.full_name != rpc.input_type.full_name:
            raise TypeError(f"message: {method} takes {rpc.input_type.name}, not {type(one).__name__}")
    sent = (request,) if rpc.client_streaming and not isinstance(request, tuple) else request
    return Call(method, sent, _as_it_is, timeout, metadata, request_id, token, at_once)


def _as_it_is(answer: Any) -> Any:
    return answer


def search(
    text: str | None = None,
    *,
    ids: Numbers | None = None,
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
    sort: select.Sort = (),
    ranking: Literal["raw", "relative", "surprisal"] = "raw",
    min_fires: Number | None = None,
    limit: Number | None = None,
    by_token: bool = False,
    include_bos: bool = False,
    rank_bos: bool = False,
    sort_bos: bool = False,
    truncate: bool = False,
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[results.SearchResult]:
    """Which features fire on this text? Returns a SearchResult.

    text, ids: the text, or its token ids; exactly one.
    kinds: "latent", "neuron" or "all"; unset: latents if any are loaded, else neurons.
    sets, sources, layers, features: only features in all of these. Layers are a number, a range, "1-3" (both ends
        included) or several of them; a feature is a written name, a FeatureName, a pair (source, index), or a
        Feature or Hit of an answer.
    exclude_...: features in any of these are left out.
    min_density, max_density: bounds on the share of tokens on which a feature fires, 0 to 1.
    sort: rank by the sum over these tokens: a number is a position, a text finds every run of tokens that reads so.
    ranking: "raw", "relative" to each feature's maximum over the index, or "surprisal": bits, log2 of all its tokens
        over those on which the feature is at least this active. The latter two compare across layers; with them,
        features that fire on fewer than min_fires tokens of the index (default 10) do not rank.
    limit: how many features, for the text or for each token: 1 to 1000, default 25.
    by_token: the top features of each token instead of the text's.
    include_bos: add a leading row for the BOS token, which never ranks.
    rank_bos: add that row and let it rank like others, as do BOS tokens inside the text. Relative to the index, and in
        bits, it is measured by text tokens, which are all that an index knows.
    sort_bos: sort by that row too; needs rank_bos.
    truncate: cut a text that is too long instead of refusing it.

    Raises InvalidArgument (also where a sort token matches nothing), NotFound, FailedPrecondition (reason
    INDEX_REQUIRED), and as every call ResourceExhausted, DeadlineExceeded, Unavailable and Internal.
    """
    if as_text(ranking, "ranking") not in _RANKINGS:
        raise ValueError(f"ranking {ranking!r} is none of 'raw', 'relative' and 'surprisal'")
    request = service.SearchRequest(
        model=as_text(model, "model"),
        input=text_or_ids(text, ids),
        sort_tokens=select.sort_tokens(sort),
        ranking=_RANKINGS[ranking],
        min_fires=_count(min_fires, "min_fires"),
        limit=_count(limit, "limit"),
        by_token=flag(by_token, "by_token"),
        include_bos=flag(include_bos, "include_bos"),
        rank_bos=flag(rank_bos, "rank_bos"),
        truncate=flag(truncate, "truncate"),
    )
    if flag(sort_bos, "sort_bos"):
        request.sort_tokens.add(bos=True)
    include = select.include(kinds, sets, sources, layers, features)
    exclude = select.exclude(exclude_kinds, exclude_sets, exclude_sources, exclude_layers, exclude_features)
    chosen = service.Filter(
        include=include,
        exclude=exclude,
        min_density=_share(min_density, "min_density"),
        max_density=_share(max_density, "max_density"),
    )
    # An empty filter stays unset, as a caller in another language would leave it.
    if chosen.ByteSize():
        request.filter.CopyFrom(chosen)
    return Call("Search", request, reading.search, timeout, metadata, request_id)


def encode(
    texts: str | Iterable[TextLike],
    *,
    sources: select.Names = None,
    features: select.Features = None,
    projections: Projections = (),
    include_bos: bool = False,
    truncate: bool = False,
    omit_tokens: bool = False,
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[results.EncodeResult]:
    """How strongly do features fire on each token of these texts? Returns an EncodeResult.

    texts: one text, or several; each a text or a sequence of token ids.
    sources: all latents of these SAEs, sparse; or features: just these, dense, in this order, and projections. Exactly
        one of them.
    projections: pairs (hook_name, vector): the products of the model's float32 activations at a hook point that a
        served source reads with a vector as wide as it, one column each, after the features; behind the model's BOS.
    include_bos: add a leading row for each text's BOS token.
    truncate: cut texts that are too long instead of refusing them.
    omit_tokens: leave the tokens out of the answer.

    Raises InvalidArgument (reason ANSWER_TOO_LARGE where only encode_stream will do), NotFound, and as every call
    ResourceExhausted, DeadlineExceeded, Unavailable and Internal.
    """
    names, blocks = select.feature_names(features), select.names(sources)
    asked = as_projections(projections)
    request = service.EncodeRequest(
        model=as_text(model, "model"),
        inputs=several(texts),
        sources=blocks,
        features=select.feature_ids(names),
        projections=asked,
        include_bos=flag(include_bos, "include_bos"),
        truncate=flag(truncate, "truncate"),
        omit_tokens=flag(omit_tokens, "omit_tokens"),
    )
    hooks = [one.hook_name for one in asked]
    read = partial(reading.encode, features=names, sources=blocks, projections=hooks)
    return Call("Encode", request, read, timeout, metadata, request_id)


def stream_config(
    *,
    sources: select.Names,
    features: select.Features,
    projections: Projections,
    include_bos: bool,
    truncate: bool,
    omit_tokens: bool,
    model: str,
) -> service.EncodeStreamConfig:
    """What every item of a stream is encoded with."""
    return service.EncodeStreamConfig(
        model=as_text(model, "model"),
        sources=select.names(sources),
        features=select.feature_ids(select.feature_names(features)),
        projections=as_projections(projections),
        include_bos=flag(include_bos, "include_bos"),
        truncate=flag(truncate, "truncate"),
        omit_tokens=flag(omit_tokens, "omit_tokens"),
    )


def top_activations(
    feature: FeatureLike,
    *,
    group: Literal["top", "quantiles", "random", "near-misses"] = "top",
    diversity: Literal["none", "token", "folded-token", "phrase", "sentence", "text", "semantic"] = "none",
    threshold: float | None = None,
    origin: Literal["index", "import"] | None = None,
    page_size: Number | None = None,
    page_token: str = "",
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[results.TopActivations]:
    """On which texts of the index does this feature fire most? Returns one page, a TopActivations.

    group: "top", the strongest; "quantiles", a sample by size: of each power of two some blocks; "random", that sample
        in an order drawn by what each stands for; "near-misses", usual tokens at which it does not fire.
    diversity: of the strongest only one of a kind, which says for how many it stands: the same peak "token"; but for
        case and space ("folded-token"); also alike in three tokens either side ("phrase"), in the window ("sentence"),
        or from texts that are alike ("text"); or, whatever the tokens, the same latents active ("semantic").
    threshold: for the last four, from what overlap on two are the same: over 0, at most 1; default 0.5.
    origin: "index" or "import"; unset: the index's, or where it has none of the source, imported ones.
    page_size: how many records: 1 to 100, default 10.
    page_token: `next_page_token` of the page before; empty for the first. `iter_top_activations` follows them.

    Raises NotFound, InvalidArgument, FailedPrecondition (reason INDEX_REQUIRED), Aborted (reason STORE_CHANGED: begin
    again at the first page), and as every call ResourceExhausted, DeadlineExceeded, Unavailable and Internal.
    """
    request = service.TopActivationsRequest(
        model=as_text(model, "model"),
        feature=select.feature_id(feature),
        page_size=_count(page_size, "page_size"),
        page_token=as_text(page_token, "page_token"),
        group=select.one_of(select.GROUPS, group, "group"),
        diversity=select.one_of(select.DIVERSITIES, diversity, "diversity"),
        threshold=_share(threshold, "threshold"),
        origin=select.origin(origin),
    )
    return Call("TopActivations", request, reading.top_activations, timeout, metadata, request_id)


def list_sources(
    *,
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[results.SourceList]:
    """Which sources are served? Returns a SourceList: by layer, latents before neurons."""
    request = service.ListSourcesRequest(model=as_text(model, "model"))
    return Call("ListSources", request, reading.list_sources, timeout, metadata, request_id)


def get_feature(
    feature: FeatureLike,
    *,
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[results.FeatureInfo]:
    """What is known of one feature? Returns a FeatureInfo. Raises NotFound, naming the nearest known."""
    request = service.GetFeatureRequest(model=as_text(model, "model"), feature=select.feature_id(feature))
    return Call("GetFeature", request, reading.get_feature, timeout, metadata, request_id)


def tokenize(
    text: str | None = None,
    *,
    ids: Numbers | None = None,
    model: str = "",
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[results.TokenizeResult]:
    """How does the model cut this text into tokens? Returns a TokenizeResult, without BOS.

    text, ids: the text, or token ids, which are answered with their pieces; exactly one. Raises InvalidArgument.
    """
    request = service.TokenizeRequest(model=as_text(model, "model"), input=text_or_ids(text, ids))
    return Call("Tokenize", request, reading.tokenize, timeout, metadata, request_id)


def server_info(
    *,
    timeout: timeouts.OfCall = timeouts.DEFAULT,
    metadata: Metadata | None = None,
    request_id: str | None = None,
) -> Call[results.ServerInfo]:
    """Which model, which device, which limits? Returns a ServerInfo."""
    return Call("GetServerInfo", service.GetServerInfoRequest(), reading.server_info, timeout, metadata, request_id)
