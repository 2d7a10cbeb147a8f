"""What a vector is: numbers in one dimension, from a list, a NumPy array or a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, TypeAlias

import numpy as np

from saeserve.arguments.numbers import Array
from saeserve.arguments.shown import shown

VectorLike: TypeAlias = Iterable[float] | Array


def vector(values: Any, what: str) -> list[float]:
    """Its numbers, as the wire carries them: each rounded to float32. `what` names it in errors.

    Raises TypeError for what is no sequence of numbers, ValueError for a number that float32 cannot hold. How many
    there have to be, and that none is NaN, is the server's to judge.
    """
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        raise TypeError(f"{what} is an array of shape {tuple(shape)}, not of one dimension")
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, str | bytes | bytearray | Mapping | Set) or not isinstance(values, Iterable):
        raise TypeError(f"{what} is {shown(values)}, not a sequence of numbers")
    numbers = [_number(value, f"{what}[{place}]") for place, value in enumerate(values)]
    with np.errstate(over="ignore"):
        rounded = np.array(numbers, np.float64).astype(np.float32)
    lost = np.flatnonzero(np.isinf(rounded) & np.isfinite(numbers))
    if len(lost):
        raise ValueError(f"{what}[{lost[0]}] is {numbers[lost[0]]:g}, which float32 cannot hold")
    found: list[float] = rounded.tolist()
    return found


def _number(value: Any, what: str) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, bool | str | complex) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} is {shown(value)}, not a number")
    return float(value)
