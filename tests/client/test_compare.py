"""Variants of a text side by side: what is aligned with what, and how it is shown."""

from __future__ import annotations

import json

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve import Comparison, InvalidArgument
from saeserve.answers.compare import align
from saeserve.v1 import feature_service_pb2 as service
from tests.client.fake import Failure, dense, status, tokens

LOVE = [b"I", b" love", b" the", b" sea"]
HATE = [b"I", b" hate", b" the", b" sea"]
RED = [b"I", b" am", b" ver", b"milion", b" the", b" sea"]


def answer(request: service.EncodeRequest) -> service.EncodeResponse:
    """Texts by their words; feature f fires on the second token with f + 1, and on the last with 0.25."""
    made = service.EncodeResponse(text_offsets=[0])
    rows = []
    for one in request.inputs:
        pieces = {"love": LOVE, "hate": HATE, "red": RED}.get(one.text, [b"x"])
        made.texts.add(tokens=tokens(pieces), truncated=one.text == "red")
        values = np.zeros((len(pieces), len(request.features)), np.float32)
        if len(pieces) > 1:
            values[1], values[-1] = np.arange(1, len(request.features) + 1), 0.25
        rows.append(values)
        made.text_offsets.append(made.text_offsets[-1] + len(pieces))
    made.dense.CopyFrom(dense(np.concatenate(rows)))
    return made


@pytest.fixture
def fake(fake):
    fake.answers["Encode"] = answer
    return fake


texts = st.lists(st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=8), min_size=1, max_size=4)


@given(texts)
def test_every_token_stands_in_one_row_in_its_order(given_texts):
    rows = align(given_texts)
    for text, pieces in enumerate(given_texts):
        assert [row[text] for row in rows if row[text] is not None] == list(range(len(pieces)))
    assert all(any(place is not None for place in row) for row in rows)


@given(st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=8), st.integers(1, 4))
def test_texts_that_are_the_same_stand_row_by_row(pieces, count):
    assert align([pieces] * count) == [(place,) * count for place in range(len(pieces))]


def test_one_word_changed_stands_opposite_and_a_longer_one_in_rows_of_its_own():
    assert align([LOVE, HATE]) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert align([LOVE, RED, HATE]) == [
        (0, 0, 0),
        (1, 1, 1),
        (None, 2, None),
        (None, 3, None),
        (2, 4, 2),
        (3, 5, 3),
    ]


def test_a_comparison_has_activations_peaks_and_what_differs(client, fake):
    found = client.compare(["0-demo:7", (2, 553)], ["love", "red"])
    assert isinstance(found, Comparison)
    assert [str(feature) for feature in found] == ["0-DEMO:7", "2:553"]
    table = found.activations("2:553")
    np.testing.assert_array_equal(table, [[0, 0], [2, 2], [np.nan, 0], [np.nan, 0], [0, 0], [0.25, 0.25]])
    assert [found.differs(row) for row in range(len(found.rows))] == [False, True, True, True, False, False]
    assert [(peak.activation, peak.position, str(peak.token)) for peak in found.peaks("0-demo:7")] == [
        (1.0, 1, " love"),
        (1.0, 1, " am"),
    ]
    with pytest.raises(KeyError):
        found.peaks("0-demo:8")
    assert [one.text for one in fake.seen[0].request.inputs] == ["love", "red"]


def test_a_comparison_prints_as_tables(client):
    printed = str(client.compare("0-demo:7", ["love", "hate"]))
    assert printed.splitlines() == [
        "0-DEMO:7",
        "  A  max 1.000 on ·love",
        "  B  max 1.000 on ·hate",
        "     A            B",
        "     I 0.000      I 0.000",
        "   * ·love 1.000  ·hate 1.000",
        "     ·the 0.000   ·the 0.000",
        "     ·sea 0.250   ·sea 0.250",
    ]


@pytest.mark.parametrize("given_texts", ["one text", [], ["one"], [[464, 22]]])
def test_fewer_than_two_texts_are_refused_before_anything_is_sent(client, fake, given_texts):
    with pytest.raises(ValueError, match="fewer than two"):
        client.compare("0-demo:7", given_texts)
    with pytest.raises(ValueError, match="names nothing"):
        client.compare([], ["a", "b"])
    assert not fake.seen


def test_the_command_marks_rows_that_differ_and_leaves_out_what_tells_nothing(run, monkeypatch):
    code, out, err = run("compare", "0-DEMO:7,2:553", "love", "hate", "red")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "0-DEMO:7"
    assert lines[2].split() == ["A", "1.000", "·love", "I", "«love»", "the", "sea"]
    assert lines[5].split() == ["A", "B", "C"]
    assert ["*", "·love", "1.000", "·hate", "1.000", "·am", "1.000"] in [line.split() for line in lines]
    assert ["*", "·ver", "."] in [line.split() for line in lines]
    assert "2:553" in lines
    assert "text C was cut to the token limit" in lines


def test_the_command_as_json(run):
    code, out, _ = run("compare", "0-DEMO:7", "love", "red", "--json")
    printed = json.loads(out)
    assert code == 0
    assert printed["texts"] == ["I love the sea", "I am vermilion the sea"]
    assert printed["rows"][2] == {"tokens": [None, " ver"], "positions": [None, 2], "differs": True}
    assert printed["features"][0]["feature"] == "0-DEMO:7"
    assert printed["features"][0]["activations"][1] == [1.0, 1.0]
    assert printed["features"][0]["activations"][2] == [None, 0.0]
    assert printed["features"][0]["peaks"][1] == {"activation": 1.0, "position": 1, "token": " am"}


def test_one_text_is_wrong_usage(run, fake):
    assert run("compare", "0-DEMO:7", "love")[0] == 2
    assert not fake.seen


def test_long_texts_are_told_where_they_differ_or_fire(run, fake):
    """The rows between are left out, and … says where; --full tells all."""
    first = [b" w%02d" % place for place in range(50)]
    variants = [first, [*first[:25], b"y", *first[26:]]]

    def long(request: service.EncodeRequest) -> service.EncodeResponse:
        values = np.zeros((100, 1), np.float32)
        values[40] = 3
        return service.EncodeResponse(
            text_offsets=[0, 50, 100],
            texts=[service.EncodedText(tokens=tokens(pieces)) for pieces in variants],
            dense=dense(values),
        )

    fake.answers["Encode"] = long
    lines = [line.split() for line in run("compare", "0-DEMO:7", "a", "b")[1].splitlines()]
    rows = lines[lines.index(["A", "B"]) + 1 :]
    told = [f"·w{place}" for place in (23, 24, 25, 26, 27, 38, 39, 40, 41, 42)]
    assert [row[1] if row[0] == "*" else row[0] for row in rows] == ["…", *told[:5], "…", *told[5:], "…"]
    assert rows[3] == ["*", "·w25", ".", "y", "."]
    assert ["·w40", "3.000", "·w40", "."] in rows
    assert "…" not in run("compare", "0-DEMO:7", "a", "b", "--full")[1]


def test_what_the_server_refuses_is_raised(client, fake):
    fake.failures.append(Failure(status(grpc.StatusCode.INVALID_ARGUMENT, "inputs: too many")))
    with pytest.raises(InvalidArgument):
        client.compare("0-demo:7", ["love", "hate"])
