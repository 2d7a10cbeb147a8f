"""EncodeStream for the asyncio client: one call after another until every text is answered.

The caller's iterable is read by a task that outlives a failed call: cancelling it would end an asynchronous generator
in the middle.
"""

# ruff: noqa: ASYNC109 (the timeout is for each answer, not for the whole)

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from saeserve.answers.results import StreamItem
from saeserve.calls.inputs import TextLike
from saeserve.calls.stream import CallFailed, Ledger, Line
from saeserve.transport.errors import closed
from saeserve.v1 import feature_service_pb2 as service

T = TypeVar("T")

_HIDDEN = "Internal error from Core"
_HIDDEN_SECONDS = 1.0

Texts = AsyncIterable[TextLike] | Iterable[TextLike]


class _End:
    """What an iterable gives after its last item: an object of its own, since None may be an item."""


_END = _End()


class _Texts:
    """The caller's iterable, one text ahead."""

    def __init__(self, texts: Texts) -> None:
        self._texts = aiter(texts) if isinstance(texts, AsyncIterable) else _awaited(texts)
        self.pending: asyncio.Task[TextLike | _End] | None = None
        """The question for the next text."""
        self.ended = False

    def ask(self) -> None:
        """Ask for the next text, unless one is asked for already."""
        if self.pending is None:
            self.pending = asyncio.ensure_future(_next(self._texts))

    def take_into(
        self,
        ledger: Ledger,
        arrived: asyncio.Task[TextLike | _End],
        requests: asyncio.Queue[service.EncodeStreamRequest | None],
    ) -> None:
        """Send the text that has arrived, if it can be sent; None at the end."""
        self.pending = None
        text = arrived.result()
        if isinstance(text, _End):
            self.ended = True
            requests.put_nowait(None)
            return
        message = ledger.add(text)
        if message is not None:
            requests.put_nowait(message)

    def close(self) -> None:
        if self.pending is not None:
            self.pending.cancel()


async def _next(items: AsyncIterator[T]) -> T | _End:
    return await anext(items, _END)


async def _awaited(texts: Iterable[TextLike]) -> AsyncIterator[TextLike]:
    for text in texts:
        yield text


async def _send(call: Any, messages: asyncio.Queue[service.EncodeStreamRequest | None]) -> None:
    """Send messages until None, then half-close. Ends quietly with the call: whoever reads is told why it ended.

    Given an iterator, grpc.aio would cancel the whole call where a half-close fails, and with it lose the status.
    """
    try:
        while (message := await messages.get()) is not None:
            await call.write(message)
        await call.done_writing()
    except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
        return


class _Ending:
    """How a call ended, as the server said it.

    When a write fails, because the server has ended the call, grpc.aio puts a status of its own in the place of the
    server's: before it arrives, or over it. Both are seen here, as they are set, and the server's is kept.
    """

    def __init__(self, call: Any) -> None:
        self._said: grpc.aio.AioRpcError | None = None
        self._known = asyncio.Event()
        call.add_done_callback(self._ended)

    def _ended(self, call: Any) -> None:
        code, details, trailing = _now(call.code()), _now(call.details()), _now(call.trailing_metadata())
        if details != _HIDDEN and code is not None:
            self._said = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing or grpc.aio.Metadata(), details)
            self._known.set()

    async def explain(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The server's status for an error that may hide it."""
        if error.details() == _HIDDEN:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._known.wait(), _HIDDEN_SECONDS)
        return self._said or error


def _now(answer: Coroutine[Any, Any, T]) -> T | None:
    """What a coroutine returns that has nothing to wait for, as those of an ended call have not."""
    try:
        answer.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    answer.close()
    return None


async def answers_to(
    texts: Texts, ledger: Ledger, line: Line, timeout: float | None
) -> AsyncGenerator[StreamItem, None]:
    """Yield the items of as many calls as it takes."""
    source = _Texts(texts)
    try:
        while not (source.ended and ledger.settled):
            try:
                async with contextlib.aclosing(_one_call(source, ledger, line, timeout)) as items:
                    async for item in items:
                        yield item
            except CallFailed as failure:
                if source.ended and ledger.settled:
                    return
                delay = ledger.delay_after(failure)
                for item in ledger.ready():
                    yield item
                await asyncio.sleep(delay)
    finally:
        source.close()


async def _one_call(
    source: _Texts, ledger: Ledger, line: Line, timeout: float | None
) -> AsyncGenerator[StreamItem, None]:
    requests: asyncio.Queue[service.EncodeStreamRequest | None] = asyncio.Queue()
    for message in ledger.opening():
        requests.put_nowait(message)
    if source.ended:
        requests.put_nowait(None)
    call = line.open(metadata=line.headers)
    ending = _Ending(call)
    sending = asyncio.ensure_future(_send(call, requests))
    # Iterated: `call.read()` gives up once grpc.aio has put its own status in place, with answers still to come.
    answers = aiter(call)
    reading = asyncio.ensure_future(_next(answers))
    try:
        while True:
            if not source.ended and ledger.has_room:
                source.ask()
            tasks: set[asyncio.Task[Any]] = {reading} | ({source.pending} if source.pending else set())
            # While nothing is unanswered, the texts are what is waited for, and they may take their time.
            patience = None if ledger.settled and not source.ended else timeout
            done, _ = await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise ledger.stalled(line.unconnected())
            if source.pending is not None and source.pending in done:
                source.take_into(ledger, source.pending, requests)
                for item in ledger.ready():
                    yield item
            if reading not in done:
                continue
            if reading.cancelled():
                # Not by whoever awaits this, who would have been told above: the channel was closed.
                raise closed()
            try:
                answer = reading.result()
            except grpc.aio.AioRpcError as error:
                said = await ending.explain(error)
                if said.code() is not grpc.StatusCode.OK:
                    raise CallFailed(line.error(said)) from said
                answer = _END
            if isinstance(answer, _End):
                if source.ended and ledger.settled:
                    return
                raise ledger.ended_early()
            reading = asyncio.ensure_future(_next(answers))
            ledger.take(answer)
            for item in ledger.ready():
                yield item
    finally:
        sending.cancel()
        reading.cancel()
        call.cancel()
