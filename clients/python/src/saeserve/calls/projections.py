"""Projections from friendly arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from saeserve.arguments.shown import shown
from saeserve.arguments.texts import text
from saeserve.arguments.vectors import VectorLike, vector
from saeserve.v1 import feature_service_pb2 as service

Projections: TypeAlias = Iterable[tuple[str, VectorLike]]
"""Each a hook point's name, and a vector as wide as it."""


def projections(given: Projections) -> list[service.Projection]:
    """Raises TypeError for what is no list of pairs."""
    return [_projection(one, f"projections[{place}]") for place, one in enumerate(_pairs(given))]


def _pairs(given: Any) -> Iterable[Any]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"projections is {shown(given)}: expected pairs (hook_name, vector) in a list")
    return given


def _projection(given: Any, what: str) -> service.Projection:
    if not isinstance(given, tuple | list) or len(given) != 2 or not isinstance(given[0], str):
        raise TypeError(f"{what} is {shown(given)}: expected a pair (hook_name, vector)")
    return service.Projection(hook_name=text(given[0], what), vector=vector(given[1], f"{what}'s vector"))
