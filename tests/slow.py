"""What `make test-quick` leaves out: what starts servers of its own, breaks them, or waits; what `make test` leaves
out; and who runs beside whom.

Every folder has something left in it, or its claims would only be tried by whoever runs the whole suite.
"""

from __future__ import annotations

SLOW = (
    "cache/test_shared.py",
    "client/test_local.py",
    "client/test_processes.py",
    "commands/test_server_commands.py",
    "commands/test_start.py",
    "engine/test_lifeline.py",
    "faults/test_leaving.py::test_a_storm",
    "faults/test_leaving.py::test_deadlines",
    "faults/test_leaving.py::test_tiny_deadlines",
    "faults/test_load.py",
    "faults/test_replicas.py",
    "faults/test_wire.py",
    "faults/test_worker.py",
    "hazards/test_hazards.py::test_threads_that_ask_a_server_get_their_own_activations",
    "loadtests/test_connect.py",
    "loadtests/test_locust.py",
    "models/test_offline.py",
    "models/test_served.py",
    "models/test_shapes.py",
    "parity/test_same_answer.py::test_among_fifteen_others",
    "parity/test_same_answer.py::test_from_kept_activations",
    "security/test_commands.py",
    "security/test_limits.py",
    "security/test_logs.py",
    "security/test_tls.py",
    "service/test_cache.py",
    "service/test_concurrency.py",
    "service/test_lifecycle.py",
)
"""Files and tests, by how their names begin below `tests/`. Others are marked where they stand."""

LONG = (
    "engine/test_distributed.py",
    "faults/test_attacks.py",
    "faults/test_leaving.py::test_a_storm",
    "faults/test_load.py::test_a_thousand",
    "faults/test_replicas.py::test_what_one_replica_answered",
    "faults/test_replicas.py::test_whatever_becomes_of_the_valkey",
    "faults/test_worker.py::test_a_worker_that_hangs",
    "loadtests/test_bench.py::test_all_sides",
    "loadtests/test_connect.py",
    "loadtests/test_locust.py",
    "service/test_concurrency.py::test_sixteen_threads_get_the_same_answers_from_the_caches",
    "service/test_lifecycle.py::test_more_calls_at_once",
)
"""What `make test` skips by name and `make test-long` runs: three minutes for crowds of callers, Ray and the tools of
`loadtests/`, of which the rest of the suite tries the parts."""

FIRST = ("client", "records", "web", "commands", "engine")
"""Long folders; small ones after them even out. The second needs no index of the demo, which the first server builds
meanwhile: once, for both processes."""
LAST = ("sources", "models", "service", "faults")
"""Those that say how long something takes at most, and the longest, whose waits are bounded: in CI the tests in a
browser are over by then."""
BESIDE = {"hazards": "service", "parity": "service"}
"""Folders whose tests run in the process of another, whose servers they ask."""


def is_slow(where: str) -> bool:
    """Whether a test, by its name below `tests/`, is left out."""
    return where.startswith(SLOW)


def is_long(where: str) -> bool:
    """The same of `make test`."""
    return where.startswith(LONG)


def turn(where: str) -> int:
    """Place of its folder, or of the one whose process runs it, in the order of the run."""
    folder = process(where.partition("/")[0])
    if folder in LAST:
        return len(FIRST) + 1 + LAST.index(folder)
    return FIRST.index(folder) if folder in FIRST else len(FIRST)


def process(folder: str) -> str:
    """The folder whose process runs the tests of this one."""
    return BESIDE.get(folder, folder)
