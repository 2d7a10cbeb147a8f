"""EncodeStream for who carries others' items: messages in, messages out, and what `Ledger` does about servers that go.

An item's chunks are held until it is whole: where the server goes away in the middle of it, another answers it from its
first chunk on, and nobody has seen half of the other's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from saeserve.answers import convert
from saeserve.answers.results import StreamItem
from saeserve.arguments.numbers import Number
from saeserve.calls.stream import Ledger
from saeserve.transport.errors import SaeserveError
from saeserve.v1 import feature_service_pb2 as service


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """What became of one item."""

    sequence: int
    """As the item had it."""
    messages: tuple[service.EncodeStreamResponse, ...]
    """Its chunks, or one message with the server's error; none where `error` is set."""
    error: SaeserveError | None
    """Why it was never asked."""


class Forwarded(Ledger):
    """Numbers items anew, so that those of the caller may be any. Answers come as they are ready, in any order."""

    def __init__(
        self, config: service.EncodeStreamConfig, window: Number, timeout: float | None, at_once: Collection[str] = ()
    ) -> None:
        super().__init__(config, window, False, timeout, at_once)
        self._named: dict[int, int] = {}
        """The caller's number of each item that is not answered yet."""
        self._held: dict[int, list[service.EncodeStreamResponse]] = {}

    def add(self, text: Any) -> service.EncodeStreamRequest | None:
        """Take an EncodeStreamItem."""
        number = self._count
        self._count += 1
        self._named[number] = text.sequence
        item = self._unanswered[number] = service.EncodeStreamItem(sequence=number, input=text.input)
        return service.EncodeStreamRequest(item=item)

    def opening(self) -> list[service.EncodeStreamRequest]:
        """As of Ledger; what came of the items that are asked again is forgotten."""
        self._held.clear()
        return super().opening()

    def take(self, answer: service.EncodeStreamResponse) -> None:
        """Keep an answer until its item is whole. Raises Internal for one to what was never asked."""
        number = answer.sequence
        if number not in self._unanswered:
            super().take(answer)  # raises
        self._held.setdefault(number, []).append(answer)
        if answer.HasField("error") or answer.chunk.last:
            self._answered(StreamItem(number, convert.call_info(answer.call_info), None, None))

    def whole(self, item: StreamItem) -> StreamAnswer:
        """What is handed on of an item that is ready: under the caller's number again."""
        named = self._named.pop(item.sequence)
        messages = self._held.pop(item.sequence, [])
        for message in messages:
            message.sequence = named
        return StreamAnswer(named, tuple(messages), item.error)
