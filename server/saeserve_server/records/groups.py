"""Other records of a feature than its strongest: by size, at random, and where it might have fired and does not."""

from __future__ import annotations

import math
from enum import Enum
from hashlib import blake2b
from typing import Protocol

from saeserve_server.catalog import FloatArray
from saeserve_server.records.diversity import Shown
from saeserve_server.records.store import Record


class Group(Enum):
    """Which of a feature's records."""

    TOP = "top"
    """The strongest."""
    QUANTILES = "quantiles"
    """Of each power of two some blocks, taken by the smallest hash; the strongest first."""
    RANDOM = "random"
    """The same in an order drawn by what they stand for: the first is any block in which the feature fires, each with
    the same chance."""
    NEAR_MISSES = "near-misses"
    """Occurrences of one of the feature's usual tokens at which it does not fire."""


class Sampled(Protocol):
    """What is read of an index."""

    def maximum(self, source_id: str) -> FloatArray: ...
    def sample(self, source_id: str, index: int) -> list[Record]: ...
    def near_misses(self, source_id: str, index: int) -> list[Record]: ...


def grouped(store: Sampled, source_id: str, index: int, group: Group) -> list[Shown]:
    """All records of a group other than TOP.

    A record of a sample stands for its share of the blocks of its power of two, whose bounds are told. Those of RANDOM
    are drawn one after another from those left, with chances as what they stand for (Efraimidis and Spirakis 2006), by
    a hash of the record: always in the same order.
    """
    if group is Group.NEAR_MISSES:
        return [Shown.alone(record) for record in store.near_misses(source_id, index)]
    records = store.sample(source_id, index)
    if group is Group.RANDOM:
        records = sorted(records, key=lambda record: _draw(source_id, index, record))
    maximum = float(store.maximum(source_id)[index])
    return [_weighed(record, maximum) for record in records]


def _weighed(record: Record, maximum: float) -> Shown:
    """With the bounds of its power of two, and nothing above the feature's largest activation."""
    _, exponent = math.frexp(record.max_activation)
    return Shown(record, record.weight, False, math.ldexp(1.0, exponent - 1), min(math.ldexp(1.0, exponent), maximum))


def _draw(source_id: str, index: int, record: Record) -> tuple[float, int, int]:
    """What the order at random goes by, and ties: an exponential time with the record's weight as its rate."""
    place = f"{source_id}:{index} {record.text_index} {record.text_position + record.max_position}"
    drawn = int.from_bytes(blake2b(place.encode(), digest_size=7).digest())
    return -math.log((drawn + 1) / (2**56 + 1)) / record.weight, record.text_index, record.text_position
