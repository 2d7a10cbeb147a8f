"""What an RPC needs to answer: catalog, tokenizer, scheduler, caches, index, limits. Made once the engine is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from saeserve_server.cache.answer import Spending, Tier
from saeserve_server.cache.answers import AnswerCache
from saeserve_server.cache.inner import InnerTier
from saeserve_server.cache.key import Keys
from saeserve_server.catalog import Catalog
from saeserve_server.config import Config
from saeserve_server.engine.filtering import ArrayFilters
from saeserve_server.engine.kept import answer_from
from saeserve_server.engine.work import EncodeDone, SearchDone, Work
from saeserve_server.errors import InvalidArgument, NotFound
from saeserve_server.metrics import Metrics
from saeserve_server.records.store import RecordStore
from saeserve_server.scheduler.cost import Cost
from saeserve_server.scheduler.scheduler import Scheduler
from saeserve_server.selection import Directory
from saeserve_server.text.tokenizer import TokenizedText, Tokenizer

T = TypeVar("T")

DEFAULT_MOST_TOKENS = 2048
"""Longest text of a model whose context holds more, unless `max_tokens` is set."""
MAX_REQUEST_BYTES = 4 * 1024 * 1024
INLINE_BYTES = 512
"""A text of no more is cut into tokens at once: it takes less time than to hand it to a thread."""
INLINE_IDS = 1024
"""More token ids than this are given their pieces in a thread."""
BATCH_TOKENS_CPU = 512
BATCH_TOKENS_CUDA = 8192
QUEUE_GFLOP_CPU = 1_000.0
QUEUE_GFLOP_CUDA = 200_000.0
"""About ten seconds of what two cores, or a large GPU, do in float32: what waits longer only runs into deadlines."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit that a request can meet; GetServerInfo publishes them."""

    max_text_bytes: int
    max_tokens: int
    max_inputs: int
    max_answer_bytes: int
    batch_tokens: int
    queue_items: int
    queue_gflop: float
    queue_bytes: int
    max_calls: int
    max_streams: int
    max_batch: int | None = None
    max_limit: int = 1000
    default_limit: int = 25
    max_features: int = 1000
    max_sort_tokens: int = 256
    max_sort_text_bytes: int = 1024
    max_page_size: int = 100
    default_page_size: int = 10
    max_request_bytes: int = MAX_REQUEST_BYTES
    max_stream_items: int = 32
    max_chunk_bytes: int = 1024 * 1024

    @property
    def budget(self) -> Cost:
        """What may wait and run at a time."""
        return Cost(self.queue_items, int(self.queue_gflop * 1e9), self.queue_bytes)


def make_limits(config: Config, catalog: Catalog) -> Limits:
    """The limits that follow from configuration and model."""
    most = min(catalog.text_tokens, config.max_tokens or DEFAULT_MOST_TOKENS)
    cuda = catalog.model.device.startswith("cuda")
    return Limits(
        max_text_bytes=config.max_text_bytes,
        max_tokens=most,
        max_inputs=config.max_inputs,
        max_answer_bytes=config.max_answer_bytes,
        batch_tokens=config.batch_tokens or (BATCH_TOKENS_CUDA if cuda else BATCH_TOKENS_CPU),
        queue_items=config.queue_items,
        queue_gflop=config.queue_gflop or (QUEUE_GFLOP_CUDA if cuda else QUEUE_GFLOP_CPU),
        queue_bytes=config.queue_bytes,
        max_calls=config.max_calls,
        max_streams=config.max_streams,
        max_batch=config.max_batch,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What the engine answers, where it came from and what it took."""

    done: SearchDone | EncodeDone
    tier: Tier
    spent: Spending


class Serving:
    """The served model, ready to answer."""

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        scheduler: Scheduler,
        answers: AnswerCache,
        index: RecordStore | None,
        metrics: Metrics,
        draining: asyncio.Event,
    ) -> None:
        self.catalog = catalog
        self.scheduler = scheduler
        self.answers = answers
        self.index = index
        self.draining = draining
        self.limits = make_limits(config, catalog)
        self.directory = Directory(catalog)
        self.tokenizer = Tokenizer(catalog.model.tokenizer_json, catalog.model.bos_id)
        self.keys = Keys(catalog, index.revision if index else "")
        self._inner = InnerTier(config.inner_cache_bytes, metrics) if config.inner_cache_bytes else None
        self._filters = ArrayFilters(catalog.sources, index)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="aside")
        self._cutting = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    async def compute(self, work: Work, *, client: str, deadline: float | None) -> Computed:
        """What the engine answers: from activations kept of the same text, else computed. Raises ServeError."""
        rows = self._inner.get(work) if self._inner is not None else None
        if rows is not None:
            return Computed(await self.aside(answer_from, work, rows, self._filters), Tier.INNER, Spending())
        outcome = await self.scheduler.submit(work, client=client, deadline=deadline, keep=self._inner is not None)
        if self._inner is not None and outcome.kept is not None:
            self._inner.put(work, outcome.kept)
        return Computed(outcome.done, Tier.NONE, outcome.spent)

    def is_kept(self, key: bytes, work: Work) -> bool:
        """Whether an answer is at hand that costs nothing to speak of."""
        return key in self.answers or (self._inner is not None and work in self._inner)

    async def aside(self, work: Callable[..., T], *arguments: object) -> T:
        """The result of `work(*arguments)`, run in a thread so that the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def check_model(self, name: str) -> None:
        """Raises NotFound unless `name` is empty or the served model's."""
        served = self.catalog.model.name
        if name and name.casefold() != served.casefold():
            raise NotFound(f"model {name[:80]!r} is not served here; {served!r} is", reason="MODEL_NOT_FOUND")

    async def tokenize(self, text: str, field: str = "input.text") -> TokenizedText:
        """Tokens of a text. Raises InvalidArgument for one that is empty, too large, or holds a token that the model
        has no embedding for."""
        size = len(text.encode())
        if size > self.limits.max_text_bytes:
            raise InvalidArgument.field(
                field, f"{size} bytes; at most {self.limits.max_text_bytes} are taken", reason="TEXT_TOO_LARGE"
            )
        if not text:
            raise InvalidArgument.field(field, "empty; a text is expected", reason="TEXT_EMPTY")
        if size <= INLINE_BYTES:
            tokenized = self.tokenizer.tokenize(text)
        else:
            tokenized = await asyncio.get_running_loop().run_in_executor(self._cutting, self.tokenizer.tokenize, text)
        vocabulary = self.catalog.model.vocabulary
        if max(tokenized.ids, default=0) >= vocabulary:
            token = next(token for token in tokenized.tokens if token.id >= vocabulary)
            raise InvalidArgument.field(
                field,
                f"the token {token.display!r} at byte {token.start} has id {token.id}; "
                f"the model has embeddings for ids 0 to {vocabulary - 1}",
                reason="TOKEN_UNKNOWN_TO_MODEL",
            )
        return tokenized

    async def detokenize(self, ids: list[int], field: str = "input.token_ids.ids") -> TokenizedText:
        """Tokens of given ids. Raises InvalidArgument for none, too many, or one outside the vocabulary."""
        vocabulary = self.catalog.model.vocabulary
        if len(ids) > self.limits.max_text_bytes:
            raise InvalidArgument.field(
                field, f"{len(ids)} ids; at most {self.limits.max_text_bytes} are taken", reason="TEXT_TOO_LARGE"
            )
        if ids and max(ids) >= vocabulary:
            place, token_id = next((place, one) for place, one in enumerate(ids) if one >= vocabulary)
            raise InvalidArgument.field(
                f"{field}[{place}]", f"id {token_id}; the vocabulary's ids are 0 to {vocabulary - 1}"
            )
        if len(ids) <= INLINE_IDS:
            return self.tokenizer.detokenize(ids)
        return await self.aside(self.tokenizer.detokenize, ids)  # tens of thousands would hold up every other call

    def fit(self, text: TokenizedText, truncate: bool, field: str) -> tuple[TokenizedText, bool]:
        """The text within the token limit, and whether it was cut. Raises InvalidArgument if it may not be."""
        count, most = len(text.ids), self.limits.max_tokens
        if count == 0:
            raise InvalidArgument.field(
                field, "no tokens; at least one beside the BOS is expected", reason="TEXT_EMPTY"
            )
        if count <= most:
            return text, False
        if not truncate:
            raise InvalidArgument.field(
                field, f"{count} tokens; at most {most} are taken unless truncate is set", reason="TOO_MANY_TOKENS"
            )
        return text.cut(most), True
