from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from saeserve import AsyncClient, Client
from saeserve.cli.main import main
from tests.client.fake import FakeService, new_service, serve


class Blocking:
    """An AsyncClient behind the methods of a Client, so that one test runs over both."""

    def __init__(self, target: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(target, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            async def run() -> Any:
                answer = getattr(self._client, name)(*args, **kwargs)
                return await answer if inspect.isawaitable(answer) else answer

            answer = self._runner.run(run())
            return self._each(answer) if hasattr(answer, "__anext__") else answer

        return call

    def _each(self, items: Any) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(items, self)

        try:
            while (item := self._runner.run(following())) is not self:
                yield item
        finally:
            self._runner.run(items.aclose())

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture
def fake() -> FakeService:
    return new_service()


@pytest.fixture
def target(fake: FakeService) -> Iterator[str]:
    server, address = serve(fake)
    yield address
    fake.release.set()
    server.stop(0).wait(10)


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, target: str) -> Iterator[Callable[..., Any]]:
    """Makes clients of one kind, to the fake service unless told otherwise; they are closed after the test."""
    opened: list[Any] = []

    def make(address: str = target, **options: Any) -> Any:
        made = (Client if request.param == "sync" else Blocking)(address, **{"timeout": 10} | options)
        opened.append(made)
        return made

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Any]) -> Any:
    return connect()


@pytest.fixture
def run(
    target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs `saeserve` against the fake service: exit code, stdout, stderr."""
    monkeypatch.setenv("SAESERVE_TARGET", target)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
