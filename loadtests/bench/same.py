"""Whether two sides answer the same: a benchmark of different work says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import grpc.aio

from loadtests import connect
from loadtests.questions import search

EPSILON = 1e-4
"""As `tests/answers.py` has it: values agree within EPSILON · max(1, the text's largest), as batches and kernels move
them, and features that differ are no further apart than twice that."""
DEADLINE = 300.0

Top: TypeAlias = Sequence[tuple[str, int, float]]
"""Source, index and value of the features of an answer, in its order."""


class Differs(Exception):
    """Two sides do not answer the same."""


async def compare(servers: Mapping[str, connect.Server], texts: Sequence[str]) -> None:
    """Asks every server for all texts, together. Raises Differs if one does not answer as the first one does."""
    answers: dict[str, list[Top]] = {}
    for name, server in servers.items():
        try:
            answers[name] = await asyncio.gather(*(_ask(server, text) for text in texts))
        except grpc.aio.AioRpcError as error:
            raise Differs(f"{name} does not answer: {error.code().name}: {error.details()}") from error
    first = next(iter(servers))
    for name in servers:
        for text, answer, expected in zip(texts, answers[name], answers[first], strict=True):
            if (what := difference(answer, expected)) is not None:
                raise Differs(f"{name} does not answer {text!r} as {first} does: {what}")


def difference(answer: Top, expected: Top) -> str | None:
    """In what an answer is another than was expected; None if they are the same."""
    if len(answer) != len(expected):
        return f"{len(answer)} features, expected {len(expected)}"
    slack = EPSILON * max([1.0, *(value for _, _, value in expected)])
    for place, (one, other) in enumerate(zip(answer, expected, strict=True), 1):
        if abs(one[2] - other[2]) > slack:
            return f"number {place} is {_name(one)}, expected {_name(other)}"
    known, wanted = ({(source, index): value for source, index, value in top} for top in (answer, expected))
    for feature in known.keys() & wanted.keys():
        if abs(known[feature] - wanted[feature]) > slack:
            return f"{_name((*feature, known[feature]))}, expected {wanted[feature]:.6g}"
    for feature in known.keys() ^ wanted.keys():
        value = known.get(feature, wanted.get(feature, 0.0))
        if value > expected[-1][2] + 2 * slack:
            return f"{_name((*feature, value))} is {'not expected' if feature in known else 'missing'}"
    return None


async def _ask(server: connect.Server, text: str) -> Top:
    async with connect.stubs(server, 1) as (stub,):
        answer: Any = await stub.Search(search(text).request, timeout=DEADLINE, metadata=server.headers()(0))
    return [(one.facts.feature.source, one.facts.feature.index, one.value) for one in answer.results]


def _name(one: tuple[str, int, float]) -> str:
    source, index, value = one
    return f"{source}:{index} = {value:.6g}"
