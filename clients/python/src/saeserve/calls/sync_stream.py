"""EncodeStream for the blocking client: one call after another until every text is answered.

gRPC reads its requests in a thread of its own, so texts pass through a queue and the caller's iterable is read in the
caller's thread only. A second thread waits for answers, because a wait inside gRPC cannot be given a time limit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import grpc

from saeserve.answers.results import StreamItem
from saeserve.calls.stream import CallFailed, Ledger
from saeserve.transport.errors import from_rpc
from saeserve.transport.headers import sent_request_id
from saeserve.v1 import feature_service_pb2 as service

_HELD = 4
"""Answers, each at most a chunk, that wait in this process before gRPC's flow control holds the server back."""


class _Texts:
    """The caller's iterable, with a memory of its end across calls."""

    def __init__(self, texts: Iterable[str | Sequence[int]]) -> None:
        self._texts = iter(texts)
        self.ended = False

    def next_into(self, ledger: Ledger) -> service.EncodeStreamRequest | None:
        """The next text's message; None at the end."""
        try:
            text = next(self._texts)
        except StopIteration:
            self.ended = True
            return None
        return ledger.add(text)


class _Answers:
    """The answers of one call, read in a thread, a few at a time."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._held: deque[service.EncodeStreamResponse | grpc.RpcError | None] = deque()
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._read, name="saeserve-stream", daemon=True).start()

    def _read(self) -> None:
        try:
            for answer in self._call:
                if not self._put(answer):
                    return
            self._put(None)
        except grpc.RpcError as error:
            self._put(error)

    def _put(self, answer: service.EncodeStreamResponse | grpc.RpcError | None) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._held) < _HELD or self._closed)
            self._held.append(answer)
            self._changed.notify_all()
            return not self._closed

    @property
    def waiting(self) -> bool:
        """Whether `get` would return at once."""
        return bool(self._held)

    def get(self, timeout: float) -> service.EncodeStreamResponse | grpc.RpcError | None:
        """The next answer, the call's error, or None at its end. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._held), timeout):
                raise TimeoutError
            answer = self._held.popleft()
            self._changed.notify_all()
            return answer

    def close(self) -> None:
        """End the call and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._call.cancel()


def answers_to(
    texts: Iterable[str | Sequence[int]],
    ledger: Ledger,
    open_call: Callable[..., Any],
    headers: list[tuple[str, str | bytes]],
    timeout: float,
) -> Iterator[StreamItem]:
    """Yield the items of as many calls as it takes."""
    source = _Texts(texts)
    while not (source.ended and ledger.settled):
        try:
            yield from _one_call(source, ledger, open_call, headers, timeout)
        except CallFailed as failure:
            if source.ended and ledger.settled:
                return
            time.sleep(ledger.delay_after(failure))


def _one_call(
    source: _Texts,
    ledger: Ledger,
    open_call: Callable[..., Any],
    headers: list[tuple[str, str | bytes]],
    timeout: float,
) -> Iterator[StreamItem]:
    requests: SimpleQueue[service.EncodeStreamRequest | None] = SimpleQueue()
    for message in ledger.opening():
        requests.put(message)
    if source.ended:
        requests.put(None)
    answers = _Answers(open_call(iter(requests.get, None), metadata=headers))
    try:
        while True:
            # Answers that are already here go out before another text is waited for.
            if not source.ended and ledger.has_room and not answers.waiting:
                requests.put(source.next_into(ledger))
                continue
            try:
                answer = answers.get(timeout)
            except TimeoutError:
                raise ledger.stalled() from None
            if isinstance(answer, grpc.RpcError):
                raise CallFailed(from_rpc(answer, sent_request_id(headers))) from answer
            if answer is None:
                if source.ended and ledger.settled:
                    return
                raise ledger.ended_early()
            yield from ledger.take(answer)
    finally:
        requests.put(None)
        answers.close()
