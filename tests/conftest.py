"""Servers that many tests ask: one on the demo, one on random SAEs of every format. Real processes on free ports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import saeserve

DEVICE = os.environ.get("SAESERVE_TEST_DEVICE", "cpu")
START_TIMEOUT = 240.0


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own: the demo's index is built in it once, by the first server that needs it."""
    folder = tmp_path_factory.mktemp("cache")
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
def zoo_config(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """Configuration and reference of random SAEs of every format."""
    from tests.zoo import build_zoo

    return build_zoo(tmp_path_factory.mktemp("zoo"))
