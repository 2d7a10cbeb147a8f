"""The server that most fault runs share, and the undisturbed one that knows the right answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import saeserve
from tests.faults.harness import Faulty, answer_with, faulty

QUEUE_ITEMS = 256
NO_CACHES = {"cache_bytes": 0, "inner_cache_bytes": 0}
"""So that every question is work."""


@pytest.fixture(autouse=True)
def right_answers(demo: saeserve.Client) -> None:
    answer_with(demo)


@pytest.fixture(scope="session")
def own(demo: saeserve.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """A server that fails on request, with a queue that is soon full and without caches; a channel may flood it, and
    who stalls is ended soon."""
    limits = {"queue_items": QUEUE_ITEMS, "max_concurrent_streams": 4096, "stall_timeout": 5}
    with faulty(tmp_path_factory.mktemp("faulty"), **limits, **NO_CACHES) as one:
        yield one


@pytest.fixture(scope="session")
def attacked(demo: saeserve.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """The same with its caches, and budgets small enough to be exhausted in seconds. After the attacks test_replicas
    ends it, in order."""
    limits = {
        "drain_delay": 1,
        "grace": 60,
        "max_calls": 512,
        "max_connections": 500,
        "max_answer_bytes": 3 * 2**19,
        "answer_bytes": 64 * 2**20,
        "queue_bytes": 64 * 2**20,
        "cache_bytes": 16 * 2**20,
        "inner_cache_bytes": 64 * 2**20,
    }
    with faulty(tmp_path_factory.mktemp("attacked"), **limits) as one:
        yield one
