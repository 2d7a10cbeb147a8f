"""Turns: each caller has a lane, and whose turn it is goes round."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What stands in a lane."""

    client: str
    """Whose turn it takes."""

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""


T = TypeVar("T", bound=Waiting)


class Lanes(Generic[T]):
    """Callers take turns, an item each; within a caller's lane first come, first served."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, deque[T]] = OrderedDict()

    def put(self, item: T) -> None:
        """Adds an item at the end of its caller's lane."""
        self._lanes.setdefault(item.client, deque()).append(item)

    def first(self) -> T | None:
        """Whose turn it is. Items that nobody waits for any more are dropped on the way."""
        while self._lanes:
            client, lane = next(iter(self._lanes.items()))
            while lane and not lane[0].wanted:
                lane.popleft()
            if lane:
                return lane[0]
            del self._lanes[client]
        return None

    def take(self) -> T:
        """The item whose turn it is; its caller goes to the end."""
        client, lane = next(iter(self._lanes.items()))
        self._lanes.move_to_end(client)
        return lane.popleft()

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def __iter__(self) -> Iterator[T]:
        """Copies: the metrics ask from a thread of their own."""
        return (item for lane in list(self._lanes.values()) for item in list(lane))

    def sweep(self) -> None:
        """Drops all items that nobody waits for any more."""
        for client, lane in list(self._lanes.items()):
            kept = deque(item for item in lane if item.wanted)
            if kept:
                self._lanes[client] = kept
            else:
                del self._lanes[client]

    def newest(self, client: str) -> Iterator[T]:
        """A caller's items, the last first."""
        return (item for item in reversed(self._lanes.get(client, ())) if item.wanted)
