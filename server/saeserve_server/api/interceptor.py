"""What every call of every service passes through: the token, a place, its turn, readable errors, metrics, log.

A call without the token, or for which there is no place, is refused before its message is received. Calls of ours get
their message as bytes, which are parsed when it is their caller's turn; what is wrong with it is answered as what is
wrong with a field would be. An answer is held against the budget of answers until it has left; a call whose answer does
not leave is ended.
No answer is ever UNKNOWN.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2

from saeserve_server.api.call import Call, enter_call
from saeserve_server.api.call_log import log_call, log_request
from saeserve_server.api.errors import to_status, trailing_metadata
from saeserve_server.api.messages import forgiving, parse
from saeserve_server.api.places import Places, Seats
from saeserve_server.api.rpc import Rpc, current_rpc
from saeserve_server.api.security import BearerToken
from saeserve_server.errors import Internal, ServeError, Unauthenticated, Unavailable
from saeserve_server.metrics import Metrics
from saeserve_server.scheduler.desk import Desk
from saeserve_server.scheduler.held import Held
from saeserve_server.serving.limits import MAX_FIELDS, MAX_WATCHES, SMALL_REQUEST_BYTES

Handler = Any  # grpc.RpcMethodHandler, which has no type of its own in grpcio
Context = Any  # grpc.aio.ServicerContext

OURS = "/saeserve."
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
HEALTH = (CHECK, WATCH, "/grpc.health.v1.Health/List")
OTHER = "other"
"""In metrics and log, every method that is not served: callers may name any, and each would become a time series."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler. Token and places are not for health checks: probes have no token and must get in."""

    def __init__(
        self,
        metrics: Metrics,
        desk: Desk,
        held: Held,
        *,
        token: BearerToken | None,
        requests: Mapping[str, tuple[type[Message], int]],
        max_calls: int,
        max_streams: int,
        stall_timeout: float,
        log_texts: bool,
    ) -> None:
        """`requests` gives the request of each method of ours, and how many bytes it may take."""
        self._metrics = metrics
        self._desk = desk
        self._held = held
        self._token = token
        self._requests = requests
        self._stall_timeout = stall_timeout
        self._log_texts = log_texts
        self._places = Places(max_calls, metrics)
        self._streams = Seats(max_streams, "streams", "TOO_MANY_STREAMS")
        self._watches = Seats(MAX_WATCHES, "health watches and reflections", "TOO_MANY_WATCHES")
        self._draining = False
        metrics.streams.set_function(lambda: len(self._streams))

    def drain(self) -> None:
        """From now on calls are refused. What never ends by itself ends now: health watches, reflection."""
        self._draining = True
        self._watches.end_all(self._leaving())

    @property
    def is_idle(self) -> bool:
        """Whether every call has ended."""
        return not self._places.taken and not len(self._watches)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Handler]], details: Any) -> Handler:
        handler = await continuation(details)
        method: str = details.method
        name = OTHER if handler is None else method.rpartition("/")[2]
        rpc = current_rpc()
        if method not in HEALTH:
            refused = self._refused(details, rpc, known=handler is not None)
            if refused is not None:
                return self._refusal(name, refused)
        if handler is None:
            self._metrics.request(name, "UNIMPLEMENTED", "", 0.0)
            return None
        # Whoever calls and sends nothing holds a place.
        timer = self._end_after_stall(rpc)
        ours = method.startswith(OURS)
        behaviour = next(
            one
            for one in (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
            if one is not None
        )
        if handler.response_streaming:
            answer = self._streaming(method, behaviour, rpc, timer)
        else:
            answer = self._unary(method, behaviour, rpc, timer, handler.response_serializer)
        return _handler_like(
            handler,
            answer,
            None if ours else forgiving(handler.request_deserializer, SMALL_REQUEST_BYTES),
        )

    def _refused(self, details: Any, rpc: Rpc, *, known: bool) -> ServeError | None:
        """Why a call is not let in; None if it is, and then it has a place."""
        if self._token is not None and not self._token.accepts(details.invocation_metadata or ()):
            return Unauthenticated("a valid token is needed: authorization: Bearer TOKEN")
        if not known:
            return None
        if self._draining:
            return self._leaving()
        try:
            self._places.take(rpc)
        except ServeError as error:
            return error
        return None

    def _refusal(self, name: str, error: ServeError) -> Handler:
        """A handler that refuses. It is one of a stream, whatever the method: those begin without the first message."""

        async def refuse(_requests: Any, context: Context) -> None:
            await self._refuse(name, _enter(context), context, error)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _unary(
        self,
        method: str,
        behaviour: Any,
        rpc: Rpc,
        timer: asyncio.TimerHandle,
        serialize: Callable[[Any], bytes],
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        name = method.rpartition("/")[2]

        async def answer(request: Any, context: Context) -> Any:
            timer.cancel()
            call = _enter(context)
            self._places.works(rpc, call.lane)
            try:
                response = await _maybe_await(behaviour(await self._received(method, call, request), context))
                if method not in HEALTH:
                    response = response if isinstance(response, bytes) else serialize(response)
                    self._hold(len(response), call, rpc)
            except asyncio.CancelledError as cancelled:
                refused = self._places.refusal(rpc)
                if refused is None:
                    self._ended(name, call, _why_cancelled(context))
                    raise
                _go_on()
                await self._refuse(name, call, context, refused)
                raise cancelled  # not reached: abort raises
            except Exception as error:
                self._places.waits(rpc, call.lane)
                await self._refuse(name, call, context, error)
                raise  # not reached: abort raises
            self._ended(name, call, _code_of(context))
            return response

        return answer

    def _hold(self, size: int, call: Call, rpc: Rpc) -> None:
        """Holds an answer against the budget until it has left. Raises Overloaded."""
        holding = self._held.take(size, call.lane, rpc.end)
        holding.leaves()
        self._places.waits(rpc, call.lane)
        self._end_after_stall(rpc)
        rpc.on_end(holding.release)

    def _end_after_stall(self, rpc: Rpc) -> asyncio.TimerHandle:
        """Has the call end after a while, unless it has ended by then or what is returned is cancelled."""
        timer = self._stall_timer(rpc)
        rpc.on_end(timer.cancel)
        return timer

    def _stall_timer(self, rpc: Rpc) -> asyncio.TimerHandle:
        def end() -> None:
            self._metrics.stalled.labels("time").inc()
            rpc.end()

        return asyncio.get_running_loop().call_later(self._stall_timeout, end)

    def _streaming(
        self, method: str, behaviour: Any, rpc: Rpc, timer: asyncio.TimerHandle
    ) -> Callable[[Any, Context], Awaitable[None]]:
        name = method.rpartition("/")[2]
        ours = method.startswith(OURS)

        async def answer(request: Any, context: Context) -> None:
            timer.cancel()
            self._places.works(rpc)
            call = _enter(context)
            try:
                requests = self._received_all(method, call, request) if hasattr(request, "__aiter__") else request
                writing = self._write_all(behaviour, _raised(requests), context, rpc)
                await self._seated(writing, self._streams if ours else self._watches, call.lane if ours else call.peer)
            except asyncio.CancelledError:
                self._ended(name, call, _why_cancelled(context))
                raise
            except grpc.aio.InternalError:  # a write failed: the caller has left
                self._ended(name, call, _why_cancelled(context))
                raise asyncio.CancelledError from None
            except Exception as error:  # noqa: BLE001 (every fault becomes a status)
                await self._refuse(name, call, context, error)
            finally:
                await _let_go(request)
            self._places.waits(rpc, call.lane)
            self._end_after_stall(rpc)  # what was written last may not have left
            self._ended(name, call, _code_of(context))

        return answer

    async def _seated(self, writing: Awaitable[None], seats: Seats, who: str) -> None:
        """Writes a stream's answers, for as long as it has a seat. Raises Overloaded if there is none, and whatever the
        seat is taken away with."""
        task = asyncio.ensure_future(writing)
        try:
            seat = seats.take(who, task.cancel)
        except ServeError:
            task.cancel()
            raise
        try:
            await task
        except asyncio.CancelledError:
            if seat.error is None:
                raise
            raise seat.error from None
        finally:
            seats.leave(seat)
            task.cancel()

    async def _write_all(self, behaviour: Any, requests: Any, context: Context, rpc: Rpc) -> None:
        responses = behaviour(requests, context)  # not before there is a seat: what is never awaited is complained of
        if not hasattr(responses, "__aiter__"):  # health's Watch writes to the context itself
            await responses
            return
        async with contextlib.aclosing(responses):
            async for response in responses:
                timer = self._stall_timer(rpc)
                try:
                    await context.write(response)
                finally:
                    timer.cancel()

    async def _received(self, method: str, call: Call, request: Any) -> Any:
        """The request, in its caller's turn. Raises InvalidArgument for one that cannot be parsed."""
        if not method.startswith(OURS):
            return _raised(request)
        self._held.check(call.lane)
        if self._places.taken > 1:
            await self._desk.turn(call.lane)
        return self._parsed(method, call, request)

    def _parsed(self, method: str, call: Call, data: bytes) -> Any:
        name = method.rpartition("/")[2]
        kind, most = self._requests[name]
        request = self._desk.at_once(parse, data, kind, most, MAX_FIELDS)
        if self._log_texts:
            log_request(name, call, request)
        return request

    async def _received_all(self, method: str, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._parsed(method, call, request) if method.startswith(OURS) else _raised(request)

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

    @staticmethod
    def _leaving() -> Unavailable:
        return Unavailable("the server is going away", reason="DRAINING", retry_after=1.0)


def _handler_like(handler: Handler, behaviour: Any, deserialize: Callable[[bytes], Any] | None) -> Handler:
    """A handler of the same kind, with another behaviour. What it answers may be bytes already."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(behaviour, deserialize, _sparing(handler.response_serializer))


def _enter(context: Context) -> Call:
    return enter_call(context.invocation_metadata() or (), context.time_remaining(), context.peer())


def _raised(request: Any) -> Any:
    """The request. Raises the error that stands for one that could not be parsed."""
    if isinstance(request, ServeError):
        raise request
    return request


def _go_on() -> None:
    """The current task is no longer cancelled."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


async def _let_go(requests: Any) -> None:
    """Closes the generator in gRPC's reader of a stream: each holds the other, and both the call and what it has not
    sent, until garbage is collected."""
    if hasattr(requests, "__aiter__"):
        with contextlib.suppress(RuntimeError):  # somebody reads still, and ends it thereby
            await aiter(requests).aclose()


def _sparing(serializer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Answers from the cache are bytes already."""
    return lambda response: response if isinstance(response, bytes) else serializer(response)


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
