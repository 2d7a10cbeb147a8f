"""Vectors over both clients and the command line: what is sent, and what comes back."""

import json

import numpy as np
import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire
from tests.client.fake import FakeService, dense, facts, new_service, one_value, tokens

HOOK = "blocks.0.hook_mlp_out"


class Service(FakeService):
    """The fake, with two more methods."""

    def GetVectors(self, request, context):
        return self._answer("GetVectors", request, context)

    def SimilarFeatures(self, request, context):
        return self._answer("SimilarFeatures", request, context)


@pytest.fixture
def fake() -> Service:
    more = {"GetVectors": vectors_answer, "SimilarFeatures": service.SimilarFeaturesResponse()}
    return Service(answers=dict(new_service().answers) | more)


def vectors_answer(request: service.GetVectorsRequest) -> service.GetVectorsResponse:
    answer = service.GetVectorsResponse(facts=facts(request.feature.source, request.feature.index))
    if request.side != service.VECTOR_SIDE_DECODER:
        answer.encoder.CopyFrom(service.Direction(hook_name=HOOK, values=[0.5, -0.25, 0.1]))
    if request.side != service.VECTOR_SIDE_ENCODER:
        answer.decoder.CopyFrom(service.Direction(hook_name=HOOK, values=[3, 4, 0, 0, 0, 0, 0]))
    return answer


def test_vectors_are_arrays_with_their_hook_points(client, fake):
    found = client.vectors("0-DEMO:1633", model="m")
    asked = service.GetVectorsRequest(model="m", feature=wire.FeatureId(source="0-demo", index=1633))
    assert fake.seen[0].request == asked
    assert str(found.name) == "0-DEMO:1633"
    assert found.encoder.hook_name == found.decoder.hook_name == HOOK
    assert found.encoder.values.dtype == np.float32
    assert found.encoder.values.tolist() == pytest.approx([0.5, -0.25, 0.1])
    assert not found.encoder.values.flags.writeable
    alone = client.vectors(("2", 5), side="decoder")
    assert fake.seen[1].request.side == service.VECTOR_SIDE_DECODER
    assert alone.encoder is None
    assert np.linalg.norm(alone.decoder.values) == 5
    assert repr(alone) == f"<Vectors of 2:5: decoder at {HOOK} (7)>"
    assert repr(alone.decoder) == f"<Direction at {HOOK}: 7 numbers, norm 5>"
    with pytest.raises(ValueError, match="side 'in' is none of both, encoder, decoder"):
        client.vectors("2:5", side="in")


@pytest.mark.parametrize(
    "vector", [[1, 0.5], (np.float64(1), np.float16(0.5)), np.array([1, 0.5]), np.array([1, 0.5], np.float32)]
)
def test_similar_takes_a_vector_instead_of_a_feature(client, fake, vector):
    found = client.similar(vector=vector, by="encoder", limit=3)
    assert fake.seen[0].request == service.SimilarFeaturesRequest(
        vector=[1, 0.5], by=service.SIMILARITY_ENCODER, limit=3
    )
    assert found.feature is None


@pytest.mark.parametrize(
    ("vector", "error", "says"),
    [
        ("12", TypeError, "not a sequence of numbers"),
        (1.5, TypeError, "not a sequence of numbers"),
        ({1.0, 2.0}, TypeError, "not a sequence of numbers"),
        ([1.0, "2"], TypeError, r"vector\[1\] is '2'.*, not a number"),
        ([True], TypeError, r"vector\[0\] is True.*, not a number"),
        (np.ones((2, 2)), TypeError, r"an array of shape \(2, 2\)"),
        ([1.0, 1e39], ValueError, r"vector\[1\] is 1e\+39, which float32 cannot hold"),
    ],
)
def test_what_is_no_vector_is_refused_here(client, fake, vector, error, says):
    with pytest.raises(error, match=says):
        client.similar(vector=vector)
    assert not fake.seen


def test_similar_takes_one_of_both(client):
    for given in ({}, {"feature": "2:5", "vector": [1.0]}):
        with pytest.raises(ValueError, match="either a feature or a vector"):
            client.similar(**given)


def test_projections_are_columns_after_the_features(client, fake):
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    fake.answers["Encode"] = service.EncodeResponse(
        texts=[service.EncodedText(tokens=tokens())], text_offsets=[0, 7], dense=dense(rows)
    )
    found = client.encode("a", features=["2:5"], projections=[(HOOK, np.array([1.0, 2.0]))])
    assert fake.seen[0].request == service.EncodeRequest(
        inputs=[wire.Input(text="a")],
        features=[wire.FeatureId(source="2", index=5)],
        projections=[service.Projection(hook_name=HOOK, vector=[1, 2])],
    )
    assert found.projections == (HOOK,)
    assert found.dense.tolist() == found[0].dense.tolist() == rows.tolist()
    assert found.column("2:5").tolist() == rows[:, 0].tolist()


def test_a_stream_sends_them_with_its_configuration(client, fake):
    first = []

    def answer(requests, context):
        first.append(next(requests))
        yield from (one_value(request.item) for request in requests)

    fake.streams = [answer]
    list(client.encode_stream(["a"], projections=[[HOOK, [1]]]))
    on = [service.Projection(hook_name=HOOK, vector=[1])]
    assert first == [service.EncodeStreamRequest(config=service.EncodeStreamConfig(projections=on))]


@pytest.mark.parametrize("given", [HOOK, [HOOK], [(HOOK,)], [(1, [1.0])], [(HOOK, [1.0], 2)], 5])
def test_what_is_no_list_of_pairs_is_refused_here(client, given):
    with pytest.raises(TypeError, match="expected"):
        client.encode("a", projections=given)


def test_a_bos_that_ranks_and_is_sorted_by(client, fake):
    client.search("a", rank_bos=True, sort_bos=True, sort=["b", 2])
    assert fake.seen[0].request == service.SearchRequest(
        input=wire.Input(text="a"),
        rank_bos=True,
        ranking=fake.seen[0].request.ranking,
        sort_tokens=[
            service.SortToken(text="b"),
            service.SortToken(position=2),
            service.SortToken(bos=True),
        ],
    )
    with pytest.raises(TypeError, match=r"rank_bos is 'no'.*, not True or False"):
        client.search("a", rank_bos="no")


# The command line


def test_the_command_prints_where_vectors_lie_and_how_they_begin(run):
    code, printed, _ = run("vector", "0-DEMO:1633")
    assert code == 0
    assert "0-DEMO:1633" in printed
    lines = [line.split() for line in printed.splitlines()]
    assert ["encoder", HOOK, "3", "0.5679", "0.5000", "-0.2500", "0.1000"] in lines
    assert ["decoder", HOOK, "7", "5.0000", "3.0000", "4.0000", "0.0000", "0.0000", "…"] in lines
    code, printed, _ = run("vector", "0-DEMO:1633", "--side", "decoder")
    assert code == 0
    assert "encoder" not in printed


def test_its_json_has_all_numbers(run):
    code, printed, _ = run("vector", "2:5", "--json")
    assert code == 0
    read = json.loads(printed)
    assert read["encoder"] == {"hookName": HOOK, "values": [0.5, -0.25, 0.1]}
    assert read["decoder"]["values"] == [3, 4, 0, 0, 0, 0, 0]


def test_search_takes_the_bos_by_flags(run, fake):
    assert run("search", "a", "--rank-bos", "--sort-bos", "--sort", "b")[0] == 0
    asked = fake.seen[0].request
    assert asked.rank_bos
    assert [one.WhichOneof("token") for one in asked.sort_tokens] == ["text", "bos"]


def test_similar_and_vectors_are_public():
    assert saeserve.Vectors
    assert saeserve.Direction
