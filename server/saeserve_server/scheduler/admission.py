"""Who is let in: a budget of what may wait and run, and for those refused the time when there will be room."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from saeserve_server.errors import InvalidArgument, Overloaded
from saeserve_server.scheduler.cost import Cost

STREAM_SHARE = 0.5
"""Share of the budget that items of streams may fill, whatever unary calls take, which do not wait for room."""
LEAST_DELAY, MOST_DELAY = 0.05, 10.0
"""Seconds after which a refused call is told to come again."""
UNKNOWN_DELAY = (0.5, 2.0)
"""The same while the rate is not known."""
RATE_MEMORY = 0.8
"""Weight of the past in the measured rate, for each batch."""


class Costed(Protocol):
    """What takes a part of the budget."""

    client: str
    cost: Cost


T = TypeVar("T", bound=Costed)


@dataclass(frozen=True, slots=True)
class Limit:
    """A part of the budget, as callers know it."""

    name: str
    unit: str
    scale: float


WORKER_LIMITS = {
    "items": Limit("queue_items", "texts", 1),
    "work": Limit("queue_gflop", "GFLOP", 1e-9),
    "bytes": Limit("queue_bytes", "bytes", 1),
}
FRONT_LIMITS = {"work": Limit("front_seconds", "seconds of the front end", 1e-9)}


class Admission:
    """The budget, what is taken of it, and how fast it is given back."""

    def __init__(self, budget: Cost, limits: Mapping[str, Limit] = WORKER_LIMITS, waiting: str = "texts") -> None:
        """`waiting` names what the items are, to callers."""
        self.budget = budget
        self._limits = limits
        self._waiting = waiting
        self.taken = Cost()
        self._by_client: dict[str, Cost] = {}
        self._rate: float | None = None  # work a second, while somebody is at it
        self._saturated = False  # whether it is that of batches as full as they get
        self._next_slot = 0.0

    @property
    def load(self) -> float:
        """Share of the budget that is taken."""
        return self.taken.share_of(self.budget)

    def has_room(self, cost: Cost) -> bool:
        """Whether that much more fits into the budget."""
        return (self.taken + cost).share_of(self.budget) <= 1

    def check_possible(self, cost: Cost, otherwise: str = "") -> None:
        """Raises InvalidArgument for what would not fit into an empty server."""
        for part, limit in self._limits.items():
            needed, most = getattr(cost, part) * limit.scale, getattr(self.budget, part) * limit.scale
            if needed > most:
                raise InvalidArgument(
                    f"the request would take {needed:.0f} {limit.unit}; at most {most:.0f} ({limit.name}) may be asked "
                    f"for at a time: ask for less{otherwise}",
                    reason="REQUEST_TOO_COSTLY",
                    metadata={"limit": limit.name, limit.name: f"{most:.0f}", "cost": f"{needed:.0f}"},
                )

    def take(self, cost: Cost, client: str) -> None:
        """A caller's item is in."""
        self.taken += cost
        self._by_client[client] = self._by_client.get(client, Cost()) + cost

    def give_back(self, cost: Cost, client: str) -> None:
        """Some of what a caller's item took is free again."""
        self.taken -= cost
        left = self._by_client[client] - cost
        if left == Cost():
            del self._by_client[client]
        else:
            self._by_client[client] = left

    def by_client(self) -> dict[str, Cost]:
        """What each caller has taken."""
        return dict(self._by_client)

    def make_way(self, item: T, newest: Callable[[str], Iterator[T]]) -> list[T]:
        """What must leave the queue so that there is room for an item: the newest items of callers who take more.

        `newest` gives a caller's items that can be refused, the last first. Raises Overloaded if all that others have
        there is running, or is no more than this caller would have.
        """
        taken = self.by_client()
        own = (taken.get(item.client, Cost()) + item.cost).share_of(self.budget)
        candidates = {client: newest(client) for client in taken}
        leaving: list[T] = []
        missing = item.cost
        while not self.has_room(missing):
            client = max(candidates, key=lambda one: taken[one].share_of(self.budget), default=None)
            if client is None or taken[client].share_of(self.budget) <= own:
                raise self.refusal(item.cost)
            other = next(candidates[client], None)
            if other is None:  # all it has is running, or streamed
                del candidates[client]
                continue
            leaving.append(other)
            taken[client] -= other.cost
            missing -= other.cost
        return leaving

    def measured(self, work: float, seconds: float, *, saturated: bool) -> None:
        """A batch of that much took that long; `saturated` if it left something behind.

        Small batches are slower by the work than full ones: they only tell how fast the engine is at least.
        """
        if seconds <= 0 or work <= 0:
            return
        now = work / seconds
        if self._rate is None or (saturated and not self._saturated):
            self._rate = max(now, self._rate or 0.0)
        elif saturated:
            self._rate = RATE_MEMORY * self._rate + (1 - RATE_MEMORY) * now
        else:
            self._rate = max(now, self._rate)
        self._saturated |= saturated

    def is_too_late(self, cost: Cost, client: str, remaining: float) -> bool:
        """Whether a caller's request would be answered in the seconds left to it but for what is there already.

        Callers take turns: of what another has there no more comes first than what this one has itself. What would be
        late in an empty server too is let in, and ends with its deadline: no retry could mend it.
        """
        if not self._saturated or self._rate is None or cost.work / self._rate > remaining:
            return False
        own = self._by_client.get(client, Cost()).work + cost.work
        before = sum(min(taken.work, own) for other, taken in self._by_client.items() if other != client)
        return (own + before) / self._rate > remaining

    def refusal(self, cost: Cost) -> Overloaded:
        """The error for a call that finds no room, with a time of its own to come again.

        Were all told the same, they would all come back at once. So each gets a slot, as long after the one before as
        its work takes, from the time on when half of what is there has been done.
        """
        now = time.monotonic()
        if self._rate is None:
            delay = random.uniform(*UNKNOWN_DELAY)  # noqa: S311
        else:
            slot = max(self._next_slot, now + LEAST_DELAY, now + self.taken.work / self._rate / 2)
            self._next_slot = min(slot + cost.work / self._rate, now + MOST_DELAY)
            delay = slot - now
            if delay + cost.work / self._rate >= MOST_DELAY:  # no slot is left
                delay = random.uniform(MOST_DELAY / 2, MOST_DELAY)  # noqa: S311
        return Overloaded(f"{self.taken.items} {self._waiting} are waiting already", retry_after=delay)
