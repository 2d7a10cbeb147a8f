"""Every call answers what gRPC answers, as ProtoJSON."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import subprocess

import pytest
from google.protobuf import json_format

from saeserve.answers.as_json import as_json
from saeserve.transport.errors import SaeserveError
from saeserve.v1 import feature_service_pb2 as service
from saeserve.web import contract
from saeserve.web.calls import RPCS

UNARY = [name for name, rpc in RPCS.items() if not rpc.client_streaming]
MORE = {
    "Search": [
        {"input": {"text": "red"}, "byToken": True, "includeBos": True, "ranking": "RANKING_SURPRISAL"},
        {"input": {"tokenIds": {"ids": [373, 12]}}, "sortTokens": [{"position": 0}], "limit": 200},
    ],
    "Encode": [
        {"inputs": [{"text": "red"}, {"text": "a\\u2028b"}], "sources": ["0-demo", "1-demo"], "omitTokens": True}
    ],
}


def facts(answer: dict) -> dict:
    """Without what a call cost."""
    assert answer["callInfo"].pop("requestId")
    return {name: value for name, value in answer.items() if name != "callInfo"}


def message(rpc: str, body: dict):
    kind = getattr(service, RPCS[rpc].input_type.name)
    return json_format.ParseDict(body, kind())


def requests():
    return [(rpc, body) for rpc in UNARY for body in [contract.EXAMPLES.get(rpc, {}), *MORE.get(rpc, [])]]


@pytest.mark.parametrize(("rpc", "body"), requests())
def test_it_equals_grpc(http, demo, rpc, body):
    answer = http.post(contract.path_of(rpc), json=body)
    if rpc == "SearchExplanations":  # the demo has none
        with pytest.raises(SaeserveError) as refused:
            demo.call(rpc, message(rpc, body))
        said, error = answer.json()["error"], refused.value
        assert (said["status"], said["reason"], said["message"]) == (error.code.name, error.reason, error.message)
        return
    expected = as_json(demo.call(rpc, message(rpc, body)))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert facts(answer.json()) == facts(expected)


def test_contrast_equals_grpc(http, demo):
    body = contract.EXAMPLES["Contrast"]
    answer = http.post("/api/v1/contrast", json=body)
    messages = [json_format.ParseDict({"config": body["config"]}, service.ContrastRequest())]
    messages += [json_format.ParseDict({"item": item}, service.ContrastRequest()) for item in body["items"]]
    assert facts(answer.json()) == facts(as_json(demo.call("Contrast", messages)))


def test_an_empty_body_is_an_empty_request(http):
    assert http.post("/api/v1/list-sources").json()["sources"]
    assert http.post("/api/v1/list-sources", content=b" \n").json()["sources"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("call", contract.calls(), ids=lambda call: call.name)
def test_its_line_for_curl_works(gateway, call):
    line = shlex.split(call.curl.replace("URL", gateway.url))
    said = subprocess.run([*line, "-s", "--max-time", "20"], capture_output=True, text=True, timeout=30).stdout
    if call.name == "EncodeStream":
        assert said.endswith('event: end\ndata: {"items":1,"failed":0}\n\n')
    elif call.name == "SearchExplanations":  # the demo has none
        assert json.loads(said)["error"]["reason"] == "RECORDS_REQUIRED"
    else:
        assert json.loads(said)["callInfo"]["requestId"]


def test_a_large_answer_is_sent_in_pieces_with_and_without_gzip(http, demo):
    body = {"inputs": [{"text": "Red cow. " * 25}] * 16, "sources": ["0-demo", "1-demo", "2-demo"]}
    expected = facts(as_json(demo.call("Encode", message("Encode", body))))
    for accepted in ("gzip", "identity"):
        with http.stream("POST", "/api/v1/encode", json=body, headers={"accept-encoding": accepted}) as answer:
            assert "content-length" not in answer.headers
            assert answer.headers.get("content-encoding", "identity") == accepted
            raw = b"".join(answer.iter_raw())
        found = json.loads(gzip.decompress(raw) if accepted == "gzip" else raw)
        assert facts(found) == expected
    assert len(raw) > 2**18


def test_a_small_answer_is_compressed_where_it_is_worth_it(http):
    body = {"input": {"text": "red"}}
    for path, accepted, expected in (
        ("search", "gzip", "gzip"),
        ("search", "br, gzip;q=0", None),
        ("tokenize", "gzip", None),
    ):
        answer = http.post(f"/api/v1/{path}", json=body, headers={"accept-encoding": accepted})
        assert answer.headers.get("content-encoding") == expected, (path, accepted)
        assert answer.json()["tokens"]
