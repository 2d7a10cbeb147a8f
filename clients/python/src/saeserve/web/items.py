"""The items of a stream as they arrive: one that cannot be read fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from saeserve.v1 import feature_service_pb2 as service
from saeserve.web import bodies, parsing
from saeserve.web.problems import Refused, malformed
from saeserve.web.settings import Settings

LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
"""Types of bodies that are read line by line."""


class BadItem(Refused):
    """An item that is none."""

    def __init__(self, sequence: int, why: Refused) -> None:
        super().__init__(why.message, code=why.code, reason=why.reason, violations=why.violations)
        self.sequence = sequence


class Items:
    """One body: the configuration, then items."""

    def __init__(self, scope: Scope, receive: Receive, settings: Settings) -> None:
        self._scope, self._receive, self._settings = scope, receive, settings
        self._by_line = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower() in LINES
        self._lines: AsyncIterator[bytes] | None = None
        self._all: list[Any] = []
        self._ended = asyncio.Event()

    async def config(self) -> Any:
        """The configuration, as JSON. Raises Refused and ClientDisconnect."""
        if not self._by_line:
            data = await bodies.whole(self._scope, self._receive, self._settings)
            config, self._all = await parsing.aside(data, config_and_items)
            self._ended.set()
            return config
        self._lines = bodies.lines(self._receive, self._settings)
        first = await anext(self._lines, None)
        if first is None:
            raise malformed("the body has no line: the configuration is expected in the first, an item in each other")
        return _inside(parsing.parsed(first, "the first line"), "config")

    async def read(self, refuse: Callable[[BadItem], Awaitable[None]]) -> AsyncIterator[service.EncodeStreamItem]:
        """The items. Those that cannot be read are told to `refuse`. Raises Refused and ClientDisconnect."""
        place = 0
        async for found in self._found():
            what, sequence = f"items[{place}]", place
            place += 1
            try:
                item = _inside(parsing.parsed(found, what) if isinstance(found, bytes) else found, "item")
                sequence = _number(item, sequence)
                read = parsing.message(item, service.EncodeStreamItem(), what)
                read.sequence = sequence
            except Refused as error:
                await refuse(BadItem(sequence, error))
            else:
                yield read
        self._ended.set()

    async def gone(self, tell: Callable[[ClientDisconnect], Awaitable[None]]) -> None:
        """Tell when the caller is gone, after his last item; before it, `read` raises that."""
        await self._ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        await tell(ClientDisconnect())

    async def _found(self) -> AsyncIterator[Any]:
        if self._lines is None:
            for one in self._all:
                yield one
        else:
            async for line in self._lines:
                yield line


def config_and_items(found: Any) -> tuple[Any, list[Any]]:
    """The two parts of a body that stands for a stream. Raises Refused."""
    if not isinstance(found, dict) or not found.keys() <= {"config", "items"}:
        raise malformed('the body is no object of "config" and "items"')
    items = found.get("items", [])
    if not isinstance(items, list):
        raise malformed("items: expected an array", "items")
    return found.get("config", {}), items


def _inside(found: Any, name: str) -> Any:
    """What stands in `{"item": …}`, as the contract writes it, or alone."""
    return found[name] if isinstance(found, dict) and found.keys() == {name} else found


def _number(item: Any, place: int) -> int:
    """An item's own number, also of one that is none for other reasons; else its place."""
    if not isinstance(item, dict) or item.get("sequence") is None:
        return place
    try:
        return parsing.message({"sequence": item["sequence"]}, service.EncodeStreamItem()).sequence
    except Refused:
        return place
