"""EncodeStream over both clients: order, windows, errors of single items, and resuming."""

import threading
import time

import grpc
import numpy as np
import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from tests.client.fake import Failure, dense, echo, one_value, sparse, status, tokens

TEXTS = ["a" * length for length in range(1, 41)]
LOST = Failure(
    status(grpc.StatusCode.UNAVAILABLE, "worker lost", reason="WORKER_LOST"), (("grpc-retry-pushback-ms", "1"),)
)


def items(requests):
    """The items of a stream's messages, the configuration checked."""
    assert next(requests).WhichOneof("message") == "config"
    for message in requests:
        yield message.item


def answers_then_lost(count):
    """Answer some items, then break."""

    def stream(requests, context):
        for number, item in enumerate(items(requests)):
            if number == count:
                LOST.abort(context)
            yield one_value(item)

    return stream


def lengths(answers):
    return [int(item.unwrap().dense[0, 0]) for item in answers]


def test_every_text_is_answered_in_order(client, fake):
    answers = list(client.encode_stream(iter(TEXTS), features="2:1"))
    assert [item.sequence for item in answers] == list(range(40))
    assert lengths(answers) == [len(text) for text in TEXTS]
    assert all(item.error is None for item in answers)
    assert fake.seen[0].seconds_left is None or fake.seen[0].seconds_left > 1e6


def test_no_texts_no_call(client, fake):
    assert list(client.encode_stream([], features="2:1")) == []


def test_the_configuration_is_the_first_message(client, fake):
    got = []

    def stream(requests, context):
        got.append(next(requests))
        yield from (one_value(message.item) for message in requests)

    fake.streams = [stream]
    list(client.encode_stream(["a"], sources=["0-Demo"], include_bos=True, truncate=True, omit_tokens=True, model="m"))
    config = service.EncodeStreamConfig(
        model="m", sources=["0-demo"], include_bos=True, truncate=True, omit_tokens=True
    )
    assert got == [service.EncodeStreamRequest(config=config)]


def backwards(requests, _):
    held = list(items(requests))
    yield from (one_value(item) for item in reversed(held))


def test_answers_out_of_order_are_put_in_order_or_given_as_they_come(client, fake):
    fake.streams = [backwards]
    assert [item.sequence for item in client.encode_stream(TEXTS[:5], features="2:1")] == [0, 1, 2, 3, 4]
    given = client.encode_stream(TEXTS[:5], features="2:1", in_order=False)
    assert [item.sequence for item in given] == [4, 3, 2, 1, 0]


def test_a_bad_item_fails_alone(client, fake):
    def stream(requests, _):
        for item in items(requests):
            if item.sequence == 1:
                error = status(grpc.StatusCode.INVALID_ARGUMENT, "empty text", reason="EMPTY_TEXT", request_id="r1")
                yield service.EncodeStreamResponse(sequence=1, error=error)
            else:
                yield one_value(item)

    fake.streams = [stream]
    answers = list(client.encode_stream(["a", "", "ccc"], features="2:1"))
    assert [item.error is None for item in answers] == [True, False, True]
    assert (answers[1].error.reason, answers[1].error.request_id) == ("EMPTY_TEXT", "r1")
    with pytest.raises(saeserve.InvalidArgument, match="empty text"):
        answers[1].unwrap()


def test_a_bad_configuration_ends_the_stream_at_once(client, fake):
    def stream(requests, context):
        Failure(status(grpc.StatusCode.NOT_FOUND, "no source 9", reason="UNKNOWN_SOURCE")).abort(context)
        yield

    fake.streams = [stream]
    with pytest.raises(saeserve.NotFound) as raised:
        list(client.encode_stream(TEXTS, sources="9"))
    assert raised.value.reason == "UNKNOWN_SOURCE"
    assert isinstance(raised.value.__cause__, grpc.RpcError)
    assert len(fake.seen) == 1


def test_a_lost_server_is_resumed_with_the_items_not_yet_answered(client, fake):
    again = []

    def rest(requests, _):
        for item in items(requests):
            again.append(item.sequence)
            yield one_value(item)

    fake.streams = [answers_then_lost(3), answers_then_lost(0), answers_then_lost(10), rest]
    answers = list(client.encode_stream(TEXTS, features="2:1"))
    assert lengths(answers) == [len(text) for text in TEXTS]
    assert again == list(range(13, 40))
    assert len(fake.seen) == 4


def test_a_stream_that_the_server_ended_unread_is_resumed(client, fake):
    def ended(requests, context):
        yield one_value(next(items(requests)))
        context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")

    fake.streams = [ended, echo]
    assert lengths(client.encode_stream(TEXTS, features="2:1")) == [len(text) for text in TEXTS]


def test_a_half_answered_item_is_asked_again_from_its_beginning(client, fake):
    def half(requests, context):
        item = next(items(requests))
        chunk = service.EncodeChunk(text=service.EncodedText(tokens=tokens()), dense=dense(np.zeros((2, 1))))
        yield service.EncodeStreamResponse(sequence=item.sequence, chunk=chunk)
        LOST.abort(context)

    fake.streams = [half, echo]
    assert lengths(client.encode_stream(["abc"], features="2:1")) == [3]


def test_a_server_that_ends_politely_too_early_is_resumed_too(client, fake):
    def ends(requests, _):
        yield one_value(next(items(requests)))

    fake.streams = [ends, echo]
    assert lengths(client.encode_stream(TEXTS, features="2:1")) == [len(text) for text in TEXTS]


def test_more_calls_than_a_unary_method_makes_may_fail(client, fake, monkeypatch):
    monkeypatch.setattr("saeserve.transport.channel.MAX_BACKOFF", 0.1)
    fake.streams = [answers_then_lost(0)] * 6 + [echo]
    assert lengths(client.encode_stream(["a", "bb"], features="2:1")) == [1, 2]
    assert len(fake.seen) == 7


def test_failing_for_as_long_as_the_timeout_is_the_end(client, fake):
    fake.streams = [answers_then_lost(2), answers_then_lost(0)]
    began = time.monotonic()
    answers = client.encode_stream(TEXTS, features="2:1", timeout=1.0)
    assert [next(answers).sequence, next(answers).sequence] == [0, 1]
    with pytest.raises(saeserve.Unavailable, match="worker lost"):
        next(answers)
    # After 1 ms, as the server says, then after about 0.2 and 0.4 s; 0.8 s more would be over the timeout.
    assert len(fake.seen) in (4, 5)
    assert time.monotonic() - began < 3


def test_no_more_than_the_window_is_read_ahead(client, fake):
    read, released = [], threading.Event()

    def texts():
        for text in TEXTS:
            read.append(text)
            yield text

    def stream(requests, _):
        for item in items(requests):
            if item.sequence == 4:
                released.wait(10)
            yield one_value(item)

    fake.streams = [stream]
    answers = client.encode_stream(texts(), features="2:1", window=5)
    assert next(answers).sequence == 0
    assert len(read) <= 6
    released.set()
    assert len(list(answers)) == 39


def test_a_window_is_at_least_one(client):
    with pytest.raises(ValueError, match="window"):
        client.encode_stream(["a"], features="2:1", window=0)


def test_chunks_are_put_together(client, fake):
    array = np.arange(12, dtype=np.float32).reshape(6, 2)
    latents = np.where(np.arange(48).reshape(6, 8) % 5 == 0, 1.5, 0).astype(np.float32)

    def stream(requests, _):
        for item in items(requests):
            text = service.EncodedText(tokens=tokens(), truncated=True)
            chunks = [
                service.EncodeChunk(text=text, row_start=0, sparse=sparse("0-demo", latents[:4])),
                service.EncodeChunk(row_start=4, sparse=sparse("0-demo", latents[4:])),
                service.EncodeChunk(row_start=0, dense=dense(array[:1], "2")),
                service.EncodeChunk(row_start=1, dense=dense(array[1:], "2"), last=True),
            ]
            for chunk in chunks:
                yield service.EncodeStreamResponse(sequence=item.sequence, chunk=chunk)

    fake.streams = [stream]
    (item,) = client.encode_stream(["a"], sources=["0-demo", "2"])
    text = item.unwrap()
    np.testing.assert_array_equal(text.sparse["0-demo"].toarray(), latents)
    np.testing.assert_array_equal(text.neurons["2"], array)
    assert (text.dense, text.truncated, len(text.tokens)) == (None, True, 6)


@pytest.mark.parametrize("row_start", [0, 3])
def test_a_gap_between_chunks_is_refused(client, fake, row_start):
    def stream(requests, _):
        for item in items(requests):
            text = service.EncodedText()
            first = service.EncodeChunk(text=text, dense=dense(np.zeros((2, 1))))
            second = service.EncodeChunk(row_start=row_start, dense=dense(np.zeros((2, 1))), last=True)
            for chunk in (first, second):
                yield service.EncodeStreamResponse(sequence=item.sequence, chunk=chunk)

    fake.streams = [stream]
    with pytest.raises(saeserve.Internal, match="after 2 rows"):
        list(client.encode_stream(["a"], features="2:1"))


def test_an_error_of_the_caller_s_own_texts_passes_through_and_is_no_reason_to_resume(client, fake):
    def texts():
        yield "a"
        raise saeserve.Unavailable("from elsewhere", code=grpc.StatusCode.UNAVAILABLE)

    with pytest.raises(saeserve.Unavailable, match="from elsewhere"):
        list(client.encode_stream(texts(), features="2:1"))
    assert len(fake.seen) <= 1


def test_a_server_that_falls_silent_is_a_deadline(client, fake):
    silent = threading.Event()

    def stream(requests, context):
        yield one_value(next(items(requests)))
        context.add_callback(silent.set)
        silent.wait(20)

    fake.streams = [stream]
    answers = client.encode_stream(["a", "bb"], features="2:1", timeout=0.3)
    assert next(answers).sequence == 0
    with pytest.raises(saeserve.DeadlineExceeded, match=r"0\.3 s, 1 items unanswered"):
        next(answers)
    assert silent.wait(10)


def test_leaving_early_cancels_the_call(client, fake):
    left = threading.Event()

    def stream(requests, context):
        context.add_callback(left.set)
        for item in items(requests):
            yield one_value(item)

    fake.streams = [stream]
    endless = ("a" for _ in iter(int, 1))
    answers = client.encode_stream(endless, features="2:1")
    next(answers)
    answers.close()
    assert left.wait(10)


def test_an_item_over_the_server_s_message_limit_fails_alone(client):
    big = "a" * 5_000_000  # gRPC takes 4 MiB
    items = list(client.encode_stream(["a", big, "ccc", big, "b"], features="2:1"))
    assert [item.sequence for item in items] == [0, 1, 2, 3, 4]
    assert [item.error is None for item in items] == [True, False, True, False, True]
    with pytest.raises(saeserve.InvalidArgument, match=r"texts\[3\] is larger than the 4194304 bytes"):
        items[3].unwrap()
