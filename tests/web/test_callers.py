"""Callers who are slow, too many, malformed, or leave."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from saeserve.v1 import feature_service_pb2 as service
from saeserve.web import protocol
from tests.client.fake import dense, new_service, serve
from tests.web.running import gateway_before
from tests.web.test_stream import metrics, wait

SEARCH = {"input": {"text": "My favorite color is red."}}
PATIENCE = 0.4


@pytest.fixture
def fake():
    return new_service()


@pytest.fixture
def behind(fake):
    """An impatient gateway with few places."""
    server, address = serve(fake)
    with gateway_before(address, patience=PATIENCE, max_requests=2, max_streams=1, max_connections=5) as running:
        yield running
    fake.release.set()
    server.stop(0).wait(10)


def connect(running) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", running.port), 10)
    made.settimeout(10)
    return made


def rest(of: socket.socket) -> bytes:
    """All that is said until the connection ends."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := of.recv(65536):
            found += part
    return found


def head(length: int, more: str = "") -> bytes:
    return f"POST /api/v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{more}\r\n".encode()


def one(of: socket.socket) -> bytes:
    """A whole answer that tells its length."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += received(of)
    start, _, body = found.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in start.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += received(of)
    assert len(body) == length
    return start


def received(of: socket.socket) -> bytes:
    part = of.recv(65536)
    assert part, "the connection ended"
    return part


def side_of(running, caller: socket.socket):
    """The gateway's protocol of a connection."""
    found = []

    def look() -> bool:
        every = list(running.server.server_state.connections)
        found[:] = [made for made in every if made.client == caller.getsockname()]
        return bool(found)

    wait(look, "it is connected")
    return found[0]


def test_a_head_that_does_not_come(behind):
    for begun in (b"", b"GET / HTTP/1.1\r\nhost: loc", b"GET / HTTP/1.1\r\n"):
        with connect(behind) as slow:
            slow.sendall(begun)
            began = time.monotonic()
            said = rest(slow)
            assert PATIENCE * 0.9 < time.monotonic() - began < 5
            assert said.startswith(b"HTTP/1.1 408")
            assert b"the head of the request did not arrive within 0.4 s" in said
            assert b'"status": "INVALID_ARGUMENT"' in said  # as /docs has it of 408


def test_a_head_that_comes_byte_by_byte(behind):
    with connect(behind) as slow, contextlib.suppress(OSError):
        for _ in range(40):
            slow.sendall(b"G")
            time.sleep(0.05)
        pytest.fail("it was let go on")


def test_a_head_without_end(behind):
    with connect(behind) as endless, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        endless.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(200):
            endless.sendall(f"x-{number}: {'a' * 1000}\r\n".encode())
        assert rest(endless).startswith(b"HTTP/1.1 431")


def test_a_long_head_in_one_piece(behind):
    with connect(behind) as endless:
        side = side_of(behind, endless)
        said = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000 + b"\r\n\r\n"
        behind.loop.call_soon_threadsafe(side.data_received, said)
        assert rest(endless).startswith(b"HTTP/1.1 431")


def test_a_body_does_not_count_as_the_head_after_it(behind):
    body = json.dumps({"input": {"text": "a" * 150_000}}).encode()
    with connect(behind) as caller:
        side = side_of(behind, caller)
        said = head(len(body)) + body + b"GET /healthz HTTP/1.1\r\nhost:"
        behind.loop.call_soon_threadsafe(side.data_received, said)
        assert one(caller).startswith(b"HTTP/1.1 200")
        caller.sendall(b" localhost\r\n\r\n")
        assert one(caller).startswith(b"HTTP/1.1 200")


def test_half_a_head_does_not_break_into_an_answer(behind, fake):
    """Of a request that was sent ahead: the answer before it gets out whole, and then the connection ends."""
    fake.hang.add("Search")
    body = json.dumps(SEARCH).encode()
    with connect(behind) as caller:
        caller.sendall(head(len(body)) + body + b"GET /healthz HTTP/1.1\r\nhost: loc")
        wait(lambda: 'connections_refused_total{why="slow"} 1.0' in metrics(behind), "it was waited for")
        fake.release.set()
        said = rest(caller)
        assert said.startswith(b"HTTP/1.1 200")
        assert said.count(b"HTTP/1.1") == 1
        assert said.endswith(b"}")


REFUSED = "authorization: Basic abc\r\n"


def test_a_connection_outlives_a_request_that_was_refused_before_its_body_came(behind, monkeypatch):
    monkeypatch.setattr(protocol, "_READ_ON", 0.2)
    with connect(behind) as caller:
        caller.sendall(head(100, REFUSED))
        assert one(caller).startswith(b"HTTP/1.1 401")
        caller.sendall(b" " * 100)
        time.sleep(0.4)
        caller.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert one(caller).startswith(b"HTTP/1.1 200")
        caller.sendall(head(100, REFUSED) + b" ")  # this one's never comes
        assert one(caller).startswith(b"HTTP/1.1 401")
        assert rest(caller) == b""


def test_a_request_that_was_sent_ahead_has_its_own_time_for_its_body(behind, fake, monkeypatch):
    monkeypatch.setattr(protocol, "_READ_ON", 0.1)
    fake.hang.add("Search")
    body = json.dumps(SEARCH).encode()
    with connect(behind) as caller:
        caller.sendall(head(len(body)) + body + head(len(body)) + body[:1])
        wait(lambda: fake.seen, "the first is asked")
        fake.release.set()
        assert one(caller).startswith(b"HTTP/1.1 200")
        time.sleep(0.25)
        caller.sendall(body[1:])
        assert one(caller).startswith(b"HTTP/1.1 200")


def test_a_body_that_does_not_come(behind):
    with connect(behind) as slow:
        slow.sendall(head(100) + b"{")
        said = rest(slow)
        assert said.startswith(b"HTTP/1.1 408")
        assert b"the body did not arrive within 0.4 s" in said


def test_a_body_that_comes_byte_by_byte(behind):
    with connect(behind) as slow, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        slow.sendall(head(1000))
        began = time.monotonic()
        while time.monotonic() - began < 8:
            slow.sendall(b" ")
            time.sleep(0.05)
            with contextlib.suppress(BlockingIOError):
                if slow.recv(10, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                    break
        assert time.monotonic() - began < 5
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


@pytest.fixture
def large(fake):
    """The fake server answers searches by seven megabytes."""
    answer = fake.answers["Search"]

    def made(request):
        found = answer(request)
        found.results[0].activations.extend([1 / 3] * 400_000)
        return found

    fake.answers["Search"] = made
    return fake


def narrow(running) -> socket.socket:
    """A connection that asks for an answer, and takes little at a time."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(10)
    made.connect(("127.0.0.1", running.port))
    body = json.dumps(SEARCH).encode()
    made.sendall(head(len(body)) + body)
    return made


def test_who_does_not_read_his_answer_is_cut_off(behind, large):
    with narrow(behind):
        wait(lambda: 'connections_refused_total{why="unread"} 1.0' in metrics(behind), "he is cut off")


def test_who_reads_slowly_is_not(behind, large):
    with narrow(behind) as slow:
        began = time.monotonic()
        while time.monotonic() - began < 4 * PATIENCE:
            assert slow.recv(16384)
            time.sleep(0.01)
        assert side_of(behind, slow).transport.get_write_buffer_size() > 0
        assert 'connections_refused_total{why="unread"}' not in metrics(behind)


def test_an_answer_keeps_its_place_until_it_has_left(large):
    server, address = serve(large)
    with gateway_before(address, max_requests=1) as running:
        with narrow(running) as slow:
            side = side_of(running, slow)
            wait(lambda: side.transport.get_write_buffer_size() > 0, "it is on its way")
            assert "saeserve_web_requests_in_flight 1.0" in metrics(running)
            assert httpx.post(f"{running.url}/api/v1/search", json=SEARCH, trust_env=False).status_code == 503
        wait(lambda: "saeserve_web_requests_in_flight 0.0" in metrics(running), "he is gone")
    server.stop(0).wait(10)


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_what_is_no_http(behind, said):
    with connect(behind) as strange:
        strange.sendall(said)
        assert rest(strange)[9:10] in (b"4", b"")
    assert httpx.get(f"{behind.url}/healthz", trust_env=False).status_code == 200


def test_two_hosts_or_none(behind):
    for hosts in (b"", b"host: localhost\r\nhost: evil.example\r\n"):
        with connect(behind) as strange:
            strange.sendall(b"GET /healthz HTTP/1.1\r\n" + hosts + b"connection: close\r\n\r\n")
            assert rest(strange)[9:12] in (b"400", b"421")


def test_who_leaves_is_not_computed_for(behind, fake):
    left = threading.Event()
    answer = fake.answers["Search"]

    def waiting(request):
        left.wait(10)
        return answer(request)

    fake.answers["Search"] = waiting
    body = json.dumps(SEARCH).encode()
    with connect(behind) as caller:
        caller.sendall(head(len(body)) + body)
        wait(lambda: fake.seen, "the server is asked")
        assert "saeserve_web_requests_in_flight 1.0" in metrics(behind)
    wait(lambda: "saeserve_web_requests_in_flight 0.0" in metrics(behind), "the call is cancelled")
    assert 'saeserve_web_requests_total{path="/api/v1/search",status="499"} 1.0' in metrics(behind)
    left.set()


def test_one_too_many_is_told_when_to_come_again(behind, fake):
    fake.hang.add("Search")
    with ThreadPoolExecutor(2) as pool:

        def ask(_):
            return httpx.post(f"{behind.url}/api/v1/search", json=SEARCH, timeout=20, trust_env=False).status_code

        asking = [pool.submit(ask, number) for number in range(2)]
        wait(lambda: len(fake.seen) == 2, "both are asked")
        refused = httpx.post(f"{behind.url}/api/v1/search", json=SEARCH, trust_env=False)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["reason"] == "GATEWAY_BUSY"
        assert httpx.get(f"{behind.url}/healthz", trust_env=False).status_code == 200
        fake.release.set()
        assert [one.result() for one in asking] == [200, 200]


def test_a_connection_too_many(behind):
    with contextlib.ExitStack() as opened:
        for _ in range(5):
            opened.enter_context(connect(behind))
        wait(lambda: True, "")
        said = rest(opened.enter_context(connect(behind)))
        assert said.startswith(b"HTTP/1.1 503")
        assert b"GATEWAY_BUSY" in said


def test_a_large_answer_does_not_keep_others_waiting(behind, fake):
    rows = np.arange(1, 600_001, dtype=np.float32).reshape(1000, 600) / 7
    fake.answers["Encode"] = service.EncodeResponse(dense=dense(rows))
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=behind.url, trust_env=False, timeout=60) as client:

        def read() -> int:
            with httpx.stream("POST", f"{behind.url}/api/v1/encode", json={}, timeout=60, trust_env=False) as answer:
                return sum(map(len, answer.iter_raw()))

        busy = pool.submit(read)
        waits = []
        while not busy.done():
            began = time.monotonic()
            assert client.get("/healthz").status_code == 200
            waits.append(time.monotonic() - began)
        assert busy.result() > 500_000
    assert len(waits) > 10
    assert sorted(waits)[len(waits) // 2] < 0.5
