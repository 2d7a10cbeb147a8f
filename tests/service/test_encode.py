"""Encode and EncodeStream: activations of texts, sparse and dense, in one answer or in chunks."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import StatusCode

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.service.wire import TIMEOUT, Slowly, config, item, passages, read_refusal, text_input

RED = "My favorite color is red."
TEXTS = [RED, "blue", "Odysseus wept by the wine-dark sea.", "e\u0301 \N{ROBOT FACE}"]
LATENTS = ["0-demo", "1-demo", "2-demo", "3-demo"]


def same(left: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_allclose(left, right, atol=1e-4 * max(1.0, float(np.abs(right).max(initial=0))))


# Encode


def test_a_whole_source_is_answered_sparse_row_by_row(demo: saeserve.Client) -> None:
    result = demo.encode(TEXTS, sources=["2-DEMO", "0-demo"])
    assert list(result.sparse) == ["2-demo", "0-demo"]
    assert result.text_offsets[0] == 0
    assert [len(text.tokens) for text in result] == list(np.diff(result.text_offsets))
    for block in result.sparse.values():
        assert block.shape == (result.text_offsets[-1], 2048)
        assert (block.data > 0).all()
        for row in range(len(block)):
            indices, _ = block.row(row)
            assert (np.diff(indices.astype(np.int64)) > 0).all()
    assert result.dense is None


def test_the_buffers_are_little_endian_and_of_the_documented_types(stub: FeatureServiceStub) -> None:
    request = service.EncodeRequest(inputs=[text_input(RED)], sources=["0-demo"])
    answer = stub.Encode(request, timeout=TIMEOUT)
    (block,) = answer.sparse
    assert (block.source, block.rows, block.columns) == ("0-demo", 7, 2048)
    indptr = np.frombuffer(block.indptr, "<i8")
    assert len(indptr) == 8
    assert indptr[0] == 0
    assert len(block.indices) == len(block.data) == 4 * indptr[-1]
    assert not answer.HasField("dense")
    assert list(answer.text_offsets) == [0, 7]


def test_a_text_alone_and_among_others_has_the_same_activations(demo: saeserve.Client) -> None:
    together = demo.encode(TEXTS, sources=LATENTS)
    for place, text in enumerate(TEXTS):
        alone = demo.encode(text, sources=LATENTS)
        assert alone[0].tokens == together[place].tokens
        for name in LATENTS:
            same(together[place].sparse[name].toarray(), alone[0].sparse[name].toarray())


def test_chosen_features_are_dense_in_the_order_asked_for(demo: saeserve.Client) -> None:
    chosen = ["3:64", "0-DEMO:248", "1-demo:5", "0-neurons:52", "0-DEMO:1635"]
    result = demo.encode(TEXTS, features=chosen)
    assert [str(name) for name in result.features] == ["3:64", "0-DEMO:248", "1-DEMO:5", "0-NEURONS:52", "0-DEMO:1635"]
    assert result.dense is not None
    assert result.dense.shape == (result.text_offsets[-1], 5)
    whole = demo.encode(TEXTS, sources=["0-demo", "1-demo"])
    same(result.dense[:, 1], whole.sparse["0-demo"].column(248))
    same(result.dense[:, 2], whole.sparse["1-demo"].column(5))
    same(result.dense[:, 4], whole.sparse["0-demo"].column(1635))
    assert (result.dense[:, [0, 3]] < 0).any()  # negative values of neurons are kept
    assert not result.sparse


def test_encode_and_search_agree(demo: saeserve.Client) -> None:
    hits = demo.search(RED, kinds="all", limit=50).results
    dense = demo.encode(RED, features=[hit.name for hit in hits]).dense
    assert dense is not None
    same(dense, np.stack([hit.activations for hit in hits], axis=1))


def test_a_bos_row_leads_each_text_on_request(demo: saeserve.Client) -> None:
    without = demo.encode(TEXTS, sources="0-demo")
    led = demo.encode(TEXTS, sources="0-demo", include_bos=True)
    for one, other in zip(led, without, strict=True):
        assert one.bos_included
        assert not other.bos_included
        assert one.tokens[0].id == 0
        assert one.tokens[1:] == other.tokens
        same(one.sparse["0-demo"].toarray()[1:], other.sparse["0-demo"].toarray())
    dense = demo.encode(TEXTS, features="0-demo:248", include_bos=True).dense
    assert dense is not None
    same(dense[:, 0], led.sparse["0-demo"].column(248))


def test_tokens_are_left_out_on_request(demo: saeserve.Client) -> None:
    result = demo.encode(TEXTS, sources="0-demo", omit_tokens=True, include_bos=True)
    assert all(text.tokens == () and text.bos_included for text in result)
    assert len(result.sparse["0-demo"]) == result.text_offsets[-1]


def test_texts_that_are_too_long_are_cut_each_for_itself(demo: saeserve.Client) -> None:
    result = demo.encode(["red", "red " * 300], sources="0-demo", truncate=True)
    assert [text.truncated for text in result] == [False, True]
    assert len(result[1].tokens) == 255


def test_token_ids_and_texts_mix(demo: saeserve.Client) -> None:
    ids = demo.tokenize(RED).ids
    result = demo.encode([RED, ids, (0, *ids)], sources="0-demo")
    arrays = [text.sparse["0-demo"].toarray() for text in result]
    same(arrays[1], arrays[0])
    same(arrays[2], arrays[0])


def test_the_same_text_twice_is_answered_twice(demo: saeserve.Client) -> None:
    result = demo.encode([RED, "blue", RED], sources="0-demo")
    assert len(result) == 3
    same(result[2].sparse["0-demo"].toarray(), result[0].sparse["0-demo"].toarray())


def test_as_many_texts_as_the_limit_says(demo: saeserve.Client) -> None:
    most = demo.server_info().limits.max_inputs
    result = demo.encode(["as many as may be"] * most, features="0-demo:248")
    assert len(result) == most
    assert result.call_info.batch_size >= 1


def test_an_answer_that_is_too_large_names_the_stream(demo: saeserve.Client) -> None:
    with pytest.raises(saeserve.InvalidArgument) as caught:
        demo.encode(["red blue green " * 60] * 64, features=[f"0-demo:{n}" for n in range(1000)])
    assert caught.value.reason == "ANSWER_TOO_LARGE"
    assert "EncodeStream" in caught.value.message
    most = demo.server_info().limits.max_answer_bytes
    assert caught.value.metadata["max_answer_bytes"] == str(most)
    assert int(caught.value.metadata["answer_bytes"]) > most


# EncodeStream


def chunks(
    stub: FeatureServiceStub, first: service.EncodeStreamRequest, texts: list[str]
) -> list[service.EncodeStreamResponse]:
    requests = [first, *(item(sequence, text) for sequence, text in enumerate(texts))]
    return list(stub.EncodeStream(iter(requests), timeout=TIMEOUT))


def test_the_stream_gives_what_encode_gives(demo: saeserve.Client) -> None:
    expected = demo.encode(TEXTS, sources=LATENTS)
    items = list(demo.encode_stream(TEXTS, sources=LATENTS))
    assert [one.sequence for one in items] == [0, 1, 2, 3]
    for one, text in zip(items, expected, strict=True):
        result = one.unwrap()
        assert result.tokens == text.tokens
        assert list(result.sparse) == LATENTS
        for name in LATENTS:
            same(result.sparse[name].toarray(), text.sparse[name].toarray())
        assert one.call_info is not None
        assert one.call_info.batch_size >= 1


def test_whole_neuron_sources_are_dense_in_the_stream(demo: saeserve.Client) -> None:
    (one,) = demo.encode_stream([RED], sources=["1", "0-demo", "3-neurons"])
    result = one.unwrap()
    assert list(result.neurons) == ["1", "3"]
    assert list(result.sparse) == ["0-demo"]
    assert {name: block.shape for name, block in result.neurons.items()} == {"1": (7, 512), "3": (7, 512)}
    dense = demo.encode(RED, features=["1:3", "1:468"]).dense
    assert dense is not None
    same(result.neurons["1"][:, [3, 468]], dense)
    assert (result.neurons["1"] < 0).any()


def test_chosen_features_and_options_work_in_the_stream_too(demo: saeserve.Client) -> None:
    texts = [RED, "red " * 300]
    expected = demo.encode(texts, features=["3:64", "0-demo:248"], include_bos=True, truncate=True)
    items = demo.encode_stream(
        texts, features=["3:64", "0-demo:248"], include_bos=True, truncate=True, omit_tokens=True
    )
    for one, text in zip(items, expected, strict=True):
        result = one.unwrap()
        assert result.tokens == ()
        assert (result.bos_included, result.truncated) == (True, text.truncated)
        assert result.dense is not None
        assert text.dense is not None
        same(result.dense, text.dense)


@pytest.mark.parametrize(
    ("first", "blocks"),
    [
        (config(sources=["0", "1", "2", "3"], truncate=True), 4),
        (config(sources=[*LATENTS, "0"], truncate=True, include_bos=True), 5),
        (config(features=[{"source": "0-demo", "index": n} for n in range(1000)], truncate=True), 1),
    ],
)
def test_chunks_stay_within_their_limit_and_in_order(
    stub: FeatureServiceStub, demo: saeserve.Client, first: service.EncodeStreamRequest, blocks: int
) -> None:
    most = demo.server_info().limits.max_chunk_bytes
    texts = ["red blue green " * 100, "red", "the sea the sky " * 100, RED]
    answers = chunks(stub, first, texts)
    led = first.config.include_bos
    assert max(answer.ByteSize() for answer in answers) <= most
    runs = [
        sequence for place, answer in enumerate(answers) if (sequence := answer.sequence) != answers[place - 1].sequence
    ]
    assert len(runs) == len(set(runs)) == len(texts)  # the chunks of an item come without others between
    by_item: dict[int, list[service.EncodeChunk]] = defaultdict(list)
    for answer in answers:
        assert answer.call_info.request_id
        by_item[answer.sequence].append(answer.chunk)
    for sequence, parts in by_item.items():
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
        assert [part.HasField("text") for part in parts] == [True] + [False] * (len(parts) - 1)
        rows = len(parts[0].text.tokens)
        assert rows == min(255, len(demo.tokenize(texts[sequence]).tokens)) + led
        expected, seen = 0, []
        for part in parts:
            block = getattr(part, part.WhichOneof("rows"))
            if not seen or block.source != seen[-1]:
                seen.append(block.source)
                expected = 0
            assert part.row_start == expected
            expected += block.rows
            if part.WhichOneof("rows") == "sparse":
                assert np.frombuffer(block.indptr, "<i8")[0] == 0
                assert len(block.indptr) == 8 * (block.rows + 1)
            else:
                assert len(block.data) == 4 * block.rows * block.columns
            assert expected <= rows
        assert len(seen) == blocks


def test_a_long_dense_item_comes_in_several_chunks(stub: FeatureServiceStub) -> None:
    """255 rows of 1000 features fit; with the tokens they make about a megabyte, so nothing may be over it."""
    sources = ["0", "1", "2", "3"]
    answers = chunks(stub, config(sources=sources, truncate=True), ["red blue green " * 100])
    assert len(answers) >= len(sources)
    assert sum(answer.chunk.dense.rows for answer in answers) == 255 * len(sources)


def test_many_items_are_all_answered_and_a_bad_one_fails_alone(demo: saeserve.Client) -> None:
    texts: list[Any] = passages(120)
    texts[7] = ""
    texts[50] = [8192]
    texts[51] = "red " * 300
    items = list(demo.encode_stream(texts, sources="0-demo", omit_tokens=True, window=100))
    assert [one.sequence for one in items] == list(range(120))
    failed = {one.sequence: one.error for one in items if one.error is not None}
    assert {sequence: error.reason for sequence, error in failed.items()} == {
        7: "TEXT_EMPTY",
        50: "INVALID_REQUEST",
        51: "TOO_MANY_TOKENS",
    }
    for place in (0, 33, 64, 119):
        expected = demo.encode(texts[place], sources="0-demo")
        same(items[place].unwrap().sparse["0-demo"].toarray(), expected.sparse["0-demo"].toarray())


def test_an_item_is_answered_while_the_stream_stays_open(stub: FeatureServiceStub) -> None:
    stream = Slowly(stub, config(sources=["0-demo"]))
    for sequence in (5, 2**64 - 1, 0):  # any number will do, in any order
        stream.send(item(sequence, "red"))
        assert next(stream.call).sequence == sequence
    stream.send(item(5, "a number may come again once it has been answered"))
    assert next(stream.call).sequence == 5
    stream.close()
    assert list(stream.call) == []
    assert stream.call.code() is StatusCode.OK


def test_a_number_of_an_item_not_yet_answered_ends_the_stream(stub: FeatureServiceStub) -> None:
    items = [item(n, "red blue green " * 70) for n in range(20)]
    call = stub.EncodeStream(iter([config(sources=LATENTS, truncate=True), *items, items[19]]), timeout=TIMEOUT)
    answered: set[int] = set()
    with pytest.raises(grpc.RpcError) as caught:
        answered.update(answer.sequence for answer in call)
    refusal = read_refusal(caught.value)
    assert (refusal.code, list(refusal.fields)) == (StatusCode.INVALID_ARGUMENT, ["item.sequence"])


def test_a_caller_that_reads_late_holds_nobody_up_and_loses_nothing(
    stub: FeatureServiceStub, demo: saeserve.Client
) -> None:
    """That the server holds back such a caller, and how much it holds meanwhile, is a test of the life cycle."""
    stream = Slowly(stub, config(sources=["0", "1", "2", "3"], truncate=True))
    stream.send(*(item(n, "red blue green " * 70) for n in range(60)))
    stream.close()
    for _ in range(20):
        assert demo.search(RED).results
    assert {answer.sequence for answer in stream.call} == set(range(60))


def test_unary_calls_are_answered_beside_a_busy_stream(demo: saeserve.Client) -> None:
    ended = threading.Event()

    def stream() -> None:
        for _ in demo.encode_stream(passages(300), sources=LATENTS, omit_tokens=True):
            pass
        ended.set()

    thread = threading.Thread(target=stream)
    thread.start()
    answered = 0
    while not ended.is_set():
        assert len(demo.search(RED).results) == 25
        answered += 1
    thread.join()
    assert answered > 3


def test_a_stream_of_no_items_is_answered_with_nothing(demo: saeserve.Client) -> None:
    assert list(demo.encode_stream([], sources="0-demo")) == []


def test_a_cancelled_stream_leaves_the_server_as_it_was(stub: FeatureServiceStub, demo: saeserve.Client) -> None:
    for _ in range(10):
        stream = Slowly(stub, config(sources=LATENTS))
        stream.send(*(item(n, RED) for n in range(40)))
        next(stream.call)
        stream.call.cancel()
        stream.close()
    assert demo.search(RED).results
