"""What becomes of the servers behind a gateway is said in words, at once, and costs no answer while one is left."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import httpx
import pytest

from tests.client.fake import Failure, echo, new_service, one_value, serve, status
from tests.web.replica import replicas
from tests.web.running import gateway_before

SEARCH = {"input": {"text": "My favorite color is red."}}
STREAM = {"config": {"sources": ["0-demo"]}, "items": [{"input": {"text": "a"}}, {"input": {"text": "ab"}}]}


@pytest.fixture
def fake():
    return new_service()


@pytest.fixture
def behind(fake):
    """A client of a gateway before the fake server."""
    server, address = serve(fake)
    with gateway_before(address) as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        yield client
    fake.release.set()
    server.stop(0).wait(10)


def free_port():
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_nothing_listens():
    port = free_port()
    with gateway_before(f"127.0.0.1:{port}") as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        client.get("/healthz")
        began = time.monotonic()
        answer = client.post("/api/v1/search", json=SEARCH)
        assert time.monotonic() - began < 1.0
        error = answer.json()["error"]
        assert (answer.status_code, error["status"], error["reason"]) == (503, "UNAVAILABLE", "CONNECTION_REFUSED")
        assert f"nothing listens at 127.0.0.1:{port}" in error["message"]
        began = time.monotonic()
        answer = client.post("/api/v1/encode-stream", json=STREAM)
        assert time.monotonic() - began < 2.0
        assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "CONNECTION_REFUSED")
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["ready"] is False
        assert "nothing listens" in ready.json()["error"]["message"]
        assert client.get("/healthz").status_code == 200


def test_nobody_answers():
    """A port that takes connections and says nothing, as behind a firewall."""
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        with gateway_before(f"127.0.0.1:{silent.getsockname()[1]}") as running:
            began = time.monotonic()
            answer = httpx.post(
                f"{running.url}/api/v1/search", json=SEARCH, headers={"x-saeserve-timeout": "0.4"}, trust_env=False
            )
            assert 0.3 < time.monotonic() - began < 5
            assert answer.status_code == 504
            assert "there is no connection" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("code", "reason", "http", "status_name"),
    [
        ("UNAVAILABLE", "LOADING", 503, "UNAVAILABLE"),
        ("RESOURCE_EXHAUSTED", "OVERLOADED", 429, "RESOURCE_EXHAUSTED"),
        ("UNAUTHENTICATED", "UNAUTHENTICATED", 401, "UNAUTHENTICATED"),
        ("ABORTED", "STORE_CHANGED", 409, "ABORTED"),
        ("FAILED_PRECONDITION", "INDEX_REQUIRED", 400, "FAILED_PRECONDITION"),
        ("INTERNAL", "INTERNAL", 500, "INTERNAL"),
        ("UNIMPLEMENTED", "OLD", 501, "UNIMPLEMENTED"),
        ("PERMISSION_DENIED", "NO", 403, "PERMISSION_DENIED"),
    ],
)
def test_each_status_has_its_own(behind, fake, code, reason, http, status_name):
    said = status(grpc.StatusCode[code], "because", reason=reason, retry_seconds=0.02, violations=[("limit", "less")])
    fake.failures.extend([Failure(said)] * 5)
    answer = behind.post("/api/v1/search", json=SEARCH, headers={"x-request-id": "mine"})
    error = answer.json()["error"]
    assert answer.status_code == error["code"] == http
    assert (error["status"], error["reason"], error["retryDelaySeconds"]) == (status_name, reason, 0.02)
    assert error["message"].startswith("because")
    assert error["fieldViolations"] == [{"field": "limit", "description": "less"}]
    assert error["requestId"] == "mine"
    assert answer.headers["retry-after"] == "1"
    assert ("www-authenticate" in answer.headers) == (http == 401)
    assert len(fake.seen) == (5 if reason == "OVERLOADED" else 1)  # what waiting mends is asked again here


LOADING = Failure(status(grpc.StatusCode.UNAVAILABLE, "it loads", reason="LOADING", retry_seconds=0.01))


def test_a_server_that_loads_is_told_of_at_once_in_words_for_http(behind, fake):
    def loads(requests, context):
        LOADING.abort(context)
        yield

    fake.failures.extend([LOADING] * 2)
    fake.streams[:] = [loads]
    for answer in (
        behind.post("/api/v1/search", json=SEARCH),
        behind.post("/api/v1/encode-stream", json=STREAM),
        behind.get("/readyz"),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "it loads; GET /readyz says when it has loaded"
    assert len(fake.seen) == 3


def test_a_stream_that_has_begun_waits_for_a_server_that_loads_anew(behind, fake):
    def leaves(requests, context):
        next(requests)
        yield one_value(next(requests).item)
        LOADING.abort(context)

    fake.streams[:] = [leaves, echo]
    text = behind.post("/api/v1/encode-stream", json=STREAM).text
    assert text.endswith('event: end\ndata: {"items":2,"failed":0}\n\n')
    assert len(fake.seen) == 2


def test_a_draining_server_is_asked_again_and_said_to_drain(behind, fake):
    said = status(grpc.StatusCode.UNAVAILABLE, "the server is going away", reason="DRAINING", retry_seconds=0.01)
    fake.failures.extend([Failure(said)] * 2)
    assert behind.post("/api/v1/search", json=SEARCH).status_code == 200
    fake.failures.extend([Failure(said)] * 9)
    answer = behind.post("/api/v1/search", json=SEARCH)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "DRAINING")


def test_what_the_head_says_reaches_the_server(behind, fake):
    heads = {
        "x-saeserve-client": "notebook",
        "x-request-id": "mine",
        "x-saeserve-timeout": "7",
        "authorization": "Bearer secret",
    }
    behind.post("/api/v1/search", json=SEARCH, headers=heads)
    seen = fake.seen[-1]
    assert {name: seen.metadata[name] for name in ("x-saeserve-client", "x-request-id", "authorization")} == {
        "x-saeserve-client": "notebook",
        "x-request-id": "mine",
        "authorization": "Bearer secret",
    }
    assert 5 < seen.seconds_left < 8
    behind.post("/api/v1/search", json=SEARCH, headers={"x-forwarded-for": "192.0.2.1"})
    assert fake.seen[-1].metadata["x-saeserve-client"] == "web 127.0.0.1"
    assert "authorization" not in fake.seen[-1].metadata
    assert 25 < fake.seen[-1].seconds_left < 31


def test_behind_a_proxy_that_is_trusted_the_caller_is_the_last_it_names(fake):
    server, address = serve(fake)
    with gateway_before(address, trust_proxy=True) as running:
        for forwarded in ("192.0.2.9, 2001:db8::7", "192.0.2.9,2001:db8::7"):
            httpx.post(f"{running.url}/api/v1/search", json=SEARCH, headers={"x-forwarded-for": forwarded})
            assert fake.seen[-1].metadata["x-saeserve-client"] == "web 2001:db8::7"
    server.stop(0).wait(10)


def test_the_gateways_own_token_is_sent_unless_a_caller_has_one(fake):
    server, address = serve(fake)
    with gateway_before(address, connection={"token": "ours"}) as running:
        httpx.post(f"{running.url}/api/v1/search", json=SEARCH)
        assert fake.seen[-1].metadata["authorization"] == "Bearer ours"
        httpx.post(f"{running.url}/api/v1/search", json=SEARCH, headers={"authorization": "Bearer mine"})
        assert fake.seen[-1].metadata["authorization"] == "Bearer mine"
    server.stop(0).wait(10)


@pytest.mark.slow
def test_no_answer_is_lost_when_one_of_two_is_killed():
    over, answered = threading.Event(), []
    body = {"config": {"sources": ["0-demo"]}, "items": [{"input": {"text": "a" * n}} for n in range(1, 21)]}

    def search(client: httpx.Client) -> None:
        answer = client.post("/api/v1/search", json=SEARCH)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["results"]) == 2

    def stream(client: httpx.Client) -> None:
        text = client.post("/api/v1/encode-stream", json=body).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        assert events[-1] == {"items": 20, "failed": 0}
        values = {int(one["sequence"]): one["chunk"]["dense"]["data"] for one in events[:-1]}
        assert values == {n: [[float(n + 1)]] for n in range(20)}

    with replicas(2) as two, gateway_before(",".join(address for address, _ in two)) as running:

        def ask(what) -> None:
            with httpx.Client(base_url=running.url, trust_env=False, timeout=20) as client:
                while not over.is_set():
                    what(client)
                    answered.append(what)

        def more(count: int) -> None:
            goal, deadline = len(answered) + count, time.monotonic() + 30
            while len(answered) < goal and not any(one.done() for one in asking):
                assert time.monotonic() < deadline, answered
                time.sleep(0.01)

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, what) for what in (search, search, search, stream)]
            more(20)
            two[0][1].kill()
            more(60)
            over.set()
            for one in asking:
                one.result(30)
    assert {*answered} == {search, stream}
