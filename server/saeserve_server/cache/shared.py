"""The tier that replicas share, in Redis or Valkey: used while it is quick and sound, and otherwise left alone.

It can make no request fail, and delays one by a few hundredths of a second at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from saeserve_server.cache.breaker import Breaker
from saeserve_server.cache.seal import LARGEST_PAYLOAD, Seal
from saeserve_server.errors import ConfigError
from saeserve_server.metrics import Metrics, SharedFault

LOOKUP_SECONDS: Final = 0.03
"""How long an answer waits for a look-up, all in all."""
LATE_SECONDS: Final = 2 * LOOKUP_SECONDS
"""A look-up that took so long to be given up was held up by this process."""
COMMAND_SECONDS: Final = 1.0
"""How long a command may take that no answer waits for: a write, or a look-up that was given up."""
CLOSE_SECONDS: Final = 1.0
"""How long each step of closing may take: writing what is pending, cancelling what hangs, hanging up."""
PENDING_WRITES: Final = 64
PENDING_BYTES: Final = 16 * 2**20
"""Writes beyond these are dropped."""

READERS: Final = 4
WRITERS: Final = 4
"""Connections for look-ups and for writes, so that a burst of writes keeps no look-up waiting."""
LOOKUPS_AT_ONCE: Final = 32
"""Look-ups that share a round trip. One by one each costs redis-py four times the CPU time that it does among these."""

Reads = Callable[[bytes], Awaitable[bool]]
"""Whether a payload reads as an answer to the question that is asked."""

_EXPECTED: Final = (
    "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], the same with rediss://, or unix:///PATH, "
    "with no options but db, username, password and ssl_*"
)
_TIMEOUTS: Final = (TimeoutError, redis_errors.TimeoutError)


@dataclass(slots=True, eq=False)
class _Lookup:
    """A key that is looked up; `reply` becomes what Redis said, or the exception, and is cancelled when given up."""

    key: bytes
    reply: asyncio.Future[object]
    sent: bool = False


class SharedTier:
    """Payloads by key in Redis, each under a seal that says what it is: whatever else is found there is a miss."""

    def __init__(self, url: str, ttl: int, metrics: Metrics, seal: Seal | None = None) -> None:
        """`ttl` is in seconds. Raises ConfigError for a URL that is none; connects to nothing yet."""
        self._client = Redis.from_pool(_pool(url))
        self._seal = seal or Seal()
        self._ttl = ttl
        self._metrics = metrics
        self._hits = metrics.cache_hits.labels("shared")
        self._misses = metrics.cache_misses.labels("shared")
        self._breaker = Breaker(metrics)
        self._waiting: deque[_Lookup] = deque()
        self._readers: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(WRITERS)
        self._writes: dict[asyncio.Task[None], int] = {}  # those pending, and their bytes
        self._closed = False

    async def get(self, key: bytes, reads: Reads) -> bytes | None:
        """The payload under the key, which `reads` accepts; None if there is none, or if Redis is of no use now.

        Raises what `reads` raises, and nothing else.
        """
        if self._closed:
            return None
        payload = await self._find(key)
        if payload is not None and not await reads(payload):
            self._metrics.shared_fault(SharedFault.INVALID)
            payload = None
        (self._misses if payload is None else self._hits).inc()
        return payload

    def put(self, key: bytes, payload: bytes) -> None:
        """Has the payload written in the background, unless it is too large or too much is waiting already."""
        if self._closed or len(payload) > LARGEST_PAYLOAD:
            return
        if self._breaker.open:
            self._metrics.shared_fault(SharedFault.OPEN)
        elif len(self._writes) >= PENDING_WRITES or sum(self._writes.values()) + len(payload) > PENDING_BYTES:
            self._metrics.shared_fault(SharedFault.DROPPED)
        else:
            task = asyncio.create_task(self._write(key, payload))
            self._writes[task] = len(payload)
            task.add_done_callback(self._writes.pop)

    async def close(self) -> None:
        """Writes what is pending and hangs up, each within a second; gives up what takes longer."""
        self._closed = True
        if self._writes:
            await asyncio.wait(set(self._writes), timeout=CLOSE_SECONDS)
        left = self._readers | set(self._writes)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_SECONDS)
        with contextlib.suppress(Exception):  # whatever it is, we are leaving
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.aclose()

    async def _find(self, key: bytes) -> bytes | None:
        if not self._breaker.allows():
            self._metrics.shared_fault(SharedFault.OPEN)
            return None
        lookup = _Lookup(key, asyncio.get_running_loop().create_future())
        self._waiting.append(lookup)
        if len(self._readers) < READERS:
            reader = asyncio.create_task(self._read_waiting())
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        began = time.monotonic()
        try:
            # In two halves: after an event loop that stood still the first is over too, and the reply is read in the
            # second.
            for _ in range(2):
                if not lookup.reply.done():
                    await asyncio.wait({lookup.reply}, timeout=LOOKUP_SECONDS / 2)
            if lookup.reply.done():
                return self._payload(key, lookup.reply.result())
        finally:
            lookup.reply.cancel()
        self._metrics.shared_fault(SharedFault.TIMEOUT)
        # Redis is not to blame where this waited for other look-ups, or for an event loop that has too much to do.
        if lookup.sent and time.monotonic() - began < LATE_SECONDS and not self._closed:
            self._breaker.failed("no reply in time")
        return None

    def _payload(self, key: bytes, reply: object) -> bytes | None:
        """The payload in what Redis said, or the client raised, to a look-up."""
        if isinstance(reply, Exception) and not _is_wrong_type(reply):
            self._failed(reply)
            return None
        self._breaker.succeeded()
        if reply is None:
            return None
        payload = self._seal.open(key, reply)
        if isinstance(payload, SharedFault):
            self._metrics.shared_fault(payload)
            return None
        return payload

    async def _read_waiting(self) -> None:
        """Looks up what waits, until nothing does.

        It goes on when a look-up has been given up: connecting may take longer than a look-up has, and has to be done
        only once.
        """
        while batch := self._next_lookups():
            replies: list[object]
            try:
                async with asyncio.timeout(COMMAND_SECONDS):
                    pipeline = self._client.pipeline(transaction=False)
                    for lookup in batch:
                        pipeline.get(_name(lookup.key))
                    replies = await pipeline.execute(raise_on_error=False)
            except Exception as error:  # noqa: BLE001 - whatever the client makes of what the server says
                replies = [error] * len(batch)
                if all(lookup.reply.done() for lookup in batch):  # given up by all, who may not have blamed Redis
                    self._breaker.failed(_describe(error))
            for lookup, reply in zip(batch, replies, strict=True):
                if not lookup.reply.done():
                    lookup.reply.set_result(reply)

    def _next_lookups(self) -> list[_Lookup]:
        batch: list[_Lookup] = []
        while self._waiting and len(batch) < LOOKUPS_AT_ONCE:
            lookup = self._waiting.popleft()
            if not lookup.reply.done():
                lookup.sent = True
                batch.append(lookup)
        return batch

    async def _write(self, key: bytes, payload: bytes) -> None:
        async with self._turns:
            if self._breaker.open:  # since it was put
                self._metrics.shared_fault(SharedFault.OPEN)
                return
            try:
                async with asyncio.timeout(COMMAND_SECONDS):
                    await self._client.set(_name(key), self._seal.close(key, payload), ex=self._ttl)
            except redis_errors.ResponseError:
                # It is full, or read-only: look-ups are as good as ever.
                self._metrics.shared_fault(SharedFault.ERROR)
            except Exception as error:  # noqa: BLE001 - whatever the client makes of what the server says
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._metrics.shared_fault(SharedFault.TIMEOUT if isinstance(error, _TIMEOUTS) else SharedFault.ERROR)
        self._breaker.failed(_describe(error))


def _name(key: bytes) -> bytes:
    return b"saeserve:" + key.hex().encode()


def _is_wrong_type(error: BaseException) -> bool:
    """Whether Redis holds something under the key that is no string."""
    return isinstance(error, redis_errors.ResponseError) and str(error).startswith("WRONGTYPE")


def _describe(error: BaseException) -> str:
    """What failed, for the log. Never the server's own words: some repeat the command that they refuse, AUTH too."""
    cause = error.__cause__ or error.__context__
    reason = cause.strerror if isinstance(cause, OSError) else None
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def _pool(url: str) -> BlockingConnectionPool:
    """Connections to a server that may hang or be gone. Raises ConfigError, without any part of the URL in it."""
    try:
        _check(url)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=READERS + WRITERS,
            timeout=COMMAND_SECONDS,
            socket_timeout=0.25,
            socket_connect_timeout=0.25,
            retry=Retry(NoBackoff(), 1),  # once more, for a connection that the server has closed meanwhile
            protocol=2,  # spares the round trip of HELLO
            driver_info=None,  # and those of CLIENT SETINFO
        )
        pool.connection_class(**pool.connection_kwargs)  # which is where options are looked at; it connects to nothing
    except (ValueError, TypeError, redis_errors.RedisError):
        raise ConfigError(f"cache_url: expected {_EXPECTED}") from None
    return pool


def _check(url: str) -> None:
    """Raises ValueError for what redis-py would take for something else than is meant, or fail on later.

    A password with an unescaped `#`, `/` or `?` makes its rest a path, and its beginning a port.
    """
    parts = urlsplit(url)
    options = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    if parts.scheme == "unix":
        sound = parts.path not in ("", "/") and not parts.netloc.rpartition("@")[2]
    else:
        database = parts.path.removeprefix("/")
        sound = bool(parts.hostname) and parts.port != 0 and (not database or database.isdecimal())
    known = all(name in ("db", "username", "password") or name.startswith("ssl_") for name, _ in options)
    if parts.scheme not in ("redis", "rediss", "unix") or parts.fragment or not sound or not known:
        raise ValueError
