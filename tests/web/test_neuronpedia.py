"""Neuronpedia's calls against the plain computation as its server does it: TransformerLens, the SAEs' files, NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.torch import load_file

import saeserve
from saeserve.web.neuronpedia.options import Options
from tests.reference import Reference, neurons, saelens_formula
from tests.service.wire import DEMO
from tests.web.running import gateway_before

RED = "My favorite color is red."
LATENTS = [f"{layer}-demo" for layer in range(4)]
NEURONS = [str(layer) for layer in range(4)]
ASKED = {"prompt": RED, "model": "whatever"}
ALL = ASKED | {"sourceSet": "demo", "selectedSources": [], "sortByTokenIndexes": [], "ignoreBos": False}
Post = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def http(demo: saeserve.Client) -> Iterator[httpx.Client]:
    with (
        gateway_before(demo.target, options={"neuronpedia": Options()}) as gateway,
        httpx.Client(base_url=gateway.url, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def post(http: httpx.Client) -> Post:
    def call(name: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
        answer = http.post(f"/v1/{name}", json=body)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return call


@pytest.fixture(scope="module")
def reference() -> Reference:
    made = Reference.of_demo()
    for source in LATENTS:
        folder = DEMO / "saes" / source
        cfg = json.loads((folder / "cfg.json").read_text())
        formula = saelens_formula(cfg, load_file(folder / "sae_weights.safetensors"))
        made.formulas[source] = (f"blocks.{source[0]}.hook_mlp_out", formula)
    for source in NEURONS:
        made.formulas[source] = (f"blocks.{source}.mlp.hook_post", neurons)
    return made


def plain(reference: Reference, source: str, text: str = RED) -> np.ndarray:
    """[features, BOS and tokens], as its server has them."""
    found = reference.on(text, bos_row=True)[source]
    return found.activations.T


def near(expected: Any) -> Any:
    return pytest.approx(expected, abs=1e-3)


# activation/all


def ranked(reference: Reference, body: dict[str, Any], sources: list[str]) -> list[tuple[float, str, int, np.ndarray]]:
    """Key, source, index and values of the best, as its server ranks them."""
    found = []
    for source in sources:
        values = plain(reference, source).copy()
        if body["ignoreBos"]:
            values[:, 0] = 0
        chosen = body["sortByTokenIndexes"]
        keys = values[:, chosen].sum(1) if chosen else values.max(1)
        order = np.argsort(-keys, kind="stable")[: body["numResults"]]
        found += [(float(keys[index]), source, int(index), values[index]) for index in order]
    return sorted(found, key=lambda one: -one[0])[: body["numResults"]]


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("chosen", [[], [6], [0, 3], [0]])
@pytest.mark.parametrize(
    ("set_name", "sources"), [("demo", LATENTS), ("neurons", NEURONS), ("demo", ["2-demo", "0-demo"])]
)
def test_all_ranks_as_its_server_does(
    post: Post, reference: Reference, ignored: bool, chosen: list[int], set_name: str, sources: list[str]
) -> None:
    selected = sources if len(sources) == 2 else []
    body = ALL | {
        "sourceSet": set_name,
        "selectedSources": selected,
        "sortByTokenIndexes": chosen,
        "ignoreBos": ignored,
        "numResults": 50,
    }
    answer, expected = post("activation/all", body), ranked(reference, body, sources)
    assert answer["tokens"] == ["<|endoftext|>", "My", " favor", "ite", " color", " is", " red", "."]
    assert answer["counts"] is None
    if set_name == "neurons" and ignored and chosen == [0]:
        assert answer["activations"] == []  # all are 0, and a neuron that is 0 is none that was found
        return
    assert len(answer["activations"]) == len(expected) == 50
    for row, (key, source, index, _) in zip(answer["activations"], expected, strict=True):
        assert row["sumValues" if chosen else "maxValue"] == near(key)
        if key == 0:
            assert (row["source"], row["index"]) == (source, index)
        own = plain(reference, row["source"])[row["index"]].copy()
        own[0] *= not ignored
        assert row["values"] == near(own)
        assert row["maxValue"] == max(row["values"]) == row["values"][row["maxValueIndex"]]
        assert row["sumValues"] == near(own[chosen].sum() if chosen else 0)
        assert row["dfaValues"] is row["dfaTargetIndex"] is row["dfaMaxValue"] is None
    first = answer["activations"][0]
    assert (first["source"], first["index"]) == expected[0][1:3]


def test_all_answers_as_many_as_are_asked_for_with_rows_of_0(post: Post, reference: Reference) -> None:
    """Source after source, by index, as a stable sort leaves them."""
    body = ALL | {"prompt": "a", "numResults": 1000, "selectedSources": ["3-demo", "1-demo"]}
    rows = post("activation/all", body)["activations"]
    fires = [row for row in rows if row["maxValue"] > 0]
    assert len(rows) == 1000
    assert 0 < len(fires) < 500
    assert rows[: len(fires)] == fires
    taken = {(row["source"], row["index"]) for row in fires}
    zeros = [("3-demo", index) for index in range(2048) if ("3-demo", index) not in taken][: 1000 - len(fires)]
    assert [(row["source"], row["index"]) for row in rows[len(fires) :]] == zeros
    assert all(row["values"] == [0, 0] and row["maxValueIndex"] == 0 for row in rows[len(fires) :])


def test_a_row_whose_sum_is_0_has_its_own_values(post: Post, reference: Reference) -> None:
    body = ALL | {"sortByTokenIndexes": [5], "selectedSources": ["0-demo"], "numResults": 1000}
    rows = post("activation/all", body)["activations"]
    without = [row for row in rows if row["sumValues"] == 0]
    assert any(row["maxValue"] > 0 for row in without)
    expected = plain(reference, "0-demo")
    for row in without:
        assert row["values"] == near(expected[row["index"]])


def test_a_batch_is_each_of_its_prompts_and_the_number_of_results_is_25(post: Post) -> None:
    prompts = [RED, "Odysseus wept.", RED]
    body = {name: value for name, value in ALL.items() if name != "prompt"}
    found = post("activation/all-batch", body | {"prompts": prompts})["results"]
    for one, prompt in zip(found, prompts, strict=True):
        alone = post("activation/all", ALL | {"prompt": prompt, "numResults": None})
        assert one["tokens"] == alone["tokens"]
        assert [row["maxValue"] for row in one["activations"]] == near(
            [row["maxValue"] for row in alone["activations"]]
        )
        assert len(one["activations"]) == 25


# activation/single


def test_single_leaves_the_bos_of_a_latent_out_and_keeps_that_of_a_neuron(post: Post, reference: Reference) -> None:
    latent = post("activation/single", ASKED | {"source": "0-demo", "index": "248"})
    assert latent["activation"]["values"] == near(plain(reference, "0-demo")[248][1:])
    assert latent["tokens"] == ["My", " favor", "ite", " color", " is", " red", "."]
    assert latent["tokensIsSpecial"] == [False] * 7
    neuron = post("activation/single", ASKED | {"source": "2", "index": "53"})
    assert neuron["activation"]["values"] == near(plain(reference, "2")[53])
    assert neuron["tokens"][0] == "<|endoftext|>"
    assert neuron["tokensIsSpecial"] == [True] + [False] * 7
    for one in (latent["activation"], neuron["activation"]):
        assert one["maxValue"] == max(one["values"]) == one["values"][one["maxValueIndex"]]
        assert one["dfaValues"] is one["dfaTargetIndex"] is one["dfaMaxValue"] is None


def test_a_bos_inside_a_prompt_is_0_for_a_latent(post: Post, reference: Reference) -> None:
    found = post("activation/single", {"prompt": "a<|endoftext|>b", "model": "", "source": "0-demo", "index": "248"})
    expected = plain(reference, "0-demo", "a<|endoftext|>b")[248]
    assert expected[2] > 0
    assert found["activation"]["values"] == near([expected[1], 0, expected[3]])
    assert found["tokensIsSpecial"] == [False, True, False]


def test_single_projects_on_a_vector_and_keeps_the_bos(post: Post, reference: Reference) -> None:
    vector, hook = np.random.default_rng(1).standard_normal(512).astype(np.float32), "blocks.2.mlp.hook_post"
    found = post("activation/single", ASKED | {"vector": vector.tolist(), "hook": hook})
    assert found["activation"]["values"] == near(vector @ plain(reference, "2"))
    assert found["tokens"][0] == "<|endoftext|>"
    many = post(
        "activation/single-batch", {"prompts": ["a", RED], "model": "", "vector": vector.tolist(), "hook": hook}
    )
    assert many["results"][1]["activation"]["values"] == near(found["activation"]["values"])


def test_single_batch_is_each_of_its_prompts(post: Post) -> None:
    body = {"model": "", "source": "1-demo", "index": "196"}
    found = post("activation/single-batch", body | {"prompts": [RED, "a", RED]})["results"]
    for one, prompt in zip(found, [RED, "a", RED], strict=True):
        alone = post("activation/single", body | {"prompt": prompt})
        assert one["activation"]["values"] == near(alone["activation"]["values"])
        assert one["tokens"] == alone["tokens"]


# activation/topk-by-token, activation/source


@pytest.mark.parametrize("ignored", [False, True])
def test_the_top_of_each_token_and_positions_that_count_the_bos(
    post: Post, reference: Reference, ignored: bool
) -> None:
    found = post("activation/topk-by-token", ASKED | {"source": "1-demo", "topK": 20, "ignoreBos": ignored})
    assert [row["tokenPosition"] for row in found["results"]] == list(range(8))[ignored:]
    assert [row["token"] for row in found["results"]] == found["tokens"]
    assert [row["isSpecial"] for row in found["results"]] == [not ignored] * (not ignored) + [False] * 7
    values = plain(reference, "1-demo")
    for row in found["results"]:
        own = values[:, row["tokenPosition"]]
        top = row["topFeatures"]
        assert [one["activationValue"] for one in top] == near(np.sort(own)[::-1][:20])
        assert [one["activationValue"] for one in top] == near(own[[one["featureIndex"] for one in top]])
        assert len({one["featureIndex"] for one in top}) == 20


def test_top_k_is_5_and_20_at_most_and_a_batch_is_each_of_its_prompts(post: Post) -> None:
    body = ASKED | {"source": "0-demo", "ignoreBos": True}
    assert {len(row["topFeatures"]) for row in post("activation/topk-by-token", body)["results"]} == {5}
    most = post("activation/topk-by-token", body | {"topK": 1000})
    assert {len(row["topFeatures"]) for row in most["results"]} == {20}
    many = {"prompts": [RED, "a"], "model": "", "source": "0-demo", "topK": 20, "ignoreBos": True}
    found = post("activation/topk-by-token-batch", many)["results"]
    assert [one["tokens"] for one in found] == [most["tokens"], ["a"]]
    top = [one["activationValue"] for one in found[0]["results"][5]["topFeatures"]]
    assert top == near([one["activationValue"] for one in most["results"][5]["topFeatures"]])


def test_source_gives_all_that_fires_but_on_the_bos_to_3_decimals(post: Post, reference: Reference) -> None:
    prompts = [RED, "Odysseus wept."]
    found = post("activation/source", {"prompts": prompts, "model": "", "source": "3-demo"})["results"]
    for one, prompt in zip(found, prompts, strict=True):
        values = plain(reference, "3-demo", prompt)
        assert one["tokens"][0] == "<|endoftext|>"
        assert len(one["tokens"]) == values.shape[1]
        expected = {str(index): np.flatnonzero(row[1:]) + 1 for index, row in enumerate(values) if row[1:].any()}
        assert one["activeFeatures"].keys() == expected.keys()
        for index, pairs in one["activeFeatures"].items():
            assert [place for place, _ in pairs] == expected[index].tolist()
            assert [value for _, value in pairs] == pytest.approx(values[int(index)][expected[index]], abs=1.5e-3)
            assert all(value == round(value, 3) for _, value in pairs)


# tokenize, util, health


def test_tokenize_says_whether_a_bos_was_put_before(post: Post, reference: Reference) -> None:
    ids = reference.ids(RED)
    strings = ["My", " favor", "ite", " color", " is", " red", "."]
    asked = {"model": "", "text": RED}
    for body in (asked, asked | {"prependBos": None}, asked | {"prependBos": True}):
        assert post("tokenize", body) == {
            "tokens": [0, *ids],
            "tokenStrings": ["<|endoftext|>", *strings],
            "prependBos": True,
        }
    plainly = post("tokenize", asked | {"prependBos": False})
    assert plainly == {"tokens": ids, "tokenStrings": strings, "prependBos": False}
    led = {"model": "", "text": "<|endoftext|>red"}
    assert post("tokenize", led | {"prependBos": False})["tokens"] == [0, 373]
    assert post("tokenize", led)["tokens"] == [0, 0, 373]
    assert post("tokenize", {"model": "", "text": "日", "prependBos": False})["tokenStrings"][0] == "\ufffd"


def test_the_vector_is_the_encoders_column(post: Post) -> None:
    tensors = load_file(DEMO / "saes/1-demo/sae_weights.safetensors")
    found = post("util/sae-vector", {"model": "", "source": "1-demo", "index": 77})
    assert found == {"vector": tensors["W_enc"][:, 77].tolist(), "hookName": "blocks.1.hook_mlp_out"}


@pytest.mark.parametrize("count", [1, 2, 30, 1000])
def test_cosines_are_of_decoder_rows_the_feature_itself_first(post: Post, count: int) -> None:
    W_dec = load_file(DEMO / "saes/1-demo/sae_weights.safetensors")["W_dec"].double().numpy()
    unit = W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True)
    most = min(count, 128)
    feature = {"model": "m", "source": "1-demo", "index": 77}
    asked = {"model": "m", "source": "1-demo", "numResults": count}
    by_name = post("util/sae-topk-by-decoder-cossim", asked | {"feature": feature})
    by_vector = post("util/sae-topk-by-decoder-cossim", asked | {"vector": (3 * W_dec[77]).tolist()})
    expected = unit @ unit[77]
    order = np.argsort(-expected, kind="stable")[:most]
    assert (by_name["feature"], by_vector["feature"]) == (feature, None)
    for found in (by_name, by_vector):
        rows = found["topkDecoderCossimFeatures"]
        assert [row["feature"]["index"] for row in rows] == order.tolist()
        assert [row["cosineSimilarity"] for row in rows] == pytest.approx(expected[order], abs=1e-5)
        assert {(row["feature"]["model"], row["feature"]["source"]) for row in rows} == {("m", "1-demo")}


def test_health_and_capabilities(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "healthy"}
    found = http.get("/v1/capabilities").json()
    assert (found["model"], found["sae_sets"], found["token_limit"]) == ("demo", ["demo", "neurons"], 200)
    assert found["endpoints"]["activation_all"] is True
    assert found["endpoints"]["steer_completion"] is False
