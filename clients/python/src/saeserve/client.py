"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc

from saeserve import channel, request, select
from saeserve.errors import SaeserveError, from_rpc
from saeserve.readiness import Readiness
from saeserve.request import Call, Metadata
from saeserve.results import ServerInfo, StreamItem
from saeserve.stream import DEFAULT_WINDOW, Ledger
from saeserve.sync_stream import answers_to
from saeserve.types import Record
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub

P = ParamSpec("P")
T = TypeVar("T")


def _method(build: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._call(build(*args, **kwargs))

    request.document(method, build)
    return method


class Client:
    """A connection to a server; safe to share between threads. Close it, or use it in `with`.

    target: `host:port`, or any gRPC name; `dns:///name:port` with several addresses is balanced round robin.
    timeout: seconds that a call may take in all, retries included, unless the call says otherwise.
    credentials: of `grpc.ssl_channel_credentials(...)` for TLS; without it the connection is plain.
    metadata: headers sent with every call, for example {"authorization": "Bearer ..."}.
    max_message_bytes: the largest answer accepted.
    options: further gRPC channel options; they win over the client's own.

    Calls that fail with UNAVAILABLE or RESOURCE_EXHAUSTED are sent up to four times, after the delay that the server
    names. Every error is a SaeserveError; arguments that the wire cannot carry are ValueErrors or TypeErrors.
    """

    def __init__(
        self,
        target: str = channel.DEFAULT_TARGET,
        *,
        timeout: float = channel.DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
        max_message_bytes: int = channel.DEFAULT_MAX_MESSAGE_BYTES,
        options: Iterable[tuple[str, str | int]] = (),
    ) -> None:
        self.target = target
        self.timeout = timeout
        self._metadata = channel.pairs(metadata)
        chosen = channel.options(target, max_message_bytes, options)
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=chosen)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=chosen)
        self._stub = FeatureServiceStub(self._channel)

    search = _method(request.search)
    encode = _method(request.encode)
    top_activations = _method(request.top_activations)
    list_sources = _method(request.list_sources)
    get_feature = _method(request.get_feature)
    tokenize = _method(request.tokenize)
    server_info = _method(request.server_info)

    def encode_stream(
        self,
        texts: Iterable[str | Sequence[int]],
        *,
        sources: select.Names = None,
        features: select.Features = None,
        include_bos: bool = False,
        truncate: bool = False,
        omit_tokens: bool = False,
        model: str = "",
        in_order: bool = True,
        window: int = DEFAULT_WINDOW,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        request_id: str | None = None,
    ) -> Iterator[StreamItem]:
        """Encode any number of texts in bounded memory. Yields a StreamItem for each: a result, or its own error.

        The texts are read in the caller's thread, at most `window` ahead of what was yielded. The arguments of `encode`
        mean the same; whole neuron sources may be asked for too.

        in_order: yield in the order of the texts; else as they are answered, by `sequence`.
        timeout: longest wait for the next answer, in seconds; the whole stream has no deadline.

        When the server goes away the stream resumes with the texts not yet answered, and ends with the error only if
        four calls in a row fail without an answer. A configuration that cannot be served, too, raises.
        """
        config = request.stream_config(
            sources=sources,
            features=features,
            include_bos=include_bos,
            truncate=truncate,
            omit_tokens=omit_tokens,
            model=model,
        )
        patience = self.timeout if timeout is None else timeout
        headers = channel.headers(self._metadata, metadata, request_id)
        ledger = Ledger(config, window, in_order, patience)
        return answers_to(texts, ledger, self._stub.EncodeStream, headers, patience)

    def iter_top_activations(
        self,
        feature: select.FeatureLike,
        *,
        page_size: int | None = None,
        model: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
        request_id: str | None = None,
    ) -> Iterator[Record]:
        """All records of a feature, page by page as they are asked for. The timeout is for each page."""
        token = ""
        while True:
            page = self.top_activations(
                feature,
                page_size=page_size,
                page_token=token,
                model=model,
                timeout=timeout,
                metadata=metadata,
                request_id=request_id,
            )
            yield from page.records
            token = page.next_page_token
            if not token:
                return

    def wait_ready(self, timeout: float = 60.0) -> ServerInfo:
        """Wait until the server answers, also while it starts and loads its weights. Raises DeadlineExceeded."""
        readiness = Readiness(self.target, timeout)
        while True:
            try:
                return self._call(request.server_info(timeout=readiness.left()), wait_for_ready=True)
            except SaeserveError as error:
                time.sleep(readiness.pause_after(error))

    def _call(self, call: Call[T], *, wait_for_ready: bool | None = None) -> T:
        return call.read(self._invoke(call, wait_for_ready=wait_for_ready))

    def _invoke(self, call: Call[Any], *, wait_for_ready: bool | None = None) -> Any:
        """Send a call and return the protobuf answer: the one way that every unary call goes."""
        headers = channel.headers(self._metadata, call.metadata, call.request_id)
        timeout = self.timeout if call.timeout is None else call.timeout
        send = getattr(self._stub, call.method)
        try:
            return send(call.request, timeout=timeout, metadata=headers, wait_for_ready=wait_for_ready)
        except grpc.RpcError as error:
            raise from_rpc(error, channel.sent_request_id(headers)) from error

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
