"""Whatever one caller sends, others are answered: what the front end holds is bounded, and who is refused is told when
to come again. What can be counted is asserted; the times of the same attacks stand in server/docs/load.md.

Several of one kind run side by side, since all of them come from one caller. ATTACK_SECONDS sets how long each takes.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from loadtests import connect
from loadtests.attacks.stand import Report, Stand, attack
from loadtests.processes import Address
from saeserve.v1 import feature_service_pb2 as service
from tests.answers import Tally
from tests.faults.faulty_server import HOLD, POISON
from tests.faults.harness import Faulty, Question, alone, check, encodes, ends_of, healthy_after, marked, searches
from tests.service.servers import PATIENCE, until
from tests.service.wire import connect as open_channel
from tests.service.wire import passages, stub_of

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("ATTACK_SECONDS", "3"))
STAND = Stand(seconds=SECONDS, idle=0.5, after=0.5, rate=3, uncached=1)
MEMORY = ("watches", "watches-politely", "unread", "unread-streams")
WORK = ("large-requests", "long-texts")
GAUGES = ("queue_size", "queue_load_ratio", "requests_in_flight", "streams_in_flight", "answer_bytes")
FRONT = ("front_queue_size", "front_load_ratio")
CALLERS = 400
FAILED = ("a call failed", "a request failed")
"""What front end and worker log, a line each, about a computation that fails."""


def test_who_opens_much_and_reads_nothing(attacked: Faulty) -> None:
    with bounded(attacked):
        reports = beset(attacked, *MEMORY)
    refused = Counter[str]()
    for report in reports.values():
        refused.update({verdict: end.calls for verdict, end in report.ends.by_verdict.items()})
    assert refused["RESOURCE_EXHAUSTED TOO_MANY_WATCHES"]
    assert refused["RESOURCE_EXHAUSTED ANSWERS_UNREAD"]
    assert max(report.gauges["answer_bytes"] for report in reports.values()) > 2**20  # something was held


def test_who_asks_for_much_work(attacked: Faulty) -> None:
    with bounded(attacked):
        reports = beset(attacked, *WORK)
    large = reports["large-requests"].ends.by_verdict
    assert {verdict.split()[0] for verdict in large} == {"INVALID_ARGUMENT"}


def test_who_asks_for_what_takes_long_to_rank_has_his_turns(attacked: Faulty) -> None:
    with bounded(attacked):
        (report,) = beset(attacked, "token-by-token", seconds=2 * SECONDS).values()  # an answer is a second of a core
    assert report.ends.by_verdict["OK"].calls


def test_who_asks_for_what_fails(attacked: Faulty) -> None:
    with bounded(attacked, *FAILED):
        lines, runs = len(failures(attacked)), len(attacked.runs())
        (report,) = beset(attacked, "shared-failure").values()
    failed = report.ends.by_verdict["INTERNAL INTERNAL"].calls
    assert failed >= CALLERS / 4
    assert 1 <= len(failures(attacked)) - lines <= len(attacked.runs()) - runs


def test_a_failure_that_hundreds_share_is_logged_once(attacked: Faulty) -> None:
    question = marked(POISON, 1)[0]
    with bounded(attacked, *FAILED):
        lines, before = len(failures(attacked)), attacked._log.stat().st_size
        joined = attacked.value("cache_joined_total")
        with connections(attacked) as stubs:
            with attacked.closed(HOLD):
                first = marked(HOLD, 1)[0].send(stubs[0])
                until(attacked.is_occupied, "the worker is occupied")
                calls = [question.send(stubs[place % len(stubs)]) for place in range(CALLERS)]
                until(lambda: attacked.value("cache_joined_total") - joined == CALLERS - 1, "all wait for one")
            ends = ends_of([question] * CALLERS, calls)
            first.result(PATIENCE)
    counts = Counter(end.refusal.reason if end.refusal else end.code.name for end in ends)
    assert counts == {"INTERNAL": CALLERS}
    assert len({end.refusal.request_id for end in ends if end.refusal}) == CALLERS
    (failure,) = failures(attacked)[lines:]
    assert "injected" in str(failure)
    assert attacked._log.stat().st_size - before < 1000 * CALLERS


# What holds under every attack


def beset(own: Faulty, *names: str, seconds: float = SECONDS) -> dict[str, Report]:
    """The attacks side by side, each with its bystander, and a witness who holds every answer against the right one."""
    address = Address(connect.Server(own.target), metrics_of(own), own.process.pid)
    bounds, stand = limits(own), replace(STAND, seconds=seconds)
    with ThreadPoolExecutor(len(names)) as threads:
        running = {name: threads.submit(attack, address, name, stand) for name in names}
        answered = witness(own, lambda: all(one.done() for one in running.values()))
        reports = {name: one.result() for name, one in running.items()}
    assert answered > SECONDS
    for report in reports.values():
        print(report.describe())
        assert report.ends.sent
        assert report.unanswered() == []
        for verdict, end in report.ends.by_verdict.items():
            if verdict.startswith("RESOURCE_EXHAUSTED"):
                assert end.with_delay == end.calls, verdict
        assert report.gauges["requests_in_flight"] <= bounds.max_calls
        assert report.gauges["answer_bytes"] <= bounds.answer_bytes
        assert report.gauges["front_load_ratio"] <= 1
        assert report.gauges["queue_load_ratio"] <= 1
        assert 0 < report.memory_peak < bounds.most_memory_bytes
    return reports


def witness(own: Faulty, over: Callable[[], bool]) -> int:
    """Asks one question after another, without retries, until it is over; how many were answered, all of them right."""
    questions = [*searches(8), *encodes(3), *(Question("tokenize", (text,)) for text in passages(3))]
    for question in questions:
        alone(question)
    tally, answered = Tally(texts=len(questions)), 0
    with open_channel(own.target, **{"grpc.use_local_subchannel_pool": 1}) as channel:
        stub = stub_of(channel)
        for question in itertools.cycle(questions):
            check(question, question.read(question.send(stub, client="witness").result(PATIENCE)), own, tally)
            answered += 1
            if over():
                break
    tally.exceptions = sorted(set(tally.exceptions))
    tally.check()
    return answered


@contextmanager
def bounded(own: Faulty, *expected: str) -> Iterator[None]:
    """Meanwhile nothing keeps the event loop for long; afterwards nothing is left in the server, which goes on."""
    before = long_pieces(own)
    with healthy_after(own, *expected):
        yield
    for name in (*GAUGES, *FRONT):
        own.await_value(name, 0)
    assert long_pieces(own) == before


def long_pieces(own: Faulty) -> float:
    """Pieces of work of more than 100 ms of a core that the event loop has done by itself."""
    name = "front_work_duration_seconds"
    return own.value(f'{name}_count{{where="loop"}}') - own.value(f'{name}_bucket{{le="0.1",where="loop"}}')


def failures(own: Faulty) -> list[dict[str, object]]:
    """Log lines of the front end about faults of the server."""
    return [line for line in own.log() if str(line["message"]).startswith(FAILED[0])]


def limits(own: Faulty) -> service.Limits:
    """What it publishes."""
    with open_channel(own.target) as channel:
        return stub_of(channel).GetServerInfo(service.GetServerInfoRequest(), timeout=PATIENCE).limits


def metrics_of(own: Faulty) -> str:
    """HOST:PORT of its metrics."""
    lines = (str(line["message"]) for line in own.log())
    return next(line.removeprefix("metrics on ") for line in lines if line.startswith("metrics on "))


@contextmanager
def connections(own: Faulty) -> Iterator[list[Any]]:
    """Stubs on as many connections as the callers need to be there all at once."""
    with ExitStack() as stack:
        options = {"grpc.use_local_subchannel_pool": 1}
        yield [stub_of(stack.enter_context(open_channel(own.target, **options))) for _ in range(CALLERS // 50)]
