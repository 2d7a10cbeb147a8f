"""The attacks themselves. Each prepares what it needs, waits for the word, and goes on until its time is over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

import grpc.aio
from grpc_health.v1 import health_pb2

from loadtests import connect, texts
from loadtests.attacks.ends import Ends
from loadtests.attacks.http2 import NO_LIMIT, Connection
from loadtests.processes import SERVICE
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import types_pb2

DEADLINE = 60.0
"""Seconds of each call."""
PAUSE = 0.05
"""Seconds after a call that was refused: not as long as it is told, but so that the attacker is not busy itself."""
POISON = "xpoisonx"
"""Begins a text whose computation fails, on a server that is made to."""
LONG_WORDS = 100
BOTH_KINDS = (types_pb2.FEATURE_KIND_LATENT, types_pb2.FEATURE_KIND_NEURON)


@dataclass(slots=True)
class Attack:
    """What an attack is told, and what it counts."""

    server: connect.Server
    seconds: float
    begin: Callable[[], Awaitable[None]]
    """Says that all is prepared, and waits for the word."""
    ends: Ends = field(default_factory=Ends)
    over: float = 0.0
    """When it ends, on the monotonic clock."""

    async def go(self) -> None:
        """From here on it counts."""
        await self.begin()
        self.over = time.monotonic() + self.seconds

    def goes_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.over

    @contextlib.asynccontextmanager
    async def stubs(self, connections: int) -> AsyncIterator[list[Any]]:
        """Stubs on connections of their own."""
        async with connect.stubs(self.server, connections) as stubs:
            yield stubs


Move: TypeAlias = Callable[[Attack], Awaitable[None]]


async def watches(attack: Attack) -> None:
    """15,000 Health/Watch on one connection, whatever it allows; then it hangs up, and comes again."""
    await _watch(attack, 15_000, polite=False)


async def watches_politely(attack: Attack) -> None:
    """15,000 Health/Watch on as many connections as their limits ask for; then all hang up, and come again."""
    await _watch(attack, 15_000, polite=True)


async def _watch(attack: Attack, count: int, polite: bool) -> None:
    message = health_pb2.HealthCheckRequest(service=SERVICE).SerializeToString()
    headers = attack.server.headers()
    await attack.go()
    while attack.goes_on():
        opened = await _hold(attack, count, "/grpc.health.v1.Health/Watch", message, headers, polite)
        await asyncio.sleep(min(attack.seconds / 4, max(0.0, attack.over - time.monotonic())))
        for one in opened:
            one.hang_up()


async def unread(attack: Attack) -> None:
    """3,000 short requests for large answers, on as many connections as their limits ask for, none of which reads."""
    request = _token_by_token(texts.compose(Random(1), LONG_WORDS))  # noqa: S311  load, not secrets
    headers = attack.server.headers()
    async with attack.stubs(1) as (stub,):
        await stub.Search(request, timeout=DEADLINE, metadata=headers(0))  # cached from now on
    await attack.go()
    path, message = f"/{SERVICE}/Search", request.SerializeToString()
    opened = await _hold(attack, 3000, path, message, headers, polite=True, window=0)
    while attack.goes_on():  # what was refused, reset or hung up is asked again
        await asyncio.sleep(PAUSE)
        alive = [one for one in opened if not one.closed.is_set()]
        missing = 3000 - sum(len(one.open_streams) for one in alive)
        opened = alive + await _hold(attack, min(missing, 100), path, message, headers, polite=True, window=0)
    for one in opened:
        one.hang_up()


async def _hold(
    attack: Attack,
    count: int,
    path: str,
    message: bytes,
    headers: connect.Headers,
    polite: bool,
    window: int = 65535,
) -> list[Connection]:
    """Begins so many calls and leaves them open; the connections that have them."""
    opened: list[Connection] = []
    begun = 0
    while begun < count and attack.goes_on():
        one = None
        with contextlib.suppress(OSError, TimeoutError):
            one = await Connection.open(attack.server, attack.ends, window)
            opened.append(one)
            most = min(one.limit if polite else NO_LIMIT, count - begun)
            for _ in range(most):
                if not attack.goes_on():
                    break
                await one.call(path, message, headers(begun))
                begun += 1
        if one is None or one.closed.is_set():
            await asyncio.sleep(PAUSE)
    return opened


async def token_by_token(attack: Attack) -> None:
    """64 callers ask for a thousand features of each token of a text whose activations are kept, each time others."""
    text = texts.compose(Random(2), LONG_WORDS)  # noqa: S311  load, not secrets
    headers = attack.server.headers()
    async with attack.stubs(64) as stubs:
        source = (await stubs[0].ListSources(pb.ListSourcesRequest(), timeout=DEADLINE, metadata=headers(0))).sources[0]

        async def ask(caller: int, number: int) -> None:
            request = _token_by_token(text, limit=1000 - number % 50)
            place = (caller + 64 * number) % source.n_features
            # Another set of features each time, so that no whole answer is kept.
            request.filter.exclude.features.append(types_pb2.FeatureId(source=source.id, index=place))
            await _send(attack, stubs[caller].Search, request, headers(caller))

        with contextlib.suppress(grpc.aio.AioRpcError):
            await stubs[0].Search(_token_by_token(text), timeout=DEADLINE, metadata=headers(0))
        await attack.go()
        await _hammer(attack, 64, ask)


async def large_requests(attack: Attack) -> None:
    """Four callers send messages of nearly 4 MiB that name 830,000 features, 4 million kinds, or as many of others."""
    size = 4 * 1024 * 1024 - 4096
    feature = b"\x2a\x03\x10\x80\x01"  # FeatureSelector.features, {index: 128}
    selectors = [
        feature * (size // 5),
        _field(1, b"\x01" * size),
        b"\x12\x01a" * (size // 3),
        b"\x22\x00" * (size // 2),
    ]
    head = pb.SearchRequest(input=types_pb2.Input(text="red")).SerializeToString()
    messages = [("Search", head + _field(3, _field(1, one))) for one in selectors]
    messages.append(("Search", head + b"\x22\x02\x08\x00" * (size // 4)))  # sort_tokens
    inputs = pb.EncodeRequest(inputs=[types_pb2.Input(text="red")]).SerializeToString()
    messages.append(("Encode", inputs + b"\x22\x03\x10\x80\x01" * (size // 5)))  # features
    messages.append(("Encode", b"\x12\x00" * (size // 2)))  # inputs
    ids = pb.TokenizeRequest(input=types_pb2.Input(token_ids=types_pb2.TokenIds(ids=[1] * (size - 64))))
    messages.append(("Tokenize", ids.SerializeToString()))
    headers = attack.server.headers()
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(connect.aio_channel(attack.server)) for _ in range(4)]

        async def ask(caller: int, number: int) -> None:
            method, message = messages[number % len(messages)]
            await _send(attack, channels[caller].unary_unary(f"/{SERVICE}/{method}"), message, headers(caller))

        await attack.go()
        await _hammer(attack, 4, ask)


async def shared_failure(attack: Attack) -> None:
    """400 callers wait for one computation that fails; then for another."""
    headers = attack.server.headers()
    async with attack.stubs(8) as stubs:
        await attack.go()
        number = 0
        while attack.goes_on():
            number += 1
            request = pb.SearchRequest(input=types_pb2.Input(text=f"{POISON} number {number} {attack.over}"))
            calls = [_send(attack, stubs[caller % 8].Search, request, headers(caller)) for caller in range(400)]
            await _until_over(attack, asyncio.gather(*calls))


async def long_texts(attack: Attack) -> None:
    """Four callers encode 63 texts of 64 KiB each, of which `truncate` keeps a beginning."""
    chance = Random(3)  # noqa: S311  load, not secrets
    drafts = [(texts.compose(chance, 16_000) + " word" * 16_000)[: 65536 - 16] for _ in range(63)]
    headers = attack.server.headers()
    async with attack.stubs(4) as stubs:
        listed = await stubs[0].ListSources(pb.ListSourcesRequest(), timeout=DEADLINE, metadata=headers(0))
        chosen = [types_pb2.FeatureId(source=listed.sources[0].id, index=0)]

        async def ask(caller: int, number: int) -> None:
            # Each text begins as none before it.
            inputs = [types_pb2.Input(text=f"{caller} {number} {draft}"[:65536]) for draft in drafts]
            request = pb.EncodeRequest(inputs=inputs, features=chosen, truncate=True, omit_tokens=True)
            await _send(attack, stubs[caller].Encode, request, headers(caller))

        await attack.go()
        await _hammer(attack, 4, ask)


async def unread_streams(attack: Attack) -> None:
    """20 EncodeStreams that send and do not read."""
    headers = attack.server.headers()
    async with attack.stubs(20) as stubs:
        listed = await stubs[0].ListSources(pb.ListSourcesRequest(), timeout=DEADLINE, metadata=headers(0))
        first = pb.EncodeStreamRequest(config=pb.EncodeStreamConfig(sources=[one.id for one in listed.sources]))

        async def stream(caller: int) -> None:
            chance = Random(f"stream {caller}")  # noqa: S311  load, not secrets
            while attack.goes_on():
                call = stubs[caller].EncodeStream(metadata=headers(caller))
                try:
                    await call.write(first)
                    for number in range(1_000_000):
                        text = types_pb2.Input(text=texts.compose(chance, LONG_WORDS))
                        message = pb.EncodeStreamRequest(item=pb.EncodeStreamItem(sequence=number, input=text))
                        attack.ends.begin(message.ByteSize())
                        await call.write(message)
                except grpc.aio.AioRpcError as error:
                    attack.ends.failed(error)
                    await asyncio.sleep(PAUSE)
                finally:
                    call.cancel()

        await attack.go()
        await _until_over(attack, asyncio.gather(*(stream(caller) for caller in range(20))))


async def _hammer(attack: Attack, callers: int, ask: Callable[[int, int], Awaitable[None]]) -> None:
    """Callers who ask again as soon as they are answered."""

    async def caller(number: int) -> None:
        turn = 0
        while attack.goes_on():
            await ask(number, turn)
            turn += 1

    await _until_over(attack, asyncio.gather(*(caller(number) for number in range(callers))))


async def _send(attack: Attack, method: Callable[..., Any], request: Any, headers: Any) -> None:
    size = len(request) if isinstance(request, bytes) else request.ByteSize()
    attack.ends.begin(size)
    try:
        answer = await method(request, timeout=DEADLINE, metadata=headers)
    except grpc.aio.AioRpcError as error:
        attack.ends.failed(error)
        await asyncio.sleep(PAUSE)
    else:
        attack.ends.add("OK")
        attack.ends.answer_bytes += len(answer) if isinstance(answer, bytes) else answer.ByteSize()


async def _until_over(attack: Attack, work: asyncio.Future[Any]) -> None:
    """What is not answered by then is given up."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(work, max(0.0, attack.over - time.monotonic()))


def _token_by_token(text: str, limit: int = 1000) -> pb.SearchRequest:
    include = pb.FeatureSelector(kinds=BOTH_KINDS)
    return pb.SearchRequest(
        input=types_pb2.Input(text=text), by_token=True, limit=limit, filter=pb.Filter(include=include)
    )


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field, as protobuf writes it."""
    length, size = bytearray(), len(value)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([size]) + value


MOVES: dict[str, Move] = {
    "watches": watches,
    "watches-politely": watches_politely,
    "unread": unread,
    "token-by-token": token_by_token,
    "large-requests": large_requests,
    "shared-failure": shared_failure,
    "long-texts": long_texts,
    "unread-streams": unread_streams,
}
