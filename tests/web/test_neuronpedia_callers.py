"""Neuronpedia's calls by its published Python client, with a secret, in either casing, and with everything wrong."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import neuronpedia_inference_client as theirs
import pytest
from grpc import StatusCode

import saeserve
from saeserve.cli.main import main
from saeserve.web.neuronpedia.options import Options, secret_of
from saeserve.web.neuronpedia.routes import _refused
from tests.client.test_calls import free_port
from tests.web.running import Running, gateway_before

RED = "My favorite color is red."
SECRET = "open sesame"
ASKED = {"prompt": RED, "model": "demo"}
ALL = ASKED | {"sourceSet": "demo", "selectedSources": [], "sortByTokenIndexes": [], "ignoreBos": False}
TOP = ASKED | {"source": "0-demo", "ignoreBos": False}
COSINE = {"model": "", "source": "0-demo", "numResults": 3}
CALLS: dict[str, dict[str, Any]] = {
    "activation/all": ALL,
    "activation/all-batch": {"prompts": ["a"], **{name: value for name, value in ALL.items() if name != "prompt"}},
    "activation/single": ASKED | {"source": "0-demo", "index": "5"},
    "activation/single-batch": {"prompts": ["a"], "model": "", "source": "0-demo", "index": "5"},
    "activation/topk-by-token": TOP,
    "activation/topk-by-token-batch": {"prompts": ["a"], "model": "", "source": "0-demo", "ignoreBos": False},
    "activation/source": {"prompts": ["a"], "model": "", "source": "0-demo"},
    "tokenize": {"model": "", "text": "a"},
    "util/sae-vector": {"model": "", "source": "0-demo", "index": 5},
    "util/sae-topk-by-decoder-cossim": COSINE | {"feature": {"model": "", "source": "0-demo", "index": 5}},
}
Post = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def camel(demo: saeserve.Client) -> Iterator[Running]:
    with gateway_before(demo.target, options={"neuronpedia": Options(token_limit=40)}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def snake(demo: saeserve.Client) -> Iterator[Running]:
    options = Options(secret=SECRET, snake_case=True)
    with gateway_before(demo.target, options={"neuronpedia": options}) as gateway:
        yield gateway


@functools.cache
def connected(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60)


def post(gateway: Running, name: str, body: Any, **headers: str) -> httpx.Response:
    return connected(gateway.url).post(f"/v1/{name}", json=body, headers=headers)


# The published client


@pytest.fixture(scope="module")
def api(snake: Running) -> Iterator[Any]:
    configuration = theirs.Configuration(host=f"{snake.url}/v1", api_key={"SimpleSecretAuth": SECRET})
    with theirs.ApiClient(configuration) as client:
        yield theirs.DefaultApi(client)


def test_the_published_client_reads_all(api: Any, demo: saeserve.Client) -> None:
    request = theirs.ActivationAllPostRequest(
        prompt=RED,
        model="demo",
        source_set="demo",
        selected_sources=["0-demo"],
        sort_by_token_indexes=[6],
        ignore_bos=False,
        num_results=3,
    )
    found = api.activation_all_post(request)
    ours = demo.search(RED, sources="0-demo", sort=[5], limit=3, rank_bos=True)
    assert found.tokens == [token.piece.decode() for token in ours.tokens]
    assert [f"{row.source}:{row.index}" for row in found.activations] == [str(hit.name).lower() for hit in ours]
    for row, hit in zip(found.activations, ours, strict=True):
        assert row.values == pytest.approx(hit.activations.tolist(), abs=1e-4)
        assert row.sum_values == pytest.approx(hit.value, abs=1e-4)
        assert (row.max_value, row.max_value_index) == (pytest.approx(hit.max_activation), hit.max_position)
    many = theirs.ActivationAllBatchPostRequest(
        prompts=[RED, "a"],
        model="demo",
        source_set="neurons",
        selected_sources=[],
        sort_by_token_indexes=[],
        ignore_bos=True,
    )
    rows = api.activation_all_batch_post(many).results[0].activations
    neurons = demo.search(RED, kinds="neuron")
    assert [row.max_value for row in rows] == pytest.approx([hit.value for hit in neurons], abs=1e-4)


def test_the_published_client_reads_single(api: Any, demo: saeserve.Client) -> None:
    found = api.activation_single_post(
        theirs.ActivationSinglePostRequest(prompt=RED, model="demo", source="0-demo", index="1633")
    )
    ours = demo.encode(RED, features=["0-DEMO:1633"]).dense[:, 0]
    assert found.activation.values == pytest.approx(ours.tolist(), abs=1e-4)
    assert found.tokens_is_special == [False] * 7
    hook, vector = "blocks.0.hook_mlp_out", [0.5] * 128
    many = api.activation_single_batch_post(
        theirs.ActivationSingleBatchPostRequest(prompts=["a", RED], model="demo", vector=vector, hook=hook)
    )
    projected = demo.encode(RED, projections=[(hook, vector)], include_bos=True).dense[:, 0]
    assert many.results[1].activation.values == pytest.approx(projected.tolist(), abs=1e-3)


def test_the_published_client_reads_the_top_of_each_token(api: Any, demo: saeserve.Client) -> None:
    request = theirs.ActivationTopkByTokenPostRequest(
        prompt=RED, model="demo", source="0-demo", top_k=3, ignore_bos=True
    )
    found = api.activation_topk_by_token_post(request)
    ours = demo.search(RED, sources="0-demo", by_token=True, limit=3, rank_bos=True)
    for row, hits in zip(found.results, ours.token_results[1:], strict=True):
        assert row.token_position == hits.position
        assert len(row.top_features) == 3
        fires = [one for one in row.top_features if one.activation_value > 0]
        assert [one.feature_index for one in fires] == [feature.name.index for feature in hits.features]
        assert [one.activation_value for one in fires] == pytest.approx(hits.values.tolist(), abs=1e-4)


def test_the_published_client_reads_sources_tokens_vectors_and_cosines(api: Any, demo: saeserve.Client) -> None:
    active = api.activation_source_post(
        theirs.ActivationSourcePostRequest(prompts=[RED], model="demo", source="0-demo")
    ).results[0]
    sparse = demo.encode(RED, sources="0-demo").sparse["0-demo"]
    assert set(active.active_features) == {str(index) for index in sparse.indices}
    tokens = api.tokenize_post(theirs.TokenizePostRequest(model="demo", text=RED, prepend_bos=False))
    assert (tuple(tokens.tokens), tokens.prepend_bos) == (demo.tokenize(RED).ids, False)
    vector = api.util_sae_vector_post(theirs.UtilSaeVectorPostRequest(model="demo", source="0-demo", index=5))
    assert vector.vector == demo.vectors("0-DEMO:5").encoder.values.tolist()
    assert vector.hook_name == "blocks.0.hook_mlp_out"
    feature = theirs.NPFeature(model="demo", source="0-demo", index=5)
    found = api.util_sae_topk_by_decoder_cossim_post(
        theirs.UtilSaeTopkByDecoderCossimPostRequest(feature=feature, model="demo", source="0-demo", num_results=6)
    )
    similar = demo.similar("0-DEMO:5", sources="0-demo", limit=5)
    indexes = [row.feature.index for row in found.topk_decoder_cossim_features]
    assert indexes == [5, *(one.name.index for one in similar)]


def test_the_published_client_raises_what_is_wrong(api: Any) -> None:
    with pytest.raises(theirs.ApiException) as raised:
        api.util_sae_vector_post(theirs.UtilSaeVectorPostRequest(model="", source="9-demo", index=5))
    assert raised.value.status == 400
    assert json.loads(raised.value.body)["error"].startswith("Invalid source: 9-demo is none of 0-demo, 0,")


# Casing, secret, gzip


def test_names_are_read_in_both_casings_and_answered_in_one(camel: Running, snake: Running) -> None:
    def names(value: Any) -> set[str]:
        if isinstance(value, dict):
            return {name for name in value if not name.isdigit()}.union(*map(names, value.values()))
        return set().union(*map(names, value)) if isinstance(value, list) else set()

    as_snake = {"sourceSet": "source_set", "selectedSources": "selected_sources", "ignoreBos": "ignore_bos"}
    as_snake |= {"sortByTokenIndexes": "sort_by_token_indexes", "numResults": "num_results", "topK": "top_k"}
    for name, body in CALLS.items():
        in_snake = {as_snake.get(field, field): value for field, value in body.items()}
        one, other = post(camel, name, body).json(), post(camel, name, in_snake).json()
        assert names(one) == names(other)
        assert not any("_" in field for field in names(one))
        answered = post(snake, name, body, **{"X-SECRET-KEY": SECRET}).json()
        assert not any(field != field.lower() for field in names(answered) - {"hookName", "activeFeatures"})
        assert len(names(answered)) == len(names(one))


@pytest.mark.parametrize("given", [{}, {"X-SECRET-KEY": ""}, {"X-SECRET-KEY": "Open sesame"}, {"X-SECRET-KEY": "ö"}])
def test_the_secret_is_asked_for_everywhere_but_of_health(snake: Running, given: dict[str, str]) -> None:
    headers = [(name.encode(), value.encode()) for name, value in given.items()]
    for name, body in CALLS.items():
        answer = connected(snake.url).post(f"/v1/{name}", json=body, headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"error": "Invalid or missing X-SECRET-KEY header"})
    assert httpx.get(f"{snake.url}/v1/capabilities", headers=headers).status_code == 401
    assert httpx.get(f"{snake.url}/health", headers=headers).json() == {"status": "healthy"}


def test_without_a_secret_whatever_header_is_taken_and_long_answers_are_compressed(camel: Running) -> None:
    body = json.dumps(ALL).encode()
    with httpx.stream(
        "POST", f"{camel.url}/v1/activation/all", content=body, headers={"X-SECRET-KEY": "x", "Accept-Encoding": "gzip"}
    ) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(raw))["activations"]) == 25


def test_without_the_option_there_are_no_such_paths(demo: saeserve.Client) -> None:
    with gateway_before(demo.target) as gateway:
        assert post(gateway, "tokenize", CALLS["tokenize"]).status_code in (404, 405)
        assert httpx.get(f"{gateway.url}/health").status_code == 404


# What is wrong

LONG = "red " * 60
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "set": ("activation/all", ALL | {"sourceSet": "res-jb"}, "Invalid source set: res-jb is none of demo, neurons"),
    "source": ("activation/all", ALL | {"selectedSources": ["9-demo"]}, "Invalid source: 9-demo"),
    "source of another set": ("activation/all", ALL | {"selectedSources": ["2"]}, "2 is not of the set demo"),
    "sort index": ("activation/all", ALL | {"sortByTokenIndexes": [8]}, "index 8 is out of range for the given prompt"),
    "sort index below 0": ("activation/all", ALL | {"sortByTokenIndexes": [-1]}, "index -1 is out of range"),
    "sort index twice": ("activation/all", ALL | {"sortByTokenIndexes": [3, 3]}, "holds an index twice"),
    "results": ("activation/all", ALL | {"numResults": 0}, "numResults is 0"),
    "no text": ("activation/all", ALL | {"prompt": ""}, "a text is expected"),
    "too long": ("activation/all", ALL | {"prompt": LONG}, "tokens, max is 40"),
    "too long in a batch": (
        "activation/all-batch",
        {**CALLS["activation/all-batch"], "prompts": [LONG[:48]]},
        "max is 10",
    ),
    "no prompts": (
        "activation/source",
        CALLS["activation/source"] | {"prompts": []},
        "At least one prompt is required",
    ),
    "five prompts": ("activation/source", CALLS["activation/source"] | {"prompts": ["a"] * 5}, "exceeds maximum of 4"),
    "source and vector": (
        "activation/single",
        CALLS["activation/single"] | {"vector": [1.0], "hook": "x"},
        "exactly one of layer/index or vector",
    ),
    "neither": ("activation/single", ASKED | {"source": "0-demo"}, "exactly one of layer/index or vector"),
    "index": ("activation/single", CALLS["activation/single"] | {"index": "five"}, "index is 'five'"),
    "index too large": ("activation/single", CALLS["activation/single"] | {"index": "2048"}, "2048"),
    "hook": ("activation/single", ASKED | {"vector": [1.0], "hook": "blocks.0.hook_z"}, "no served source reads"),
    "width": ("activation/single", ASKED | {"vector": [1.0], "hook": "blocks.0.hook_mlp_out"}, "128 are expected"),
    "neurons, sparse": ("activation/source", CALLS["activation/source"] | {"source": "2"}, "2 are neurons"),
    "neurons' vector": ("util/sae-vector", CALLS["util/sae-vector"] | {"source": "2"}, "2 are neurons"),
    "no such feature": ("util/sae-vector", CALLS["util/sae-vector"] | {"index": 5000}, "5000"),
    "below 0": ("util/sae-vector", CALLS["util/sae-vector"] | {"index": -1}, "index is -1"),
    "nothing to compare": ("util/sae-topk-by-decoder-cossim", COSINE, "exactly one of feature or vector"),
    "another width": ("util/sae-topk-by-decoder-cossim", COSINE | {"vector": [1.0]}, "128 are expected"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_400_with_the_reason(camel: Running, what: str) -> None:
    name, body, says = WRONG[what]
    answer = post(camel, name, body)
    assert answer.status_code == 400, answer.text
    assert answer.json().keys() == {"error"}
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("name", "body", "details"),
    [
        ("tokenize", {}, [("missing", ["body", "model"]), ("missing", ["body", "text"])]),
        ("tokenize", [], [("model_attributes_type", ["body"])]),
        (
            "tokenize",
            {"model": 5, "text": "a", "prependBos": "no"},
            [("string_type", ["body", "model"]), ("bool_type", ["body", "prependBos"])],
        ),
        ("activation/all", ALL | {"sortByTokenIndexes": [1, True]}, [("int_type", ["body", "sortByTokenIndexes", 1])]),
        ("activation/all", ALL | {"selectedSources": "0-demo"}, [("list_type", ["body", "selectedSources"])]),
        ("activation/all", ALL | {"ignoreBos": None}, [("bool_type", ["body", "ignoreBos"])]),
        ("activation/single", ASKED | {"source": "0-demo", "index": 5}, [("string_type", ["body", "index"])]),
        ("activation/single", ASKED | {"vector": ["1"], "hook": "x"}, [("float_type", ["body", "vector", 0])]),
        ("activation/single", ASKED | {"vector": [10**400], "hook": "x"}, [("float_type", ["body", "vector", 0])]),
        ("activation/single", ASKED | {"vector": [0, -1e39], "hook": "x"}, [("float_type", ["body", "vector", 1])]),
        ("util/sae-topk-by-decoder-cossim", COSINE | {"vector": [10**400]}, [("float_type", ["body", "vector", 0])]),
        (
            "util/sae-topk-by-decoder-cossim",
            COSINE | {"feature": {"source": "x"}},
            [("missing", ["body", "feature", "model"]), ("missing", ["body", "feature", "index"])],
        ),
    ],
)
def test_what_is_no_such_request_is_422_field_by_field(
    camel: Running, name: str, body: Any, details: list[tuple[str, list[Any]]]
) -> None:
    answer = post(camel, name, body)
    assert answer.status_code == 422
    assert [(one["type"], one["loc"]) for one in answer.json()["detail"]] == details
    assert all(one["msg"] for one in answer.json()["detail"])


def test_half_a_pair_of_surrogates_is_no_text(camel: Running) -> None:
    for name, body in CALLS.items():
        for field in ("prompt", "prompts", "text", "source", "model"):
            if field in body:
                half = ["\ud800"] if field == "prompts" else "\ud800"
                answer = httpx.post(f"{camel.url}/v1/{name}", content=json.dumps(body | {field: half}))
                assert answer.status_code == 422, (name, field)
                (said,) = answer.json()["detail"]
                assert (said["type"], said["loc"][1]) == ("string_type", field)


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"model": NaN}', b"[" * 100_000])
def test_what_is_no_json_is_422(camel: Running, body: bytes) -> None:
    answer = httpx.post(f"{camel.url}/v1/tokenize", content=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "json_invalid"


def test_a_call_that_is_not_answered_here_is_404(camel: Running) -> None:
    answer = post(camel, "steer/completion", {})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    assert httpx.get(f"{camel.url}/v1/tokenize").status_code == 404


def test_while_there_is_no_server_every_path_says_so() -> None:
    with gateway_before(f"127.0.0.1:{free_port()}", options={"neuronpedia": Options()}) as gateway:
        for name, body in [*CALLS.items(), ("tokenize", {})]:
            answer = post(gateway, name, body)
            assert answer.status_code == 500
            assert answer.json()["error"].startswith("Server not initialized. nothing listens at")
            assert answer.json()["traceback"] is None
        for path in ("/health", "/v1/capabilities"):
            assert httpx.get(gateway.url + path).status_code == 500


def test_what_the_gateway_itself_refuses_has_its_own_status() -> None:
    options = {"neuronpedia": Options()}
    with gateway_before(f"127.0.0.1:{free_port()}", options=options, max_requests=0, max_body=100) as full:
        answer = post(full, "tokenize", CALLS["tokenize"])
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"error": "this gateway answers 0 calls, as many as it may; come again in a moment"}
        answer = post(full, "tokenize", {}, authorization="Basic abc")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="saeserve"')
    with gateway_before(f"127.0.0.1:{free_port()}", options=options, max_body=100) as small:
        answer = post(small, "tokenize", {"model": "", "text": "a" * 200})
        assert (answer.status_code, answer.headers["connection"]) == (413, "close")


def error(code: StatusCode, reason: str, kind: type[saeserve.SaeserveError] = saeserve.SaeserveError) -> Any:
    return kind("why", code=code, reason=reason)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (error(StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"), 503),
        (error(StatusCode.DEADLINE_EXCEEDED, ""), 503),
        (error(StatusCode.INTERNAL, "OUT_OF_MEMORY"), 503),
        (error(StatusCode.INTERNAL, "INTERNAL"), 500),
        (error(StatusCode.UNAVAILABLE, "LOADING"), 500),
        (error(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"), 500),
        (error(StatusCode.FAILED_PRECONDITION, "NO_DIRECTION"), 400),
    ],
)
def test_what_the_server_refuses_has_the_status_that_its_web_app_knows(given: Any, status: int) -> None:
    found, said = _refused(given)
    assert found == status
    assert said["error"].endswith("why")
    assert ("traceback" in said) == (status == 500)


# The command


def test_a_secret_is_the_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("  open sesame\n")
    assert secret_of(str(file)) == SECRET
    for content in (b"", b"\n", b"a\nb", "ö".encode(), b"\xff"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"--neuronpedia-secret-file .*secret: "):
            secret_of(str(file))
    with pytest.raises(ValueError, match="No such file"):
        secret_of(str(tmp_path / "none"))


def test_its_options_belong_to_the_calls(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["web", "--bind", "127.0.0.1:0", "--neuronpedia-snake-case"]) == 2
    assert "which --neuronpedia asks for" in capsys.readouterr().err
    assert main(["web", "--bind", "127.0.0.1:0", "--neuronpedia", "--neuronpedia-secret-file", "/nowhere/at/all"]) == 2
    assert "/nowhere/at/all: No such file" in capsys.readouterr().err
