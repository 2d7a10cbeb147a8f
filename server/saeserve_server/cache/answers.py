"""The cache that requests ask: this process's memory, then what replicas share, then the computation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from saeserve_server.cache.answer import Answer, Tier
from saeserve_server.cache.flight import Flights
from saeserve_server.cache.local import LocalTier
from saeserve_server.cache.seal import KeyFile, Seal
from saeserve_server.cache.shared import Reads, SharedTier
from saeserve_server.config import ServerSettings
from saeserve_server.metrics import Metrics


class AnswerCache:
    """Answers by the digest of their question. Nothing raised is ever kept."""

    def __init__(self, local: LocalTier, shared: SharedTier | None, metrics: Metrics) -> None:
        self._local = local
        self._shared = shared
        self._flights = Flights(metrics)

    def __contains__(self, key: bytes) -> bool:
        """Whether this process has the answer."""
        return key in self._local

    async def get(self, key: bytes, compute: Callable[[], Awaitable[Answer]], reads: Reads) -> Answer:
        """The answer to the question with this digest, from the first tier that has it, or else from `compute`.

        What replicas have written is believed where `reads` says that it can be the answer, and is then kept here too.
        While it is looked up and computed, others who ask the same wait for it, and get it with the tier and the
        spending of the one who asked first.
        """
        payload = self._local.get(key)
        if payload is not None:
            return Answer(payload, Tier.LOCAL)
        return await self._flights.join(key, lambda: self._find(key, compute, reads))

    async def close(self) -> None:
        """Closes the connections to what is shared; what is not written there by then is given up."""
        if self._shared is not None:
            await self._shared.close()

    async def _find(self, key: bytes, compute: Callable[[], Awaitable[Answer]], reads: Reads) -> Answer:
        payload = None if self._shared is None else await self._shared.get(key, reads)
        if payload is not None:
            self._local.put(key, payload)
            return Answer(payload, Tier.SHARED)
        answer = await compute()
        self._local.put(key, answer.payload)
        if self._shared is not None:
            self._shared.put(key, answer.payload)
        return answer


def make_answer_cache(settings: ServerSettings, metrics: Metrics) -> AnswerCache:
    """The cache as configured. Raises ConfigError for a `cache_url` that is none, and for a `cache_key_file` that
    cannot be used; connects to nothing yet."""
    shared = None
    if settings.cache_url is not None:
        seal = Seal(None if settings.cache_key_file is None else KeyFile(settings.cache_key_file))
        shared = SharedTier(settings.cache_url, settings.cache_ttl, metrics, seal)
    return AnswerCache(LocalTier(settings.cache_bytes, metrics), shared, metrics)
