"""Two sets of texts told apart by a server on the demo, against what Encode says of each text."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.service.wire import TIMEOUT, refused

RED = [
    "My favorite color is red.",
    "The red car stopped.",
    "A red apple fell from the tree.",
    "She wore a red dress.",
    "He painted the wall red and left.",
    "Red leaves lay on the ground.",
]
OTHER = [
    "The bank raised interest rates.",
    "Stocks fell sharply today.",
    "The company reported profits.",
    "The government passed a law.",
    "He signed the contract.",
    "They closed the shop at noon.",
    "Nobody answered the letter.",
]


def maxima(client: saeserve.Client, texts: list[str], source: str) -> np.ndarray:
    """[texts, features] of a source of latents."""
    return np.stack([text.sparse[source].toarray().max(axis=0) for text in client.encode(texts, sources=source)])


def test_every_number_follows_from_what_encode_says(demo: saeserve.Client) -> None:
    found = demo.contrast(RED, OTHER, layers="0-1", limit=1000)
    assert (found.texts_a, found.texts_b) == (len(RED), len(OTHER))
    assert found.sources_considered == ("0-demo", "1-demo")
    assert found.features_considered == 2 * 2048
    sides = {source: (maxima(demo, RED, source), maxima(demo, OTHER, source)) for source in found.sources_considered}
    fires = {source: [(one > 0).sum(axis=0) for one in both] for source, both in sides.items()}
    assert found.features_tested == sum(int(((a + b) > 0).sum()) for a, b in fires.values())
    assert len(found) == sum(int((np.abs(a / len(RED) - b / len(OTHER)) > 1e-12).sum()) for a, b in fires.values())
    for one in found:
        a, b = (side[:, one.name.index].astype(float) for side in sides[one.name.source])
        assert (one.texts_a, one.texts_b) == ((a > 0).sum(), (b > 0).sum())
        assert one.side == ("a" if one.difference > 0 else "b")
        table = [[(a > 0).sum(), (a == 0).sum()], [(b > 0).sum(), (b == 0).sum()]]
        assert one.p_value == pytest.approx(stats.fisher_exact(table).pvalue)
        auc = stats.mannwhitneyu(a, b).statistic / (len(a) * len(b))
        assert abs(one.auc - auc) <= one.auc_error + 1e-9
        assert (one.max_a, one.max_b) == (pytest.approx(a.max(), abs=1e-3), pytest.approx(b.max(), abs=1e-3))
    order = [
        (round(one.p_value, 12), -abs(round(one.difference, 12)), one.feature.layer, one.name.index) for one in found
    ]
    assert order == sorted(order)
    assert found[0].side == "a"
    telling = [one for one in found.of_a if one.p_value < 0.05]
    assert any(str(token.token).strip() == "red" for one in telling for token in one.feature.usual_tokens)


def test_neurons_and_filters(demo: saeserve.Client) -> None:
    found = demo.contrast(RED, OTHER, kinds="neuron", layers=1, features=["1:5", "1:9", "1:11"], limit=2)
    assert found.features_considered == 3
    features = ["1:5", "1:9", "1:11"]
    for one in found:
        a = np.array(
            [text.dense[:, features.index(str(one.name))].max() for text in demo.encode(RED, features=features)]
        )
        assert one.texts_a == (a > 0).sum()
    nothing = demo.contrast(RED, OTHER, layers=1, exclude_layers=1)
    assert (len(nothing), nothing.features_considered, nothing.texts_a) == (0, 0, len(RED))


def test_texts_of_both_sides_may_come_in_any_order_and_as_ids(demo: saeserve.Client, stub: FeatureServiceStub) -> None:
    expected = demo.contrast(RED, OTHER, limit=5)
    ids = [list(demo.tokenize(text).ids) for text in RED]
    messages = [item(service.CONTRAST_SIDE_B, types.Input(text=text)) for text in OTHER]
    for place, one in enumerate(ids):
        given = types.Input(token_ids=types.TokenIds(ids=one))
        messages.insert(2 * place, item(service.CONTRAST_SIDE_A, given))
    answer = stub.Contrast(iter([config(limit=5), *messages]), timeout=TIMEOUT)
    assert [(one.facts.name, one.p_value) for one in answer.results] == [
        (str(one.name), one.p_value) for one in expected
    ]


def config(**fields: object) -> service.ContrastRequest:
    return service.ContrastRequest(config=service.ContrastConfig(**fields))  # type: ignore[arg-type]


def item(side: int, given: types.Input) -> service.ContrastRequest:
    return service.ContrastRequest(item=service.ContrastItem(side=side, input=given))  # type: ignore[arg-type]


def text(side: int, given: str) -> service.ContrastRequest:
    return item(side, types.Input(text=given))


GOOD = [text(service.CONTRAST_SIDE_A, "red"), text(service.CONTRAST_SIDE_B, "blue")]


@pytest.mark.parametrize(
    ("messages", "reason", "field"),
    [
        ([], "INVALID_REQUEST", "message"),
        ([GOOD[0]], "INVALID_REQUEST", "message"),
        ([config(), config()], "INVALID_REQUEST", "message"),
        ([config(limit=0), *GOOD * 5], "INVALID_REQUEST", "config.limit"),
        ([config(), *GOOD, text(0, "no side")], "INVALID_REQUEST", "item[2].side"),
        ([config(), *GOOD * 5, text(1, "")], "TEXT_EMPTY", "item[10].input.text"),
        ([config(), *GOOD, text(1, "word " * 400), *GOOD * 5], "TOO_MANY_TOKENS", "item[2].input"),
        ([config(), *GOOD, item(1, types.Input(token_ids=types.TokenIds(ids=[99999])))], "INVALID_REQUEST", "item[2]"),
        ([config(), *GOOD * 4, GOOD[0]], "TOO_FEW_TEXTS", ""),
        ([config()], "TOO_FEW_TEXTS", ""),
    ],
)
def test_what_is_wrong_ends_the_call_and_is_named(
    stub: FeatureServiceStub, messages: list[service.ContrastRequest], reason: str, field: str
) -> None:
    refusal = refused(lambda: stub.Contrast(iter(messages), timeout=TIMEOUT))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", reason)
    assert not field or any(name.startswith(field) for name in refusal.fields)


def test_long_texts_may_be_cut(demo: saeserve.Client) -> None:
    long = ["red " * 400] * 5
    with pytest.raises(saeserve.InvalidArgument, match=r"item\[0\]"):
        demo.contrast(long, OTHER)
    assert demo.contrast(long, OTHER, truncate=True).texts_a == 5


def test_more_texts_than_are_taken_are_refused_and_nothing_is_held_after(demo: saeserve.Client) -> None:
    most = demo.server_info().limits.max_contrast_texts

    def many() -> Iterator[str]:
        return ("red" for _ in range(most))

    with pytest.raises(saeserve.InvalidArgument) as caught:
        demo.contrast(many(), OTHER, features="0-DEMO:1", timeout=120)
    assert caught.value.reason == "TOO_MANY_TEXTS"


def test_other_calls_are_answered_meanwhile_and_a_caller_who_leaves_ends_it(
    demo: saeserve.Client, stub: FeatureServiceStub
) -> None:
    import queue

    waiting: queue.SimpleQueue[service.ContrastRequest | None] = queue.SimpleQueue()
    for message in (config(), *GOOD):
        waiting.put(message)
    call = stub.Contrast.future(iter(waiting.get, None), timeout=TIMEOUT)
    assert len(demo.search("red", limit=1)) == 1
    assert not call.done()
    call.cancel()
    waiting.put(None)
    assert demo.contrast(RED, OTHER, limit=1)[0].side == "a"
