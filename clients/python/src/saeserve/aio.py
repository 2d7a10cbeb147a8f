"""The asyncio client: the methods of `Client`, awaited."""

# ruff: noqa: ASYNC109 (timeouts are gRPC deadlines, which the server sees too)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc
import grpc.aio

from saeserve.answers.results import ServerInfo, StreamItem
from saeserve.answers.types import Record
from saeserve.calls import request, select
from saeserve.calls.aio_stream import answers_to
from saeserve.calls.request import Call
from saeserve.calls.stream import DEFAULT_WINDOW, Ledger
from saeserve.transport import channel
from saeserve.transport.connection import Connection
from saeserve.transport.errors import SaeserveError, from_rpc
from saeserve.transport.headers import Metadata, sent_request_id
from saeserve.transport.readiness import Readiness
from saeserve.transport.tls import File
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub

P = ParamSpec("P")
T = TypeVar("T")


def _method(build: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._call(build(*args, **kwargs))

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
        self._connected: tuple[asyncio.AbstractEventLoop, grpc.aio.Channel, Any] | None = None

    search = _method(request.search)
    encode = _method(request.encode)
    top_activations = _method(request.top_activations)
    list_sources = _method(request.list_sources)
    get_feature = _method(request.get_feature)
    tokenize = _method(request.tokenize)
    server_info = _method(request.server_info)

    def encode_stream(
        self,
        texts: AsyncIterable[str | Sequence[int]] | Iterable[str | Sequence[int]],
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
    ) -> AsyncIterator[StreamItem]:
        """As `Client.encode_stream`, with `async for`; the texts may come from an asynchronous iterable too."""
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
        return answers_to(texts, ledger, self._stub().EncodeStream, headers, patience)

    async def iter_top_activations(
        self,
        feature: select.FeatureLike,
        *,
        page_size: int | None = None,
        model: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
        request_id: str | None = None,
    ) -> AsyncIterator[Record]:
        """As `Client.iter_top_activations`, with `async for`."""
        token = ""
        while True:
            page = await self.top_activations(
                feature,
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

    async def wait_ready(self, timeout: float = 60.0) -> ServerInfo:
        """As `Client.wait_ready`."""
        readiness = Readiness(self.target, timeout)
        while True:
            try:
                return await self._call(request.server_info(timeout=readiness.left()), wait_for_ready=True)
            except SaeserveError as error:
                await asyncio.sleep(readiness.pause_after(error))

    async def _call(self, call: Call[T], *, wait_for_ready: bool | None = None) -> T:
        """Send a call: the one way that every unary call goes."""
        headers = self._connection.headers(call.metadata, call.request_id)
        timeout = self.timeout if call.timeout is None else call.timeout
        send = getattr(self._stub(), call.method)
        try:
            answer = await send(call.request, timeout=timeout, metadata=headers, wait_for_ready=wait_for_ready)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, sent_request_id(headers)) from error
        return call.read(answer)

    def _stub(self) -> Any:
        """The stub on this event loop's channel; connects at the first call."""
        loop = asyncio.get_running_loop()
        if self._connected is None:
            by = self._connection
            if by.credentials is None:
                opened = grpc.aio.insecure_channel(by.address, options=by.options)
            else:
                opened = grpc.aio.secure_channel(by.address, by.credentials, options=by.options)
            self._connected = loop, opened, FeatureServiceStub(opened)
        if self._connected[0] is not loop:
            raise RuntimeError("an AsyncClient belongs to the event loop of its first call; make one for each loop")
        return self._connected[2]

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        if self._connected is not None:
            await self._connected[1].close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
