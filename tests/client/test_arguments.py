"""What callers give: texts, numbers, features and timeouts are the same wherever they are taken."""

import array
import math
from decimal import Decimal

import numpy as np
import pytest
import torch

import saeserve
from saeserve import FeatureName
from saeserve.arguments.numbers import flag, number, numbers, share
from saeserve.arguments.texts import text
from saeserve.arguments.timeouts import DEFAULT, of_call, seconds
from saeserve.calls import request
from saeserve.v1 import types_pb2 as wire
from tests.client.fake import TEXT


@pytest.mark.parametrize("given", ["red", np.str_("red"), np.array("red")])
def test_a_text_is_whatever_holds_a_str(given):
    assert type(text(given)) is str
    assert text(given) == "red"
    for call in (request.search(given), request.tokenize(given)):
        assert call.request.input.text == "red"
    assert [one.text for one in request.encode(given).request.inputs] == ["red"]


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ("ab\ud83dc", ValueError, r"character 2 is U\+D83D, half of a surrogate pair"),
        ("é\udce9", ValueError, "byte 0xe9 at 2"),
        (b"red", TypeError, r"decode them first"),
        (float("nan"), TypeError, "a missing value"),
        (np.float32("nan"), TypeError, "a missing value"),
        (None, TypeError, "None, not a text"),
        ({"text": "red"}, TypeError, "dict"),
        (3.5, TypeError, "3.5"),
    ],
)
def test_what_is_no_text_is_told_with_its_place(given, kind, says):
    with pytest.raises(kind, match=says):
        text(given)
    with pytest.raises(kind, match=rf"texts\[1\] .*{says}"):
        request.encode(["red", given], sources="0-demo")


IDS = [464, 2266]


@pytest.mark.parametrize(
    "given",
    [
        np.array(IDS),
        np.array(IDS, np.uint16),
        torch.tensor(IDS),
        tuple(IDS),
        iter(IDS),
        [np.int64(464), torch.tensor(2266)],
        array.array("I", IDS),
    ],
    ids=lambda given: type(given).__name__,
)
def test_token_ids_are_any_sequence_of_whole_numbers(given):
    assert numbers(given, "ids") == IDS


def test_token_ids_are_taken_wherever_a_text_is():
    for ids in (np.array(IDS), torch.tensor(IDS), range(464, 465)):
        expected = list(ids)
        assert request.search(ids=ids).request.input.token_ids.ids == expected
        assert request.tokenize(ids=ids).request.input.token_ids.ids == expected
        assert [one.token_ids.ids for one in request.encode([ids, "red"]).request.inputs] == [expected, []]
    assert [one.token_ids.ids for one in request.encode(np.array([IDS, IDS])).request.inputs] == [IDS, IDS]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([True, 1], r"ids\[0\] is True, not a whole number"),
        ([1, 2.0], r"ids\[1\] is 2.0 \(float\)"),
        (np.array([1.0]), r"ids\[0\] is 1.0"),
        (torch.tensor([True]), r"ids\[0\] is True"),
        (torch.tensor([IDS]), r"shape \(1, 2\).*take one row"),
        (np.array(5), "shape"),
        ("464", "not a sequence"),
        (b"464", "no token ids"),
        ({1, 2}, "not a sequence"),
        (5, "no token ids|not a sequence"),
    ],
)
def test_what_are_no_token_ids(given, says):
    with pytest.raises(TypeError, match=says):
        request.search(ids=given)


def test_a_number_is_whatever_stands_for_one_exactly():
    for given in (5, np.int64(5), np.uint8(5), torch.tensor(5), np.array(5)):
        call = request.search("a", limit=given, min_fires=given, sort=given, layers=given, ranking="relative").request
        assert (call.limit, call.min_fires, call.sort_tokens[0].position) == (5, 5, 5)
        assert (call.filter.include.layers[0].first, call.filter.include.layers[0].last) == (5, 5)
        assert request.top_activations(("0-demo", given), page_size=given).request.page_size == 5
    for given in (True, 5.0, "5", np.bool_(True), torch.tensor(True), torch.tensor([5]), Decimal(5)):
        with pytest.raises(TypeError, match="not a whole number"):
            number(given, "limit")
    with pytest.raises(ValueError, match="limit is 4294967296, out of range"):
        request.search("a", limit=2**32)


def test_positions_and_layers_come_from_arrays_too():
    call = request.search("a", sort=np.array([4, 0]), layers=torch.tensor([1, 3])).request
    assert [token.position for token in call.sort_tokens] == [4, 0]
    assert [(one.first, one.last) for one in call.filter.include.layers] == [(1, 1), (3, 3)]
    assert [t.text or t.position for t in request.search("a", sort=["red", np.int32(4)]).request.sort_tokens] == [
        "red",
        4,
    ]
    with pytest.raises(TypeError, match="sort has True"):
        request.search("a", sort=[True])


def test_shares_and_flags():
    assert (share(np.float32(0.5), "a"), share(torch.tensor(0.25), "a"), share(1, "a")) == (0.5, 0.25, 1.0)
    assert flag(np.bool_(True), "a") is True
    for given in ("no", 1, None):
        with pytest.raises(TypeError, match="truncate"):
            request.encode("a", truncate=given)
    with pytest.raises(TypeError, match="max_density"):
        request.search("a", max_density="0.1")


def test_a_feature_is_named_in_any_way_wherever_one_is_taken(client):
    hit = client.search(TEXT)[0]
    named = ["0-demo:1633", " 0-DEMO:1633 ", ("0-Demo", 1633), ["0-demo", np.int64(1633)], hit, hit.feature, hit.name]
    expected = wire.FeatureId(source="0-demo", index=1633)
    for feature in named:
        assert FeatureName.of(feature) == FeatureName("0-demo", 1633)
        assert request.get_feature(feature).request.feature == expected
        assert request.top_activations(feature).request.feature == expected
        assert list(request.encode("a", features=feature).request.features) == [expected]
        assert expected in request.search("a", features=[feature, "2:1"]).request.filter.include.features
        assert client.encode(TEXT, features=["2:1", feature]).column(feature).shape == (6,)
    assert FeatureName.of((2, 553)) == FeatureName("2", 553)
    assert len(request.encode("a", features=("0-demo:1", "2:5")).request.features) == 2
    assert client.get_feature(client.get_feature(hit)).name == client.top_activations(hit).name == hit.name


@pytest.mark.parametrize("given", [("0-demo", True), ("0-demo", 1.0), 5, None, ("0-demo", 1, 2), b"0-demo:1"])
def test_what_is_no_feature(given):
    with pytest.raises(TypeError, match="is no feature"):
        request.get_feature(given)
    with pytest.raises(ValueError, match="not between"):
        request.get_feature(("0-demo", -1))


def test_sources_are_ids_sources_or_layers(client):
    latents, neurons = client.list_sources()
    assert request.search("a", sources=[latents, "2"]).request.filter.include.sources == ["0-demo", "2"]
    assert request.encode("a", sources=neurons).request.sources == ["2"]
    assert request.encode("a", sources=np.int64(2)).request.sources == ["2"]
    for given in (b"0-demo", {"0-demo": 1}, 3.5):
        with pytest.raises(TypeError, match="sources"):
            request.encode("a", sources=given)


def test_answers_are_sequences(client):
    found = client.search(TEXT)
    assert (found[0], found[-1], found[:1], len(found)) == (*found.results, found.results[:1], 2)
    assert found[np.int64(1)] is found.results[1]
    with pytest.raises(IndexError, match="token_results"):
        client.search(TEXT, by_token=True)[0]
    encoded = client.encode([TEXT, TEXT, TEXT], features="2:1")
    assert encoded[1:] == encoded.texts[1:]
    page = client.top_activations("2:1")
    assert (page[0].max_activation, len(page[:2])) == (4.5, 2)
    pieces = client.tokenize(TEXT)
    assert (pieces[4].piece, len(pieces[1:3])) == (b" red", 2)
    sources = client.list_sources()
    assert (sources[:1], sources["0-DEMO"], sources["Demo0"]) == (sources.sources[:1], sources[0], sources[0])


def test_blocks_are_found_by_any_name_of_their_source(client, fake):
    encoded = client.encode([TEXT], sources=["0-DEMO", "1-demo"])
    for blocks in (encoded.sparse, encoded[0].sparse):
        assert blocks["0-DEMO"] is blocks["0-demo"]
        assert "1-Demo" in blocks
        assert list(blocks) == ["0-demo", "1-demo"]
        with pytest.raises(KeyError, match="none of 0-demo, 1-demo"):
            blocks["9-demo"]
    assert encoded.column("0-DEMO:5").max() == 2.5

    answer = fake.answers["Encode"]

    def by_id(asked):
        del asked.sources[:]
        asked.sources.append("0-demo")
        return answer(asked)

    fake.answers["Encode"] = by_id
    assert client.encode([TEXT], sources="DEMO0").sparse["demo0"].nnz == 2


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda client: client.search(["red", "blue"]), "encode and encode_stream take several"),
        (lambda client: client.search(b"red"), "decode"),
        (lambda client: client.tokenize({"text": "red"}), "dict"),
        (lambda client: client.encode(None, features="2:1"), "None"),
        (lambda client: client.encode([464, 2266], features="2:1"), r"texts\[0\] is 464, one number: token ids"),
        (lambda client: client.encode_stream("red", features="2:1"), "one text, whose letters are no texts"),
        (lambda client: client.encode_stream(np.str_("red"), features="2:1"), "one text"),
        (lambda client: client.encode_stream(b"red", features="2:1"), "decode"),
        (lambda client: client.encode_stream(5, features="2:1"), "not several texts"),
    ],
)
def test_what_was_meant_otherwise_is_told_how(client, fake, ask, says):
    with pytest.raises(TypeError, match=says):
        ask(client)
    assert fake.seen == []


def test_what_a_timeout_is():
    for given in (None, math.inf, np.inf, 1e300, np.float32("inf")):
        assert seconds(given) is None
    for given in (2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0), Decimal(2)):
        assert seconds(given) == 2.0
    for given in (math.nan, -1, -math.inf, 0, np.float64("nan")):
        with pytest.raises(ValueError, match=r"timeout is .*above 0"):
            seconds(given)
    for given in ("5", True, [1]):
        with pytest.raises(TypeError, match="not a number of seconds"):
            seconds(given)
    assert (of_call(DEFAULT, 7.0), of_call(None, 7.0), of_call(1, None)) == (7.0, None, 1.0)


@pytest.mark.parametrize("unlimited", [None, math.inf, np.float64("inf")])
def test_no_timeout_is_no_deadline(connect, fake, unlimited):
    for client, options in ((connect(timeout=unlimited), {}), (connect(), {"timeout": unlimited})):
        fake.seen.clear()
        client.search("a", **options)
        client.tokenize("a", **options)
        assert len(list(client.encode_stream(["a", "b"], features="2:1", **options))) == 2
        assert len(list(client.iter_top_activations("2:1", **options))) == 5
        assert all(seen.seconds_left is None or seen.seconds_left > 1e6 for seen in fake.seen)
        client.wait_ready(unlimited)


def test_a_wrong_timeout_is_told_at_once_everywhere(connect):
    client = connect()
    calls = (client.search, client.tokenize, client.get_feature, lambda *_, **more: client.wait_ready(**more))
    for call in (*calls, lambda _, **more: client.encode_stream(["a"], features="2:1", **more)):
        with pytest.raises(ValueError, match="timeout"):
            call("2:1", timeout=math.nan)
    with pytest.raises(ValueError, match="timeout"):
        connect(timeout=-1)


def test_a_bad_item_of_a_stream_fails_alone(client, fake):
    given = ["red", "\ud83d", math.nan, None, b"x", [1, -1], np.array([464]), "blue"]
    for in_order in (True, False):
        for texts in (given, iter(given)):
            items = list(client.encode_stream(texts, features="2:1", window=2, in_order=in_order))
            assert sorted(item.sequence for item in items) == list(range(8))
            errors = {item.sequence: item.error for item in items if item.error}
            assert sorted(errors) == [1, 2, 3, 4, 5]
            for place, error in errors.items():
                assert isinstance(error, saeserve.InvalidArgument)
                assert error.violations[0].field == f"texts[{place}]"
                assert f"texts[{place}" in str(error)
    assert in_order is False
    assert [item.sequence for item in client.encode_stream(given, features="2:1")] == list(range(8))
    assert [bool(item.error) for item in client.encode_stream([None, None], features="2:1")] == [True, True]


def test_what_cannot_be_a_header_or_a_target_is_told_before_anything_is_sent(client, fake):
    for options, says in (
        ({"metadata": {"x": 5}}, "metadata: 'x' is int"),
        ({"metadata": {"a b": "c"}}, "'a b' is no name"),
        ({"metadata": {"x": "é"}}, "not printable ASCII"),
        ({"request_id": "a\nb"}, r"request_id: .* not printable"),
        ({"request_id": 5}, "request_id is 5"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            client.search("a", **options)
    for given in (50051, b"localhost:1", None, [1]):
        with pytest.raises(TypeError, match="HOST:PORT"):
            saeserve.Client(given)
    client.search("a", metadata={"x-bytes-bin": b"\xff"})
    assert fake.seen[0].metadata["x-bytes-bin"] == b"\xff"
    assert len(fake.seen) == 1


def test_the_blocking_client_says_that_it_takes_no_asynchronous_texts(target):
    async def texts():
        yield "a"

    with saeserve.Client(target) as client, pytest.raises(TypeError, match="an AsyncClient takes one"):
        client.encode_stream(texts(), features="2:1")
