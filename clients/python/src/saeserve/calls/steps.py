"""What takes several calls, each of which may follow from the answers before: the same for both clients."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar

from saeserve.calls.request import Call

T = TypeVar("T")

Steps: TypeAlias = Generator[Call[Any], Any, T]
"""Yields calls, is sent what was read from their answers, and returns the result."""


def once(call: Call[T]) -> Steps[T]:
    """One call."""
    answer: T = yield call
    return answer
