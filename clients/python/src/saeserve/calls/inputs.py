"""Texts to send: each a text or its token ids."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, TypeAlias

from saeserve.arguments.numbers import Numbers, is_number, numbers
from saeserve.arguments.shown import shown
from saeserve.arguments.texts import described, text
from saeserve.v1 import types_pb2 as wire

TextLike: TypeAlias = str | Numbers
"""A text, or token ids."""


def one_input(value: TextLike, what: str) -> wire.Input:
    """A text, or token ids: a sequence of whole numbers. Raises TypeError and ValueError, naming it by `what`."""
    value = _scalar(value)
    if isinstance(value, str):
        return wire.Input(text=text(value, what))
    if is_number(value):
        raise TypeError(f"{what} is {shown(value)}, one number: token ids are given in a list")
    if isinstance(value, list | tuple) and any(isinstance(part, str) for part in value):
        raise TypeError(
            f"{what} is {shown(value)}: one text is expected here. encode and encode_stream take several; else ask "
            "once for each"
        )
    return wire.Input(token_ids=_ids(value, what))


def text_or_ids(given: str | None, ids: Numbers | None) -> wire.Input:
    """One of them. Raises ValueError for both or neither."""
    if (given is None) == (ids is None):
        raise ValueError("give either a text or token ids")
    if given is not None:
        return one_input(given, "text")
    return wire.Input(token_ids=_ids(ids, "ids"))


def several(given: str | Iterable[TextLike]) -> list[wire.Input]:
    """One text, or an iterable of them."""
    given = _scalar(given)
    if isinstance(given, str):
        return [one_input(given, "texts")]
    return [one_input(value, f"texts[{place}]") for place, value in enumerate(each(given))]


def stream_texts(given: Any, asynchronous: bool) -> Any:
    """The texts of a stream: an iterable, or an `asynchronous` one too. Raises TypeError for one text."""
    if isinstance(_scalar(given), str):
        raise TypeError(f"texts is {shown(given)}, one text, whose letters are no texts: give it in a list")
    if isinstance(given, AsyncIterable):
        if not asynchronous:
            raise TypeError("texts is an asynchronous iterable: an AsyncClient takes one")
        return given
    return each(given)


def each(given: Any) -> Iterable[Any]:
    """Something to take texts from, one after another. Raises TypeError for what iterates over something else."""
    if isinstance(given, bytes | bytearray | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"texts is {described(given)} and not several texts")
    return given


def _ids(value: Any, what: str) -> wire.TokenIds:
    if isinstance(value, bytes | bytearray | Mapping) or not (isinstance(value, Iterable) or hasattr(value, "tolist")):
        raise TypeError(f"{what} is {described(value)} and no token ids")
    return wire.TokenIds(ids=numbers(value, what))


def _scalar(value: Any) -> Any:
    """What an array of no dimension holds."""
    array = not isinstance(value, str) and hasattr(value, "item") and getattr(value, "shape", None) == ()
    return value.item() if array else value
