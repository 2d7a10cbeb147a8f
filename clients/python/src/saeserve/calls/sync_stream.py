"""EncodeStream for the blocking client: one call after another until every text is answered.

gRPC reads its requests in a thread of its own, so texts pass through a queue and the caller's iterable is read in the
caller's thread only. A second thread waits for answers, because a wait inside gRPC cannot be given a time limit.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import grpc

from saeserve.answers.results import StreamItem
from saeserve.calls.inputs import TextLike
from saeserve.calls.stream import CallFailed, Ledger, Line
from saeserve.v1 import feature_service_pb2 as service

_HELD = 4
"""Answers, each at most a chunk, that wait in this process before gRPC's flow control holds the server back."""


class _Texts:
    """The caller's iterable, with a memory of its end across calls."""

    def __init__(self, texts: Iterable[TextLike]) -> None:
        self._texts = iter(texts)
        self.ended = False

    def next_into(self, ledger: Ledger, requests: queue.SimpleQueue[service.EncodeStreamRequest | None]) -> None:
        """Read a text and send it, if it can be sent; None at the end."""
        try:
            text = next(self._texts)
        except StopIteration:
            self.ended = True
            requests.put(None)
            return
        message = ledger.add(text)
        if message is not None:
            requests.put(message)


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

    def get(self, timeout: float | None) -> service.EncodeStreamResponse | grpc.RpcError | None:
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


def answers_to(texts: Iterable[TextLike], ledger: Ledger, line: Line, timeout: float | None) -> Iterator[StreamItem]:
    """Yield the items of as many calls as it takes."""
    source = _Texts(texts)
    while not (source.ended and ledger.settled):
        try:
            yield from _one_call(source, ledger, line, timeout)
        except CallFailed as failure:
            if source.ended and ledger.settled:
                return
            delay = ledger.delay_after(failure)
            yield from ledger.ready()
            time.sleep(delay)


def _one_call(source: _Texts, ledger: Ledger, line: Line, timeout: float | None) -> Iterator[StreamItem]:
    # By the module's name: gevent replaces this class when it patches the program, maybe after this was imported.
    requests: queue.SimpleQueue[service.EncodeStreamRequest | None] = queue.SimpleQueue()
    for message in ledger.opening():
        requests.put(message)
    if source.ended:
        requests.put(None)
    answers = _Answers(line.open(iter(requests.get, None), metadata=line.headers))
    try:
        while True:
            # Answers that are already here go out before another text is waited for.
            if not source.ended and ledger.has_room and not answers.waiting:
                source.next_into(ledger, requests)
                yield from ledger.ready()
                continue
            try:
                answer = answers.get(timeout)
            except TimeoutError:
                raise ledger.stalled(line.unconnected()) from None
            if isinstance(answer, grpc.RpcError):
                error = line.error(answer)
                if error.reason == "CLIENT_CLOSED":
                    raise error
                raise CallFailed(error) from answer
            if answer is None:
                if source.ended and ledger.settled:
                    return
                raise ledger.ended_early()
            ledger.take(answer)
            yield from ledger.ready()
    finally:
        requests.put(None)
        answers.close()
