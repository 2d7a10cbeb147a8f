"""The tiers together: where an answer comes from, what is kept where, and that nothing raised is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from saeserve_server.cache.answer import Answer, Spending, Tier
from saeserve_server.cache.answers import AnswerCache, make_answer_cache
from saeserve_server.cache.seal import Seal
from saeserve_server.config import ServerSettings
from saeserve_server.errors import ConfigError, Internal
from saeserve_server.metrics import Metrics
from tests.cache.valkey import Valkey, free_port

KEY = bytes(range(32))
SPENT = Spending(batch_size=3, forward=0.5)


class Computation:
    """Counts how often it ran; waits for the gate."""

    def __init__(self, tier: Tier = Tier.NONE) -> None:
        self.runs = 0
        self.tier = tier
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def __call__(self) -> Answer:
        self.runs += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Answer(b"payload", self.tier, SPENT)


async def readable(payload: bytes) -> bool:
    return payload == b"payload"


def tell(story: Callable[[Callable[..., AnswerCache]], Awaitable[None]]) -> None:
    """Tells a story of caches, which are closed after it."""

    async def run() -> None:
        made: list[AnswerCache] = []

        def make(url: str | None = None, capacity: int = 2**20, metrics: Metrics | None = None) -> AnswerCache:
            settings = ServerSettings(cache_bytes=capacity, cache_url=url, cache_ttl=100)
            made.append(make_answer_cache(settings, metrics or Metrics()))
            return made[-1]

        async with asyncio.timeout(60):
            try:
                await story(make)
            finally:
                for one in made:
                    await one.close()

    asyncio.run(run())


async def until_shared(valkey: Valkey) -> None:
    with valkey.client() as client:
        for _ in range(500):
            if client.dbsize():
                return
            await asyncio.sleep(0.02)
    raise AssertionError("nothing was written")


@pytest.mark.parametrize("tier", [Tier.NONE, Tier.INNER])
def test_a_computed_answer_is_as_it_was_computed_and_then_local(tier: Tier) -> None:
    async def story(make: Callable[..., AnswerCache]) -> None:
        cache, compute = make(), Computation(tier)
        assert await cache.get(KEY, compute, readable) == Answer(b"payload", tier, SPENT)
        assert await cache.get(KEY, compute, readable) == Answer(b"payload", Tier.LOCAL)
        assert compute.runs == 1
        await cache.get(bytes(32), compute, readable)
        assert compute.runs == 2

    tell(story)


def test_what_another_replica_computed_is_shared_and_then_local() -> None:
    async def story(make: Callable[..., AnswerCache]) -> None:
        compute = Computation()
        assert (await make(valkey.url).get(KEY, compute, readable)).tier is Tier.NONE
        await until_shared(valkey)
        other = make(valkey.url)
        for _ in range(20):  # a machine that is busy may miss it
            answer = await other.get(KEY, compute, readable)
            if answer.tier is not Tier.NONE:
                break
            other = make(valkey.url)
        runs = compute.runs
        assert answer == Answer(b"payload", Tier.SHARED)
        assert await other.get(KEY, compute, readable) == Answer(b"payload", Tier.LOCAL)
        assert compute.runs == runs

    with Valkey() as valkey:
        tell(story)


def test_what_is_found_there_is_not_written_there_again() -> None:
    async def story(make: Callable[..., AnswerCache]) -> None:
        compute = Computation()
        await make(valkey.url).get(KEY, compute, readable)
        await until_shared(valkey)
        with valkey.client() as client:
            (name,) = client.keys()
            client.expire(name, 50)
            for _ in range(20):
                if (await make(valkey.url).get(KEY, compute, readable)).tier is Tier.SHARED:
                    break
                client.expire(name, 50)
            assert 0 < client.ttl(name) <= 50

    with Valkey() as valkey:
        tell(story)


def test_what_is_no_answer_there_is_computed_kept_here_and_overwritten_there() -> None:
    async def story(make: Callable[..., AnswerCache]) -> None:
        compute = Computation()
        await make(valkey.url).get(KEY, compute, readable)
        await until_shared(valkey)
        with valkey.client() as client:
            (name,) = client.keys()
            right = client.get(name)
            client.set(name, Seal().close(KEY, b"nonsense"))
            cache = make(valkey.url)
            assert await cache.get(KEY, compute, readable) == Answer(b"payload", Tier.NONE, SPENT)
            assert await cache.get(KEY, compute, readable) == Answer(b"payload", Tier.LOCAL)
            for _ in range(500):
                if client.get(name) == right:
                    return
                await asyncio.sleep(0.02)
        raise AssertionError("it still holds nonsense")

    with Valkey() as valkey:
        tell(story)


@pytest.mark.parametrize("url", [None, "dead", "hung"])
def test_it_answers_whatever_redis_does(url: str | None) -> None:
    async def story(make: Callable[..., AnswerCache]) -> None:
        address = {"hung": valkey.url, "dead": f"redis://127.0.0.1:{free_port()}"}.get(url or "")
        cache, compute = make(address, capacity=0), Computation()
        for _ in range(10):
            async with asyncio.timeout(2):
                assert (await cache.get(KEY, compute, readable)).payload == b"payload"
        assert compute.runs == 10

    with Valkey() as valkey:
        valkey.pause()
        tell(story)


def test_nothing_raised_is_kept() -> None:
    async def story(make: Callable[..., AnswerCache]) -> None:
        cache, compute = make(valkey.url), Computation()
        compute.error = ValueError("no")
        for _ in range(2):
            with pytest.raises(Internal, match="no"):
                await cache.get(KEY, compute, readable)
        compute.error = None
        assert (await cache.get(KEY, compute, readable)).payload == b"payload"
        assert compute.runs == 3

    with Valkey() as valkey:
        tell(story)


def test_identical_questions_are_computed_once() -> None:
    metrics = Metrics()

    async def story(make: Callable[..., AnswerCache]) -> None:
        cache, compute = make(metrics=metrics, capacity=0), Computation()
        compute.gate.clear()
        waiters = [asyncio.create_task(cache.get(KEY, compute, readable)) for _ in range(10)]
        await asyncio.sleep(0.05)
        waiters[0].cancel()
        compute.gate.set()
        answers = await asyncio.gather(*waiters[1:])
        assert set(answers) == {Answer(b"payload", Tier.NONE, SPENT)}
        assert compute.runs == 1

    tell(story)
    assert metrics.registry.get_sample_value("saeserve_cache_joined_total") == 9


def test_what_nobody_waits_for_any_more_is_cancelled_and_not_kept() -> None:
    async def story(make: Callable[..., AnswerCache]) -> None:
        cache, compute = make(), Computation()
        compute.gate.clear()
        waiter = asyncio.create_task(cache.get(KEY, compute, readable))
        await asyncio.sleep(0.05)
        waiter.cancel()
        await asyncio.wait({waiter}, timeout=5)
        compute.gate.set()
        assert (await cache.get(KEY, compute, readable)).tier is Tier.NONE
        assert compute.runs == 2

    tell(story)


def test_a_bad_url_is_an_error_of_configuration() -> None:
    with pytest.raises(ConfigError, match="cache_url"):
        make_answer_cache(ServerSettings(cache_url="http://host"), Metrics())
