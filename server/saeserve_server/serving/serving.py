"""What an RPC needs to answer: catalog, texts, scheduler, caches, index, limits. Made once the engine is up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from saeserve_server.cache.answer import Spending, Tier
from saeserve_server.cache.answers import AnswerCache
from saeserve_server.cache.inner import InnerTier
from saeserve_server.cache.key import Keys
from saeserve_server.catalog import Catalog
from saeserve_server.config import Config
from saeserve_server.engine.capacity import Capacity
from saeserve_server.engine.work import Answered
from saeserve_server.errors import NotFound
from saeserve_server.metrics import Metrics
from saeserve_server.ranking.answer import answer_from
from saeserve_server.ranking.filters import Filters
from saeserve_server.ranking.work import Work
from saeserve_server.records.imported.store import ImportedStore
from saeserve_server.records.store import RecordStore
from saeserve_server.scheduler.cost import kept_seconds
from saeserve_server.scheduler.desk import Desk
from saeserve_server.scheduler.held import Held
from saeserve_server.scheduler.scheduler import Scheduler
from saeserve_server.selection import Directory
from saeserve_server.serving.limits import make_limits
from saeserve_server.serving.texts import Texts
from saeserve_server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What the engine answers, where it came from and what it took."""

    done: Answered
    tier: Tier
    spent: Spending


class Serving:
    """The served model, ready to answer."""

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        scheduler: Scheduler,
        desk: Desk,
        held: Held,
        answers: AnswerCache,
        index: RecordStore | None,
        metrics: Metrics,
        draining: asyncio.Event,
        capacity: Capacity | None = None,
        imported: ImportedStore | None = None,
    ) -> None:
        self.catalog = catalog
        self.scheduler = scheduler
        self.desk = desk
        self.held = held
        self.answers = answers
        self.index = index
        self.imported = imported
        """What was imported for the sources that are served; None without a store."""
        self.draining = draining
        self.metrics = metrics
        self.limits = make_limits(config, catalog, capacity)
        self.directory = Directory(catalog)
        self.tokenizer = Tokenizer(catalog.model.tokenizer_json, catalog.model.bos_id)
        self.texts = Texts(self.tokenizer, catalog.model.vocabulary, self.limits, desk)
        self.keys = Keys(
            catalog,
            index.revision if index else "",
            imported.revision if imported else "",
            deterministic=config.deterministic,
        )
        self._inner = InnerTier(config.inner_cache_bytes, metrics) if config.inner_cache_bytes else None
        self.deterministic = config.deterministic
        self.kernels: Mapping[str, str] = {}
        """How the latents of each SAE are computed, by source id."""
        self.filters = Filters(catalog.sources, index, imported)

    def computed_by(self, kernels: Mapping[str, str]) -> None:
        """The worker computes SAEs in these ways now, by source id."""
        if kernels != self.kernels and self._inner is not None:
            self._inner.clear()  # what is kept was computed by others
        self.kernels = kernels
        self.keys.computed_by(kernels)

    async def compute(self, work: Work, *, client: str, deadline: float | None) -> Computed:
        """What the engine answers: from activations kept of the same text, at the desk, else computed. Raises
        ServeError."""
        rows = self._inner.get(work) if self._inner is not None else None
        if rows is not None:
            seconds = kept_seconds(work, rows)
            done = await self.desk.do(
                answer_from, work, rows, self.filters, seconds=seconds, client=client, deadline=deadline
            )
            return Computed(done, Tier.INNER, Spending())
        outcome = await self.scheduler.submit(work, client=client, deadline=deadline, keep=self._inner is not None)
        if self._inner is not None and outcome.kept is not None:
            self._inner.put(work, outcome.kept)
        return Computed(outcome.done, Tier.NONE, outcome.spent)

    def is_kept(self, key: bytes, work: Work) -> bool:
        """Whether an answer is at hand that costs the worker nothing."""
        return key in self.answers or (self._inner is not None and work in self._inner)

    def check_model(self, name: str) -> None:
        """Raises NotFound unless `name` is empty or the served model's."""
        served = self.catalog.model.name
        if name and name.casefold() != served.casefold():
            raise NotFound(f"model {name[:80]!r} is not served here; {served!r} is", reason="MODEL_NOT_FOUND")
