"""SimilarFeatures and Contrast over both clients and the command line: what is sent, and what comes back."""

import json

import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire
from tests.client.fake import FakeService, facts, new_service


class Service(FakeService):
    """The fake, with these two methods: a stream is seen as the list of its messages."""

    def SimilarFeatures(self, request, context):
        return self._answer("SimilarFeatures", request, context)

    def Contrast(self, requests, context):
        return self._answer("Contrast", list(requests), context)


@pytest.fixture
def fake() -> Service:
    return Service(
        answers=dict(new_service().answers) | {"SimilarFeatures": similar_answer, "Contrast": contrast_answer}
    )


def similar_answer(request: service.SimilarFeaturesRequest) -> service.SimilarFeaturesResponse:
    overlaps = request.by in (service.SIMILARITY_FIRING, service.SIMILARITY_RECORDS)
    first = service.SimilarFeature(facts=facts("2", 553), value=0.75)
    if overlaps:
        first.positions, first.lower, first.upper, first.contained, first.contains = 40, 0.5, 0.875, 0.25, 1.0
    return service.SimilarFeaturesResponse(
        facts=facts(request.feature.source, request.feature.index),
        similar=[
            first,
            service.SimilarFeature(facts=facts("0-demo", 7), value=-0.5, positions=3 if overlaps else None),
        ],
        features_compared=2559,
        left_out=[service.NotCompared(sources=["1-att", "2-att"], reason="they write elsewhere")],
        space="" if overlaps else "residual stream, 128 wide",
    )


def contrast_answer(messages: list[service.ContrastRequest]) -> service.ContrastResponse:
    def result(
        source: str, index: int, side: service.ContrastSide.ValueType, difference: float
    ) -> service.ContrastResult:
        return service.ContrastResult(
            facts=facts(source, index),
            side=side,
            texts_a=5,
            texts_b=1,
            difference=difference,
            log_odds=2.5,
            p_value=0.001,
            q_value=0.25,
            auc=0.875,
            auc_error=0.125,
            max_a=4.5,
            max_b=0.5,
        )

    sides = [message.item.side for message in messages[1:]]
    return service.ContrastResponse(
        results=[
            result("0-demo", 1633, service.CONTRAST_SIDE_A, 0.75),
            result("2", 553, service.CONTRAST_SIDE_B, -0.5),
        ],
        texts_a=sides.count(service.CONTRAST_SIDE_A),
        texts_b=sides.count(service.CONTRAST_SIDE_B),
        features_tested=12,
        features_considered=2048,
        sources_considered=["0-demo"],
    )


def test_similar_sends_what_was_asked_and_reads_what_came(client, fake):
    found = client.similar(
        "0-DEMO:1633",
        by="firing",
        kinds="all",
        layers="1-2",
        exclude_features="2:4",
        max_density=0.5,
        limit=5,
        model="m",
    )
    assert fake.seen[0].request == service.SimilarFeaturesRequest(
        model="m",
        feature=wire.FeatureId(source="0-demo", index=1633),
        by=service.SIMILARITY_FIRING,
        filter=service.Filter(
            include=service.FeatureSelector(
                kinds=[wire.FEATURE_KIND_LATENT, wire.FEATURE_KIND_NEURON], layers=[service.LayerRange(first=1, last=2)]
            ),
            exclude=service.FeatureSelector(features=[wire.FeatureId(source="2", index=4)]),
            max_density=0.5,
        ),
        limit=5,
    )
    assert [str(one.name) for one in found] == ["2:553", "0-DEMO:7"]
    assert found[0].feature.kind is saeserve.Kind.NEURON
    assert (found[0].positions, found[0].interval) == (40, (0.5, 0.875))
    assert (found[0].contained, found[0].contains) == (0.25, 1.0)
    assert (found[1].interval, found[1].contained) == (None, None)
    assert (len(found), found[:1], found.space, found.features_compared) == (2, (found[0],), "", 2559)
    assert found.left_out == (saeserve.NotCompared(("1-att", "2-att"), "they write elsewhere"),)
    assert str(found.feature.name) == "0-DEMO:1633"


def test_similar_by_default_is_by_decoder_without_a_filter(client, fake):
    found = client.similar(("2", 553))
    assert fake.seen[0].request == service.SimilarFeaturesRequest(
        feature=wire.FeatureId(source="2", index=553), by=service.SIMILARITY_DECODER
    )
    assert found[0].positions is None
    assert found.space == "residual stream, 128 wide"
    with pytest.raises(ValueError, match="'records'"):
        client.similar("2:553", by="meaning")


def test_contrast_streams_the_configuration_and_then_the_texts(client, fake):
    found = client.contrast(["a", "b"], iter([[1, 2], "d"]), sources="0-DEMO", limit=3, truncate=True)
    messages = fake.seen[0].request
    assert messages[0].config == service.ContrastConfig(
        filter=service.Filter(include=service.FeatureSelector(sources=["0-demo"])), limit=3, truncate=True
    )
    items = [message.item for message in messages[1:]]
    assert [item.side for item in items] == [service.CONTRAST_SIDE_A] * 2 + [service.CONTRAST_SIDE_B] * 2
    assert [item.input for item in items] == [
        wire.Input(text="a"),
        wire.Input(text="b"),
        wire.Input(token_ids=wire.TokenIds(ids=[1, 2])),
        wire.Input(text="d"),
    ]
    assert (found.texts_a, found.texts_b, found.features_tested, found.features_considered) == (2, 2, 12, 2048)
    [a], [b] = found.of_a, found.of_b
    assert (str(a.name), a.side, a.difference, a.auc, a.auc_error, a.max_b) == (
        "0-DEMO:1633",
        "a",
        0.75,
        0.875,
        0.125,
        0.5,
    )
    assert (str(b.name), b.side, b.p_value, b.q_value, b.log_odds) == ("2:553", "b", 0.001, 0.25, 2.5)
    assert [*found] == [a, b]


def test_a_contrast_that_was_refused_is_sent_again_whole(client, fake):
    import grpc

    from tests.client.fake import Failure, status

    fake.failures = [Failure(status(grpc.StatusCode.UNAVAILABLE, "loading"), (("grpc-retry-pushback-ms", "1"),))]
    assert client.contrast(["a"] * 5, ["b"] * 5).texts_b == 5
    assert [len(seen.request) for seen in fake.seen] == [11, 11]


@pytest.mark.parametrize("texts", ["one text", 3, b"bytes"])
def test_what_is_no_list_of_texts_is_refused_before_anything_is_sent(client, fake, texts):
    with pytest.raises((TypeError, ValueError), match=r"texts is"):
        client.contrast(texts, ["a"])
    assert fake.seen == []


def test_similar_prints_a_table(run, fake):
    code, out, err = run("similar", "0-DEMO:1633", "--limit", "2", "--layers", "1-2", "--kind", "neuron")
    assert (code, err) == (0, "")
    assert fake.seen[0].request.limit == 2
    assert fake.seen[0].request.filter.include.kinds == [wire.FEATURE_KIND_NEURON]
    lines = out.splitlines()
    assert lines[2].split() == ["#", "feature", "value", "density", "usually", "on"]
    assert lines[3].split()[:4] == ["1", "2:553", "0.750", "1%"]
    assert "not compared: 1-att, 2-att: they write elsewhere" in lines
    assert lines[-1].startswith("2,559 features compared in the residual stream, 128 wide, ")
    assert all(len(line) <= 80 for line in lines)


def test_similar_prints_what_an_overlap_rests_on(run):
    code, out, _ = run("similar", "0-DEMO:1633", "--by", "firing")
    assert code == 0
    assert out.splitlines()[2].split() == [
        "#",
        "feature",
        "value",
        "of",
        "95%",
        "in",
        "it",
        "it",
        "in",
        "density",
        "usually",
        "on",
    ]
    assert out.splitlines()[3].split()[:7] == ["1", "2:553", "0.750", "40", "0.50-0.88", "25%", "100%"]
    assert out.splitlines()[4].split()[:7] == ["2", "0-DEMO:7", "-0.500", "3", "-", "-", "-"]


def test_contrast_reads_files_of_lines_and_of_json(run, fake, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("one\n\n two \r\nthree\n", "utf-8")
    lines.write_text('{"text": "vier", "body": "four"}\n{"text": "fünf", "body": "five"}\n', "utf-8")
    code, out, err = run("contrast", str(plain), str(lines), "--limit", "1", "--truncate")
    assert (code, err) == (0, "")
    texts = [message.item.input.text for message in fake.seen[0].request[1:]]
    assert texts == ["one", " two ", "three", "vier", "fünf"]
    printed = out.splitlines()
    assert printed[0] == "more often in A"
    assert printed[2].split()[:9] == [
        "1",
        "0-DEMO:1633",
        "5/3",
        "1/2",
        "+2.50",
        "1.0e-03",
        "2.5e-01",
        "0.88±0.12",
        "4.500",
    ]
    assert "12 features tested, those that fire in any text, of 2,048 considered; 3 texts of A, 2 of B" in out
    assert run("contrast", str(lines), str(plain), "--field", "body")[0] == 2  # plain is no JSON
    assert run("contrast", str(lines), str(lines), "--field", "body")[0] == 0
    assert [message.item.input.text for message in fake.seen[1].request[1:3]] == ["four", "five"]


def test_contrast_says_which_file_and_line_is_wrong(run, tmp_path):
    wrong = tmp_path / "a.jsonl"
    for content, says in (
        ("{}\n", "line 1: expected an object with a text in 'text'"),
        ("\n[1\n", "line 2: not valid JSON"),
    ):
        wrong.write_text(content)
        code, _, err = run("contrast", str(wrong), str(wrong))
        assert code == 2
        assert says in err
    code, _, err = run("contrast", str(tmp_path / "none.txt"), "-")
    assert code == 2
    assert "none.txt cannot be read: No such file or directory" in err
    wrong.write_bytes(b"\xff\xfe")
    assert "not UTF-8, byte 0xff at 0" in run("contrast", str(wrong), str(wrong))[2]
    assert "standard input can be read once only" in run("contrast", "-", "-")[2]


def test_json_is_the_answer_with_every_field(run, tmp_path):
    code, out, _ = run("similar", "2:553", "--json")
    assert code == 0
    assert json.loads(out)["leftOut"][0]["sources"] == ["1-att", "2-att"]
    texts = tmp_path / "a.txt"
    texts.write_text("red\n" * 5)
    code, out, _ = run("contrast", str(texts), str(texts), "--json")
    assert code == 0
    assert json.loads(out)["results"][0]["side"] == "CONTRAST_SIDE_A"
