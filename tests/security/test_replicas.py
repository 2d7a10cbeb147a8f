"""Two replicas behind one client, as real processes: one loads, is ready, and is killed; no call fails."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

import saeserve
from tests.conftest import START_TIMEOUT
from tests.security.conftest import Guarded
from tests.service.servers import Server, until

SEARCHES = 'saeserve_requests_total{code="OK",method="Search",reason=""}'


@pytest.mark.slow
def test_a_replica_that_loads_gets_no_calls_and_one_that_dies_costs_none(guarded: Guarded, tmp_path: Path) -> None:
    other = Server(tmp_path, tls_cert=guarded.cert, tls_key=guarded.key, auth_token_file=guarded.token_file)
    try:
        targets = [guarded.target, other.await_listening()]
        with saeserve.Client(targets, ca_cert=guarded.keys.ca, token_file=guarded.token_file, timeout=20) as client:
            for _ in range(20):  # by now it loads
                assert client.search("red").results
            until(lambda: any(line["message"] == "ready" for line in other.log()), "it is ready", START_TIMEOUT)
            assert not [line for line in other.log() if line.get("reason") == "LOADING"]

            def both_answer() -> bool:
                client.search("red")
                return other.metrics().get(SEARCHES, 0) > 0

            until(both_answer, "it gets calls")
            other.process.send_signal(signal.SIGKILL)
            began = time.monotonic()
            for _ in range(40):
                assert client.search("red").results
            assert time.monotonic() - began < 15
    finally:
        other.end()
