"""The drivers against a service whose times are known."""

import asyncio
import time
from dataclasses import replace

import pytest

from loadtests import closed_loop, open_loop, probe
from loadtests.closed_loop import Load
from loadtests.connect import Server
from loadtests.open_loop import Driven, Plan, drive, drive_all
from loadtests.percentiles import percentile
from loadtests.texts import Distinct
from tests.loadtests.fake import Behaviour, Refusal, after, at_once, one_at_a_time, serving

NOWHERE = Server("")


def driven_against(behaviour: Behaviour, plan: Plan) -> tuple[Driven, list[str]]:
    async def run() -> tuple[Driven, list[str]]:
        async with serving(behaviour) as (target, fake):
            return await drive(replace(plan, server=Server(target))), fake.texts

    return asyncio.run(run())


def test_arrivals_come_at_the_rate_and_never_the_same() -> None:
    driven, texts = driven_against(at_once, Plan(NOWHERE, rate=200, seconds=1, words=10))
    assert 140 < len(driven.records) < 260
    assert len(set(texts)) == len(texts) == len(driven.records)
    assert {record.verdict for record in driven.records} == {"OK"}
    assert {record.tier for record in driven.records} == {"none"}
    gaps = [late - early for early, late in zip(starts(driven), starts(driven)[1:], strict=False)]
    assert percentile(gaps, 50) == pytest.approx(0.0035, rel=0.3)  # of exponential gaps, ln 2 of the mean


def starts(driven: Driven) -> list[float]:
    return sorted(record.began for record in driven.records)


def test_a_stall_of_the_server_shows_in_all_that_arrived_meanwhile() -> None:
    """A closed loop would have asked no more while the server stood, and shown one slow call for each caller."""
    until = time.monotonic() + 1.0

    async def stall(number: int) -> None:
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    driven, _ = driven_against(stall, Plan(NOWHERE, rate=100, seconds=2))
    slow = [record.seconds for record in driven.records if record.seconds > 0.25]
    assert len(slow) > 40
    assert percentile([record.seconds for record in driven.records], 99) > 0.8


def test_a_stall_of_the_driver_counts_and_is_told() -> None:
    async def block(number: int) -> None:
        if number == 50:
            time.sleep(0.5)  # noqa: ASYNC251  the loop of the driver stands, which is this one

    driven, _ = driven_against(block, Plan(NOWHERE, rate=200, seconds=1))
    assert max(driven.lateness) > 0.3
    assert sum(record.seconds > 0.2 for record in driven.records) > 20
    assert not driven.kept_up
    assert "FELL BEHIND" in driven.note()


def test_refusals_and_deadlines_are_told_apart() -> None:
    async def behave(number: int) -> None:
        if number % 3 == 0:
            raise Refusal
        if number % 3 == 1:
            await asyncio.sleep(5)

    driven, _ = driven_against(behave, Plan(NOWHERE, rate=100, seconds=1, deadline=0.5))
    assert {r.verdict for r in driven.records} == {"OK", "RESOURCE_EXHAUSTED OVERLOADED", "DEADLINE_EXCEEDED"}
    assert all(record.refused == ("OVERLOADED" in record.verdict) for record in driven.records)
    expired = [record.seconds for record in driven.records if record.verdict == "DEADLINE_EXCEEDED"]
    assert 0.49 < percentile(expired, 50) < 1.5


def test_calls_in_flight_are_bounded_and_what_is_not_sent_is_counted() -> None:
    driven, texts = driven_against(after(30), Plan(NOWHERE, rate=100, seconds=1, deadline=1.1, most=10))
    assert len(driven.records) == len(texts) == 10
    assert driven.unsent > 40
    assert not driven.kept_up


def test_several_processes_share_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "HEAD_START", 1.0)

    async def run() -> tuple[Driven, int]:
        async with serving(at_once) as (target, fake):
            driven = await asyncio.to_thread(drive_all, Plan(Server(target), rate=100, seconds=1), 2)
            return driven, len(set(fake.texts))

    driven, distinct = asyncio.run(run())
    assert 60 < len(driven.records) < 140
    assert distinct == len(driven.records)


def measured(behaviour: Behaviour, load: Load) -> closed_loop.Window:
    async def run() -> closed_loop.Window:
        async with serving(behaviour) as (target, _):
            return await closed_loop.measure(Server(target), Distinct(10), load)

    return asyncio.run(run())


def test_callers_who_wait_find_what_one_at_a_time_can_do() -> None:
    window = measured(one_at_a_time(0.02), Load(4, seconds=1, warm_up=0.2, deadline=10))
    assert 20 < window.rate < 51
    assert percentile(window.latencies, 50) == pytest.approx(4 / window.rate, rel=0.3)
    assert window.other == {}


def test_callers_who_are_refused_wait_and_are_counted() -> None:
    async def behave(number: int) -> None:
        if number % 2:
            raise Refusal

    window = measured(behave, Load(2, seconds=0.5, warm_up=0.1, deadline=10))
    # Each answer follows a pause of 50 ms, the delay that the refusal names.
    assert 5 < window.rate < 90
    assert list(window.other) == ["RESOURCE_EXHAUSTED OVERLOADED"]


def test_the_probe_asks_each_question_steadily() -> None:
    async def run() -> list[probe.records.Record]:
        async with serving(after(0.05)) as (target, _):
            return await probe.probe(Server(target), rate=20, seconds=1)

    found = asyncio.run(run())
    kinds = [record.kind for record in found]
    asked = {kind: kinds.count(kind) for kind in set(kinds) - {probe.LATE}}
    assert asked == dict.fromkeys(("Health.Check", "GetServerInfo", "Tokenize", "Search, cached"), 20)
    assert {record.verdict for record in found} == {"OK"}
    searches = [record.seconds for record in found if record.kind == "Search, cached"]
    assert 0.05 <= percentile(searches, 50) < 0.5
