"""The state of one EncodeStream, without any I/O: what was sent, what was answered, what must be sent again.

Both clients drive it, so that they number, assemble, order and resume alike.
"""

from __future__ import annotations

import random
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from grpc import StatusCode

from saeserve.answers import convert, reading
from saeserve.answers.activations import Csr, Floats
from saeserve.answers.by_source import BySource, aliases
from saeserve.answers.names import FeatureName
from saeserve.answers.results import EncodedText, StreamItem
from saeserve.arguments.numbers import Number, flag, number
from saeserve.calls.inputs import TextLike, one_input
from saeserve.transport import channel
from saeserve.transport.attempts import advised, worth_another
from saeserve.transport.errors import (
    DeadlineExceeded,
    FieldViolation,
    Internal,
    InvalidArgument,
    SaeserveError,
    Unavailable,
    from_status,
)
from saeserve.v1 import feature_service_pb2 as service

DEFAULT_WINDOW = 32
_TOO_LARGE = re.compile(r"message larger than max \(\d+ vs\. (\d+)\)")


class CallFailed(Exception):
    """One call of a stream failed. Its own type, so that errors of the caller's iterable are never taken for it."""

    def __init__(self, error: SaeserveError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Line:
    """How a stream reaches its server, whichever client it belongs to."""

    open: Callable[..., Any]
    """Begins a call."""
    headers: list[tuple[str, str | bytes]]
    error: Callable[[Any], SaeserveError]
    """What gRPC's error of a call means."""
    unconnected: Callable[[], str]
    """What is to say of a call without an answer if there is no connection; empty if there is one."""


class Ledger:
    """Numbers the items, keeps those not yet answered, puts chunks together and says when to resume.

    `window` bounds the items that are unanswered or, `in_order`, answered but waiting for an earlier one. `at_once`:
    reasons of errors after which a stream of which nothing was answered yet is not resumed.
    """

    def __init__(
        self,
        config: service.EncodeStreamConfig,
        window: Number,
        in_order: bool,
        timeout: float | None,
        at_once: Collection[str] = (),
    ) -> None:
        self._config = config
        self._window = number(window, "window: the number of items let through at a time", least=1)
        self._in_order = flag(in_order, "in_order")
        self._timeout = timeout
        self._at_once = at_once
        self._count = 0
        self._unanswered: dict[int, service.EncodeStreamItem] = {}
        self._parts: dict[int, _Parts] = {}
        self._waiting: dict[int, StreamItem] = {}
        self._next = 0
        self._ready: deque[StreamItem] = deque()
        self._said = ""
        """Why the last call failed, until an item is answered."""
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

    def add(self, text: TextLike) -> service.EncodeStreamRequest | None:
        """Number a text and return its message; None for one that cannot be sent, which is answered here and now."""
        sequence = self._count
        self._count += 1
        place = f"texts[{sequence}]"
        try:
            item = service.EncodeStreamItem(sequence=sequence, input=one_input(text, place))
        except (TypeError, ValueError) as error:
            self._answered(StreamItem(sequence, None, None, _bad_item(place, str(error))))
            return None
        self._unanswered[sequence] = item
        return service.EncodeStreamRequest(item=item)

    def ready(self) -> Iterator[StreamItem]:
        """The items that may be given to the caller, each once."""
        while self._ready:
            yield self._ready.popleft()

    def opening(self) -> list[service.EncodeStreamRequest]:
        """The first messages of a call: the configuration, then what an earlier call left unanswered, in order."""
        self._parts.clear()
        items = [service.EncodeStreamRequest(item=item) for item in self._unanswered.values()]
        return [service.EncodeStreamRequest(config=self._config), *items]

    def take(self, answer: service.EncodeStreamResponse) -> None:
        """Keep an answer; `ready` gives the items it completes. Raises Internal for one to what was never asked."""
        sequence = answer.sequence
        if sequence not in self._unanswered:
            raise _malformed(f"item {sequence} is not waiting for an answer")
        info = convert.call_info(answer.call_info)
        if answer.HasField("error"):
            error = from_status(answer.error, answer.call_info.request_id)
            self._answered(StreamItem(sequence, info, None, error))
            return
        parts = self._parts.setdefault(sequence, _Parts())
        try:
            parts.add(answer.chunk)
            if answer.chunk.last:
                text = parts.joined(self._config)
                self._answered(StreamItem(sequence, info, text, None))
        except ValueError as error:
            raise _malformed(f"item {sequence}: {error}") from error

    def _answered(self, item: StreamItem) -> None:
        self._unanswered.pop(item.sequence, None)
        self._parts.pop(item.sequence, None)
        if item.call_info is not None:  # an answer of the server's
            self._at_once = ()
            self._failing_since = None
            self._said = ""
            self._backoff = channel.INITIAL_BACKOFF
        if not self._in_order:
            self._ready.append(item)
            return
        self._waiting[item.sequence] = item
        while self._next in self._waiting:
            self._ready.append(self._waiting.pop(self._next))
            self._next += 1

    def delay_after(self, failure: CallFailed) -> float:
        """Seconds to wait before resuming after a call's failure; raises the error where resuming is of no use.

        Calls may fail for as long as the stream's timeout; an answered item starts the clock again.
        """
        error = failure.error
        if self._too_large(error):
            return 0.0
        # CANCELLED is what a server ends a stream with that nobody has read for a while: now somebody does.
        unread = error.code is StatusCode.CANCELLED and error.reason != "CLIENT_CLOSED"
        if not (unread or worth_another(error)):
            raise error from failure.__cause__
        if error.reason in self._at_once:
            raise advised(error) from failure.__cause__
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        self._said = error.message
        # The server's delay is for this moment. Where calls fail on and on, the wait grows whatever it says.
        delay = self._backoff * random.uniform(0.8, 1.2)  # noqa: S311 (nothing secret)
        if error.retry_delay is not None:
            first = self._backoff == channel.INITIAL_BACKOFF
            delay = error.retry_delay if first else max(error.retry_delay, delay)
        self._backoff = min(channel.MAX_BACKOFF, 2 * self._backoff)
        if self._timeout is not None and now + delay - self._failing_since > self._timeout:
            raise advised(error) from failure.__cause__
        return delay

    def _too_large(self, error: SaeserveError) -> bool:
        """Whether items were over what the server takes in one message; each is then answered with its own error."""
        sizes = _TOO_LARGE.search(error.message)
        if error.code is not StatusCode.RESOURCE_EXHAUSTED or sizes is None:
            return False
        most = int(sizes[1])
        large = [
            sequence
            for sequence, item in self._unanswered.items()
            if service.EncodeStreamRequest(item=item).ByteSize() > most
        ]
        for sequence in large:
            message = f"texts[{sequence}] is larger than the {most} bytes that the server takes in one message"
            self._answered(StreamItem(sequence, None, None, _bad_item(f"texts[{sequence}]", message)))
        return bool(large)

    def ended_early(self) -> CallFailed:
        """The error of a call that the server ended, politely, before every item was answered."""
        message = f"the server ended the stream with {len(self._unanswered)} items unanswered"
        return CallFailed(Unavailable(message, code=StatusCode.UNAVAILABLE, reason="STREAM_ENDED"))

    def stalled(self, unconnected: str) -> DeadlineExceeded:
        """The error of a call that gave no answer in time."""
        message = f"no answer on the stream within {self._timeout:g} s, {len(self._unanswered)} items unanswered"
        why = unconnected or (self._said and f"the call before was refused: {self._said}")
        return DeadlineExceeded(f"{message}; {why}" if why else message, code=StatusCode.DEADLINE_EXCEEDED)


class _Parts:
    """The chunks of one item so far."""

    def __init__(self) -> None:
        self._text: service.EncodedText | None = None
        self._sparse: dict[str, list[Csr]] = {}
        self._dense: dict[str, list[Floats]] = {}
        self._sources: dict[str, None] = {}
        """In the order of the answer."""

    def add(self, chunk: service.EncodeChunk) -> None:
        """Raises ValueError for rows that do not follow those before."""
        if chunk.HasField("text"):
            self._text = chunk.text
        part: Csr | Floats
        if chunk.HasField("sparse"):
            self._sources[chunk.sparse.source] = None
            earlier: Sequence[Csr | Floats] = self._sparse.setdefault(chunk.sparse.source, [])
            part = reading.sparse(chunk.sparse)
            self._sparse[chunk.sparse.source].append(part)
        elif chunk.HasField("dense"):
            self._sources[chunk.dense.source] = None
            earlier = self._dense.setdefault(chunk.dense.source, [])
            part = reading.dense(chunk.dense)
            self._dense[chunk.dense.source].append(part)
        else:
            return
        rows = sum(len(before) for before in earlier) - len(part)
        if chunk.row_start != rows:
            raise ValueError(f"a chunk from row {chunk.row_start} after {rows} rows")

    def joined(self, asked: service.EncodeStreamConfig) -> EncodedText:
        """`asked` names sources and columns of chosen features, which an answer does not repeat."""
        if self._text is None:
            raise ValueError("no chunk carries the text")
        dense = {source: np.concatenate(parts) if len(parts) > 1 else parts[0] for source, parts in self._dense.items()}
        sparse = {source: Csr.concatenate(parts) for source, parts in self._sparse.items()}
        # Chosen features come without a source's name; whole neuron sources with it.
        chosen = dense.pop("", None)
        called = aliases(list(asked.sources), [source for source in self._sources if source])
        features = tuple(FeatureName(one.source, one.index) for one in asked.features)
        hooks = tuple(one.hook_name for one in asked.projections)
        blocks, neurons = BySource(sparse, called), BySource(dense, called)
        return reading.encoded_text(self._text, features, chosen, blocks, neurons, hooks)


def _bad_item(place: str, message: str) -> InvalidArgument:
    return InvalidArgument(
        message,
        code=StatusCode.INVALID_ARGUMENT,
        reason="INVALID_TEXT",
        violations=[FieldViolation(place, message)],
    )


def _malformed(message: str) -> Internal:
    return Internal(
        f"the server's stream does not fit together: {message}", code=StatusCode.INTERNAL, reason="MALFORMED_ANSWER"
    )
