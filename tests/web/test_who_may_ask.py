"""Names, origins, heads of answers, and metrics."""

from __future__ import annotations

import pytest

from saeserve.web.settings import Settings
from tests.web.running import gateway_before

OURS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@pytest.mark.parametrize("path", ["/", "/docs", "/docs.css", "/healthz", "/nope", "/api/v1/search", "/openapi.json"])
def test_every_answer_has_the_heads_that_guard_it(http, path):
    answer = http.get(path)
    assert {name: answer.headers[name] for name in OURS} == OURS
    assert answer.headers["x-request-id"]


def test_a_request_id_is_the_callers_if_it_can_be_one(http):
    answer = http.post("/api/v1/list-sources", headers={"x-request-id": "mine 1"})
    assert answer.headers["x-request-id"] == answer.json()["callInfo"]["requestId"] == "mine 1"
    long = http.post("/api/v1/list-sources", headers={"x-request-id": "x" * 129})
    assert len(long.headers["x-request-id"]) == 32
    assert long.json()["callInfo"]["requestId"] == long.headers["x-request-id"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80", "a.localhost", "192.0.2.7:8080"])
def test_it_answers_under_names_that_nobody_can_point_elsewhere(http, host):
    assert http.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", ""])
def test_it_answers_under_no_other(http, host):
    answer = http.post("/api/v1/list-sources", headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["error"]["reason"] == "HOST_NOT_ALLOWED"


def test_a_name_is_allowed_by_setting(demo, http):
    with gateway_before(
        demo.target, allow_hosts=("sae.example",), allow_origins=("https://Lab.Example:443/",)
    ) as named:
        ask = f"{named.url}/api/v1/list-sources"
        assert http.post(ask, headers={"host": "sae.example:80"}).status_code == 200
        assert http.post(ask, headers={"host": "other.example"}).status_code == 421
        lab = {"origin": "https://lab.example"}
        answer = http.post(ask, headers=lab)
        assert answer.headers["access-control-allow-origin"] == "https://lab.example"
        refused = http.post(f"{named.url}/api/v1/search", headers=lab, content=b"x")
        assert refused.status_code == 400
        assert refused.headers["access-control-allow-origin"] == "https://lab.example"
        preflight = lab | {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type",
        }
        assert http.options(ask, headers=preflight).status_code == 200
        assert http.post(ask, headers={"origin": "https://evil.example"}).status_code == 403
        strange = http.options(ask, headers=preflight | {"origin": "https://evil.example"})
        assert (strange.status_code, strange.json()["error"]["reason"]) == (403, "ORIGIN_NOT_ALLOWED")
        strange = http.options(ask, headers=preflight | {"access-control-request-headers": "x-other"})
        assert strange.status_code == 400
        assert "by GET and POST with the heads authorization, " in strange.json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://Lab.Example/", "https://lab.example"),
        ("http://lab.example:80", "http://lab.example"),
        ("http://[2001:DB8::7]:8080", "http://[2001:db8::7]:8080"),
        ("http://lab.example:443", "http://lab.example:443"),
        ("*", "*"),
    ],
)
def test_origins_are_kept_as_browsers_write_them(given, kept):
    assert Settings(allow_origins=(given,)).allow_origins == (kept,)


@pytest.mark.parametrize(
    "given", ["lab.example", "https://", "://a", "https://lab.example/page", "https://b\u00fcro.example"]
)
def test_what_is_no_origin_is_said(given):
    with pytest.raises(ValueError, match=r"--allow-origin .*SCHEME://HOST is expected"):
        Settings(allow_origins=(given,))


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}],
)
def test_pages_of_others_may_not_ask(http, headers):
    answer = http.post("/api/v1/list-sources", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["reason"] == "ORIGIN_NOT_ALLOWED"
    assert "access-control-allow-origin" not in answer.headers


def test_the_own_page_may(http, gateway):
    answer = http.post("/api/v1/list-sources", headers={"origin": gateway.url})
    assert answer.status_code == 200


def test_it_is_alive_and_ready(http):
    assert http.get("/healthz").text == "ok\n"
    assert http.get("/readyz").json() == {"ready": True}


def test_metrics_have_few_names_whatever_is_asked(http):
    for number in range(20):
        http.get(f"/{number}")
    http.post("/api/v1/tokenize", json={"input": {"text": "a"}})
    text = http.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("saeserve_web_requests_total")]
    assert any('path="/api/v1/tokenize",status="200"' in line for line in lines)
    assert any('path="other",status="404"' in line for line in lines)
    assert not any(f'path="/{number}"' in text for number in range(20))
    assert "saeserve_web_requests_in_flight 0.0" in text
