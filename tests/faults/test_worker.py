"""Requests that fail, a worker that dies, hangs or runs out of memory: what it costs the others, and for how long."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from grpc import StatusCode

import saeserve
from saeserve_server.config import Config
from saeserve_server.engine.process import ProcessEngine, WorkerLost
from saeserve_server.engine.work import Batch, BatchDone, Spent
from saeserve_server.errors import Unavailable
from tests.faults.conftest import NO_CACHES
from tests.faults.faulty_server import CRASH, HOLD, POISON
from tests.faults.harness import (
    FEATURES,
    Faulty,
    Question,
    alone,
    check_all,
    encodes,
    end_of,
    ends_of,
    faulty,
    healthy_after,
    hold_dense,
    marked,
    refusals,
    searches,
)
from tests.service.servers import NOT_SERVING, until
from tests.service.wire import connect, passages

pytestmark = pytest.mark.slow

FAILED = ("a request failed", "a call failed")
DIED = "the worker died"
TIMEOUT = 120.0


# Requests that fail


def test_poison_fails_alone_whatever_its_batch(own: Faulty) -> None:
    chance = random.Random(2)
    with healthy_after(own, *FAILED) as stub:
        splits = own.value("batch_splits_total")
        for round_, (count, poisons) in enumerate([(30, 1), (30, 3), (1, 1), (200, 8)]):
            questions = searches(240)[round_ : round_ + count]
            # Half of the poison asks for the same.
            for bad in marked(POISON, poisons // 2) + marked(POISON, poisons - poisons // 2):
                questions.insert(chance.randrange(len(questions) + 1), bad)
            with own.closed(HOLD):
                first = marked(HOLD, 1)[0].send(stub)
                until(lambda: own.stands_still(HOLD), "the worker is occupied")
                calls = [question.send(stub) for question in questions]
                own.await_value("queue_size", count + poisons - poisons // 2)
            ends = ends_of(questions, calls)
            first.result(60)
            for question, end in zip(questions, ends, strict=True):
                assert end.code is (StatusCode.INTERNAL if POISON in str(question) else StatusCode.OK)
            assert [(one.reason, one.retry_after) for one in refusals(ends)] == [("INTERNAL", None)] * poisons
        assert own.value("batch_splits_total") > splits


# Memory that runs out


def test_batches_that_run_out_of_memory_are_run_in_parts_and_nobody_is_blamed(own: Faulty) -> None:
    questions = [*searches(80), *encodes(80)]
    most = 150
    with healthy_after(own) as stub:
        before = own.value("out_of_memory_total")
        with own.short_of_memory(most):
            assert {end.code for end in burst(own, stub, questions)} == {StatusCode.OK}
            assert own.value("out_of_memory_total") > before
            known = len(own.runs())
            assert {end.code for end in burst(own, stub, questions)} == {StatusCode.OK}
            # It has learnt: hardly any run is too large any more.
            again = own.runs()[known:]
            assert sum(tokens > most for tokens in again) <= len(again) // 4
        # Once there is memory again, what is run at a time doubles after every few batches.
        known = len(own.runs())
        for question in itertools.islice(itertools.cycle(searches(5)), 80):
            question.send(stub).result(60)
        assert {end.code for end in burst(own, stub, questions)} == {StatusCode.OK}
        assert max(own.runs()[known:]) > 2 * most
    assert not [line for line in own.log() if line["level"] == "error" and "memory" in str(line)]


def burst(own: Faulty, stub: Any, questions: list[Question]) -> list[Any]:
    """How the calls end, all of them sent while the worker is occupied."""
    with own.closed(HOLD):
        first = marked(HOLD, 1)[0].send(stub)
        until(lambda: own.stands_still(HOLD), "the worker is occupied")
        calls = [question.send(stub) for question in questions]
        until(lambda: own.value("queue_size") == len(questions), "all are waiting")
    first.result(60)
    return ends_of(questions, calls)


# A worker that dies


def test_no_call_is_lost_when_the_worker_is_killed_under_load(own: Faulty) -> None:
    """A stream goes on beside the calls. Deaths while a batch stands still are those of the next test."""
    texts = passages(100)
    with (
        healthy_after(own, DIED, replaced=True),
        saeserve.Client(own.target, timeout=TIMEOUT) as client,
        ThreadPoolExecutor(48) as threads,
        connect(own.target) as channel,
    ):
        worker, restarts = own.worker(), own.value("worker_restarts_total")
        questions = [*searches(240)[::3], *encodes(240)[::3]]
        passes = own.value("forward_passes_total")
        streamed = threads.submit(stream, client, texts)
        answers = [threads.submit(question.ask, client) for question in questions]
        own.await_more("forward_passes_total", passes + 10)
        os.kill(worker, signal.SIGKILL)
        until(lambda: own.health(channel) == NOT_SERVING, "it is not ready")
        check_all([(question, answer.result(TIMEOUT)) for question, answer in zip(questions, answers, strict=True)])
        for text, encoded in zip(texts, streamed.result(TIMEOUT), strict=True):
            hold_dense(encoded, alone(Question("encode", (text,), {"features": FEATURES})).dense, text)
        assert own.value("worker_restarts_total") == restarts + 1
        assert own.worker() != worker


def stream(client: saeserve.Client, texts: list[str]) -> list[Any]:
    return [answer.unwrap().dense for answer in client.encode_stream(texts, features=FEATURES, timeout=TIMEOUT)]


@pytest.fixture(scope="module")
def fragile(demo: saeserve.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """A server whose worker dies and hangs of what it is asked."""
    with faulty(tmp_path_factory.mktemp("fragile"), batch_timeout=5, **NO_CACHES) as one:
        yield one


def test_a_request_that_crashes_the_worker_is_found_and_refused_and_the_others_are_answered(fragile: Faulty) -> None:
    innocent, crash = searches(24), Question("search", (f"{CRASH} of the worker",))
    with (
        healthy_after(fragile, DIED, *FAILED, replaced=True) as stub,
        saeserve.Client(fragile.target, timeout=TIMEOUT) as client,
        ThreadPoolExecutor(48) as threads,
    ):
        with fragile.closed(HOLD):
            first = threads.submit(marked(HOLD, 1)[0].ask, client)
            until(lambda: fragile.stands_still(HOLD), "the worker is occupied")
            answers = [threads.submit(question.ask, client) for question in innocent]
            guilty = threads.submit(crash.ask, client)
            until(lambda: fragile.value("queue_size") == len(innocent) + 1, "all are waiting")
        with pytest.raises(saeserve.Internal) as caught:
            guilty.result(TIMEOUT)
        assert caught.value.reason == "REQUEST_CRASHED"
        check_all([(question, answer.result(TIMEOUT)) for question, answer in zip(innocent, answers, strict=True)])
        first.result(TIMEOUT)

        # Known now: refused at once, and nothing dies of it any more.
        until(lambda: fragile.value("ready") == 1, "the worker is back")
        assert fragile.value("worker_restarts_total") == 2
        worker = fragile.worker()
        for _ in range(3):
            end = end_of(crash, crash.send(stub))
            assert end.refusal is not None
            assert (end.code, end.refusal.reason) == (StatusCode.INTERNAL, "REQUEST_CRASHED")
        assert fragile.value("worker_restarts_total") == 2
        assert fragile.worker() == worker


# A worker that hangs


def test_a_worker_that_hangs_is_replaced(fragile: Faulty) -> None:
    waiting = searches(8)
    with healthy_after(fragile, DIED, "the worker has not answered", replaced=True) as stub:
        worker, restarts = fragile.worker(), fragile.value("worker_restarts_total")
        with fragile.closed(HOLD):
            hanging = Question("search", (f"{HOLD} for good",))
            call = hanging.send(stub)
            until(lambda: fragile.stands_still(HOLD), "it hangs")
            calls = [question.send(stub) for question in waiting]
            ends = [end_of(hanging, call), *ends_of(waiting, calls)]
        for end in ends:
            assert end.refusal is not None
            assert (end.code, end.refusal.reason) == (StatusCode.UNAVAILABLE, "WORKER_RESTARTING")
            assert end.refusal.retry_after
        until(
            lambda: fragile.value("ready") == 1 and fragile.value("worker_restarts_total") > restarts, "it is replaced"
        )
        assert fragile.worker() != worker
        # The hanging request too: the gate is open now.
        questions = [hanging, *waiting]
        calls = [question.send(stub) for question in questions]
        ends = [end_of(question, call) for question, call in zip(questions, calls, strict=True)]
        assert {end.code for end in ends} == {StatusCode.OK}


def test_a_batch_that_follows_one_that_took_too_long_gets_no_answer_of_it_and_no_blame() -> None:
    """The first answer may be in the pipe when its time is over; and those who waited did not do in the worker."""

    class Silent:
        """A worker that says nothing by itself."""

        def send(self, message: object) -> None: ...
        def kill(self) -> None: ...

    async def story() -> None:
        engine = ProcessEngine(Config(batch_timeout=0.05), lambda ready: None, lambda kernels: None)
        engine._link, engine._up = Silent(), True
        with pytest.raises(WorkerLost):
            await engine.run(Batch(0, (), ()))
        following = asyncio.ensure_future(engine.run(Batch(1, (), ())))
        await asyncio.sleep(0)
        engine._on_message(BatchDone((), Spent()))  # the answer to the first
        with pytest.raises(Unavailable) as caught:
            await following
        assert not isinstance(caught.value, WorkerLost)

    asyncio.run(story())
