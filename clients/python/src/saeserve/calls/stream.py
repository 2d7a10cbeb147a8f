"""The state of one EncodeStream, without any I/O: what was sent, what was answered, what must be sent again.

Both clients drive it, so that they number, assemble, order and resume alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
from grpc import StatusCode

from saeserve.answers import convert, reading
from saeserve.answers.activations import Csr, Floats
from saeserve.answers.results import EncodedText, StreamItem
from saeserve.calls import request
from saeserve.transport import channel
from saeserve.transport.errors import DeadlineExceeded, Internal, SaeserveError, Unavailable, from_status
from saeserve.v1 import feature_service_pb2 as service

DEFAULT_WINDOW = 32
_RETRYABLE = (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED)


class CallFailed(Exception):
    """One call of a stream failed. Its own type, so that errors of the caller's iterable are never taken for it."""

    def __init__(self, error: SaeserveError) -> None:
        super().__init__(str(error))
        self.error = error


class Ledger:
    """Numbers the items, keeps those not yet answered, puts chunks together and says when to resume.

    `window` bounds the items that are unanswered or, `in_order`, answered but waiting for an earlier one.
    """

    def __init__(self, config: service.EncodeStreamConfig, window: int, in_order: bool, timeout: float) -> None:
        if window < 1:
            raise ValueError(f"a window of {window} items lets none through")
        self._config = config
        self._window = window
        self._in_order = in_order
        self._timeout = timeout
        self._count = 0
        self._unanswered: dict[int, service.EncodeStreamItem] = {}
        self._parts: dict[int, _Parts] = {}
        self._waiting: dict[int, StreamItem] = {}
        self._next = 0
        self._failing_since: float | None = None
        """When the first of the calls failed since an item was last answered."""
        self._backoff = channel.INITIAL_BACKOFF
        """Seconds before the next call where the server names no delay."""

    @property
    def has_room(self) -> bool:
        """Whether another text may be taken from the caller."""
        return len(self._unanswered) + len(self._waiting) < self._window

    @property
    def settled(self) -> bool:
        """Whether every text taken so far is answered."""
        return not self._unanswered

    def add(self, text: str | Sequence[int]) -> service.EncodeStreamRequest:
        """Number a text and return its message."""
        item = service.EncodeStreamItem(sequence=self._count, input=request.text_input(text))
        self._unanswered[self._count] = item
        self._count += 1
        return service.EncodeStreamRequest(item=item)

    def opening(self) -> list[service.EncodeStreamRequest]:
        """The first messages of a call: the configuration, then what an earlier call left unanswered, in order."""
        self._parts.clear()
        items = [service.EncodeStreamRequest(item=item) for item in self._unanswered.values()]
        return [service.EncodeStreamRequest(config=self._config), *items]

    def take(self, answer: service.EncodeStreamResponse) -> list[StreamItem]:
        """The items that this answer completes. Raises Internal for an answer to what was never asked."""
        sequence = answer.sequence
        if sequence not in self._unanswered:
            raise _malformed(f"item {sequence} is not waiting for an answer")
        if answer.HasField("error"):
            error = from_status(answer.error, answer.call_info.request_id)
            return self._answered(StreamItem(sequence, convert.call_info(answer.call_info), None, error))
        parts = self._parts.setdefault(sequence, _Parts())
        try:
            parts.add(answer.chunk)
            if not answer.chunk.last:
                return []
            text = parts.joined()
        except ValueError as error:
            raise _malformed(f"item {sequence}: {error}") from error
        return self._answered(StreamItem(sequence, convert.call_info(answer.call_info), text, None))

    def _answered(self, item: StreamItem) -> list[StreamItem]:
        del self._unanswered[item.sequence]
        self._parts.pop(item.sequence, None)
        self._failing_since = None
        self._backoff = channel.INITIAL_BACKOFF
        if not self._in_order:
            return [item]
        self._waiting[item.sequence] = item
        ready = []
        while self._next in self._waiting:
            ready.append(self._waiting.pop(self._next))
            self._next += 1
        return ready

    def delay_after(self, failure: CallFailed) -> float:
        """Seconds to wait before resuming after a call's failure; raises the error where resuming is of no use.

        Calls may fail for as long as the stream's timeout; an answered item starts the clock again.
        """
        error = failure.error
        if error.code not in _RETRYABLE or error.reason == "OVER_MAX_MESSAGE_BYTES":
            raise error from failure.__cause__
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        # The server's delay is for this moment. Where calls fail on and on, the wait grows whatever it says.
        delay = self._backoff * random.uniform(0.8, 1.2)  # noqa: S311 (nothing secret)
        if error.retry_delay is not None:
            first = self._backoff == channel.INITIAL_BACKOFF
            delay = error.retry_delay if first else max(error.retry_delay, delay)
        self._backoff = min(channel.MAX_BACKOFF, 2 * self._backoff)
        if now + delay - self._failing_since > self._timeout:
            raise error from failure.__cause__
        return delay

    def ended_early(self) -> CallFailed:
        """The error of a call that the server ended, politely, before every item was answered."""
        message = f"the server ended the stream with {len(self._unanswered)} items unanswered"
        return CallFailed(Unavailable(message, code=StatusCode.UNAVAILABLE, reason="STREAM_ENDED"))

    def stalled(self) -> DeadlineExceeded:
        """The error of a call that gave no answer in time."""
        message = f"no answer on the stream within {self._timeout:g} s, {len(self._unanswered)} items unanswered"
        return DeadlineExceeded(message, code=StatusCode.DEADLINE_EXCEEDED)


class _Parts:
    """The chunks of one item so far."""

    def __init__(self) -> None:
        self._text: service.EncodedText | None = None
        self._sparse: dict[str, list[Csr]] = {}
        self._dense: dict[str, list[Floats]] = {}

    def add(self, chunk: service.EncodeChunk) -> None:
        """Raises ValueError for rows that do not follow those before."""
        if chunk.HasField("text"):
            self._text = chunk.text
        part: Csr | Floats
        if chunk.HasField("sparse"):
            earlier: Sequence[Csr | Floats] = self._sparse.setdefault(chunk.sparse.source, [])
            part = reading.sparse(chunk.sparse)
            self._sparse[chunk.sparse.source].append(part)
        elif chunk.HasField("dense"):
            earlier = self._dense.setdefault(chunk.dense.source, [])
            part = reading.dense(chunk.dense)
            self._dense[chunk.dense.source].append(part)
        else:
            return
        rows = sum(len(before) for before in earlier) - len(part)
        if chunk.row_start != rows:
            raise ValueError(f"a chunk from row {chunk.row_start} after {rows} rows")

    def joined(self) -> EncodedText:
        if self._text is None:
            raise ValueError("no chunk carries the text")
        dense = {source: np.concatenate(parts) if len(parts) > 1 else parts[0] for source, parts in self._dense.items()}
        sparse = {source: Csr.concatenate(parts) for source, parts in self._sparse.items()}
        # Chosen features come without a source's name; whole neuron sources with it.
        return reading.encoded_text(self._text, dense.pop("", None), sparse, dense)


def _malformed(message: str) -> Internal:
    return Internal(
        f"the server's stream does not fit together: {message}", code=StatusCode.INTERNAL, reason="MALFORMED_ANSWER"
    )
