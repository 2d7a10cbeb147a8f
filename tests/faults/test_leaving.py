"""Callers who leave: cancelled, or past their deadline. What nobody waits for any more is not computed."""

from __future__ import annotations

import random
import threading
import time

import pytest
from grpc import StatusCode

from tests.faults.faulty_server import HOLD, LINGER, PAUSE
from tests.faults.harness import Faulty, Question, ends_of, healthy_after, marked, refusals, searches
from tests.service.servers import until

STAGES = ("queue", "forward", "encode")


def abandoned(own: Faulty) -> dict[str, float]:
    """How many were dropped so far, by stage."""
    return {stage: own.value(f'abandoned_total{{stage="{stage}"}}') for stage in STAGES}


def test_what_is_cancelled_in_the_queue_is_not_computed(own: Faulty) -> None:
    questions = searches(220)
    with healthy_after(own) as stub:
        before, passes = abandoned(own), own.value("forward_passes_total")
        with own.closed(HOLD):
            first = marked(HOLD, 1)[0].send(stub)
            until(own.is_occupied, "the worker is occupied")
            calls = [question.send(stub) for question in questions]
            until(lambda: own.value("queue_size") == 220, "all are waiting")
            for call in calls[10:]:
                call.cancel()
            until(lambda: own.value("queue_size") == 10, "those that were cancelled wait no more")
        first.result(60)
        ends = ends_of(questions, calls)
        assert [end.code for end in ends] == [StatusCode.OK] * 10 + [StatusCode.CANCELLED] * 210
        assert own.value("forward_passes_total") - passes == 11
        assert abandoned(own) == before | {"queue": before["queue"] + 210}


def test_a_computation_that_many_wait_for_lives_until_the_last_of_them_leaves(own: Faulty) -> None:
    shared, dropped = searches(2)
    with healthy_after(own) as stub:
        joined, passes = own.value("cache_joined_total"), own.value("forward_passes_total")
        before = abandoned(own)
        with own.closed(HOLD):
            first = marked(HOLD, 1)[0].send(stub)
            until(own.is_occupied, "the worker is occupied")
            calls = []
            for question in (shared, dropped):
                calls.append(question.send(stub))
                own.await_value("queue_size", 1 + (question is dropped))  # the first has begun it
                calls += [question.send(stub) for _ in range(19)]
            until(lambda: own.value("cache_joined_total") - joined == 38, "the others have joined it")
            assert own.value("queue_size") == 2
            survivor = calls[7]
            for call in calls:  # the one who began it first of all
                if call is not survivor:
                    call.cancel()
            until(lambda: own.value("queue_size") == 1, "one is left")
        first.result(60)
        (end,) = ends_of([shared], [survivor])
        assert end.code is StatusCode.OK
        assert own.value("forward_passes_total") - passes == 2
        assert abandoned(own) == before | {"queue": before["queue"] + 1}


@pytest.mark.parametrize(("marker", "stage"), [(PAUSE, "forward"), (LINGER, "encode")])
def test_what_is_cancelled_in_the_batch_is_dropped_at_the_next_stage(own: Faulty, marker: str, stage: str) -> None:
    """The occupant holds the worker until the others have queued, so that they share the batch that stands still."""
    questions = [Question("search", (f"{marker} among {n}",)) for n in range(1)]
    questions += [Question("search", (f"Number {n} of a batch",)) for n in range(20)]
    with healthy_after(own) as stub:
        before, passes, encodes = abandoned(own), own.value("forward_passes_total"), own.value("encodes_total")
        with own.closed(marker):
            with own.closed(HOLD):
                first = marked(HOLD, 1)[0].send(stub)
                until(own.is_occupied, "the worker is occupied")
                calls = [question.send(stub) for question in questions]
                until(lambda: own.value("queue_size") == 21, "the others wait")
            first.result(60)
            until(lambda: own.stands_still(marker), "the batch stands still")
            for call in calls[6:]:
                call.cancel()
            until(lambda: own.value("requests_in_flight") == 6, "they have left")
            time.sleep(0.5)  # and the worker has been told
        ends = ends_of(questions, calls)
        assert [end.code for end in ends] == [StatusCode.OK] * 6 + [StatusCode.CANCELLED] * 15
        until(lambda: own.value("queue_load_ratio") == 0, "the batch is done")
        sources = len(ends[0].answer.sources_considered)
        assert abandoned(own) == before | {stage: before[stage] + 15}
        assert own.value("forward_passes_total") - passes == 1 + (6 if stage == "forward" else 21)
        assert own.value("encodes_total") - encodes == sources * (1 + 6)


def test_a_storm_of_calls_cancelled_at_random_leaves_no_trace(own: Faulty) -> None:
    """Of each question two calls, which often share a computation; both are cancelled, or one, or none."""
    chance = random.Random(1)
    questions = [question for question in searches(240) for _ in range(2)]
    with healthy_after(own) as stub:
        calls, timers = [], []
        for question in questions:
            call = question.send(stub)
            calls.append(call)
            if chance.random() < 0.6:
                timers.append(threading.Timer(chance.expovariate(2), call.cancel))
                timers[-1].start()
        ends = ends_of(questions, calls)
        for timer in timers:
            timer.cancel()
    counts = {code: sum(end.code is code for end in ends) for code in {end.code for end in ends}}
    print(counts)
    assert set(counts) <= {StatusCode.OK, StatusCode.CANCELLED, StatusCode.RESOURCE_EXHAUSTED}
    assert {one.reason for one in refusals(ends)} <= {"OVERLOADED"}
    assert counts[StatusCode.OK] >= 40
    assert counts[StatusCode.CANCELLED] >= 40


# Deadlines


def test_deadlines_that_pass_while_queued_or_running_end_the_calls_and_their_work(own: Faulty) -> None:
    queued, running = searches(60), marked(LINGER, 1)[0]
    with healthy_after(own) as stub:
        before, passes, encodes = abandoned(own), own.value("forward_passes_total"), own.value("encodes_total")
        with own.closed(LINGER):
            first = running.send(stub, timeout=4)
            until(lambda: own.stands_still(LINGER), "the worker is occupied")
            calls = [question.send(stub, timeout=0.5 + place / 30) for place, question in enumerate(queued)]
            ends = ends_of([running, *queued], [first, *calls])
            until(lambda: own.value("requests_in_flight") == 0, "all have left")
            time.sleep(0.5)  # and the worker has been told
        assert {end.code for end in ends} == {StatusCode.DEADLINE_EXCEEDED}
        until(lambda: own.value("queue_load_ratio") == 0, "the batch is done")
        now = abandoned(own)
        assert now["encode"] - before["encode"] == 1
        # The deadline of a few may have passed before they got as far as the queue.
        assert 50 <= now["queue"] - before["queue"] <= 60
        assert own.value("forward_passes_total") - passes == 1
        assert own.value("encodes_total") == encodes


def test_tiny_deadlines_give_right_answers_or_none(own: Faulty) -> None:
    questions = searches(240)
    with healthy_after(own) as stub:
        calls = [question.send(stub, timeout=0.002 * 1.04**place) for place, question in enumerate(questions)]
        ends = ends_of(questions, calls)
    counts = {code: sum(end.code is code for end in ends) for code in {end.code for end in ends}}
    print(counts)
    assert set(counts) <= {StatusCode.OK, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED}
    assert counts[StatusCode.OK] >= 20
    assert counts[StatusCode.DEADLINE_EXCEEDED] >= 20
