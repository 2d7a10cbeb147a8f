"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc

from saeserve.answers.results import ServerInfo, StreamItem
from saeserve.answers.types import Record
from saeserve.calls import request, select
from saeserve.calls.request import Call
from saeserve.calls.stream import DEFAULT_WINDOW, Ledger
from saeserve.calls.sync_stream import answers_to
from saeserve.transport import channel
from saeserve.transport.connection import Connection
from saeserve.transport.errors import SaeserveError, from_rpc
from saeserve.transport.headers import Metadata, sent_request_id
from saeserve.transport.readiness import Readiness
from saeserve.transport.tls import File
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

    target: `host:port`, several of them (a list, or with commas) to share the calls, or a gRPC name: `unix:path`, or
        `dns:///name:port` for a name whose addresses change. Other names among several are looked up once, here.
        Of several servers, and behind `dns:///`, those that load or drain get no calls.
    timeout: seconds that a call may take in all, retries included, unless the call says otherwise.
    tls: whether to use TLS; so do the four arguments below. By default the connection is plain.
    ca_cert: PEM file of the authorities to trust; by default those that ship with gRPC.
    client_cert, client_key: PEM files, for a server that asks for a client's certificate.
    server_name: the name that the server's certificate has, if it is not that of the target.
    credentials: instead of these, ready-made `grpc.ChannelCredentials`.
    token, token_file: a bearer token, or a file with one, which is read again when it changes. Without TLS it is sent
        to this machine only, unless allow_insecure_token says that the way is secure by other means.
    client_name: who calls: at most 64 printable ASCII characters. A busy server shares itself out among names.
    metadata: headers sent with every call.
    max_message_bytes: the largest answer accepted.
    options: further gRPC channel options; they win over the client's own.

    Calls that fail with UNAVAILABLE or RESOURCE_EXHAUSTED are sent up to five times, after the delay that the server
    names. Every error is a SaeserveError; arguments that the wire cannot carry are ValueErrors or TypeErrors.
    """

    def __init__(
        self,
        target: str | Iterable[str] = channel.DEFAULT_TARGET,
        *,
        timeout: float = channel.DEFAULT_TIMEOUT,
        tls: bool | None = None,
        ca_cert: File | None = None,
        client_cert: File | None = None,
        client_key: File | None = None,
        server_name: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        token_file: File | None = None,
        allow_insecure_token: bool = False,
        client_name: str = "",
        metadata: Metadata = (),
        max_message_bytes: int = channel.DEFAULT_MAX_MESSAGE_BYTES,
        options: Iterable[tuple[str, str | int]] = (),
    ) -> None:
        connection = Connection(
            target,
            tls=tls,
            ca_cert=ca_cert,
            client_cert=client_cert,
            client_key=client_key,
            server_name=server_name,
            credentials=credentials,
            token=token,
            token_file=token_file,
            allow_insecure_token=allow_insecure_token,
            client_name=client_name,
            metadata=metadata,
            max_message_bytes=max_message_bytes,
            options=options,
        )
        self.target = connection.target
        self.timeout = timeout
        self._connection = connection
        if connection.credentials is None:
            self._channel = grpc.insecure_channel(connection.address, options=connection.options)
        else:
            self._channel = grpc.secure_channel(connection.address, connection.credentials, options=connection.options)
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
        calls fail for as long as `timeout` without an answer. A configuration that cannot be served, too, raises.
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
        headers = self._connection.headers(metadata, request_id)
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
        headers = self._connection.headers(call.metadata, call.request_id)
        timeout = self.timeout if call.timeout is None else call.timeout
        send = getattr(self._stub, call.method)
        try:
            return send(call.request, timeout=timeout, metadata=headers, wait_for_ready=wait_for_ready)
        except grpc.RpcError as error:
            raise from_rpc(error, sent_request_id(headers)) from error

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
