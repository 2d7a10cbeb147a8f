"""Vectors asked for and given: a feature's own, features like one, projections. Against the files and the bridge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.reference import BOS, Reference
from tests.service.wire import DEMO, TIMEOUT, refused, text_input

RED = "My favorite color is red."
LATENT, NEURON = "1-DEMO:1633", "2:53"
AT_MLP, AT_NEURONS = "blocks.1.hook_mlp_out", "blocks.2.mlp.hook_post"
FEATURE = types.FeatureId(source="1-demo", index=5)
WIDE = [1.0] * 128


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of_demo()


def activations(reference: Reference, text: str, hook: str) -> np.ndarray:
    """[BOS and tokens, width], float64, as TransformerLens has them."""
    run = torch.tensor([[BOS, *reference.ids(text)]])
    with torch.inference_mode():
        _, cache = reference.bridge.run_with_cache(run, names_filter=[hook], prepend_bos=False)
    return cache[hook][0].flatten(1).double().numpy()


# A feature's vectors


def test_a_latents_vectors_are_those_of_its_file(demo: saeserve.Client) -> None:
    tensors = load_file(DEMO / "saes/1-demo/sae_weights.safetensors")
    found = demo.vectors(LATENT)
    assert str(found.name) == LATENT
    assert found.encoder.hook_name == found.decoder.hook_name == demo.list_sources()["1-demo"].hook_name == AT_MLP
    np.testing.assert_array_equal(found.encoder.values, tensors["W_enc"][:, 1633].numpy())
    np.testing.assert_array_equal(found.decoder.values, tensors["W_dec"][1633].numpy())
    assert np.linalg.norm(found.decoder.values) == pytest.approx(demo.get_feature(LATENT).decoder_norm, rel=1e-6)


def test_a_neurons_vectors_are_a_column_of_w_in_and_a_row_of_w_out(demo: saeserve.Client) -> None:
    model = {
        name.removeprefix("transformer."): one for name, one in load_file(DEMO / "model/model.safetensors").items()
    }
    found = demo.vectors(NEURON)
    np.testing.assert_array_equal(found.encoder.values, model["h.2.mlp.c_fc.weight"][:, 53].numpy())
    np.testing.assert_array_equal(found.decoder.values, model["h.2.mlp.c_proj.weight"][53].numpy())
    assert (found.encoder.hook_name, found.decoder.hook_name) == ("blocks.2.mlp.hook_in", "blocks.2.mlp.hook_out")


def test_the_hook_points_of_a_neurons_vectors_are_where_it_reads_and_writes(
    demo: saeserve.Client, reference: Reference
) -> None:
    """Between them stand only biases and the activation function."""
    found = demo.vectors(NEURON)
    before = activations(reference, RED, found.encoder.hook_name) @ found.encoder.values
    own = activations(reference, RED, "blocks.2.mlp.hook_pre")[:, 53]
    np.testing.assert_allclose(before - before[0], own - own[0], atol=1e-4)
    everything = activations(reference, RED, AT_NEURONS) @ np.stack(
        [demo.vectors(f"2:{index}", side="decoder").decoder.values for index in range(512)]
    )
    written = activations(reference, RED, found.decoder.hook_name)
    np.testing.assert_allclose(everything - everything[0], written - written[0], atol=1e-3)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_one_side_can_be_asked_for_alone(demo: saeserve.Client, side: str) -> None:
    both, alone = demo.vectors(LATENT), demo.vectors(LATENT, side=side)  # type: ignore[arg-type]
    assert (alone.encoder is None, alone.decoder is None) == (side == "decoder", side == "encoder")
    np.testing.assert_array_equal(getattr(alone, side).values, getattr(both, side).values)


def test_an_encoder_and_a_projection_on_it_give_what_the_latent_is_computed_from(demo: saeserve.Client) -> None:
    """Encoder times activations, and a bias: the same on all tokens on which the latent fires."""
    encoder = demo.vectors("0-DEMO:248", side="encoder").encoder
    rows = demo.encode(RED, features=["0-DEMO:248"], projections=[(encoder.hook_name, encoder.values)]).dense
    latent, product = rows[rows[:, 0] > 0].T
    assert len(latent) > 2
    assert np.ptp(latent - product) < 1e-4


# Features like a vector


@pytest.mark.parametrize("by", ["decoder", "encoder"])
def test_features_like_a_features_own_vector_are_it_and_those_like_it(demo: saeserve.Client, by: str) -> None:
    vectors = demo.vectors(LATENT, side=by)  # type: ignore[arg-type]
    found = demo.similar(vector=7 * getattr(vectors, by).values, by=by, limit=30, max_density=0.5)  # type: ignore[arg-type]
    like = demo.similar(LATENT, by=by, limit=29, max_density=0.5)  # type: ignore[arg-type]
    assert [str(one.name) for one in found] == [LATENT, *(str(one.name) for one in like)]
    assert [one.value for one in found] == pytest.approx([1.0, *(one.value for one in like)], abs=1e-6)
    assert found.feature is None
    assert found.features_compared == like.features_compared + 1
    assert found.space == like.space == "residual stream, 128 wide"


# Projections


@pytest.mark.parametrize("include_bos", [False, True])
def test_projections_are_products_of_the_models_activations(
    demo: saeserve.Client, reference: Reference, include_bos: bool
) -> None:
    random = np.random.default_rng(5)
    on = [(AT_MLP, random.standard_normal(128)), (AT_NEURONS, random.standard_normal(512)), (AT_MLP, np.eye(128)[7])]
    texts = [RED, "Odysseus wept by the sea.", RED]
    found = demo.encode(texts, features=["0-DEMO:248"], projections=on, include_bos=include_bos)
    assert found.projections == (AT_MLP, AT_NEURONS, AT_MLP)
    for one, text in zip(found, texts, strict=True):
        expected = [activations(reference, text, hook) @ vector.astype(np.float32) for hook, vector in on]
        np.testing.assert_allclose(one.dense[:, 1:], np.stack(expected, 1)[not include_bos :], atol=2e-4)
    alone = demo.encode(texts, projections=on, include_bos=include_bos)
    np.testing.assert_allclose(alone.dense, found.dense[:, 1:], atol=1e-4)
    items = [item.unwrap() for item in demo.encode_stream(texts, projections=on, include_bos=include_bos)]
    np.testing.assert_allclose(np.concatenate([item.dense for item in items]), alone.dense, atol=1e-4)


def test_a_projection_asked_again_comes_from_the_cache_and_another_does_not(demo: saeserve.Client) -> None:
    vector = np.random.default_rng(6).standard_normal(128)
    text = "Nobody has asked for this before: projections."
    first = demo.encode(text, projections=[(AT_MLP, vector)])
    again = demo.encode(text, projections=[(AT_MLP, vector)])
    assert (first.call_info.cache, again.call_info.cache) == (saeserve.Cache.NONE, saeserve.Cache.LOCAL)
    np.testing.assert_array_equal(first.dense, again.dense)
    vector[127] += 1
    other = demo.encode(text, projections=[(AT_MLP, vector)])
    assert other.call_info.cache is saeserve.Cache.NONE
    assert np.abs(other.dense - first.dense).max() > 0


# What is wrong


def projecting(*on: tuple[str, list[float]], **changes: object) -> service.EncodeRequest:
    given = [service.Projection(hook_name=hook, vector=vector) for hook, vector in on]
    return service.EncodeRequest(inputs=[text_input(RED)], projections=given, **changes)  # type: ignore[arg-type]


def like(vector: list[float], **changes: object) -> service.SimilarFeaturesRequest:
    return service.SimilarFeaturesRequest(vector=vector, **changes)  # type: ignore[arg-type]


NAN, INF = float("nan"), float("inf")
INVALID = ("INVALID_ARGUMENT", "INVALID_REQUEST")
WRONG = {
    "no feature": (service.GetVectorsRequest(), *INVALID, "feature.source"),
    "no such side": (service.GetVectorsRequest(feature=FEATURE, side=9), *INVALID, "side"),  # type: ignore[arg-type]
    "another model": (service.GetVectorsRequest(feature=FEATURE, model="x"), "NOT_FOUND", "MODEL_NOT_FOUND", ""),
    "no such feature": (
        service.GetVectorsRequest(feature=types.FeatureId(source="1-demo", index=5000)),
        "NOT_FOUND",
        "FEATURE_NOT_FOUND",
        "",
    ),
    "vector and feature": (like(WIDE, feature=FEATURE), *INVALID, "vector"),
    "too few numbers": (like([1.0] * 127), *INVALID, "vector"),
    "too many numbers": (like([1.0] * 129), *INVALID, "vector"),
    "a vector of 0": (like([0.0] * 128), *INVALID, "vector"),
    "NaN": (like([*WIDE[1:], NAN]), *INVALID, "vector[127]"),
    "infinite": (like([-INF, *WIDE[1:]]), *INVALID, "vector[0]"),
    "too large": (like([1e21, *WIDE[1:]]), *INVALID, "vector[0]"),
    "an overlap of a vector": (like(WIDE, by=service.SIMILARITY_FIRING), *INVALID, "by"),
    "a vector and a wrong filter": (like(WIDE, filter={"min_density": 2}), *INVALID, "filter.min_density"),
    "no hook point": (projecting(("", WIDE)), *INVALID, "projections[0].hook_name"),
    "no such hook point": (projecting((AT_MLP, WIDE), ("blocks.1.hook_mlp", WIDE)), "NOT_FOUND", "HOOK_NOT_FOUND", ""),
    "one that nothing reads": (projecting(("blocks.1.hook_resid_post", WIDE)), "NOT_FOUND", "HOOK_NOT_FOUND", ""),
    "of another width": (projecting((AT_MLP, WIDE), (AT_NEURONS, WIDE)), *INVALID, "projections[1].vector"),
    "empty": (projecting((AT_MLP, [])), *INVALID, "projections[0].vector"),
    "NaN in a projection": (projecting((AT_MLP, [NAN, *WIDE[1:]])), *INVALID, "projections[0].vector[0]"),
    "infinite in a projection": (projecting((AT_MLP, [1.0, INF, *WIDE[2:]])), *INVALID, "projections[0].vector[1]"),
    "too many": (projecting(*[(AT_MLP, WIDE)] * 17), *INVALID, "projections"),
    "beside sources": (projecting((AT_MLP, WIDE), sources=["0-demo"]), *INVALID, "sources"),
}
METHODS = {
    service.GetVectorsRequest: "GetVectors",
    service.SimilarFeaturesRequest: "SimilarFeatures",
    service.EncodeRequest: "Encode",
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_by_its_field(stub: FeatureServiceStub, what: str) -> None:
    asked, code, reason, field = WRONG[what]
    refusal = refused(lambda: getattr(stub, METHODS[type(asked)])(asked, timeout=TIMEOUT))
    assert (refusal.code.name, refusal.reason) == (code, reason)
    assert not field or field in refusal.fields


def test_an_unknown_hook_point_is_answered_with_the_nearest_or_some_that_are_served(stub: FeatureServiceStub) -> None:
    refusal = refused(lambda: stub.Encode(projecting(("blocks.1.hook_mlp", WIDE)), timeout=TIMEOUT))
    assert f"did you mean {AT_MLP}" in refusal.message
    refusal = refused(lambda: stub.Encode(projecting(("ß" * 100_000, WIDE)), timeout=TIMEOUT))
    assert "known: blocks.0." in refusal.message
    assert len(refusal.message) < 500


def test_a_stream_refuses_wrong_projections_as_encode_does(demo: saeserve.Client) -> None:
    with pytest.raises(saeserve.NotFound, match="HOOK_NOT_FOUND"):
        list(demo.encode_stream([RED], projections=[("nowhere", WIDE)]))
