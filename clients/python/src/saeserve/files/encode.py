"""From the texts of a file to a file of activations, part by part."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from saeserve.answers.results import StreamItem
from saeserve.files import npz, parquet
from saeserve.files.disk import whole
from saeserve.files.partial import Partial
from saeserve.files.parts import Gathering, Reached
from saeserve.files.settings import About
from saeserve.files.texts import Bad, Given, Input
from saeserve.transport.errors import Internal, InvalidArgument, SaeserveError

OF_ONE_TEXT = (InvalidArgument, Internal)
"""Errors that the same text would meet again; whatever else is wrong is wrong with the server or the way to it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What there is in the end."""

    texts: int
    tokens: int
    values: int
    """That are not 0."""
    skipped: int
    bytes: int
    """Of the file."""


class Told(Protocol):
    """Who is told how it goes."""

    def begins(self, texts: int) -> None:
        """How many texts are in the parts of an earlier run."""

    def goes_on(self, tokens: int, share: float | None) -> None:
        """A text was encoded, of so many tokens."""

    def skips(self, place: str, why: str) -> None:
        """A text is left out."""

    def writes(self) -> None:
        """All texts are encoded; the file is put together."""


def encode(
    texts: Input,
    stream: Callable[[Iterable[Any]], Iterator[StreamItem]],
    partial: Partial,
    *,
    skip: bool,
    told: Told,
    check: Callable[[], None],
) -> Summary:
    """Encode what no finished part has, and put the file together.

    stream: answers texts in order, as `encode_stream`.
    skip: leave out texts that cannot be read or encoded; else the first of them ends the run.
    check: called before a part is kept; raises if the server now serves something else.

    Raises ValueError for the input, SaeserveError for the service, OSError for the disk. Finished parts stay.
    """
    told.begins(partial.texts)
    reader = _Reader(texts, skip, told)
    reader.leave_behind(partial.last, str(partial.folder))
    gathering = Gathering(partial.settings, reader.unread)

    def keep() -> None:
        check()
        partial.add(gathering.finished())

    for item in stream(reader.texts()):
        given, reached = reader.sent.popleft()
        if item.error is not None:
            error = _without_number(item.error, item.sequence)
            if not skip or not isinstance(error, OF_ONE_TEXT):
                error.message = f"{given.place}: {error.message}"
                raise error
            told.skips(given.place, str(error))
            gathering.refuse(reached)
        else:
            text = item.unwrap()
            revision = item.call_info.model_revision if item.call_info is not None else ""
            if revision != partial.settings.model_revision:
                raise ValueError(f"the server now serves another model (revision {revision[:16]}): --force begins anew")
            gathering.add(given, text, reached)
            told.goes_on(len(text.tokens), texts.share)
        if gathering.enough:
            keep()
            gathering = Gathering(partial.settings, reached.unread)
    if reader.bad is not None:
        raise ValueError(f"{reader.bad.place}: {reader.bad.why}")
    if len(gathering) or not partial.parts:
        keep()
    told.writes()
    return _put_together(partial, reader)


def _put_together(partial: Partial, reader: _Reader) -> Summary:
    lengths = partial.lengths()
    skipped = reader.consumed - lengths["text_numbers"]
    about = About(partial.settings, texts=lengths["text_numbers"], skipped=skipped)
    with whole(partial.output, by=partial.result()) as file:
        if partial.output.suffix == ".npz":
            npz.write(file, about, partial.pieces, lengths)
        else:
            parquet.write(file, about, partial)
        size = file.tell()
        partial.is_written(file)
    partial.remove()
    return Summary(about.texts, lengths["token_ids"], lengths["data"], skipped, size)


class _Reader:
    """The input as a stream takes it: remembers what was sent, and keeps the digest of what was read."""

    def __init__(self, texts: Input, skip: bool, told: Told) -> None:
        self._each = iter(texts)
        self._name = texts.name
        self._skip = skip
        self._told = told
        self._digest = hashlib.sha256()
        self.sent: deque[tuple[Given, Reached]] = deque()
        """Texts that are not answered yet, in order; as many as a stream lets through."""
        self.consumed = 0
        self.unread = 0
        self.bad: Bad | None = None
        """What nothing is read behind, unless such is skipped."""

    def leave_behind(self, done: About, folder: str) -> None:
        """Read past what the finished parts stand for. Raises ValueError where it is something else."""
        while self.consumed < done.consumed:
            one = next(self._each, None)
            if one is None:
                raise ValueError(
                    f"{self._name} has {self.consumed:,} texts, and in {folder} are the first {done.consumed:,} of a "
                    "longer one: give that to go on, or --force to begin anew"
                )
            self._take(one)
        if done.consumed and self._digest.hexdigest() != done.digest:
            raise ValueError(
                f"the first {done.consumed:,} texts of {self._name} are not those of which {folder} has the "
                "activations: give the same input to go on, or --force to begin anew"
            )

    def _take(self, one: Given | Bad) -> None:
        self.consumed += 1
        self.unread += isinstance(one, Bad)
        told = [one.why] if isinstance(one, Bad) else [one.text, one.id]
        self._digest.update(json.dumps(told, default=str).encode() + b"\n")

    def texts(self) -> Iterator[Any]:
        """What is to be sent: up to the first that cannot be read, unless that is skipped."""
        for one in self._each:
            if isinstance(one, Bad):
                if not self._skip:
                    self.bad = one
                    return
                self._told.skips(one.place, one.why)
                self._take(one)
                continue
            self._take(one)
            self.sent.append((one, Reached(self.consumed, self.unread, self._digest.hexdigest())))
            yield one.text


def _without_number(error: SaeserveError, sequence: int) -> SaeserveError:
    """The client's own errors name a text by its place in the stream, which says nothing here."""
    error.message = error.message.replace(f"texts[{sequence}]", "the text")
    return error
