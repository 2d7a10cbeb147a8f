"""What is refused: in words, with the field, the status and the reason."""

from __future__ import annotations

import json

import pytest

from tests.web.running import gateway_before

BAD = [
    ("search", '{"input"', "", "is not JSON"),
    ("search", b'{"input": {"text": "\xff"}}', "", "byte 0xff at 20"),
    ("search", "[" * 100_000, "", "too deep"),
    ("search", '{"a":' * 90 + "1" + "}" * 90, "", "SearchRequest has no such field"),
    ("search", "[]", "", "expected an object"),
    ("search", '{"input": {"text": NaN}}', "", "NaN is no number"),
    ("search", '{"limit": 1, "limit": 2}', "", '"limit" stands twice'),
    ("search", '{"inptu": {}}', "", "did you mean input?"),
    ("search", '{"limit": 1e400}', "limit", "expected a whole number of 32 bits"),
    ("search", '{"limit": "a"}', "limit", 'not "a"'),
    ("search", '{"limit": 3000000000}', "limit", "whole number of 32 bits"),
    ("search", '{"byToken": "true"}', "by_token", "true or false"),
    ("search", '{"ranking": "BEST"}', "ranking", "RANKING_SURPRISAL"),
    ("search", '{"input": {"text": 5}}', "input.text", "a text"),
    ("search", '{"input": {"text": "\\ud800"}}', "input.text", "Unicode"),
    ("search", '{"input": {"text": "a", "tokenIds": {}}}', "input", "text and tokenIds"),
    ("search", '{"filter": {"include": {"layers": [{}, {"last": -1}]}}}', "filter.include.layers[1].last", "-1"),
    ("search", '{"filter": {"include": {"layers": {}}}}', "filter.include.layers", "an array"),
    ("search", '{"filter": {"include": {"features": [null]}}}', "filter.include.features[0]", "an object"),
    ("search", '{"input": {"tokenIds": {"ids": [1, 2, 3, "x"]}}}', "input.token_ids.ids[3]", "whole number"),
    ("contrast", '{"itmes": []}', "", "config"),
    ("contrast", '{"items": {}}', "items", "an array"),
    ("contrast", '{"items": [{"side": "C"}]}', "items[0].side", "CONTRAST_SIDE_A"),
    ("contrast", '{"config": 5}', "config", "an object"),
]


@pytest.mark.parametrize(("path", "body", "field", "words"), BAD)
def test_what_is_no_request_names_the_field(http, path, body, field, words):
    answer = http.post(f"/api/v1/{path}", content=body)
    error = answer.json()["error"]
    assert answer.status_code == error["code"] == 400
    assert (error["status"], error["reason"]) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert words in error["message"]
    assert [one["field"] for one in error["fieldViolations"]] == ([field] if field else [])
    assert len(error["message"]) < 500


def test_many_ids_are_searched_for_the_bad_one_by_halves(http):
    body = json.dumps({"input": {"tokenIds": {"ids": [*range(20_000), -1]}}})
    error = http.post("/api/v1/search", content=body).json()["error"]
    assert error["fieldViolations"][0]["field"] == "input.token_ids.ids[20000]"


def test_what_the_server_refuses_is_told_as_the_server_tells_it(http, demo):
    answer = http.post("/api/v1/encode", json={"inputs": [{"text": "a"}], "sources": ["0-demi"]})
    error = answer.json()["error"]
    assert (answer.status_code, error["status"], error["reason"]) == (404, "NOT_FOUND", "SOURCE_NOT_FOUND")
    assert "0-demo" in error["message"]
    answer = http.post("/api/v1/search", json={})
    assert answer.json()["error"]["fieldViolations"][0]["field"] == "input"
    assert answer.headers["x-request-id"] == answer.json()["error"]["requestId"]


def test_paths_and_methods_that_are_not_there(http):
    for path, method, status in (("/nope", "GET", 404), ("/api/v1/search", "GET", 405), ("/docs", "POST", 405)):
        answer = http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"].startswith(f"{method} {path}: ")
    for path in ("/", "/index.html", "/js/main.js"):
        answer = http.post(path, content=b"{}")
        assert (answer.status_code, answer.json()["error"]["reason"]) == (405, "METHOD_NOT_ALLOWED"), path
    for path in ("/nope", "/api/v1/serach", "/js", "/README.md"):
        for method in ("POST", "PUT", "OPTIONS"):
            answer = http.request(method, path)
            assert (answer.status_code, answer.json()["error"]["reason"]) == (404, "PATH_NOT_FOUND"), path
    for path in ("/README.md", "/package.json", "/%2e%2e/python/pyproject.toml", "/js/../../python/x", "/js", "/js/"):
        assert http.get(path).status_code == 404, path


def test_a_body_that_is_too_large(demo, http):
    with gateway_before(demo.target, max_body=1000) as small:
        body = json.dumps({"input": {"text": "a" * 1000}}).encode()
        for sent in (body, iter([body])):  # with its length in the head, and in chunks
            answer = http.post(f"{small.url}/api/v1/search", content=sent)
            assert answer.status_code == 413
            assert "1,000 bytes" in answer.json()["error"]["message"]
            assert answer.headers["connection"] == "close"
        waits = {"expect": "100-continue"}
        assert http.post(f"{small.url}/api/v1/search", headers=waits, content=body).status_code == 413


@pytest.mark.parametrize(
    ("name", "value", "status", "words"),
    [
        ("Authorization", "Basic abc", 401, "Bearer TOKEN"),
        ("Authorization", "Bearer", 401, "Bearer TOKEN"),
        ("Authorization", "Bearer two words", 401, "one word"),
        ("X-Saeserve-Timeout", "soon", 400, "number of seconds"),
        ("X-Saeserve-Timeout", "0", 400, "number of seconds"),
        ("X-Saeserve-Timeout", "nan", 400, "number of seconds"),
        ("X-Saeserve-Timeout", "601", 400, "at most 600"),
        ("X-Saeserve-Client", "x" * 65, 400, "64 printable"),
        ("X-Saeserve-Client", "\u00e9".encode(), 400, "64 printable"),
    ],
)
def test_heads_that_cannot_be_handed_on(http, name, value, status, words):
    answer = http.post("/api/v1/list-sources", headers=[(name, value)])
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_a_token_does_not_go_to_another_machine_in_plain_text(http):
    with gateway_before("192.0.2.1:50051") as far:
        answer = http.post(f"{far.url}/api/v1/list-sources", headers={"authorization": "Bearer abc"})
        assert answer.status_code == 400
        assert answer.json()["error"]["reason"] == "INSECURE_TOKEN"
        assert "abc" not in answer.text
