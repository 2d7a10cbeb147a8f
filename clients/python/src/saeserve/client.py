"""The blocking client."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

import grpc

from saeserve.answers.names import FeatureLike
from saeserve.answers.results import ServerInfo, StreamItem
from saeserve.answers.types import Record
from saeserve.arguments import timeouts
from saeserve.arguments.numbers import Number
from saeserve.calls import request, select
from saeserve.calls.compare import compare
from saeserve.calls.contrast import contrast
from saeserve.calls.explanations import search_explanations
from saeserve.calls.inputs import TextLike, stream_texts
from saeserve.calls.match_table import match_table
from saeserve.calls.projections import Projections
from saeserve.calls.request import Call
from saeserve.calls.similar import similar
from saeserve.calls.steps import Steps
from saeserve.calls.stream import DEFAULT_WINDOW, Ledger, Line
from saeserve.calls.sync_stream import answers_to
from saeserve.calls.vectors import vectors
from saeserve.transport import channel
from saeserve.transport.attempts import Attempts
from saeserve.transport.connection import Connection
from saeserve.transport.errors import DeadlineExceeded, SaeserveError, closed
from saeserve.transport.explain import no_connection
from saeserve.transport.headers import Metadata
from saeserve.transport.readiness import Readiness
from saeserve.transport.tls import File
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub

P = ParamSpec("P")
T = TypeVar("T")


def _of(build: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._call(build(*args, **kwargs))

    request.document(method, build)
    return method


def _steps(build: Callable[P, Steps[T]]) -> Callable[Concatenate[Client, P], T]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._drive(build(*args, **kwargs))

    request.document(method, build)
    return method


class Client:
    """A connection to a server; safe to share between threads. Close it, or use it in `with`.

    target: `host:port`, several of them (a list, or with commas) to share the calls, or a gRPC name: `unix:path`, or
        `dns:///name:port` for a name whose addresses change. Other names among several are looked up once, here.
        Of several servers, and behind `dns:///`, those that load or drain get no calls.
    timeout: seconds that a call may take in all, retries included, unless the call says otherwise; None or infinity:
        as long as it takes.
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
    options: further gRPC channel options; they win over the client's own. With `grpc.enable_retries` 0, or a
        `grpc.service_config`, no call is sent again but as that says.

    Calls that fail with UNAVAILABLE or RESOURCE_EXHAUSTED are sent up to five times, after the delay that the server
    names. Every error is a SaeserveError; arguments that the wire cannot carry are ValueErrors or TypeErrors.
    """

    def __init__(
        self,
        target: str | Iterable[str] = channel.DEFAULT_TARGET,
        *,
        timeout: timeouts.Seconds = channel.DEFAULT_TIMEOUT,
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
        self.timeout = timeouts.seconds(timeout)
        self._connection = connection
        self._closed = False
        self._connect()

    def _connect(self) -> None:
        by = self._connection
        if by.credentials is None:
            self._channel = grpc.insecure_channel(by.address, options=by.options)
        else:
            self._channel = grpc.secure_channel(by.address, by.credentials, options=by.options)
        self._stub = FeatureServiceStub(self._channel)
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied: the settings, a token among them. What comes out connects anew."""
        return _again, (type(self), {**self._connection.portable(), "timeout": self.timeout})

    call = _of(request.call)
    search = _of(request.search)
    encode = _of(request.encode)
    top_activations = _of(request.top_activations)
    list_sources = _of(request.list_sources)
    get_feature = _of(request.get_feature)
    tokenize = _of(request.tokenize)
    server_info = _of(request.server_info)
    compare = _of(compare)
    similar = _of(similar)
    vectors = _of(vectors)
    search_explanations = _of(search_explanations)
    contrast = _of(contrast)
    match_table = _steps(match_table)

    def encode_stream(
        self,
        texts: Iterable[TextLike],
        *,
        sources: select.Names = None,
        features: select.Features = None,
        projections: Projections = (),
        include_bos: bool = False,
        truncate: bool = False,
        omit_tokens: bool = False,
        model: str = "",
        in_order: bool = True,
        window: Number = DEFAULT_WINDOW,
        timeout: timeouts.OfCall = timeouts.DEFAULT,
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
            projections=projections,
            include_bos=include_bos,
            truncate=truncate,
            omit_tokens=omit_tokens,
            model=model,
        )
        patience = timeouts.of_call(timeout, self.timeout)
        headers = self._connection.headers(metadata, request_id)
        ledger = Ledger(config, window, in_order, patience)
        source = stream_texts(texts, asynchronous=False)
        if self._closed:
            raise closed()
        line = Line(
            self._method("EncodeStream"), headers, lambda failure: self._error(failure, headers), self._unconnected
        )
        return answers_to(source, ledger, line, patience)

    def iter_top_activations(
        self,
        feature: FeatureLike,
        *,
        group: Literal["top", "quantiles", "random", "near-misses"] = "top",
        diversity: Literal["none", "token", "folded-token", "phrase", "sentence", "text", "semantic"] = "none",
        threshold: float | None = None,
        origin: Literal["index", "import"] | None = None,
        page_size: Number | None = None,
        model: str = "",
        timeout: timeouts.OfCall = timeouts.DEFAULT,
        metadata: Metadata | None = None,
        request_id: str | None = None,
    ) -> Iterator[Record]:
        """All records of a feature, page by page as they are asked for. The timeout is for each page."""
        token = ""
        while True:
            page = self.top_activations(
                feature,
                group=group,
                diversity=diversity,
                threshold=threshold,
                origin=origin,
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

    def wait_ready(self, timeout: timeouts.Seconds = 60.0) -> ServerInfo:
        """Wait until the server answers, also while it starts and loads its weights; timeout None: however long.

        Raises DeadlineExceeded, which says what was heard last, and at once what no waiting can mend.
        """
        readiness = Readiness(self.target, timeout)
        while True:
            call = request.server_info(timeout=readiness.left())
            try:
                return call.read(self._send(call, self._connection.headers(None, None), readiness.left()))
            except SaeserveError as error:
                time.sleep(readiness.pause_after(error))

    def _drive(self, steps: Steps[T]) -> T:
        """Make the calls that are asked for, one after another, and return the result."""
        try:
            call = next(steps)
            while True:
                call = steps.send(self._call(call))
        except StopIteration as end:
            result: T = end.value
            return result

    def _call(self, call: Call[T]) -> T:
        return call.read(self._invoke(call))

    def _invoke(self, call: Call[Any]) -> Any:
        """Send a call, again where it may succeed, and return the protobuf answer: the way of every unary call."""
        headers = self._connection.headers(call.metadata, call.request_id, call.token)
        attempts = Attempts(timeouts.of_call(call.timeout, self.timeout), self._connection.repeats)
        while True:
            try:
                return self._send(call, headers, attempts.left())
            except SaeserveError as error:
                pause = attempts.pause_after(error, call.at_once)
            time.sleep(pause)

    def _send(self, call: Call[Any], headers: list[tuple[str, str | bytes]], timeout: float | None) -> Any:
        """One attempt."""
        try:
            return self._method(call.method)(call.sent(), timeout=timeout, metadata=headers)
        except grpc.RpcError as failure:
            raise self._error(failure, headers) from failure

    def _method(self, name: str) -> Callable[..., Any]:
        """A method of the service on this process's channel: a forked child, whose gRPC has no threads, connects anew.

        Raises the client's own error once it is closed, also where it is closed between here and the call.
        """
        if self._process != os.getpid() and not self._closed:
            self._connect()
        method = getattr(self._stub, name)

        def invoke(*args: Any, **kwargs: Any) -> Any:
            if self._closed:
                raise closed()
            try:
                return method(*args, **kwargs)
            except ValueError as error:  # gRPC's word for a closed channel, among others
                if self._closed:
                    raise closed() from error
                raise

        return invoke

    def _error(self, failure: grpc.RpcError, headers: list[tuple[str, str | bytes]]) -> SaeserveError:
        error = self._connection.error(failure, headers)
        if self._closed and error.code is grpc.StatusCode.CANCELLED:
            return closed()
        if isinstance(error, DeadlineExceeded) and not error.reason:
            error.message = self._unconnected() or error.message
        return error

    def _unconnected(self) -> str:
        """What is to say of a call without an answer if there is no connection; empty if there is one."""
        told: SimpleQueue[grpc.ChannelConnectivity] = SimpleQueue()

        def tell(state: grpc.ChannelConnectivity) -> None:
            told.put(state)

        self._channel.subscribe(tell)
        try:
            ready = told.get(timeout=0.5) is grpc.ChannelConnectivity.READY
            return "" if ready else no_connection(self._connection.way)
        except Empty:
            return ""  # unknown
        finally:
            self._channel.unsubscribe(tell)

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled, and later ones raise Cancelled (CLIENT_CLOSED)."""
        self._closed = True
        if self._process == os.getpid():
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _again(kind: type[Client], settings: dict[str, Any]) -> Client:
    return kind(**settings)
