"""A thousand callers at once, and one who wants everything for himself."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any

import pytest
from grpc import StatusCode

import saeserve
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.faults.conftest import QUEUE_ITEMS
from tests.faults.faulty_server import HOLD
from tests.faults.harness import (
    FEATURES,
    Ending,
    Faulty,
    Question,
    alone,
    check_all,
    encodes,
    end_of,
    ends_of,
    healthy_after,
    hold_dense,
    hold_idle,
    marked,
    refusals,
    searches,
)
from tests.service.servers import until
from tests.service.wire import Slowly, config, item, passages

pytestmark = pytest.mark.slow

STREAMS = 8
ITEMS = 20
REFUSED = 'saeserve_requests_total{{code="RESOURCE_EXHAUSTED",method="{method}",reason="OVERLOADED"}}'


def thousand() -> list[Question]:
    """A thousand questions of every kind, shuffled; most of them distinct work."""
    texts = passages(120)
    found = [
        *searches(240),
        *encodes(240),
        *searches(240),
        *(Question("tokenize", (text,)) for text in texts),
        *(Question("get_feature", (f"{place % 4}-demo:{place}",)) for place in range(80)),
        *(Question("top_activations", (f"{place % 4}-demo:{place}",), {"page_size": 3}) for place in range(80)),
    ]
    random.Random(0).shuffle(found)
    assert len(found) == 1000
    return found


def test_a_thousand_calls_at_once_are_all_answered_by_the_clients(own: Faulty) -> None:
    """Half through the AsyncClient, half through the blocking one, whose callers are threads; streams beside them."""
    questions = thousand()
    half = len(questions) // 2
    texts = passages(ITEMS)

    async def ask_all() -> list[Any]:
        async with saeserve.AsyncClient(own.target, timeout=120) as client:
            return list(await asyncio.gather(*(question.ask(client) for question in questions[:half])))

    with healthy_after(own), saeserve.Client(own.target, timeout=120) as client, ThreadPoolExecutor(128) as threads:
        refused = own.metrics().get(REFUSED.format(method="Search"), 0)
        streams = [threads.submit(stream, client, texts) for _ in range(STREAMS)]
        others = threads.submit(asyncio.run, ask_all())
        answers = [threads.submit(question.ask, client) for question in questions[half:]]
        answered = [*others.result(240), *(answer.result(240) for answer in answers)]
        for one in streams:
            for text, encoded in zip(texts, one.result(240), strict=True):
                hold_dense(encoded, alone(Question("encode", (text,), {"features": FEATURES})).dense, text)
        print(f"refused on the way: {own.metrics().get(REFUSED.format(method='Search'), 0) - refused:g} searches")
    check_all(list(zip(questions, answered, strict=True)))


def stream(client: saeserve.Client, texts: list[str]) -> list[Any]:
    """What a stream answers about the texts."""
    return [answer.unwrap().dense for answer in client.encode_stream(texts, features=FEATURES, timeout=120)]


def test_a_thousand_calls_without_retries_are_answered_or_told_when_to_come_again(own: Faulty) -> None:
    questions = thousand()
    with healthy_after(own) as stub:
        with own.closed(HOLD):
            first = marked(HOLD, 1)[0].send(stub)
            until(own.is_occupied, "the worker is occupied")
            calls = [question.send(stub) for question in questions]
            until(
                lambda: any(call.done() and call.code() is StatusCode.RESOURCE_EXHAUSTED for call in calls), "refusals"
            )
            assert own.value("queue_size") <= QUEUE_ITEMS
        ends = ends_of(questions, calls)
        first.result(60)
    answered = [end for end in ends if end.code is StatusCode.OK]
    refused = refusals(ends)
    assert len(answered) + len(refused) == len(ends)
    assert len(answered) >= 200
    assert refused
    assert {(one.code, one.reason) for one in refused} == {(StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")}
    assert all(one.retry_after for one in refused)  # and the pushback, which `read_refusal` holds
    # Each has a time of its own, but for those for whom it is the shortest or the longest there is.
    between = [one.retry_after for one in refused if 0.05 < (one.retry_after or 0) < 10]
    assert len(set(between)) >= len(between) // 2
    print(
        f"{len(answered)} answered, {len(refused)} refused, delays {sorted({one.retry_after for one in refused})[::20]}"
    )


# One who wants everything


@pytest.mark.parametrize("ask", [searches, encodes], ids=["search", "encode"])
def test_who_asks_little_has_a_turn_among_hundreds_of_another(
    own: Faulty, ask: Callable[[int], list[Question]]
) -> None:
    """The queue is full of one caller's: the other's few displace some of them, and are in the very next batches."""
    floods = [Question("search", (f"number {place} of a flood",)) for place in range(2 * QUEUE_ITEMS)]
    others = ask(5)
    done: list[str] = []
    with healthy_after(own) as stub:
        with own.closed(HOLD):
            first = marked(HOLD, 1)[0].send(stub, client="flood")
            until(own.is_occupied, "the worker is occupied")
            flood = [question.send(stub, client="flood") for question in floods]
            for call in flood:
                call.add_done_callback(lambda call: done.append("flood" if call.code() is StatusCode.OK else "refused"))
            until(lambda: own.value("queue_size") == QUEUE_ITEMS, "the queue is full")
            until(lambda: done.count("refused") == QUEUE_ITEMS, "the surplus is refused")
            other = [question.send(stub, client="other") for question in others]
            for call in other:
                call.add_done_callback(lambda call: done.append("other"))
            # For each of them one more of the flood is refused.
            until(lambda: done.count("refused") == QUEUE_ITEMS + len(others), "room has been made")
            assert "other" not in done
        ends = ends_of(others, other)
        first.result(60)
        flooded = [end_of(question, call) for question, call in zip(floods, flood, strict=True)]
    assert {end.code for end in ends} == {StatusCode.OK}
    assert {end.code for end in flooded} == {StatusCode.OK, StatusCode.RESOURCE_EXHAUSTED}
    assert all(one.reason == "OVERLOADED" and one.retry_after for one in refusals(flooded))
    assert done.count("flood") == QUEUE_ITEMS - len(others)
    # A batch holds 512 tokens: some 60 of the flood. In the order of arrival the others would be last.
    last = len(done) - 1 - done[::-1].index("other")
    assert done[:last].count("flood") <= 150


def test_who_asks_one_by_one_is_never_refused_while_another_floods(own: Faulty) -> None:
    """The flood calls again soon after it has been answered or refused."""
    floods = [Question("search", (f"flood {place}, and again",), {"limit": 3}) for place in range(2 * QUEUE_ITEMS)]
    questions = [*searches(3), *encodes(3)]
    over = threading.Event()
    counts = dict.fromkeys(StatusCode, 0)
    to_send: SimpleQueue[Question] = SimpleQueue()
    for question in floods:
        to_send.put(question)

    def send_on(stub: FeatureServiceStub) -> None:
        while not over.wait(0.02):
            for _ in range(to_send.qsize()):
                question = to_send.get()
                question.send(stub, client="flood").add_done_callback(partial(note, question))

    def note(question: Question, call: Any) -> None:
        counts[call.code()] += 1
        to_send.put(question)

    batches = []
    ends: list[Ending] = []
    with healthy_after(own) as stub, ThreadPoolExecutor(1) as thread:
        flood = thread.submit(send_on, stub)
        try:
            until(lambda: counts[StatusCode.RESOURCE_EXHAUSTED] > 0, "the queue is full")
            for question in questions:
                before = own.value("batch_size_count")
                ends.append(end_of(question, question.send(stub, client="other")))
                batches.append(own.value("batch_size_count") - before)
        finally:
            over.set()
        flood.result(60)
        hold_idle(own)
    assert {end.code for end in ends} == {StatusCode.OK}
    check_all([(end.question, end.answer) for end in ends])
    assert {code for code, count in counts.items() if count} == {StatusCode.OK, StatusCode.RESOURCE_EXHAUSTED}
    # Its own, the one before it, and those that pass while the metrics are read.
    assert sorted(batches)[len(batches) // 2] <= 5
    print(f"batches for each: {batches}; the flood: {counts[StatusCode.OK]} answered, the rest refused")


def test_streams_that_wait_for_room_hold_up_no_unary_call(own: Faulty) -> None:
    """Items of streams fill half of the queue at most, however many there are: the other half is for searches."""
    with healthy_after(own) as stub:
        with own.closed(HOLD):
            first = marked(HOLD, 1)[0].send(stub)
            until(own.is_occupied, "the worker is occupied")
            streams = [Slowly(stub, config(sources=["0-demo"])) for _ in range(10)]
            for one in streams:
                one.send(*(item(n, f"{n} red blue green") for n in range(60)))
                one.close()
            until(lambda: own.value("queue_size") == QUEUE_ITEMS // 2, "half of the queue is theirs")
            questions = searches(QUEUE_ITEMS // 2)
            calls = [question.send(stub) for question in questions]
            until(lambda: own.value("queue_size") == QUEUE_ITEMS, "the other half is not")
        assert {end.code for end in ends_of(questions, calls)} == {StatusCode.OK}
        first.result(60)
        for one in streams:
            assert {answer.sequence for answer in one.call} == set(range(60))
