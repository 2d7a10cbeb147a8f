"""EncodeStream: activations of whole data sets, in chunks, with bounded memory.

A reader takes items while fewer than `max_stream_items` are unanswered; each is encoded by a task of its own, behind
unary calls and once there is memory for its answer; whichever is done first is written first, its chunks without others
between. Not reading is what holds back the caller: gRPC's flow control does the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass

import numpy as np

from saeserve.v1 import feature_service_pb2 as service
from saeserve_server.api.build import Timing, call_info, dense_message, sparse_message
from saeserve_server.api.call import current_call
from saeserve_server.api.encode import Wanted, parse_wanted, text_message, work_on
from saeserve_server.api.errors import to_status
from saeserve_server.api.incoming import following, within
from saeserve_server.api.parse import parse_input
from saeserve_server.api.rpc import current_rpc
from saeserve_server.api.texts import Shown
from saeserve_server.cache.answer import Spending
from saeserve_server.catalog import FloatArray, Kind
from saeserve_server.engine.work import expect
from saeserve_server.errors import Internal, InvalidArgument, Unavailable
from saeserve_server.ranking.work import EncodeDone
from saeserve_server.rows import Csr, cut
from saeserve_server.scheduler.held import Holding
from saeserve_server.scheduler.queue import Priority
from saeserve_server.serving.serving import Serving
from saeserve_server.serving.texts import TOKEN_SECONDS

Requests = AsyncIterator[service.EncodeStreamRequest]

SPARSE_ROW_BYTES = 4096
"""What a row of an SAE source is taken to need, before the first has been seen."""
CHUNK_MARGIN = 4096
"""Bytes of a chunk left for everything that is not activations or tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """One text, encoded."""

    message: service.EncodedText
    done: EncodeDone
    spent: Spending


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """What became of one item."""

    sequence: int
    encoded: _Encoded | None = None
    error: Exception | None = None
    tokenize_seconds: float = 0.0
    holding: Holding | None = None


async def encode_stream(serving: Serving, requests: Requests) -> AsyncGenerator[service.EncodeStreamResponse, None]:
    """Answers a stream. Raises for a bad configuration, the loss of the engine, or a server that is going away."""
    first = await within(serving.limits.stall_timeout, requests, serving.draining)
    wanted = await parse_wanted(serving, _configuration(first))
    stream = _Stream(serving, wanted, requests)
    try:
        while (answer := await stream.next_answer()) is not None:
            for response in _responses(serving, wanted, answer):
                if answer.holding is not None:
                    answer.holding.leaves()
                yield response
            stream.answered(answer)
    finally:
        await stream.close()


class _Stream:
    """The items of one stream: read, encoding, done."""

    def __init__(self, serving: Serving, wanted: Wanted, requests: Requests) -> None:
        self._serving = serving
        self._wanted = wanted
        self._requests = requests
        self._client = current_call().lane
        self._rpc = current_rpc()
        self._room = asyncio.Semaphore(serving.limits.max_stream_items)
        self._unanswered: set[int] = set()
        self._holdings: set[Holding] = set()
        self._row_bytes = _row_bytes(serving, wanted)
        self._done: asyncio.Queue[_Answer | BaseException | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader = asyncio.create_task(self._read())

    async def next_answer(self) -> _Answer | None:
        """The next item that is done; None after the last."""
        answer = await self._done.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def answered(self, answer: _Answer) -> None:
        """The item's answer has been written: there is room for another."""
        self._unanswered.discard(answer.sequence)
        self._release(answer.holding)
        self._room.release()

    async def close(self) -> None:
        """Ends everything that is still running. What is held is given back first: the wait may be cancelled, again for
        each item that is ended for want of room."""
        tasks = [self._reader, *self._tasks]
        for task in tasks:
            task.cancel()
        self._give_back()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._give_back()

    def _give_back(self) -> None:
        while not self._done.empty():  # megabytes that would wait for the garbage collector
            self._done.get_nowait()
        for holding in list(self._holdings):
            self._release(holding)

    async def _read(self) -> None:
        end: BaseException | None = None
        try:
            while True:
                await self._room.acquire()
                request = await following(self._requests, self._serving.draining)
                if request is None:
                    break
                self._accept(request)
        except Exception as error:  # noqa: BLE001 (the stream must end with it, not wait for ever)
            end = error
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._done.put_nowait(end)

    def _accept(self, request: service.EncodeStreamRequest) -> None:
        if request.WhichOneof("message") != "item":
            raise InvalidArgument.field("message", "item is expected after the first message")
        item = request.item
        if item.sequence in self._unanswered:
            raise InvalidArgument.field("item.sequence", f"{item.sequence} is the number of an item not yet answered")
        self._unanswered.add(item.sequence)
        task = asyncio.create_task(self._encode(item))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _encode(self, item: service.EncodeStreamItem) -> None:
        began = time.perf_counter()
        holding: Holding | None = None
        try:
            text, truncated = await parse_input(
                self._serving, item.input, self._wanted.truncate, "item.input", remember=False
            )
            seconds = time.perf_counter() - began
            holding = await self._hold(self._row_bytes * (len(text.ids) + 1))
            encoded = await self._compute(text, truncated)
            size = encoded.done.nbytes
            self._row_bytes = max(self._row_bytes, size // max(1, encoded.done.rows))
            holding.correct(size)
            self._done.put_nowait(_Answer(item.sequence, encoded, None, seconds, holding))
        except Unavailable as error:
            self._done.put_nowait(error)  # the engine is lost: the stream ends, and its caller resumes
        except Exception as error:  # noqa: BLE001 (a bad item fails alone)
            self._done.put_nowait(_Answer(item.sequence, error=error, holding=holding))

    async def _hold(self, size: int) -> Holding:
        """Waits for memory."""
        holding = await self._serving.held.wait(size, self._client, self._rpc.end)
        self._holdings.add(holding)
        return holding

    def _release(self, holding: Holding | None) -> None:
        if holding is not None:
            self._holdings.discard(holding)
            holding.release()

    async def _compute(self, text: Shown, truncated: bool) -> _Encoded:
        """Past the caches: a data set would only push out what others come back to."""
        work = work_on(self._wanted, text)
        outcome = await self._serving.scheduler.submit(work, Priority.STREAM, client=self._client)
        message = await self._serving.desk.do(
            text_message,
            self._serving,
            self._wanted,
            text,
            truncated,
            seconds=0 if self._wanted.omit_tokens else len(text.ids) * TOKEN_SECONDS,
            client=self._client,
        )
        return _Encoded(message, expect(EncodeDone, outcome.done), outcome.spent)


def _configuration(first: service.EncodeStreamRequest | None) -> service.EncodeStreamConfig:
    if first is None or first.WhichOneof("message") != "config":
        raise InvalidArgument.field("message", "config is expected as the first message")
    return first.config


def _responses(serving: Serving, wanted: Wanted, answer: _Answer) -> Iterator[service.EncodeStreamResponse]:
    timing = Timing(tokenize=answer.tokenize_seconds)
    if answer.encoded is None:
        error = to_status(answer.error or Internal("no answer"), current_call().request_id)
        yield service.EncodeStreamResponse(call_info=call_info(serving, timing), sequence=answer.sequence, error=error)
        return
    timing.add(answer.encoded.spent)
    chunks = _chunks(serving, wanted, answer.encoded)
    following = next(chunks, None)
    while following is not None:
        chunk, following = following, next(chunks, None)
        chunk.last = following is None
        yield service.EncodeStreamResponse(call_info=call_info(serving, timing), sequence=answer.sequence, chunk=chunk)


def _chunks(serving: Serving, wanted: Wanted, encoded: _Encoded) -> Iterator[service.EncodeChunk]:
    """An item's chunks: source after source, row after row, each within `max_chunk_bytes`; the first has the text."""
    room = serving.limits.max_chunk_bytes - CHUNK_MARGIN
    blocks: list[tuple[str, Csr | FloatArray]] = [
        (serving.catalog.sources[rank].id, block)
        for rank, block in zip(wanted.sources, encoded.done.blocks, strict=True)
    ]
    if encoded.done.dense is not None:
        blocks.append(("", encoded.done.dense))
    text: service.EncodedText | None = encoded.message
    for source, block in blocks:
        row = 0
        while row < encoded.done.rows:
            end = _last_row(block, row, room - (text.ByteSize() if text else 0))
            rows = cut(block, row, end)
            if isinstance(rows, Csr):
                yield service.EncodeChunk(text=text, row_start=row, sparse=sparse_message(source, rows))
            else:
                yield service.EncodeChunk(text=text, row_start=row, dense=dense_message(source, rows))
            row, text = end, None


def _row_bytes(serving: Serving, wanted: Wanted) -> int:
    """What a row of an answer is taken to need."""
    sources = [serving.catalog.sources[rank] for rank in wanted.sources]
    whole = sum(4 * one.n_features if one.kind is Kind.NEURON else SPARSE_ROW_BYTES for one in sources)
    return whole + 4 * wanted.columns


def _last_row(block: Csr | FloatArray, row: int, room: int) -> int:
    """The end of the rows from `row` on that fit into `room` bytes; one row at least."""
    if not isinstance(block, Csr):
        return min(len(block), row + max(1, room // (4 * int(block.shape[1]))))
    rows = np.arange(1, len(block.indptr) - row)
    size = 8 * (block.indptr[row + 1 :] - block.indptr[row]) + 8 * (rows + 1)
    return row + max(1, int(np.searchsorted(size, room, side="right")))
