"""Callers who stop reading, stop speaking, or never spoke our language. The others must not notice."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from saeserve.v1 import feature_service_pb2 as service
from tests.faults.faulty_server import HOLD
from tests.faults.harness import Faulty, Question, ends_of, healthy_after, marked, searches
from tests.service.servers import SERVING, until
from tests.service.wire import SERVICE, Slowly, config, connect, item, read_refusal, text_input

pytestmark = pytest.mark.slow

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS = 0, 1, 3, 4
END_STREAM, END_HEADERS = 1, 4
SECONDS = 8.0
"""How long random bytes are sent."""
GROWTH = 200 * 2**20
"""Bytes by which the front end may have grown after megabytes of nonsense."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(path: str, **extra: str) -> bytes:
    """The headers of a gRPC request, none of them compressed."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers"}
    fields |= {"content-type": "application/grpc"} | {name.replace("_", "-"): value for name, value in extra.items()}
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields.items())


def _string(text: str) -> bytes:
    """A string of HPACK: 7 bits of length, more of them where they do not suffice."""
    data, rest = text.encode(), len(text.encode()) - 127
    if rest < 0:
        return bytes([len(data)]) + data
    length = b"\x7f"
    while rest >= 128:
        length, rest = length + bytes([rest % 128 + 128]), rest // 128
    return length + bytes([rest]) + data


def message(data: bytes, flag: int = 0) -> bytes:
    """A message of gRPC: compressed or not, its length, its bytes."""
    return bytes([flag]) + struct.pack(">I", len(data)) + data


def opened(own: Faulty) -> socket.socket:
    """A connection, and nothing said on it."""
    host, _, port = own.target.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def greeted(own: Faulty) -> socket.socket:
    """A connection on which HTTP/2 has begun."""
    one = opened(own)
    one.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    return one


def reset(connection: socket.socket) -> None:
    """Ends a connection as one whose machine has restarted."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


SEARCH = f"/{SERVICE}/Search"
LARGE = service.EncodeRequest(
    inputs=[text_input(f"{place} red green blue " * 50) for place in range(40)],
    sources=["0-demo", "1-demo", "2-demo", "3-demo"],
    truncate=True,
)
"""Its answer is larger than the windows of HTTP/2 and the buffers of a socket."""


def test_callers_who_fall_silent_hold_nobody_up(own: Faulty) -> None:
    """From the first, after the greeting, within the headers, within the message, and while they are answered."""
    whole = searches(1)[0]._call.request.SerializeToString()
    with healthy_after(own) as stub, contextlib.ExitStack() as open_sockets:

        def keep(connection: socket.socket) -> socket.socket:
            open_sockets.callback(connection.close)
            return connection

        for _ in range(20):
            keep(opened(own))
            keep(opened(own)).sendall(PREFACE[:10])
            keep(greeted(own))
            keep(greeted(own)).sendall(frame(HEADERS, 0, 1, headers(SEARCH))[:30])
            keep(greeted(own)).sendall(frame(HEADERS, END_HEADERS, 1, headers(SEARCH)))
            half = frame(DATA, END_STREAM, 1, message(whole))[:-7]
            keep(greeted(own)).sendall(frame(HEADERS, END_HEADERS, 1, headers(SEARCH)) + half)
        answered = own.value('requests_total{code="OK",method="Encode",reason=""}')
        for _ in range(3):  # these ask for megabytes, and read nothing at all
            deaf = keep(greeted(own))
            data = message(LARGE.SerializeToString())
            pieces = [data[start : start + 16384] for start in range(0, len(data), 16384)]
            deaf.sendall(
                frame(HEADERS, END_HEADERS, 1, headers(f"/{SERVICE}/Encode"))
                + b"".join(frame(DATA, END_STREAM * (piece is pieces[-1]), 1, piece) for piece in pieces)
            )
        streams = [Slowly(stub, config(sources=["0", "1", "2", "3"], truncate=True)) for _ in range(3)]
        for stream in streams:  # and these read one answer
            stream.send(*(item(n, "red blue green " * 70) for n in range(100)))
            next(stream.call)
        questions = searches(60)
        with connect(own.target, **{"grpc.use_local_subchannel_pool": 1}) as channel:
            assert own.health(channel) == SERVING
        assert {end.code for end in ends_of(questions, [one.send(stub) for one in questions])} == {StatusCode.OK}
        until(
            lambda: own.value('requests_total{code="OK",method="Encode",reason=""}') == answered + 3,
            "what the deaf have asked for has been made, and does not count as in progress",
        )
        for stream in streams:
            stream.call.cancel()
            stream.close()


def test_connections_reset_in_the_midst_of_a_call_leave_nothing_behind(own: Faulty) -> None:
    with healthy_after(own) as stub:
        before = own.value('abandoned_total{stage="queue"}')
        with own.closed(HOLD):
            first = marked(HOLD, 1)[0].send(stub)
            until(lambda: own.stands_still(HOLD), "the worker is occupied")
            connections = []
            for question in searches(50):
                data = message(question._call.request.SerializeToString())
                connections.append(greeted(own))
                connections[-1].sendall(
                    frame(HEADERS, END_HEADERS, 1, headers(SEARCH)) + frame(DATA, END_STREAM, 1, data)
                )
            until(lambda: own.value("queue_size") == 50, "they are waiting")
            for connection in connections:
                reset(connection)
            until(lambda: own.value("queue_size") == 0, "they have left")
        first.result(60)
        assert own.value('abandoned_total{stage="queue"}') - before == 50


# Nonsense


def memory_of(own: Faulty) -> int:
    """Resident bytes of the front end."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{own.process.pid}/status").read_text())
    assert found
    return int(found.group(1)) * 1024


def test_nonsense_at_the_port_is_answered_or_hung_up_on_and_harms_nobody(own: Faulty) -> None:
    """Bytes at random, frames at random, messages changed at random: for seconds, from several callers at once."""
    with healthy_after(own) as stub, ThreadPoolExecutor(4) as threads:
        before = memory_of(own)
        until_ = time.monotonic() + SECONDS
        jobs = [
            threads.submit(job, own, random.Random(seed), until_)
            for seed, job in enumerate([send_random_bytes, send_random_frames, send_mutations, send_streams])
        ]
        asked = 0
        while time.monotonic() < until_:
            questions = searches(240)[asked % 240 :][:5]
            assert {end.code for end in ends_of(questions, [one.send(stub) for one in questions])} == {StatusCode.OK}
            asked += 5
        for job in jobs:
            print(job.result(60))
        print(f"{asked} searches meanwhile; grown by {(memory_of(own) - before) / 2**20:.0f} MiB")
        assert asked >= 10
        assert memory_of(own) - before < GROWTH
    assert not [line for line in own.log() if line.get("code") == "UNKNOWN"]
    assert not [sample for sample in own.metrics() if 'code="UNKNOWN"' in sample]


def send_random_bytes(own: Faulty, chance: random.Random, until_: float) -> str:
    """Bytes, at times behind a greeting."""
    count = 0
    while time.monotonic() < until_:
        with contextlib.suppress(OSError), contextlib.closing(greeted(own) if count % 2 else opened(own)) as one:
            one.sendall(chance.randbytes(chance.randrange(1, 5000)))
            hear(one)
        count += 1
    return f"{count} connections with random bytes"


def send_random_frames(own: Faulty, chance: random.Random, until_: float) -> str:
    """Frames that are frames, and what they carry nearly right: flags of compression, lengths, methods, headers."""
    whole = searches(1)[0]._call.request.SerializeToString()
    heard: dict[bytes, int] = {}
    count = 0
    while time.monotonic() < until_:
        path = chance.choice([SEARCH, SEARCH, f"/{SERVICE}/Encode", f"/{SERVICE}/Nothing", "/", "nothing", "/a" * 3000])
        extra = chance.choice(
            [
                {},
                {},
                {"grpc_encoding": chance.choice(["gzip", "deflate", "zstd", ""])},
                {"grpc_timeout": chance.choice(["1S", "x", "99999999999H", "-1S", "0n"])},
                {"grpc_status_details_bin": "%%%"},
                {"x": "y" * chance.choice([10, 4000, 15000])},
                {"x_request_id": "i" * 5000},
                {"content_type": chance.choice(["text/html", "application/grpc+json", ""])},
                {"te": ""},
            ]
        )
        body = chance.choice(
            [
                message(whole),
                message(whole, flag=1),
                message(whole, flag=chance.randrange(256)),
                message(whole)[: chance.randrange(5 + len(whole))],
                b"\0\xff\xff\xff\xff" + whole,
                b"\0\x7f\xff\xff\xff" + chance.randbytes(1000),
                message(whole) * 3,
                b"",
                chance.randbytes(200),
            ]
        )
        frames = [
            frame(HEADERS, END_HEADERS, 1, headers(path, **extra)),
            frame(DATA, END_STREAM, 1, body),
        ]
        if chance.random() < 0.3:
            payload = chance.randbytes(chance.randrange(40))
            frames.insert(
                chance.randrange(3), frame(chance.randrange(12), chance.randrange(256), chance.randrange(6), payload)
            )
        with contextlib.suppress(OSError), contextlib.closing(greeted(own)) as one:
            one.sendall(b"".join(frames))
            for status in re.findall(rb"grpc-status.(\d+)", hear(one), re.DOTALL):
                heard[status] = heard.get(status, 0) + 1
        count += 1
    assert b"2" not in heard, heard  # UNKNOWN
    assert heard
    return f"{count} connections with nearly right frames, answered with {heard}"


def hear(connection: socket.socket) -> bytes:
    """What is said within a moment."""
    connection.settimeout(0.1)
    said = b""
    with contextlib.suppress(OSError):
        while b"grpc-status" not in said and (more := connection.recv(65536)):
            said += more
    return said


def send_mutations(own: Faulty, chance: random.Random, until_: float) -> str:
    """Messages of every method, changed at random; metadata of all sizes."""
    originals = [*mutable_messages()]
    ends: dict[str, int] = {}
    with connect(own.target, **{"grpc.use_local_subchannel_pool": 1}) as channel:
        while time.monotonic() < until_:
            method, original = chance.choice(originals)
            data = mutated(original, chance)
            metadata = [("x-note", "n" * chance.choice([0, 0, 0, 100, 7000, 20_000]))]
            if chance.random() < 0.02:
                data = bytes(chance.choice([5, 65]) * 2**20)
            code, reason = outcome(channel.unary_unary(method), data, metadata=metadata)
            name = f"{code.name} {reason}".strip()
            ends[name] = ends.get(name, 0) + 1
    assert sum(count for name, count in ends.items() if name.startswith("INVALID_ARGUMENT")) > 10
    assert not any(name.startswith(("UNKNOWN", "INTERNAL")) for name in ends), ends
    return f"mutations: {ends}"


def send_streams(own: Faulty, chance: random.Random, until_: float) -> str:
    """Streams of changed messages."""
    originals = [
        config(sources=["0-demo"]).SerializeToString(),
        item(1, "red blue").SerializeToString(),
        item(2, "green").SerializeToString(),
    ]
    ends: dict[str, int] = {}
    with connect(own.target, **{"grpc.use_local_subchannel_pool": 1}) as channel:
        while time.monotonic() < until_:
            messages = [originals[0]] * (chance.random() < 0.8)
            messages += [
                mutated(chance.choice(originals), chance) if chance.random() < 0.7 else chance.choice(originals)
                for _ in range(chance.randrange(6))
            ]
            call = channel.stream_stream(f"/{SERVICE}/EncodeStream")

            def ask(messages: list[bytes], call: Any = call, **options: Any) -> None:
                for answer in call(iter(messages), **options):
                    service.EncodeStreamResponse.FromString(answer)

            code, reason = outcome(ask, messages)
            name = f"{code.name} {reason}".strip()
            ends[name] = ends.get(name, 0) + 1
    assert not any(name.startswith(("UNKNOWN", "INTERNAL")) for name in ends), ends
    return f"streams: {ends}"


def outcome(call: Any, data: Any, **options: Any) -> tuple[StatusCode, str]:
    """The status and the reason that a call ends with. Ours carry all that a refusal promises."""
    try:
        call(data, timeout=60, **options)
    except grpc.RpcError as error:
        code: Any = error.code()
        # gRPC's own: no such method, a message of more than 64 MiB, metadata of more than it takes.
        if code in (StatusCode.UNIMPLEMENTED, StatusCode.RESOURCE_EXHAUSTED):
            return code, "gRPC's own"
        return code, read_refusal(error).reason
    return StatusCode.OK, ""


def mutable_messages() -> Iterator[tuple[str, bytes]]:
    """Method and a whole request for it, of every unary method; and of methods that there are not."""
    for question in [
        *searches(12),
        Question("encode", ("red blue",), {"features": ["0-demo:1"]}),
        Question("encode", (["red", "blue"],), {"sources": ["1-demo"]}),
        Question("tokenize", ("red blue",)),
        Question("tokenize", (), {"ids": [5, 6, 7]}),
        Question("get_feature", ("0-demo:1",)),
        Question("top_activations", ("0-demo:1",), {"page_size": 2}),
        Question("list_sources", ()),
        Question("server_info", ()),
    ]:
        call = question._call
        yield f"/{SERVICE}/{call.method}", call.request.SerializeToString()
    yield f"/{SERVICE}/Nothing", b"nothing"
    yield "/grpc.health.v1.Health/Check", b"\n\x00"


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut out, put in or repeated."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(changed) + 1)
        how = chance.randrange(5)
        if how == 0 and place < len(changed):
            changed[place] = chance.randrange(256)
        elif how == 1 and place < len(changed):
            changed[place] ^= 1 << chance.randrange(8)
        elif how == 2:
            changed[place:place] = chance.randbytes(chance.randrange(1, 8))
        elif how == 3:
            del changed[place : place + chance.randrange(1, 6)]
        else:
            changed[place:place] = changed[place : place + 20]
    return bytes(changed)
