"""What a worker leaves behind, and what it does when its front end goes."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from saeserve_server.api.server import FeatureServer
from saeserve_server.config import load_config
from saeserve_server.engine import process, worker
from saeserve_server.engine.build import build_runner
from saeserve_server.engine.link import Link
from saeserve_server.engine.work import Ready
from saeserve_server.records.builder import build_index
from saeserve_server.text.tokenizer import Tokenizer
from tests.engine import light
from tests.engine.light import spawned
from tests.service.servers import descriptors, is_alive, until

CONFIG = load_config(None, {"model": "synthetic:tiny", "bind": "127.0.0.1:0", "metrics_bind": "none"}, {})
ROOT = Path(__file__).parent.parent.parent
DEATHS = 5


def held() -> tuple[int, int, int]:
    """Descriptors, threads and children of this process. The event loop's own pool grows as it likes."""
    threads = [one for one in threading.enumerate() if not one.name.startswith("asyncio_")]
    return descriptors(os.getpid()), len(threads), len(psutil.Process().children())


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What is left over stays left over."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_a_worker_that_has_ended_leaves_no_descriptor_thread_process_or_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "main", light.busy)

    async def life(end: Callable[[Link], None]) -> weakref.ref[Link]:
        link, _ = await spawned(CONFIG)
        end(link)
        await link.end(0.0)
        assert link.exit_code in (0, -signal.SIGKILL)  # it may see the pipe end before it is killed
        await link.end(0.0)  # as often as one likes
        link.kill()
        return weakref.ref(link)

    async def story() -> None:
        await life(Link.kill)  # the first brings multiprocessing's own process along
        before = held()
        for end in (Link.kill, lambda link: None):
            gone = await life(end)
            await asyncio.sleep(0.1)  # the thread that closed it lets go
            assert gone() is None
        assert held() == before

    asyncio.run(story())


@pytest.mark.usefixtures("no_collection")
def test_what_cannot_be_started_leaves_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", fails)

    async def story() -> None:
        before = held()
        for _ in range(3):
            with pytest.raises(OSError, match="Too many open files"):
                await Link.start(CONFIG, print)
        until(lambda: held() == before, "all is as before", 5)

    asyncio.run(story())


def test_deaths_of_the_worker_do_not_add_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an index: dozens of mapped files, tokenizer, names and facts, which a new worker does not change."""
    runner, _ = build_runner(CONFIG, with_index=False)
    model = runner.catalog.model
    tokenizer = Tokenizer(model.tokenizer_json, model.bos_id)
    build_index(runner, tokenizer.ids, ["My favorite color is red.", "Blue is another."], tmp_path / "index")
    ready = Ready(runner.catalog, tmp_path / "index")
    monkeypatch.setattr(worker, "main", light.idle)
    monkeypatch.setattr(process, "FIRST_BACKOFF", 0.05)
    monkeypatch.setattr(process, "MOST_BACKOFF", 0.05)

    async def story() -> None:
        server = FeatureServer(CONFIG)
        on_message = server._engine._on_message
        monkeypatch.setattr(server._engine, "_on_message", lambda _: on_message(ready))
        await server.start(lambda address: None)
        serving, seen = server._servicer.serving, []
        try:
            for _ in range(1 + DEATHS):
                link = server._engine._link
                assert link is not None
                link.kill()
                while server._engine._link is link or not server._engine._up:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                seen.append((held(), psutil.Process().memory_info().rss))
        finally:
            hurry = asyncio.Event()
            hurry.set()
            await server.stop(hurry)
            gc.unfreeze()
        assert server._servicer.serving is serving
        assert len({counts for counts, _ in seen}) == 1
        assert seen[-1][1] - seen[0][1] < DEATHS * 2**20

    asyncio.run(story())


def test_a_worker_that_is_let_go_of_removes_what_it_has_half_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(light.BUILDING, str(tmp_path / "index"))
    monkeypatch.setattr(worker, "main", light.building)

    async def story() -> None:
        link, folder = await spawned(CONFIG)
        assert os.listdir(tmp_path) == [folder.name]  # noqa: PTH208
        await link.end(0.0)
        assert link.exit_code == 0

    asyncio.run(story())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the worker's own thread has to notice")
def test_a_worker_goes_with_a_killed_front_end_whatever_it_is_doing() -> None:
    front_end = textwrap.dedent("""
        import asyncio
        from tests.engine import light
        from saeserve_server.config import Config
        from saeserve_server.engine import worker

        async def story():
            worker.main = light.busy
            _, pid = await light.spawned(Config())
            print(pid, flush=True)
            await asyncio.sleep(60)

        asyncio.run(story())
    """)
    with subprocess.Popen([sys.executable, "-c", front_end], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        time.sleep(0.1)
        parent.kill()
    until(lambda: not is_alive(pid), "the worker has ended", 3)
