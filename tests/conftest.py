"""Servers that many tests ask: one on the demo, one on random SAEs of every format. Real processes on free ports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import saeserve
from tests import slow

DEVICE = os.environ.get("SAESERVE_TEST_DEVICE", "cpu")
START_TIMEOUT = 240.0
LONG = os.environ.get("SAESERVE_TEST_LONG") == "1"
CACHE = os.environ.get("SAESERVE_TEST_CACHE")
"""A cache folder that several runs share, each on the same code: the index of the demo is built once for all."""

if "PYTEST_XDIST_WORKER" in os.environ:  # processes that each take all cores would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The machine may be busy: no test of a property fails by the clock.
settings.register_profile("saeserve", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("saeserve")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow, and puts folders in order."""
    for item in items:
        where = item.path.relative_to(Path(__file__).parent).as_posix() + "::" + item.nodeid.partition("::")[2]
        if slow.is_slow(where):
            item.add_marker("slow")
        if slow.is_long(where):
            item.add_marker("long")
            if not LONG:
                item.add_marker(pytest.mark.skip(reason="takes long: make test-long"))
    items.sort(key=lambda item: slow.turn(item.path.relative_to(Path(__file__).parent).as_posix()))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps a folder's tests in one process, where they share servers."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return slow.process(nodeid.split("/")[1])

    return ByFolder(config, log)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own: the demo's index is built in it once, by the first server that needs it."""
    base = tmp_path_factory.getbasetemp()
    own = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"  # one for all processes
    folder = Path(CACHE) if CACHE else own
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        for name in [name for name in os.environ if name.startswith("SAESERVE_") and name != "SAESERVE_TEST_DEVICE"]:
            patch.delenv(name)
        yield folder


@pytest.fixture(scope="session")
def demo(cache_folder: Path) -> Iterator[saeserve.Client]:
    """A client of a server on the demo model with its index."""
    with saeserve.local(model="demo", device=DEVICE, timeout=START_TIMEOUT) as client:
        yield client


@pytest.fixture(scope="session")
def uncached(cache_folder: Path) -> Iterator[saeserve.Client]:
    """A client of a server like the demo's that computes every answer anew."""
    settings = {"cache_bytes": 0, "inner_cache_bytes": 0}
    with saeserve.local(model="demo", device=DEVICE, timeout=START_TIMEOUT, **settings) as client:
        yield client


@pytest.fixture(scope="session")
def zoo_config(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """Configuration and reference of random SAEs of every format."""
    from tests.zoo import build_zoo

    return build_zoo(tmp_path_factory.mktemp("zoo"))
