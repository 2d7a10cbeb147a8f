"""Two servers behind one client, with one Valkey between them: either may go, and so may the Valkey."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import grpc
import pytest
from grpc import StatusCode

import saeserve
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.cache.valkey import Valkey, free_port
from tests.faults.conftest import NO_CACHES
from tests.faults.faulty_server import HOLD
from tests.faults.harness import (
    Faulty,
    Question,
    check_all,
    encodes,
    ends_of,
    healthy_after,
    hold_idle,
    marked,
    searches,
)
from tests.service.servers import is_alive, until
from tests.service.wire import connect, stub_of

pytestmark = pytest.mark.slow

TOKENIZED = 'requests_total{code="OK",method="Tokenize",reason=""}'
SLOWEST = 10.0
"""Seconds that no answer may take, whatever the Valkey does, on a machine that is busy with other things."""


class Replicas:
    """Two servers, each on a port of its own, which a new one takes when the old one has gone."""

    def __init__(self, folder: Path, valkey: Valkey) -> None:
        self._folder = folder
        self._valkey = valkey
        self._lives = itertools.count()
        self.ports = [free_port() for _ in range(2)]
        self.targets = [f"127.0.0.1:{port}" for port in self.ports]
        self._servers: list[Faulty | None] = [None, None]

    def __getitem__(self, place: int) -> Faulty:
        one = self._servers[place]
        assert one is not None
        return one

    def start(self, *places: int) -> None:
        """Starts those that do not run, side by side, and waits until they are ready."""
        for place in places:
            one = self._servers[place]
            if one is None or one.process.poll() is not None:
                self._servers[place] = Faulty(
                    self._folder / str(next(self._lives)),
                    bind=self.targets[place],
                    cache_url=self._valkey.url,
                    drain_delay=1,
                    grace=60,
                    **NO_CACHES,
                )
        for place in places:
            with connect(self[place].await_listening()) as channel:
                self[place].await_ready(channel)

    def end(self) -> None:
        for one in self._servers:
            if one is not None:
                one.end()


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with Valkey() as one:
        yield one


@pytest.fixture(scope="module")
def replicas(demo: saeserve.Client, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    both = Replicas(tmp_path_factory.mktemp("replicas"), valkey)
    try:
        yield both
    finally:
        both.end()


class Load:
    """Threads that ask one question after another until they are told to stop."""

    def __init__(self, client: saeserve.Client, questions: list[Question], threads: int) -> None:
        self._client = client
        self._questions = itertools.cycle(questions)
        self._lock = threading.Lock()
        self._over = False
        self.answered: list[tuple[Question, object]] = []
        self.slowest = 0.0
        self._pool = ThreadPoolExecutor(threads)
        self._asking = [self._pool.submit(self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        while not self._over:
            with self._lock:
                question = next(self._questions)
            began = time.monotonic()
            answer = question.ask(self._client)
            with self._lock:
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.answered.append((question, answer))

    def go_on(self, calls: int = 60) -> None:
        """Returns once so many more are answered. Fails if a call has failed."""
        until_count = len(self.answered) + calls
        until(lambda: len(self.answered) >= until_count or self._failed(), f"{calls} more answers")
        assert not self._failed(), [one.exception() for one in self._asking if one.done()]

    def _failed(self) -> bool:
        return any(one.done() and one.exception() is not None for one in self._asking)

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._pool.shutdown()
        for one in self._asking:
            one.result()  # raises what a call raised
        if error is None:
            check_all(self.answered)


# The Valkey


def test_what_one_replica_answered_the_other_serves_with_the_same_bytes(replicas: Replicas) -> None:
    replicas.start(0, 1)
    questions = [*searches(240)[::12], *encodes(10)]
    with healthy_after(replicas[0]) as one, healthy_after(replicas[1]) as other:
        hits = replicas[1].value('cache_hits_total{tier="shared"}')
        first = [question.send(one).result(60) for question in questions]
        until(lambda: replicas[1].value("shared_cache_open") == 0, "in use")
        for question, answer in zip(questions, first, strict=True):
            # Writes are made behind the answer.
            until(lambda: is_shared(question, other), "it is shared")  # noqa: B023
            again = question.send(other).result(60)
            assert again.call_info.batch_size == 0
            answer.ClearField("call_info")
            again.ClearField("call_info")
            assert again.SerializeToString(deterministic=True) == answer.SerializeToString(deterministic=True)
        assert replicas[1].value('cache_hits_total{tier="shared"}') - hits >= len(questions)


def is_shared(question: Question, stub: object) -> bool:
    return question.send(stub).result(60).call_info.cache == types.CACHE_TIER_SHARED


def test_whatever_becomes_of_the_valkey_answers_are_right_and_in_time(replicas: Replicas, valkey: Valkey) -> None:
    replicas.start(0, 1)
    own = replicas[0]
    questions = [*searches(240)[::6], *encodes(20)]

    def recovers() -> None:
        hits = own.value('cache_hits_total{tier="shared"}')
        until(lambda: own.value("shared_cache_open") == 0, "it is asked again")
        until(lambda: own.value('cache_hits_total{tier="shared"}') > hits + 20, "and of use")
        load.go_on()

    with (
        healthy_after(own),
        saeserve.Client(own.target) as client,
        Load(client, questions, 6) as load,
    ):
        load.go_on(2 * len(questions))

        faults = own.value('shared_cache_faults_total{kind="error"}')
        valkey.kill()
        until(lambda: own.value("shared_cache_open") == 1, "it is left alone")
        load.go_on()
        assert own.value('shared_cache_faults_total{kind="error"}') > faults
        assert own.value('shared_cache_faults_total{kind="open"}') > 0
        valkey.start()
        recovers()

        faults = own.value('shared_cache_faults_total{kind="timeout"}')
        valkey.pause()
        until(lambda: own.value("shared_cache_open") == 1, "it is left alone")
        load.go_on()
        assert own.value('shared_cache_faults_total{kind="timeout"}') > faults
        valkey.resume()
        recovers()

        with valkey.client() as plain:
            misses = own.value('cache_misses_total{tier="shared"}')
            plain.flushall()
            until(lambda: own.value('cache_misses_total{tier="shared"}') >= misses + 10, "it is empty")
            recovers()

            faults = own.value('shared_cache_faults_total{kind="invalid"}')
            keys = sorted(plain.keys("saeserve:*"))
            assert len(keys) >= 20
            whole = plain.get(keys[1])
            for place, key in enumerate(keys):
                plain.set(
                    key,
                    [b"", b"garbage", os.urandom(500), whole, whole[:-1], whole[:40] + b"x" + whole[41:]][place % 6],
                )
            plain.delete(keys[7])
            plain.lpush(keys[7], "a list")
            until(lambda: own.value('shared_cache_faults_total{kind="invalid"}') > faults + 10, "garbage is found")
            recovers()
    print(f"slowest: {load.slowest:.2f} s of {len(load.answered)}")
    assert load.slowest < SLOWEST


# Either of them


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_call_is_lost_while_one_of_two_serves(replicas: Replicas, how: signal.Signals) -> None:
    """Killed, or told to end; in the first case another takes its place, and is called again."""
    replicas.start(0, 1)
    questions = [*searches(240)[::4], *encodes(60)]
    with (
        healthy_after(replicas[1]),
        saeserve.Client(replicas.targets, timeout=60) as client,
        Load(client, questions, 8) as load,
    ):
        load.go_on()
        assert calls(replicas[0]) > 10
        assert calls(replicas[1]) > 10
        worker = replicas[0].worker()
        replicas[0].process.send_signal(how)
        assert replicas[0].process.wait(60) == (-how if how == signal.SIGKILL else 0)
        load.go_on()
        until(lambda: not is_alive(worker), "its worker has ended")
        if how == signal.SIGKILL:
            replicas.start(0)  # while it loads it gets no calls
            assert not [line for line in replicas[0].log() if line.get("reason") == "LOADING"]
            until(lambda: calls(replicas[0]) > 10, "it is called again")
            load.go_on()
    hold_idle(replicas[1])


def calls(own: Faulty) -> float:
    """Searches that it has answered."""
    return own.metrics().get('saeserve_requests_total{code="OK",method="Search",reason=""}', 0)


# The end of a server


def test_sigterm_under_load_ends_in_order(attacked: Faulty) -> None:
    """What is in flight is answered, also while the worker stands still; who calls on is told that the server is gone.

    With UNAVAILABLE, also on connections that there are: it is retried, elsewhere or later. CANCELLED would be lost.
    """
    own, lines = attacked, len(attacked.log())
    tokenized = own.value(TOKENIZED)
    first = marked(HOLD, 4)[3]
    # Which nobody has asked yet: none of them is in a cache.
    running = [Question("search", (f"At the end: {one.arguments[0]}",), one.options) for one in searches(40)]
    running.insert(0, first)

    def call_on() -> tuple[StatusCode, str]:
        with connect(own.target, **{"grpc.use_local_subchannel_pool": 1}) as channel:
            while (end := outcome(Question("tokenize", ("red",)), stub_of(channel)))[0] is StatusCode.OK:
                pass
            return end

    with connect(own.target) as channel, ThreadPoolExecutor(8) as threads:
        stub = stub_of(channel)
        with own.closed(HOLD):
            calls = [first.send(stub)]
            until(lambda: own.stands_still(HOLD), "the worker is occupied")
            calls += [question.send(stub) for question in running[1:]]
            until(lambda: own.value("queue_size") == len(running) - 1, "all are waiting")
            callers = [threads.submit(call_on) for _ in range(8)]
            until(lambda: own.value(TOKENIZED) > tokenized + 50, "others call")
            own.process.send_signal(signal.SIGTERM)
            ends = [caller.result(60) for caller in callers]
            assert own.process.poll() is None
        assert {end.code for end in ends_of(running, calls)} == {StatusCode.OK}
    assert own.process.wait(60) == 0
    assert not [line for line in own.log()[lines:] if line["level"] == "error"]
    assert {code for code, _ in ends} == {StatusCode.UNAVAILABLE}, ends


def outcome(question: Question, stub: FeatureServiceStub) -> tuple[StatusCode, str]:
    """How a call ends, also where no server is left to say so."""
    try:
        question.send(stub).result(60)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return StatusCode.OK, ""


def test_a_second_sigterm_ends_a_drain_at_once(replicas: Replicas) -> None:
    replicas.start(1)
    own = replicas[1]
    worker = own.worker()
    with connect(own.target) as channel, own.closed(HOLD):
        question = marked(HOLD, 3)[2]
        call = question.send(stub_of(channel))
        until(lambda: own.stands_still(HOLD), "the worker is occupied")
        own.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(own.target), "it drains")
        began = time.monotonic()
        own.process.send_signal(signal.SIGTERM)
        assert own.process.wait(60) == 143
        took = time.monotonic() - began
        assert took < 20, took  # of the minute that the call would have had
        with pytest.raises(grpc.RpcError) as caught:
            call.result(60)
        assert caught.value.code() in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
    until(lambda: not is_alive(worker), "the worker has ended")
    assert not own.port_file.exists()
    assert not [line for line in own.log() if line["level"] == "error"]


def refuses(target: str) -> bool:
    """Whether a new connection is of no use."""
    with connect(target, **{"grpc.use_local_subchannel_pool": 1}) as channel:
        try:
            Question("tokenize", ("red",)).send(stub_of(channel), timeout=10).result(20)
        except grpc.RpcError as error:
            return error.code() is StatusCode.UNAVAILABLE
        return False
