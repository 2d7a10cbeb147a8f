"""EncodeStream as server-sent events: what EncodeStream answers, a bad item alone, memory and callers who leave."""

from __future__ import annotations

import json
import socket
import time

import httpx
import numpy as np
import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from tests.client.fake import dense, new_service, serve
from tests.web.running import gateway_before

LINES = {"content-type": "application/x-ndjson"}
FEATURES = [{"source": "0-demo", "index": 1633}, {"source": "0-demo", "index": 248}]


def events(text: str) -> list[tuple[str, dict]]:
    """Kind and data of each."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def ndjson(*lines) -> str:
    return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)


@pytest.fixture
def fake():
    return new_service()


@pytest.fixture
def behind(fake):
    server, address = serve(fake)
    with gateway_before(address, patience=1.0) as running:
        yield running
    fake.release.set()
    server.stop(0).wait(10)


@pytest.mark.parametrize("by_line", [False, True])
def test_it_answers_what_encode_answers(http, demo, by_line):
    texts = ["My favorite color is red.", "Crimson.", "Two of nine.", "  ", "e\u0301\u2028\u0000"]
    config = {"features": FEATURES, "includeBos": True}
    items = [{"input": {"text": text}} for text in texts]
    body = ndjson(config, *items, "") if by_line else json.dumps({"config": config, "items": items})
    answer = http.post("/api/v1/encode-stream", content=body, headers=LINES if by_line else {})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *found, end = events(answer.text)
    assert end == ("end", {"items": 5, "failed": 0})
    expected = list(demo.encode_stream(texts, features=["0-demo:1633", "0-demo:248"], include_bos=True))
    assert [kind for kind, _ in found] == ["item"] * 5
    for one in (data for _, data in found):
        right = expected[int(one["sequence"])].unwrap()
        assert one["chunk"]["last"]
        assert one["chunk"]["text"]["bosIncluded"]
        # Computed beside other texts each time: the same up to the rounding of float32.
        np.testing.assert_allclose(one["chunk"]["dense"]["data"], right.dense, rtol=1e-5, atol=1e-5)


def test_many_chunks_of_an_item_follow_each_other(http, demo):
    """A neuron source and an SAE: at least a chunk of each."""
    body = {"config": {"sources": ["0", "0-demo"]}, "items": [{"sequence": 9, "input": {"text": "A red hat. " * 20}}]}
    *found, end = events(http.post("/api/v1/encode-stream", json=body).text)
    right = next(demo.encode_stream(["A red hat. " * 20], sources=["0", "0-demo"])).unwrap()
    chunks = [data["chunk"] for _, data in found]
    assert {data["sequence"] for _, data in found} == {"9"}
    assert [chunk["last"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert sum(len(chunk["dense"]["data"]) for chunk in chunks if "dense" in chunk) == len(right.neurons["0"])
    values = [value for chunk in chunks if "sparse" in chunk for value in chunk["sparse"]["data"]]
    assert values == [float(str(value)) for value in right.sparse["0-demo"].data]
    assert end == ("end", {"items": 1, "failed": 0})


def test_a_bad_item_fails_alone(http):
    lines = [
        {"features": FEATURES, "omitTokens": True},
        {"input": {"text": "red"}},
        "{",
        {"input": {"text": 5}},
        {"item": {"sequence": "77", "input": {}}},
        {"input": {"text": "blue"}},
        {"sequence": "78", "inptu": {}},
        {"sequence": 79, "input": 5},
        {"sequence": "none", "input": {"text": "red"}},
    ]
    *found, end = events(http.post("/api/v1/encode-stream", content=ndjson(*lines), headers=LINES).text)
    assert end == ("end", {"items": 8, "failed": 6})
    by = {data["sequence"]: data for _, data in found}
    assert by.keys() == {"0", "1", "2", "77", "4", "78", "79", "7"}
    assert "did you mean input?" in by["78"]["error"]["message"]
    assert by["7"]["error"]["fieldViolations"][0]["field"] == "items[7].sequence"
    assert "is not JSON" in by["1"]["error"]["message"]
    assert by["2"]["error"]["fieldViolations"][0]["field"] == "items[2].input.text"
    assert by["77"]["error"]["status"] == "INVALID_ARGUMENT"
    assert by["0"]["chunk"]["last"]
    assert by["4"]["chunk"]["last"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (json.dumps({"config": {"sources": ["nope"]}, "items": [{"input": {"text": "a"}}]}), {}, 404, "not served"),
        (json.dumps({"config": {"source": ["0"]}}), {}, 400, "did you mean sources?"),
        ("[]", {}, 400, "config"),
        ("", LINES, 400, "no line"),
        ("{", LINES, 400, "the first line is not JSON"),
    ],
)
def test_a_stream_that_cannot_begin_has_a_status_of_its_own(http, body, headers, status, words):
    answer = http.post("/api/v1/encode-stream", content=body, headers=headers)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_no_items_are_no_error(http):
    answer = http.post("/api/v1/encode-stream", json={"config": {"sources": ["0-demo"]}})
    assert events(answer.text) == [("end", {"items": 0, "failed": 0})]


def test_items_are_read_as_they_are_needed_and_answered_as_they_come(behind, fake):
    """A caller who sends one text at a time, and the next when he has read the answer."""
    with opened(behind, chunked=True) as line:
        line.send({"features": FEATURES})
        for number in range(3):
            line.send({"input": {"text": "a" * (number + 1)}})
            assert f'"data":[[{number + 1}.0]]' in line.read_until('"last":true')
        line.end()
        assert '"items":3' in line.read_until("event: end")


def test_who_does_not_read_is_not_read_from(behind, fake):
    """What is in memory is bounded: the server is asked for no more than fits between it and the caller."""
    taken = []
    values = dense(np.full((1, 4000), 1 / 3, np.float32))

    def counted(requests, context):
        for message in requests:
            if message.HasField("item"):
                taken.append(message)
                chunk = service.EncodeChunk(dense=values, last=True)
                yield service.EncodeStreamResponse(sequence=message.item.sequence, chunk=chunk)

    fake.streams[:] = [counted]
    line = json.dumps({"input": {"text": "a" * 4000}}) + "\n"
    with opened(behind, chunked=True) as caller:
        caller.send({"features": FEATURES, "omitTokens": True})
        caller.socket.settimeout(0.5)
        with pytest.raises(OSError):  # noqa: PT011 (a timeout is one)
            flood(caller, line * 100)
        assert len(taken) < 3000
        wait(lambda: "saeserve_web_streams_in_flight 0.0" in metrics(behind), "and then he is cut off")


def test_who_leaves_is_not_computed_for(behind, fake):
    ended = []

    def hanging(requests, context):
        context.add_callback(lambda: ended.append(1))
        next(requests)
        next(requests)
        while context.is_active():
            time.sleep(0.02)
        return
        yield

    fake.streams[:] = [hanging]
    body = json.dumps({"config": {"features": FEATURES}, "items": [{"input": {"text": "a"}}]})
    with opened(behind) as caller:
        caller.head(len(body))
        caller.socket.sendall(body.encode())
        wait(lambda: fake.seen, "the server is asked")
    wait(lambda: ended, "the call is cancelled")
    wait(lambda: "saeserve_web_streams_in_flight 0.0" in metrics(behind), "the place is free")


def flood(caller, text):
    for _ in range(600):
        caller.chunk(text)


def wait(found, what, seconds=10):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def metrics(running) -> str:
    return httpx.get(f"{running.url}/metrics", trust_env=False).text


class opened:  # noqa: N801 (used as a function)
    """A connection, byte by byte."""

    def __init__(self, running, chunked: bool = False):
        self.socket = socket.create_connection(("127.0.0.1", running.port), 10)
        self._read = b""
        if chunked:
            self.head(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def head(self, length: int | None) -> None:
        size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        kind = "application/x-ndjson" if length is None else "application/json"
        self.socket.sendall(
            f"POST /api/v1/encode-stream HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n{size}\r\n\r\n".encode()
        )

    def send(self, line: dict) -> None:
        self.chunk(json.dumps(line) + "\n")

    def chunk(self, text: str) -> None:
        self.socket.sendall(f"{len(text):x}\r\n{text}\r\n".encode())

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def read_until(self, words: str) -> str:
        while words.encode() not in self._read:
            part = self.socket.recv(65536)
            assert part, self._read
            self._read += part
        found, self._read = self._read.decode(), b""
        return found


def test_the_client_hands_on_ready_items(demo):
    """What the gateway uses, from Python."""
    import asyncio

    async def asked():
        async def items():
            for sequence in (5, 5, 7):
                item = service.EncodeStreamItem(sequence=sequence)
                item.input.text = "red" if sequence == 5 else ""
                yield item

        config = service.EncodeStreamConfig(sources=["0-demo"])
        async with saeserve.AsyncClient(demo.target) as client:
            return [answer async for answer in client.call_stream(config, items())]

    answers = asyncio.run(asked())
    assert sorted(answer.sequence for answer in answers) == [5, 5, 7]
    for answer in answers:
        assert answer.messages[-1].HasField("error") == (answer.sequence == 7)
        assert {message.sequence for message in answer.messages} == {answer.sequence}
