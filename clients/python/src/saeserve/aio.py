"""The asyncio client: the methods of `Client`, awaited."""

# ruff: noqa: ASYNC109 (timeouts are gRPC deadlines, which the server sees too)

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, cast

import grpc
import grpc.aio

from saeserve.answers.names import FeatureLike
from saeserve.answers.results import ServerInfo, StreamItem
from saeserve.answers.types import Record
from saeserve.arguments import timeouts
from saeserve.arguments.numbers import Number
from saeserve.calls import request, select
from saeserve.calls.aio_stream import answers_to
from saeserve.calls.compare import compare
from saeserve.calls.contrast import contrast
from saeserve.calls.explanations import search_explanations
from saeserve.calls.forwarded import Forwarded, StreamAnswer
from saeserve.calls.inputs import TextLike, stream_texts
from saeserve.calls.match_table import match_table
from saeserve.calls.projections import Projections
from saeserve.calls.request import Call
from saeserve.calls.similar import similar
from saeserve.calls.steps import Steps
from saeserve.calls.stream import DEFAULT_WINDOW, Ledger, Line
from saeserve.calls.vectors import vectors
from saeserve.transport import channel, green
from saeserve.transport.attempts import Attempts
from saeserve.transport.connection import Connection
from saeserve.transport.errors import DeadlineExceeded, SaeserveError, closed
from saeserve.transport.explain import no_connection
from saeserve.transport.headers import Metadata
from saeserve.transport.readiness import Readiness
from saeserve.transport.tls import File
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub

P = ParamSpec("P")
T = TypeVar("T")

_READY = grpc.ChannelConnectivity.READY


def _of(build: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._call(build(*args, **kwargs))

    request.document(method, build)
    return method


def _steps(build: Callable[P, Steps[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._drive(build(*args, **kwargs))

    request.document(method, build)
    return method


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods, results and errors.

    It connects at its first call and belongs to that call's event loop; use in another raises RuntimeError. Close it,
    or use it in `async with`. A cancelled task cancels its call on the server.
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
        green.refuse_asyncio()
        self.target = connection.target
        self.timeout = timeouts.seconds(timeout)
        self._connection = connection
        self._closed = False
        self._connected: _Connected | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """As of `Client`."""
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
        texts: AsyncIterable[TextLike] | Iterable[TextLike],
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
    ) -> AsyncIterator[StreamItem]:
        """As `Client.encode_stream`, with `async for`; the texts may come from an asynchronous iterable too."""
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
        source = stream_texts(texts, asynchronous=True)
        line = Line(
            self._method("EncodeStream"), headers, lambda failure: self._error(failure, headers), self._unconnected
        )
        return answers_to(source, ledger, line, patience)

    async def call_stream(
        self,
        config: service.EncodeStreamConfig,
        items: AsyncIterable[service.EncodeStreamItem],
        *,
        window: Number = DEFAULT_WINDOW,
        token: str | None = None,
        at_once: Collection[str] = (),
        timeout: timeouts.OfCall = timeouts.DEFAULT,
        metadata: Metadata | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[StreamAnswer, None]:
        """EncodeStream for ready protobuf items, as `call` is for requests. Yields a StreamAnswer for each.

        Items are numbered as they like, also twice the same; answers come in any order. Everything else, going on
        when the server goes away too, is as of `encode_stream`. token: as of `call`. at_once: so too, for as long as
        nothing was answered.
        """
        patience = timeouts.of_call(timeout, self.timeout)
        headers = self._connection.headers(metadata, request_id, token)
        ledger = Forwarded(config, window, patience, at_once)
        line = Line(
            self._method("EncodeStream"), headers, lambda failure: self._error(failure, headers), self._unconnected
        )
        async with contextlib.aclosing(answers_to(cast(Any, items), ledger, line, patience)) as answers:
            async for item in answers:
                yield ledger.whole(item)

    async def iter_top_activations(
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
    ) -> AsyncIterator[Record]:
        """As `Client.iter_top_activations`, with `async for`."""
        token = ""
        while True:
            page = await self.top_activations(
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
            for record in page.records:
                yield record
            token = page.next_page_token
            if not token:
                return

    async def wait_ready(self, timeout: timeouts.Seconds = 60.0) -> ServerInfo:
        """As `Client.wait_ready`."""
        readiness = Readiness(self.target, timeout)
        while True:
            call = request.server_info(timeout=readiness.left())
            try:
                return call.read(await self._send(call, self._connection.headers(None, None), readiness.left()))
            except SaeserveError as error:
                await asyncio.sleep(readiness.pause_after(error))

    async def _drive(self, steps: Steps[T]) -> T:
        """Make the calls that are asked for, one after another, and return the result."""
        try:
            call = next(steps)
            while True:
                call = steps.send(await self._call(call))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _call(self, call: Call[T]) -> T:
        """Send a call, again where it may succeed: the way of every unary call."""
        headers = self._connection.headers(call.metadata, call.request_id, call.token)
        attempts = Attempts(timeouts.of_call(call.timeout, self.timeout), self._connection.repeats)
        while True:
            try:
                return call.read(await self._send(call, headers, attempts.left()))
            except SaeserveError as error:
                pause = attempts.pause_after(error, call.at_once)
            await asyncio.sleep(pause)

    async def _send(self, call: Call[Any], headers: list[tuple[str, str | bytes]], timeout: float | None) -> Any:
        """One attempt."""
        try:
            return await self._method(call.method)(call.sent(), timeout=timeout, metadata=headers)
        except grpc.aio.AioRpcError as failure:
            raise self._error(failure, headers) from failure
        except asyncio.CancelledError:
            # A channel that is closed cancels its calls as if somebody had cancelled the task that awaits them.
            task = asyncio.current_task()
            if self._closed and not (task is not None and task.cancelling()):
                raise closed() from None
            raise

    def _method(self, name: str) -> Callable[..., Any]:
        """A method of the service on this event loop's channel; connects at the first call.

        Raises the client's own error once it is closed.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise closed()
        if self._connected is None or self._connected.process != os.getpid():
            by = self._connection
            if by.credentials is None:
                opened = grpc.aio.insecure_channel(by.address, options=by.options)
            else:
                opened = grpc.aio.secure_channel(by.address, by.credentials, options=by.options)
            self._connected = _Connected(loop, opened, FeatureServiceStub(opened), os.getpid())
        if self._connected.loop is not loop:
            raise RuntimeError("an AsyncClient belongs to the event loop of its first call; make one for each loop")
        method = getattr(self._connected.stub, name)

        def invoke(*args: Any, **kwargs: Any) -> Any:
            if self._closed:
                raise closed()
            return method(*args, **kwargs)

        return invoke

    def _error(self, failure: Any, headers: list[tuple[str, str | bytes]]) -> SaeserveError:
        error = self._connection.error(failure, headers)
        if self._closed and error.code is grpc.StatusCode.CANCELLED:
            return closed()
        if isinstance(error, DeadlineExceeded) and not error.reason:
            error.message = self._unconnected() or error.message
        return error

    def _unconnected(self) -> str:
        """What is to say of a call without an answer if there is no connection; empty if there is one."""
        connected = self._connected is not None and self._connected.channel.get_state() is _READY
        return "" if connected else no_connection(self._connection.way)

    async def close(self) -> None:
        """Close the connection; calls in flight and later ones raise Cancelled (CLIENT_CLOSED)."""
        self._closed = True
        if self._connected is not None and self._connected.process == os.getpid():
            await self._connected.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


@dataclass(frozen=True, slots=True)
class _Connected:
    """A channel, and whose it is."""

    loop: asyncio.AbstractEventLoop
    channel: grpc.aio.Channel
    stub: Any
    process: int


def _again(kind: type[AsyncClient], settings: dict[str, Any]) -> AsyncClient:
    return kind(**settings)
