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
from dataclasses import dataclass
from typing import Any, TypeVar

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
from saeserve_server.api.stalls import Stalls
from saeserve_server.errors import Internal, ServeError, Unauthenticated, Unavailable
from saeserve_server.metrics import Metrics
from saeserve_server.scheduler.desk import Desk
from saeserve_server.scheduler.held import Held
from saeserve_server.serving.limits import MAX_FIELDS, MAX_WATCHES, SMALL_REQUEST_BYTES

Handler = Any  # grpc.RpcMethodHandler, which has no type of its own in grpcio
Context = Any  # grpc.aio.ServicerContext
T = TypeVar("T")

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
        self._log_texts = log_texts
        self._methods: dict[str, _Method] = {}
        self._stalls = Stalls(stall_timeout, metrics)
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
        path: str = details.method
        rpc = current_rpc()
        if path not in HEALTH:
            refused = self._refused(details, rpc, known=handler is not None)
            if refused is not None:
                return self._refusal(OTHER if handler is None else _name_of(path), refused)
        if handler is None:
            self._metrics.request(OTHER, "UNIMPLEMENTED", "", 0.0)
            return None
        # Whoever calls and sends nothing holds a place.
        self._stalls.waits(rpc)
        rpc.on_end(lambda: self._stalls.works(rpc))
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = _method(path, handler)
        if method.response_streaming:
            answer = self._streaming(method, rpc)
        else:
            answer = self._gathering(method, rpc) if method.request_streaming else self._unary(method, rpc)
        return method.make(answer, method.deserialize, method.serialize)

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

    def _unary(self, method: _Method, rpc: Rpc) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            self._stalls.works(rpc)
            call = _enter(context)
            self._places.works(rpc, call.lane)
            try:
                response = method.behaviour(await self._received(method, call, request), context)
                if hasattr(response, "__await__"):
                    response = await response
                if method.has_place:
                    response = method.serialize(response)
                    self._hold(len(response), call, rpc)
            except asyncio.CancelledError as cancelled:
                refused = self._places.refusal(rpc)
                if refused is None:
                    self._ended(method.name, call, _why_cancelled(context))
                    raise
                _go_on()
                await self._refuse(method.name, call, context, refused)
                raise cancelled  # not reached: abort raises
            except Exception as error:
                self._places.waits(rpc, call.lane)
                await self._refuse(method.name, call, context, error)
                raise  # not reached: abort raises
            self._ended(method.name, call, _code_of(context))
            return response

        return answer

    def _gathering(self, method: _Method, rpc: Rpc) -> Callable[[Any, Context], Awaitable[Any]]:
        """Of a method that takes any number of messages and gives one answer: a stream until that leaves."""

        async def answer(request: Any, context: Context) -> Any:
            self._stalls.works(rpc)
            self._places.works(rpc)
            call = _enter(context)
            try:
                requests = self._received_all(method, call, request)
                response = method.serialize(
                    await self._seated(method.behaviour(requests, context), self._streams, call.lane)
                )
                self._hold(len(response), call, rpc)
            except asyncio.CancelledError:
                self._ended(method.name, call, _why_cancelled(context))
                raise
            except Exception as error:
                self._places.waits(rpc, call.lane)
                await self._refuse(method.name, call, context, error)
                raise  # not reached: abort raises
            finally:
                await _let_go(request)
            self._ended(method.name, call, _code_of(context))
            return response

        return answer

    def _hold(self, size: int, call: Call, rpc: Rpc) -> None:
        """Holds an answer against the budget until it has left. Raises Overloaded."""
        holding = self._held.take(size, call.lane, rpc.end)
        holding.leaves()
        self._places.waits(rpc, call.lane)
        self._stalls.waits(rpc)
        rpc.on_end(holding.release)

    def _streaming(self, method: _Method, rpc: Rpc) -> Callable[[Any, Context], Awaitable[None]]:
        async def answer(request: Any, context: Context) -> None:
            self._stalls.works(rpc)
            self._places.works(rpc)
            call = _enter(context)
            try:
                requests = self._received_all(method, call, request) if hasattr(request, "__aiter__") else request
                writing = self._write_all(method, _raised(requests), context, rpc)
                seats, who = (self._streams, call.lane) if method.ours else (self._watches, call.peer)
                await self._seated(writing, seats, who)
            except asyncio.CancelledError:
                self._ended(method.name, call, _why_cancelled(context))
                raise
            except grpc.aio.InternalError:  # a write failed: the caller has left
                self._ended(method.name, call, _why_cancelled(context))
                raise asyncio.CancelledError from None
            except Exception as error:  # noqa: BLE001 (every fault becomes a status)
                await self._refuse(method.name, call, context, error)
            finally:
                await _let_go(request)
            self._places.waits(rpc, call.lane)
            self._stalls.waits(rpc)  # what was written last may not have left
            self._ended(method.name, call, _code_of(context))

        return answer

    async def _seated(self, answering: Awaitable[T], seats: Seats, who: str) -> T:
        """Answers a stream, for as long as it has a seat. Raises Overloaded if there is none, and whatever the seat is
        taken away with."""
        task = asyncio.ensure_future(answering)
        try:
            seat = seats.take(who, task.cancel)
        except ServeError:
            task.cancel()
            raise
        try:
            return await task
        except asyncio.CancelledError:
            if seat.error is None:
                raise
            raise seat.error from None
        finally:
            seats.leave(seat)
            task.cancel()

    async def _write_all(self, method: _Method, requests: Any, context: Context, rpc: Rpc) -> None:
        # Not before there is a seat: what is never awaited is complained of.
        responses = method.behaviour(requests, context)
        if not hasattr(responses, "__aiter__"):  # health's Watch writes to the context itself
            await responses
            return
        async with contextlib.aclosing(responses):
            async for response in responses:
                self._stalls.waits(rpc)
                try:
                    await context.write(response)
                finally:
                    self._stalls.works(rpc)

    async def _received(self, method: _Method, call: Call, request: Any) -> Any:
        """The request, in its caller's turn. Raises InvalidArgument for one that cannot be parsed."""
        if not method.ours:
            return _raised(request)
        self._held.check(call.lane)
        if self._places.taken > 1:
            await self._desk.turn(call.lane)
        return self._parsed(method, call, request)

    def _parsed(self, method: _Method, call: Call, data: bytes) -> Any:
        kind, most = self._requests[method.name]
        request = self._desk.at_once(parse, data, kind, most, MAX_FIELDS)
        if self._log_texts:
            log_request(method.name, call, request)
        return request

    async def _received_all(self, method: _Method, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._parsed(method, call, request) if method.ours else _raised(request)

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


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class _Method:
    """What is the same in all calls of a method."""

    name: str
    ours: bool
    has_place: bool
    """Health checks have none."""
    behaviour: Callable[[Any, Context], Any]
    request_streaming: bool
    response_streaming: bool
    make: Callable[..., Handler]
    """A handler of the same kind out of a behaviour, a deserialiser and a serialiser."""
    deserialize: Callable[[bytes], Any] | None
    """None where the interceptor parses."""
    serialize: Callable[[Any], bytes]


def _method(path: str, handler: Handler) -> _Method:
    kinds = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    make, behaviour = kinds[handler.request_streaming, handler.response_streaming]
    ours = path.startswith(OURS)
    return _Method(
        name=_name_of(path),
        ours=ours,
        has_place=path not in HEALTH,
        behaviour=behaviour,
        request_streaming=handler.request_streaming,
        response_streaming=handler.response_streaming,
        make=make,
        deserialize=None if ours else forgiving(handler.request_deserializer, SMALL_REQUEST_BYTES),
        serialize=_sparing(handler.response_serializer),
    )


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
    """Some answers are bytes already."""
    return lambda response: response if isinstance(response, bytes) else serializer(response)


def _why_cancelled(context: Context) -> str:
    remaining = context.time_remaining()
    return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"


def _code_of(context: Context) -> str:
    code = context.code()
    if not code:
        return "OK"
    return code.name if isinstance(code, grpc.StatusCode) else _CODES[code].name
