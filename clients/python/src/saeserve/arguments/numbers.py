"""What a whole number is, what a sequence of them, what a share, what a flag."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any, Protocol, SupportsIndex, TypeAlias

from saeserve.arguments.shown import shown

MAX_UINT32 = 2**32 - 1


class Array(Protocol):
    """Whatever gives its elements as a list: NumPy arrays, torch tensors."""

    def tolist(self) -> Any: ...


Number: TypeAlias = SupportsIndex
"""An int, a NumPy integer, a tensor with one whole number."""
Numbers: TypeAlias = Iterable[SupportsIndex] | Array


def is_number(value: Any) -> bool:
    """Whether `number` takes it, whatever its size."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return False
    if getattr(value, "shape", ()) != ():
        return False  # an array of one element is a sequence, though it can be an index
    try:
        operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def number(value: Any, what: str, least: int = 0, most: int = MAX_UINT32) -> int:
    """A whole number from `least` to `most`: int, or what stands for one exactly. `what` names it in errors.

    Raises TypeError for what is none (also for True and False), ValueError for one out of range.
    """
    if not is_number(value):
        raise TypeError(f"{what} is {shown(value)}, not a whole number")
    whole = operator.index(value)
    if not least <= whole <= most:
        raise ValueError(f"{what} is {shown(whole)}, out of range: {least} to {most}")
    return whole


def numbers(values: Any, what: str) -> list[int]:
    """Whole numbers in their order: a list, a range, a NumPy array or a tensor of one dimension, any iterable.

    Raises TypeError for what is no sequence of numbers, ValueError for a number that does not fit 32 bits, naming it.
    """
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        first = ": take one row of it" if len(shape) > 1 else ""
        raise TypeError(f"{what} is an array of shape {tuple(shape)}, not of one dimension{first}")
    if hasattr(values, "tolist"):
        values = values.tolist()
    # Of a set the order is not known; a mapping, a text and bytes are something else that can be iterated.
    if isinstance(values, str | bytes | bytearray | Mapping | Set) or not isinstance(values, Iterable):
        raise TypeError(f"{what} is {shown(values)}, not a sequence of whole numbers")
    return [
        value if type(value) is int and 0 <= value <= MAX_UINT32 else number(value, f"{what}[{place}]")
        for place, value in enumerate(values)
    ]


def share(value: Any, what: str) -> float:
    """A number, whole or not, as a float. Raises TypeError. Its range is the server's to judge."""
    if isinstance(value, str | bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} is {shown(value)}, not a number")
    return float(value)


def flag(value: Any, what: str) -> bool:
    """True or False, NumPy's too. Raises TypeError for anything else: a text "no" would count as yes."""
    if isinstance(value, bool):
        return value
    if str(getattr(value, "dtype", "")).endswith("bool") and getattr(value, "shape", None) == ():
        return bool(value)
    raise TypeError(f"{what} is {shown(value)}, not True or False")
