"""What every call of every service passes through: request id, readable errors, malformed messages, metrics, log.

A message that cannot be parsed never reaches an aio handler: grpc answers UNKNOWN with the exception's text. So every
deserialiser is wrapped to return a sentinel instead, and the call is answered INVALID_ARGUMENT.
No answer is ever UNKNOWN.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import grpc
from google.rpc import code_pb2

from saeserve_server.api.call import Call, enter_call
from saeserve_server.api.errors import to_status, trailing_metadata
from saeserve_server.errors import InvalidArgument, ServeError, Unavailable
from saeserve_server.metrics import Metrics
from saeserve_server.serving import MAX_REQUEST_BYTES

log = logging.getLogger(__name__)

Handler = Any  # grpc.RpcMethodHandler, which has no type of its own in grpcio
Context = Any  # grpc.aio.ServicerContext


class _Malformed:
    """Stands for a message that could not be parsed."""


_MALFORMED = _Malformed()
_TOO_LARGE = _Malformed()
OURS = "/saeserve."
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler."""

    def __init__(self, metrics: Metrics, draining: asyncio.Event) -> None:
        self._metrics = metrics
        self._draining = draining

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Handler]], details: Any) -> Handler:
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method
        parse = _forgiving(handler.request_deserializer)
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(method, handler.stream_stream, _checked_stream),
                request_deserializer=parse,
                response_serializer=handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream, _checked),
                request_deserializer=parse,
                response_serializer=handler.response_serializer,
            )
        if handler.request_streaming:  # none of our services has one
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary),
            request_deserializer=parse,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, method: str, behaviour: Any) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            call = enter_call(context.invocation_metadata() or ())
            with self._metrics.in_flight.track_inprogress():
                try:
                    response = await _maybe_await(behaviour(_checked(request), context))
                except asyncio.CancelledError:
                    self._ended(method, call, _why_cancelled(context))
                    raise
                except Exception as error:
                    await self._refuse(method, call, context, error)
                    raise  # not reached: abort raises
                self._ended(method, call, _code_of(context))
                return response

        return answer

    def _streaming(
        self, method: str, behaviour: Any, check: Callable[[Any], Any]
    ) -> Callable[[Any, Context], Awaitable[None]]:
        async def answer(request: Any, context: Context) -> None:
            call = enter_call(context.invocation_metadata() or ())
            with self._metrics.in_flight.track_inprogress():
                try:
                    writing = _write_all(behaviour(check(request), context), context)
                    await (writing if method.startswith(OURS) else self._unless_draining(writing))
                except asyncio.CancelledError:
                    self._ended(method, call, _why_cancelled(context))
                    raise
                except grpc.aio.InternalError:  # a write failed: the caller has left
                    self._ended(method, call, _why_cancelled(context))
                    raise asyncio.CancelledError from None
                except Exception as error:  # noqa: BLE001 (every fault becomes a status)
                    await self._refuse(method, call, context, error)
                self._ended(method, call, _code_of(context))

        return answer

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

    async def _refuse(self, method: str, call: Call, context: Context, error: Exception) -> None:
        if isinstance(error, grpc.aio.AbortError):  # a handler that is not ours has answered by itself
            self._ended(method, call, _code_of(context))
            raise error
        status = to_status(error, call.request_id)
        self._ended(method, call, code_pb2.Code.Name(status.code), status.message)
        retry_after = error.retry_after if isinstance(error, ServeError) else None
        await context.abort(_CODES[status.code], status.message, trailing_metadata(status, retry_after))

    def _ended(self, method: str, call: Call, code: str, message: str = "") -> None:
        name = method.rpartition("/")[2]
        seconds = call.elapsed()
        self._metrics.call(name, code, seconds)
        if log.isEnabledFor(logging.DEBUG) or code != "OK":
            level = logging.DEBUG if code in ("OK", "CANCELLED", "DEADLINE_EXCEEDED") else logging.INFO
            extra = {"request_id": call.request_id, "code": code, "ms": round(seconds * 1000, 1)}
            if message:
                extra["error"] = message
            log.log(level, "%s", name, extra=extra)


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


def _checked(request: Any) -> Any:
    if request is _MALFORMED:
        raise InvalidArgument("the message cannot be parsed as the method's request", reason="MALFORMED_REQUEST")
    if request is _TOO_LARGE:
        raise InvalidArgument(f"the message is larger than {MAX_REQUEST_BYTES} bytes", reason="REQUEST_TOO_LARGE")
    return request


async def _write_all(responses: Any, context: Context) -> None:
    if hasattr(responses, "__aiter__"):
        async with contextlib.aclosing(responses):
            async for response in responses:
                await context.write(response)
    else:  # health's Watch writes to the context itself
        await responses


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


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
