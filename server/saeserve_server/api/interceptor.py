"""What every call of every service passes through: the token, the limit of calls, request id, readable errors,
malformed messages, metrics, log.

A call without the token, or over the limit, is refused before its message is received. A message that cannot be parsed
never reaches an aio handler: grpc answers UNKNOWN with the exception's text. So every deserialiser is wrapped to return
a sentinel instead, and the call is answered INVALID_ARGUMENT. No answer is ever UNKNOWN.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import grpc
from google.rpc import code_pb2

from saeserve_server.api.call import Call, enter_call
from saeserve_server.api.call_log import log_call, log_request
from saeserve_server.api.errors import to_status, trailing_metadata
from saeserve_server.api.security import BearerToken
from saeserve_server.errors import Internal, InvalidArgument, Overloaded, ServeError, Unauthenticated, Unavailable
from saeserve_server.metrics import Metrics
from saeserve_server.serving import MAX_REQUEST_BYTES

Handler = Any  # grpc.RpcMethodHandler, which has no type of its own in grpcio
Context = Any  # grpc.aio.ServicerContext


class _Malformed:
    """Stands for a message that could not be parsed."""


_MALFORMED = _Malformed()
_TOO_LARGE = _Malformed()
OURS = "/saeserve."
HEALTH = "/grpc.health.v1.Health/"
OTHER = "other"
"""In metrics and log, every method that is not served: callers may name any, and each would become a time series."""
TOO_MANY_CALLS_RETRY = 1.0
"""Seconds."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler. Token and `max_calls` are not for health checks: probes have no token and must get in."""

    def __init__(
        self,
        metrics: Metrics,
        draining: asyncio.Event,
        *,
        token: BearerToken | None,
        max_calls: int,
        log_texts: bool,
    ) -> None:
        self._metrics = metrics
        self._draining = draining
        self._token = token
        self._max_calls = max_calls
        self._log_texts = log_texts
        self._calls = 0

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Handler]], details: Any) -> Handler:
        handler = await continuation(details)
        method: str = details.method
        name = OTHER if handler is None else method.rpartition("/")[2]
        open_to_all = method.startswith(HEALTH)
        if self._token is not None and not open_to_all and not self._token.accepts(details.invocation_metadata or ()):
            return self._refusal(name, Unauthenticated("a valid token is needed: authorization: Bearer TOKEN"))
        if handler is None:
            self._metrics.request(name, "UNIMPLEMENTED", "", 0.0)
            return None
        if not open_to_all and self._calls >= self._max_calls:
            return self._refusal(name, self._too_many())
        if not open_to_all and self._draining.is_set():
            return self._refusal(name, Unavailable("the server is going away", reason="DRAINING", retry_after=1.0))
        most = None if open_to_all else self._max_calls
        parse = _forgiving(handler.request_deserializer)
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(method, handler.stream_stream, self._checked_stream, most),
                request_deserializer=parse,
                response_serializer=handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream, self._checked, most),
                request_deserializer=parse,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(name, handler.unary_unary, most),
            request_deserializer=parse,
            response_serializer=_sparing(handler.response_serializer),
        )

    def _refusal(self, name: str, error: ServeError) -> Handler:
        """A handler that refuses. It is one of a stream, whatever the method: those begin without the first message."""

        async def refuse(_requests: Any, context: Context) -> None:
            await self._refuse(name, _enter(context), context, error)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _unary(self, name: str, behaviour: Any, most: int | None) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            call = _enter(context)
            try:
                with self._place(most):
                    response = await _maybe_await(behaviour(self._checked(name, call, request), context))
            except asyncio.CancelledError:
                self._ended(name, call, _why_cancelled(context))
                raise
            except Exception as error:
                await self._refuse(name, call, context, error)
                raise  # not reached: abort raises
            self._ended(name, call, _code_of(context))
            return response

        return answer

    def _streaming(
        self, method: str, behaviour: Any, check: Callable[[str, Call, Any], Any], most: int | None
    ) -> Callable[[Any, Context], Awaitable[None]]:
        name = method.rpartition("/")[2]

        async def answer(request: Any, context: Context) -> None:
            call = _enter(context)
            try:
                with self._place(most):
                    writing = _write_all(behaviour(check(name, call, request), context), context)
                    await (writing if method.startswith(OURS) else self._unless_draining(writing))
            except asyncio.CancelledError:
                self._ended(name, call, _why_cancelled(context))
                raise
            except grpc.aio.InternalError:  # a write failed: the caller has left
                self._ended(name, call, _why_cancelled(context))
                raise asyncio.CancelledError from None
            except Exception as error:  # noqa: BLE001 (every fault becomes a status)
                await self._refuse(name, call, context, error)
            self._ended(name, call, _code_of(context))

        return answer

    @contextlib.contextmanager
    def _place(self, most: int | None) -> Iterator[None]:
        """A place among the calls in progress. Raises Overloaded: others may have come in since the call was let in."""
        if most is None:
            with self._metrics.in_flight.track_inprogress():
                yield
            return
        if self._calls >= most:
            raise self._too_many()
        self._calls += 1
        try:
            with self._metrics.in_flight.track_inprogress():
                yield
        finally:
            self._calls -= 1

    def _too_many(self) -> Overloaded:
        return Overloaded(
            f"{self._calls} calls are being answered; at most {self._max_calls} are taken at a time",
            reason="TOO_MANY_CALLS",
            retry_after=TOO_MANY_CALLS_RETRY,
        )

    def _checked(self, name: str, call: Call, request: Any) -> Any:
        """The request. Raises InvalidArgument for one that could not be parsed."""
        if request is _MALFORMED:
            raise InvalidArgument("the message cannot be parsed as the method's request", reason="MALFORMED_REQUEST")
        if request is _TOO_LARGE:
            raise InvalidArgument(f"the message is larger than {MAX_REQUEST_BYTES} bytes", reason="REQUEST_TOO_LARGE")
        if self._log_texts:
            log_request(name, call, request)
        return request

    async def _checked_stream(self, name: str, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._checked(name, call, request)

    async def _unless_draining(self, writing: Coroutine[Any, Any, None]) -> None:
        """Health watches and reflection never end by themselves: they end with the server, which owes them nothing."""
        task, draining = asyncio.ensure_future(writing), asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({task, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Unavailable("the server is going away", reason="DRAINING", retry_after=1.0)
            task.result()
        finally:
            task.cancel()
            draining.cancel()

    async def _refuse(self, name: str, call: Call, context: Context, error: Exception) -> None:
        if isinstance(error, grpc.aio.AbortError):  # a handler that is not ours has answered by itself
            self._ended(name, call, _code_of(context))
            raise error
        status = to_status(error, call.request_id)
        reason = error.reason if isinstance(error, ServeError) else Internal.reason
        retry_after = error.retry_after if isinstance(error, ServeError) else None
        self._ended(name, call, code_pb2.Code.Name(status.code), reason, status.message)
        await context.abort(_CODES[status.code], status.message, trailing_metadata(status, retry_after))

    def _ended(self, name: str, call: Call, code: str, reason: str = "", message: str = "") -> None:
        seconds = call.elapsed()
        self._metrics.request(name, code, reason, seconds)
        log_call(name, call, code, reason, seconds, message, texts=self._log_texts)


def _forgiving(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserializer is None:
        return None

    def parse(data: bytes) -> Any:
        if len(data) > MAX_REQUEST_BYTES:
            return _TOO_LARGE
        try:
            return deserializer(data)
        except Exception:  # noqa: BLE001 (DecodeError, or whatever the protobuf runtime raises)
            return _MALFORMED

    return parse


def _enter(context: Context) -> Call:
    return enter_call(context.invocation_metadata() or (), context.time_remaining())


def _sparing(serializer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Answers from the cache are bytes already."""
    return lambda response: response if isinstance(response, bytes) else serializer(response)


async def _write_all(responses: Any, context: Context) -> None:
    if hasattr(responses, "__aiter__"):
        async with contextlib.aclosing(responses):
            async for response in responses:
                await context.write(response)
    else:  # health's Watch writes to the context itself
        await responses


async def _maybe_await(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


def _why_cancelled(context: Context) -> str:
    remaining = context.time_remaining()
    return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"


def _code_of(context: Context) -> str:
    code = context.code()
    if not code:
        return "OK"
    return code.name if isinstance(code, grpc.StatusCode) else _CODES[code].name
