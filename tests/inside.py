"""A server inside the tests' own process: everything is real but the worker's process, and so its choice of kernels.

Model and sources are loaded and run in a thread. A worker that is spawned imports torch and TransformerLens anew, which
takes longer than most tests.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from saeserve_server.api import server as front_end
from saeserve_server.config import Config, load_config
from saeserve_server.engine.build import build_runner
from saeserve_server.engine.recovery import GuardedRunner
from saeserve_server.engine.work import Batch, BatchDone, Kernels, Ready
from tests.conftest import DEVICE, START_TIMEOUT


class ThreadEngine:
    """The engine's interface over a runner in a thread."""

    def __init__(
        self, config: Config, on_state: Callable[[Ready | None], None], on_kernels: Callable[[Kernels], None]
    ) -> None:
        self._config, self._on_state = config, on_state

    async def start(self) -> None:
        runner, folder = await asyncio.to_thread(build_runner, self._config)
        self._runner = GuardedRunner(runner)
        self._on_state(Ready(runner.catalog, folder, imported=runner.imported))

    async def run(self, batch: Batch) -> BatchDone:
        return await asyncio.to_thread(self._runner.run, batch, set)

    def abandon(self, place: int) -> None:
        pass

    async def stop(self, patience: float = 0.0) -> None:
        pass


@contextmanager
def served_inside(path: Path | None = None, **settings: object) -> Iterator[str]:
    """The address of such a server, which is ready. Raises ConfigError for what cannot be served."""
    fixed = {"bind": "127.0.0.1:0", "metrics_bind": "none", "device": DEVICE, "drain_delay": 0, "grace": 0}
    config = load_config(path, {name: str(value) for name, value in (fixed | settings).items()}, {})
    ready: Future[tuple[str, asyncio.AbstractEventLoop]] = Future()
    over = asyncio.Event()

    async def live() -> None:
        with patch.object(front_end, "ProcessEngine", ThreadEngine):
            server = front_end.FeatureServer(config)
        try:
            await server.start(lambda address: None)
            ready.set_result((server.address, asyncio.get_running_loop()))
            await over.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)
        finally:
            await server.stop(asyncio.Event())
            gc.unfreeze()  # a server freezes what it has loaded

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    try:
        address, loop = ready.result(START_TIMEOUT)
        try:
            yield address
        finally:
            loop.call_soon_threadsafe(over.set)
    finally:
        thread.join(START_TIMEOUT)
