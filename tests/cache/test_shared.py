"""The tier in Redis, on a real server that is well, gone, hung, full, restarted, or holds what is not ours.

Whatever happens to it, a look-up says None soon and a write says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from saeserve_server.cache import shared
from saeserve_server.cache.breaker import FAILURES, FIRST_DELAY, LAST_DELAY, Breaker
from saeserve_server.cache.seal import LARGEST_PAYLOAD, KeyFile, Seal
from saeserve_server.cache.shared import SharedTier
from saeserve_server.errors import ConfigError
from saeserve_server.metrics import Metrics
from tests.cache.valkey import Valkey, free_port

TTL = 1000
SOON = 2.0
"""Seconds within which a look-up ends on the busiest machine; on an idle one it takes 0.03 at most."""
KEY = bytes(range(32))
NAME = b"saeserve:" + KEY.hex().encode()


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


class Story:
    """A tier and what it has counted."""

    def __init__(self, url: str, seal: Seal | None = None) -> None:
        self.metrics = Metrics()
        self.tier = SharedTier(url, TTL, self.metrics, seal)
        self.unreadable = b"unreadable"
        """A payload that does not read as an answer."""

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"saeserve_{name}", labels) or 0.0

    def faults(self, kind: str) -> float:
        return self.count("shared_cache_faults_total", kind=kind)

    @property
    def hits(self) -> float:
        return self.count("cache_hits_total", tier="shared")

    @property
    def misses(self) -> float:
        return self.count("cache_misses_total", tier="shared")

    @property
    def failures(self) -> float:
        """Look-ups and writes that went wrong; on a busy machine any of them may time out."""
        return self.faults("error") + self.faults("timeout")

    @property
    def open(self) -> bool:
        return self.count("shared_cache_open") == 1

    async def get(self, key: bytes = KEY) -> bytes | None:
        """A look-up, which must be over soon."""
        began = time.monotonic()
        payload = await self.tier.get(key, self.reads)
        assert time.monotonic() - began < SOON
        return payload

    async def reads(self, payload: bytes) -> bool:
        return payload != self.unreadable

    async def written(self) -> None:
        """Waits until no write is under way."""
        await eventually(lambda: not self.tier._writes)

    async def store(self, payload: bytes, key: bytes = KEY) -> None:
        """Puts a payload that must then be found, however busy the machine is."""
        for _ in range(20):
            self.tier.put(key, payload)
            await self.written()
            if await self.get(key) == payload:
                return
            await asyncio.sleep(0.2)
        raise AssertionError("not stored")

    async def recovers(self, key: bytes = KEY) -> None:
        """Waits until look-ups are let through and answered again."""
        for _ in range(200):
            if await self.get(key) is not None and not self.open:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("did not recover")

    async def fails_until_open(self) -> None:
        """Looks up until Redis is left alone, which takes longer where this process is slow itself."""
        for _ in range(200):
            assert await self.get() is None
            if self.open:
                return
        raise AssertionError("did not open")


async def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def tell(url: str, story: Callable[[Story], Awaitable[None]], seal: Seal | None = None) -> Story:
    """Tells the story; asyncio has nothing to complain about and nothing is left open after it."""
    complaints: list[dict[str, Any]] = []

    async def run() -> Story:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        told = Story(url, seal)
        try:
            async with asyncio.timeout(60):
                await story(told)
        finally:
            async with asyncio.timeout(10):
                await told.tier.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return told

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = asyncio.run(run())
        gc.collect()
    assert not complaints
    return told


@contextlib.asynccontextmanager
async def replies(reply: bytes) -> AsyncIterator[str]:
    """The URL of a TCP server that says this to all it receives."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                writer.write(reply)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def tell_of_replies(reply: bytes, *, understood: bool = False) -> Story:
    """Look-ups, and a write, at a server that says this to all."""

    async def run() -> Story:
        async with replies(reply) as url:
            told = Story(url)
            try:
                async with asyncio.timeout(60):
                    if not understood:
                        await told.fails_until_open()
                    assert await told.get() is None
                    told.tier.put(KEY, b"x")
                    await told.written()
            finally:
                await told.tier.close()
            return told

    return asyncio.run(run())


# A server that is well.


def test_what_was_put_is_found_by_another_replica(valkey: Valkey) -> None:
    payload = bytes(range(256)) * 100

    async def put(one: Story) -> None:
        assert await one.get() is None
        await one.store(payload)
        assert not one.open

    async def get(other: Story) -> None:
        await other.recovers()
        assert await other.get() == payload
        assert await other.get(bytes(32)) is None

    told = tell(valkey.url, put)
    assert told.hits >= 1
    assert told.misses >= 1
    tell(valkey.socket_url, get)
    with valkey.client() as client:
        assert client.keys() == [NAME]
        assert 0 < client.ttl(NAME) <= TTL


@pytest.mark.parametrize(("excess", "shared_too"), [(0, True), (1, False)])
def test_a_mebibyte_is_the_most(valkey: Valkey, excess: int, shared_too: bool) -> None:
    async def story(told: Story) -> None:
        await told.store(b"warm", bytes(32))
        told.tier.put(KEY, bytes(LARGEST_PAYLOAD + excess))
        await told.written()

    tell(valkey.url, story)
    with valkey.client() as client:
        assert client.exists(NAME) == shared_too


def test_an_empty_payload_is_a_payload(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"")
        assert told.hits >= 1

    tell(valkey.url, story)


def test_many_at_once(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")
        found = await asyncio.gather(*(told.get() for _ in range(500)))
        assert set(found) <= {b"x", None}
        assert told.hits + told.misses >= 500
        for _ in range(20):
            await told.recovers()
            if b"x" in await asyncio.gather(*(told.get() for _ in range(100))):
                return
        raise AssertionError("never found")

    told = tell(valkey.url, story)
    assert told.faults("error") == 0


def test_many_writes_at_once_are_bounded(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"warm")
        for number in range(200):
            told.tier.put(number.to_bytes(32, "big"), b"x")
        assert told.faults("dropped") == 200 - shared.PENDING_WRITES
        await told.written()
        for number in range(17):
            told.tier.put(number.to_bytes(32, "big"), bytes(LARGEST_PAYLOAD))
        assert told.faults("dropped") == 200 - shared.PENDING_WRITES + 1

    tell(valkey.url, story)


def test_closing_writes_what_is_pending(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"warm", bytes(32))
        told.tier.put(KEY, b"x")
        await told.tier.close()
        told.tier.put(bytes(31) + b"1", b"x")
        assert await told.get() is None

    tell(valkey.url, story)
    with valkey.client() as client:
        assert client.exists(NAME) == 1
        assert client.dbsize() == 2


def test_a_password() -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")

    with Valkey(password="open sesame") as valkey:
        tell(valkey.url.replace(" ", "%20") + "/3", story)
        tell(valkey.socket_url.replace(" ", "%20"), story)


# One that is not.


def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    async def story(told: Story) -> None:
        with caplog.at_level(logging.INFO, "saeserve_server"):
            await told.fails_until_open()
            assert told.failures == told.misses >= FAILURES
            for _ in range(3):
                assert await told.get() is None
        assert told.failures + told.faults("open") == told.misses
        assert told.faults("open") >= 1
        told.tier.put(KEY, b"x")
        assert not told.tier._writes

    told = tell(f"redis://:secret@127.0.0.1:{free_port()}", story)
    assert told.hits == 0
    assert told.faults("error") > 0
    assert len(caplog.records) == 1, "one line, whatever fails"
    assert "secret" not in str(vars(caplog.records[0]))


def test_no_such_host() -> None:
    async def story(told: Story) -> None:
        await told.fails_until_open()

    tell("redis://nowhere.invalid", story)


def test_no_such_socket() -> None:
    async def story(told: Story) -> None:
        await told.fails_until_open()

    tell("unix:///nowhere/socket", story)


def test_no_tls_there(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.fails_until_open()

    tell(valkey.url.replace("redis:", "rediss:"), story)


def test_it_dies_and_comes_back(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")
        await told.recovers()
        with caplog.at_level(logging.INFO, "saeserve_server"):
            valkey.kill()
            await told.fails_until_open()
            assert told.count("shared_cache_open") == 1
            await asyncio.to_thread(valkey.start)
            await told.store(b"y")
            assert told.count("shared_cache_open") == 0

    tell(valkey.url, story)
    assert [record.levelno for record in caplog.records][:2] == [logging.WARNING, logging.INFO]


def test_it_restarts_between_two_look_ups(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")
        await asyncio.to_thread(valkey.stop)
        await asyncio.to_thread(valkey.start)
        await told.store(b"y")

    tell(valkey.url, story)


def test_it_hangs_and_goes_on(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")
        await told.recovers()
        valkey.pause()
        began = time.monotonic()
        assert set(await asyncio.gather(*(told.get() for _ in range(500)))) == {None}
        assert time.monotonic() - began < SOON
        assert all(lookup.reply.done() for lookup in told.tier._waiting), "what was given up is not asked for"
        await told.fails_until_open()
        assert told.faults("timeout") >= FAILURES
        began = time.monotonic()
        assert set(await asyncio.gather(*(told.get() for _ in range(500)))) == {None}
        assert time.monotonic() - began < SOON
        valkey.resume()
        await told.recovers()

    told = tell(valkey.url, story)
    assert told.faults("open") >= 1


def test_three_look_ups_of_one_that_hangs_are_enough(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")
        await told.recovers()
        valkey.pause()
        for _ in range(FAILURES):
            assert not told.open
            assert await told.get() is None
        assert told.open

    monkeypatch.setattr(shared, "LATE_SECONDS", 100.0)  # as on a machine that is never busy
    tell(valkey.url, story)


def test_one_that_hangs_is_left_alone_even_if_this_process_is_always_late(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(told: Story) -> None:
        valkey.pause()
        await told.fails_until_open()

    monkeypatch.setattr(shared, "LATE_SECONDS", 0.0)
    tell(valkey.url, story)


def test_it_hangs_from_the_beginning(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        valkey.pause()
        await told.fails_until_open()
        valkey.resume()
        await told.store(b"x")

    tell(valkey.url, story)


def test_it_hangs_while_writing(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")
        await told.recovers()
        valkey.pause()
        began = time.monotonic()
        for number in range(100):
            told.tier.put(number.to_bytes(32, "big"), bytes(100_000))
        assert time.monotonic() - began < SOON
        await told.written()
        assert told.open
        assert told.faults("open") > 0, "what waited its turn is not tried any more"
        valkey.resume()
        await told.recovers()

    told = tell(valkey.url, story)
    assert told.faults("timeout") >= FAILURES


def test_closing_does_not_wait_for_one_that_hangs(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")
        valkey.pause()
        lookups = [asyncio.create_task(told.tier.get(KEY, told.reads)) for _ in range(20)]
        for number in range(20):
            told.tier.put(number.to_bytes(32, "big"), bytes(100_000))
        await asyncio.sleep(0)
        began = time.monotonic()
        await told.tier.close()
        assert time.monotonic() - began < 3 * shared.CLOSE_SECONDS + SOON
        assert await asyncio.gather(*lookups) == [None] * 20, "not cancelled: an answer is still to be computed"

    tell(valkey.url, story)


def test_it_is_full() -> None:
    async def story(told: Story) -> None:
        told.tier.put(KEY, b"x")
        for number in range(100):
            told.tier.put(number.to_bytes(32, "big"), bytes(200_000))
            await told.written()
        assert told.faults("error") > FAILURES
        await told.recovers()  # what it holds is still of use

    with Valkey("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as valkey:
        tell(valkey.url, story)


def test_it_is_a_read_only_replica(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")
        with valkey.client() as client:
            client.replicaof("127.0.0.1", str(free_port()))
        for _ in range(2 * FAILURES):
            told.tier.put(KEY, b"y")
            await told.written()
        assert told.faults("error") > FAILURES
        await told.recovers()
        assert await told.get() == b"x"

    tell(valkey.url, story)


def test_the_password_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    async def story(told: Story) -> None:
        with caplog.at_level(logging.INFO):
            await told.fails_until_open()
        assert told.faults("error") > 0

    with Valkey(password="right") as valkey:
        for url in (valkey.url.replace("right", "wr0ng"), valkey.url.replace(":right@", "")):
            caplog.clear()
            tell(url, story)
            assert "AuthenticationError" in str(vars(caplog.records[0])) or "wr0ng" not in url
            assert not any("wr0ng" in str(vars(record)) for record in caplog.records)


# One that holds, or says, what is not ours.


def values_that_are_not_ours(valkey: Valkey) -> dict[str, bytes]:
    """By what they are; made from the value that is right."""

    async def story(told: Story) -> None:
        await told.store(b"payload")
        await told.store(b"payload", bytes(32))

    tell(valkey.url, story)
    with valkey.client() as client:
        right, other = client.get(NAME), client.get(b"saeserve:" + b"0" * 64)
    assert isinstance(right, bytes)
    assert isinstance(other, bytes)
    return {
        "nothing": b"",
        "garbage": b"garbage" * 100,
        "a payload as it is": b"payload",
        "cut": right[:-1],
        "cut in the header": right[:20],
        "longer": right + b"!",
        "damaged": right[:-1] + bytes([right[-1] ^ 1]),
        "of an older version": right[:8] + bytes([right[8] - 1]) + right[9:],
        "of a newer version": right[:8] + bytes([right[8] + 2]) + right[9:],
        "of another key": other,
    }


def test_values_that_are_not_ours(valkey: Valkey) -> None:
    values = values_that_are_not_ours(valkey)

    async def story(told: Story) -> None:
        await told.recovers()
        expected = 0
        with valkey.client() as client:
            for what, value in values.items():
                client.set(NAME, value)
                for _ in range(20):
                    assert await told.get() is None, what
                    if told.faults("invalid") > expected:
                        break
                    await asyncio.sleep(0.2)
                expected += 1
                assert told.faults("invalid") == expected, what
        assert not told.open, "it is well otherwise"
        await told.store(b"payload")

    tell(valkey.url, story)


async def finds(told: Story, value: bytes, kind: str) -> None:
    """A value is no answer, is counted once as what it is, and makes way for the right one."""
    await told.recovers()
    with Redis(unix_socket_path=told.tier._client.connection_pool.connection_kwargs["path"]) as client:
        before = told.faults(kind)
        client.set(NAME, value)
        for _ in range(20):  # a machine that is busy may miss it
            assert await told.get() is None
            if told.faults(kind) > before:
                break
        assert told.faults(kind) == before + 1
        assert not told.open
        await told.store(b"payload")
        assert client.get(NAME) == told.tier._seal.close(KEY, b"payload")


def test_a_payload_that_is_no_answer_is_counted_and_overwritten(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"payload")
        await finds(told, Seal().close(KEY, told.unreadable), "invalid")
        await finds(told, Seal().close(KEY, bytes(LARGEST_PAYLOAD + 1000)), "invalid")

    tell(valkey.socket_url, story)


def test_what_is_signed_with_no_key_of_ours_is_counted_as_that_and_overwritten(valkey: Valkey, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text("k" * 32)
    theirs.write_text("l" * 32)
    seal, other = Seal(KeyFile(ours)), Seal(KeyFile(theirs))

    async def with_a_key(told: Story) -> None:
        await told.store(b"payload")
        for value in (Seal().close(KEY, b"payload"), other.close(KEY, b"payload")):
            await finds(told, value, "unsigned")
        assert told.faults("invalid") == 0

    async def without_one(told: Story) -> None:
        await told.store(b"payload")
        await finds(told, seal.close(KEY, b"payload"), "unsigned")

    tell(valkey.socket_url, with_a_key, seal)
    tell(valkey.socket_url, without_one)


@pytest.mark.parametrize("kind", ["list", "hash", "set", "stream"])
def test_values_of_another_type(valkey: Valkey, kind: str) -> None:
    async def story(told: Story) -> None:
        await told.store(b"payload")
        with valkey.client() as client:
            client.delete(NAME)
            if kind == "list":
                client.lpush(NAME, "x")
            elif kind == "hash":
                client.hset(NAME, "x", "y")
            elif kind == "set":
                client.sadd(NAME, "x")
            else:
                client.xadd(NAME, {"x": "y"})
        for _ in range(20):
            assert await told.get() is None
            if told.faults("invalid"):
                break
            await asyncio.sleep(0.2)
        assert told.faults("invalid") == 1
        await told.store(b"payload")

    tell(valkey.url, story)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\xff\xfe" * 1000 + b"\r\n",
        b"$-5\r\n",
        b"$nonsense\r\n",
        b"*2\r\n$1\r\na\r\n",
        b"-LOADING Valkey is loading the dataset in memory\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-MOVED 1 127.0.0.1:1\r\n",
        b"-MOVED nonsense\r\n",
        b"-\r\n",
        b"$99999999999\r\nx",
        b"",
    ],
)
def test_a_server_that_is_not_redis(reply: bytes) -> None:
    told = tell_of_replies(reply)
    assert told.open
    assert told.faults("open") > 0
    assert told.failures + told.faults("open") == told.misses + 1  # and a write


@pytest.mark.parametrize("reply", [b":5\r\n", b"*0\r\n", b"$3\r\nabc\r\n", b"+OK\r\n", b"*1\r\n*1\r\n:1\r\n"])
def test_a_server_that_replies_with_something_else(reply: bytes) -> None:
    told = tell_of_replies(reply, understood=True)
    assert told.faults("invalid") + told.faults("timeout") >= 1
    assert told.misses == 1


def test_a_reply_that_comes_too_late_is_not_taken_for_another(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        keys = [number.to_bytes(32, "big") for number in range(40)]
        for number, key in enumerate(keys):
            await told.store(b"%d" % number, key)
        for _ in range(3):
            valkey.pause()
            await asyncio.gather(*(told.get(key) for key in keys))
            valkey.resume()
            await told.recovers(keys[0])
            for number, key in enumerate(keys):
                assert await told.get(key) in (None, b"%d" % number)

    told = tell(valkey.url, story)
    assert told.faults("invalid") == 0


def test_who_asks_may_leave(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")
        for turn in range(100):
            lookups = [asyncio.create_task(told.tier.get(KEY, told.reads)) for _ in range(20)]
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            for lookup in lookups:
                lookup.cancel()
            await asyncio.wait(lookups, timeout=SOON)
            assert all(lookup.done() for lookup in lookups)
        await told.recovers()

    tell(valkey.url, story)


def test_an_event_loop_that_stood_still_does_not_blame_redis(valkey: Valkey) -> None:
    async def story(told: Story) -> None:
        await told.store(b"x")
        await told.recovers()
        before = told.faults("timeout")
        found = 0
        for _ in range(10):
            lookup = asyncio.create_task(told.tier.get(KEY, told.reads))
            for _ in range(3):
                await asyncio.sleep(0)
            time.sleep(0.05)  # noqa: ASYNC251 - that is the point
            found += await lookup == b"x"
        assert found >= 5, told.faults("timeout") - before

    tell(valkey.url, story)


# Whether to ask it.


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shared.time, "monotonic", clock)
    return clock


def test_breaker_opens_after_failures_in_a_row(clock: Clock) -> None:
    breaker = Breaker(Metrics())
    for _ in range(5):
        breaker.failed("x")
        breaker.failed("x")
        breaker.succeeded()
    assert breaker.allows()
    for _ in range(FAILURES):
        assert not breaker.open
        breaker.failed("x")
    assert breaker.open
    assert not breaker.allows()


def test_breaker_lets_one_probe_through_at_growing_intervals(clock: Clock) -> None:
    breaker = Breaker(Metrics())
    for _ in range(FAILURES):
        breaker.failed("x")
    delay = FIRST_DELAY
    for _ in range(10):
        clock.now += 0.74 * delay
        assert not breaker.allows()
        clock.now += 0.52 * delay
        assert [breaker.allows() for _ in range(3)] == [True, False, False]
        breaker.failed("x")
        delay = min(2 * delay, LAST_DELAY)
    assert delay == LAST_DELAY


def test_breaker_closes_and_begins_anew(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    breaker = Breaker(metrics)
    with caplog.at_level(logging.INFO, "saeserve_server"):
        for _ in range(3):
            for _ in range(10):
                breaker.failed("x")
            assert metrics.registry.get_sample_value("saeserve_shared_cache_open") == 1
            clock.now += 1.26 * FIRST_DELAY
            assert breaker.allows()
            breaker.succeeded()
            breaker.succeeded()
            assert metrics.registry.get_sample_value("saeserve_shared_cache_open") == 0
            assert all(breaker.allows() for _ in range(3))
    assert len(caplog.records) == 6


def test_many_failures_at_once_are_one(clock: Clock) -> None:
    breaker = Breaker(Metrics())
    for _ in range(500):
        breaker.failed("x")
    clock.now += 1.26 * FIRST_DELAY
    assert breaker.allows()


# Its address.


@pytest.mark.parametrize(
    "url",
    [
        "",
        "secret",
        "127.0.0.1:6379",
        "http://:secret@host",
        "redis://",
        "redis://:secret@",
        "redis://:secret@host:0",
        "redis://:secret@host:99999",
        "redis://:secret@host:port",
        "redis://:secret@host/name",
        "redis://:secret@host?db=secret",
        "redis://:secret@host?timeout=5",
        "redis://:secret@host?decode_responses=1",
        "redis://:secret@host?ssl_cert_reqs=none",
        "redis://:secret@[::1",
        "redis://:5#secret@host",
        "redis://user:5#secret@host",
        "redis://user:5/secret@host",
        "redis://user:5?secret@host",
        "redis://user:5?secret=@host",
        "rediss://:secret@host?ssl_nonsense=1",
        "rediss://:secret@host?ssl_cert_reqs=secret",
        "unix://",
        "unix://secret/socket",
    ],
)
def test_what_is_no_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="cache_url") as caught:
        SharedTier(url, TTL, Metrics())
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://host:1/2",
        "redis://user:p%40ss@host?db=2",
        "redis://[::1]:6379",
        "rediss://:secret@host:1/0?ssl_cert_reqs=none&ssl_ca_certs=/file",
        "unix:///a/socket",
        "unix://user:secret@/a/socket?db=2",
    ],
)
def test_what_is_one_is_taken(url: str) -> None:
    SharedTier(url, TTL, Metrics())
