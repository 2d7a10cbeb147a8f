"""What an RPC needs to answer: catalog, tokenizer, scheduler, index, limits. Made once the engine is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from saeserve_server.catalog import Catalog
from saeserve_server.config import Config
from saeserve_server.errors import InvalidArgument, NotFound
from saeserve_server.records.store import RecordStore
from saeserve_server.scheduler.scheduler import Scheduler
from saeserve_server.selection import Directory
from saeserve_server.text.tokenizer import TokenizedText, Tokenizer

T = TypeVar("T")

DEFAULT_MOST_TOKENS = 2048
"""Longest text of a model whose context holds more, unless `max_tokens` is set."""
MAX_REQUEST_BYTES = 4 * 1024 * 1024
INLINE_IDS = 1024
"""More token ids than this are given their pieces in a thread."""
BATCH_TOKENS_CPU = 512
BATCH_TOKENS_CUDA = 8192


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit that a request can meet; GetServerInfo publishes them."""

    max_text_bytes: int
    max_tokens: int
    max_inputs: int
    max_answer_bytes: int
    batch_tokens: int
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


def make_limits(config: Config, catalog: Catalog) -> Limits:
    """The limits that follow from configuration and model."""
    holds = catalog.model.context_tokens - (catalog.model.bos_id is not None)
    most = min(holds, config.max_tokens or DEFAULT_MOST_TOKENS)
    cuda = catalog.model.device.startswith("cuda")
    return Limits(
        max_text_bytes=config.max_text_bytes,
        max_tokens=most,
        max_inputs=config.max_inputs,
        max_answer_bytes=config.max_answer_bytes,
        batch_tokens=config.batch_tokens or (BATCH_TOKENS_CUDA if cuda else BATCH_TOKENS_CPU),
    )


class Serving:
    """The served model, ready to answer."""

    def __init__(
        self, config: Config, catalog: Catalog, scheduler: Scheduler, index: RecordStore | None, draining: asyncio.Event
    ) -> None:
        self.catalog = catalog
        self.scheduler = scheduler
        self.index = index
        self.draining = draining
        self.limits = make_limits(config, catalog)
        self.directory = Directory(catalog)
        self.tokenizer = Tokenizer(catalog.model.tokenizer_json, catalog.model.bos_id)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="aside")

    async def aside(self, work: Callable[..., T], *arguments: object) -> T:
        """The result of `work(*arguments)`, run in a thread so that the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def check_model(self, name: str) -> None:
        """Raises NotFound unless `name` is empty or the served model's."""
        served = self.catalog.model.name
        if name and name.casefold() != served.casefold():
            raise NotFound(f"model {name[:80]!r} is not served here; {served!r} is", reason="MODEL_NOT_FOUND")

    async def tokenize(self, text: str, field: str = "input.text") -> TokenizedText:
        """Tokens of a text. Raises InvalidArgument for one that is empty or too large."""
        size = len(text.encode())
        if size > self.limits.max_text_bytes:
            raise InvalidArgument.field(
                field, f"{size} bytes; at most {self.limits.max_text_bytes} are taken", reason="TEXT_TOO_LARGE"
            )
        if not text:
            raise InvalidArgument.field(field, "empty; a text is expected", reason="TEXT_EMPTY")
        return await self.aside(self.tokenizer.tokenize, text)

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

    def model_ids(self, text: TokenizedText) -> tuple[int, ...]:
        """The ids that the model runs on: exactly one BOS before the text's, if the model has one."""
        bos = self.catalog.model.bos_id
        return text.ids if bos is None else (bos, *text.ids)
