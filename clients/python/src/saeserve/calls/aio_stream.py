"""EncodeStream for the asyncio client: one call after another until every text is answered.

The caller's iterable is read by a task that outlives a failed call: cancelling it would end an asynchronous generator
in the middle.
"""

# ruff: noqa: ASYNC109 (the timeout is for each answer, not for the whole)

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from saeserve.answers.results import StreamItem
from saeserve.calls.stream import CallFailed, Ledger
from saeserve.transport.errors import from_rpc
from saeserve.transport.headers import sent_request_id
from saeserve.v1 import feature_service_pb2 as service

T = TypeVar("T")

_HIDDEN = "Internal error from Core"
_HIDDEN_SECONDS = 1.0

Texts = AsyncIterable[str | Sequence[int]] | Iterable[str | Sequence[int]]


class _Texts:
    """The caller's iterable, one text ahead."""

    def __init__(self, texts: Texts) -> None:
        self._texts = aiter(texts) if isinstance(texts, AsyncIterable) else _awaited(texts)
        self.pending: asyncio.Task[str | Sequence[int] | None] | None = None
        """The question for the next text."""
        self.ended = False

    def ask(self) -> None:
        """Ask for the next text, unless one is asked for already."""
        if self.pending is None:
            self.pending = asyncio.ensure_future(_next(self._texts))

    def take(
        self, arrived: asyncio.Task[str | Sequence[int] | None], ledger: Ledger
    ) -> service.EncodeStreamRequest | None:
        """The message of the text that has arrived; None at the end."""
        self.pending = None
        text = arrived.result()
        if text is None:
            self.ended = True
            return None
        return ledger.add(text)

    def close(self) -> None:
        if self.pending is not None:
            self.pending.cancel()


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


async def _awaited(texts: Iterable[str | Sequence[int]]) -> AsyncIterator[str | Sequence[int]]:
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
    texts: Texts,
    ledger: Ledger,
    open_call: Callable[..., Any],
    headers: list[tuple[str, str | bytes]],
    timeout: float,
) -> AsyncGenerator[StreamItem, None]:
    """Yield the items of as many calls as it takes."""
    source = _Texts(texts)
    try:
        while not (source.ended and ledger.settled):
            try:
                async with contextlib.aclosing(_one_call(source, ledger, open_call, headers, timeout)) as items:
                    async for item in items:
                        yield item
            except CallFailed as failure:
                if source.ended and ledger.settled:
                    return
                await asyncio.sleep(ledger.delay_after(failure))
    finally:
        source.close()


async def _one_call(
    source: _Texts,
    ledger: Ledger,
    open_call: Callable[..., Any],
    headers: list[tuple[str, str | bytes]],
    timeout: float,
) -> AsyncGenerator[StreamItem, None]:
    requests: asyncio.Queue[service.EncodeStreamRequest | None] = asyncio.Queue()
    for message in ledger.opening():
        requests.put_nowait(message)
    if source.ended:
        requests.put_nowait(None)
    call = open_call(metadata=headers)
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
                raise ledger.stalled()
            if source.pending is not None and source.pending in done:
                requests.put_nowait(source.take(source.pending, ledger))
            if reading not in done:
                continue
            try:
                answer = reading.result()
            except grpc.aio.AioRpcError as error:
                said = await ending.explain(error)
                if said.code() is not grpc.StatusCode.OK:
                    raise CallFailed(from_rpc(said, sent_request_id(headers))) from said
                answer = None
            if answer is None:
                if source.ended and ledger.settled:
                    return
                raise ledger.ended_early()
            reading = asyncio.ensure_future(_next(answers))
            for item in ledger.take(answer):
                yield item
    finally:
        sending.cancel()
        reading.cancel()
        call.cancel()
