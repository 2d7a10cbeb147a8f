"""Workers without a model, for what has to do with processes only: each is a `main` to spawn for the real one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from saeserve_server.config import Config
from saeserve_server.engine.lifeline import tie
from saeserve_server.engine.link import Link
from saeserve_server.records.unfinished import Unfinished, beside, remove_unfinished

BUILDING = "LIGHT_BUILDING"
"""Variable with the place beside which one builds."""


async def spawned(config: Config) -> tuple[Link, Any]:
    """A worker and the first that it says."""
    said: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    link = await Link.start(config, said.set_result)
    return link, await asyncio.wait_for(said, 30)


def idle(connection: Connection, lifeline: Connection, config: Config) -> None:
    """Says that it is up, and answers nothing."""
    tie(lifeline, remove_unfinished)
    connection.send("up")
    with contextlib.suppress(EOFError):
        connection.recv()


def busy(connection: Connection, lifeline: Connection, config: Config) -> None:
    """Says its process id, then holds the interpreter's lock for good: no thread of it runs any more."""
    tie(lifeline, remove_unfinished)
    connection.send(os.getpid())
    sum(range(10**15))


def building(connection: Connection, lifeline: Connection, config: Config) -> None:
    """Says the folder that it has half written."""
    tie(lifeline, remove_unfinished)
    folder = Unfinished.make(lambda: beside(Path(os.environ[BUILDING]), "building")).folder
    (folder / "tokens.bin").write_bytes(b"half")
    connection.send(folder)
    time.sleep(60)
