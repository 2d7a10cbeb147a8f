"""What a GPU is put through before calls are taken: full batches, as they will come.

The first batch pays for what is made when it is first used (handles, kernels, the allocator's segments), and no caller
should wait for that. That a full batch fits is tried and not guessed: where it does not, batches hold half as much. So
do they where one would take so long that callers behind it notice. The rate bounds the queue.
"""

from __future__ import annotations

import gc
import logging
import random
import time
from collections.abc import Sequence
from typing import Protocol

import torch

from saeserve_server.catalog import Catalog
from saeserve_server.config import Config
from saeserve_server.engine.capacity import USUAL_TOKENS, Capacity, longest_text, search_of_everything
from saeserve_server.engine.faults import OF_MEMORY, fault_of
from saeserve_server.engine.work import BatchDone
from saeserve_server.errors import ConfigError
from saeserve_server.ranking.work import SearchWork, Work

log = logging.getLogger(__name__)

BATCH_TOKENS = 8192
"""That a batch holds, unless it is set, does not fit or takes too long."""
LEAST_TOKENS = 512
"""Batches are not halved below that for the time that they take: a GPU is no faster with less."""
MOST_SECONDS = 0.5
"""That a full batch may take, unless `batch_tokens` is set: who comes in the midst of it waits for it."""


class Runner(Protocol):
    """What is warmed up."""

    @property
    def catalog(self) -> Catalog:
        """What is served."""
        ...

    def run(self, batch: Sequence[Work], keep: Sequence[bool] = ()) -> BatchDone:
        """The answers to a batch. Raises what torch raises."""
        ...


def warm_up(runner: Runner, config: Config) -> Capacity:
    """Runs full batches, of the longest texts and of many short ones, and says what there is room for.

    What the operator has set is made less only where it does not fit, with a warning. Raises ConfigError where not even
    one short text fits, and what torch raises for anything but a lack of memory.
    """
    device = runner.catalog.model.device
    tokens = config.batch_tokens or BATCH_TOKENS
    while (rate := _rate(runner, config, tokens)) is None or _takes_too_long(config, tokens, rate):
        if rate is None:
            gc.collect()
            torch.cuda.empty_cache()
            log.warning("a batch of %d tokens does not fit into what the weights leave of %s", tokens, device)
            if tokens <= USUAL_TOKENS:
                raise ConfigError(
                    f"{config.origin}: device: a text of {tokens} tokens does not fit into what the weights leave of "
                    f'{device}; what would help: model_dtype = "bfloat16", dtype = "bfloat16" for the SAEs, fewer '
                    "layers or sets, another device"
                )
        tokens //= 2
    log.info("batches of up to %d tokens; %.0f tokens a second through model and sources", tokens, rate)
    return Capacity(tokens, rate)


def _takes_too_long(config: Config, tokens: int, rate: float) -> bool:
    return config.batch_tokens is None and tokens > LEAST_TOKENS and tokens / rate > MOST_SECONDS


def _rate(runner: Runner, config: Config, tokens: int) -> float | None:
    """Tokens a second, without BOS, of a full batch of short texts, run after one of the longest texts and once more;
    None where memory runs out."""
    catalog = runner.catalog
    usual = _texts(catalog, config, tokens, USUAL_TOKENS)
    try:
        for works in (_texts(catalog, config, tokens, longest_text(config, catalog)), usual):
            runner.run(works, (True,) * len(works))
        began = time.perf_counter()
        runner.run(usual, (True,) * len(usual))
        return sum(len(work.ids) for work in usual) / (time.perf_counter() - began)
    except Exception as error:
        if fault_of(error) not in OF_MEMORY:
            raise
        return None


def _texts(catalog: Catalog, config: Config, tokens: int, length: int) -> list[SearchWork]:
    """As many different texts of that length, without BOS, as a batch holds; shorter ones where it holds less."""
    draw = random.Random(0)  # noqa: S311 - texts, not secrets
    lead = catalog.model.bos_id is not None
    length = max(1, min(length, longest_text(config, catalog), tokens - lead))
    count = max(1, min(tokens // (length + lead), config.max_batch or tokens))
    ids = range(catalog.model.vocabulary)
    return [search_of_everything(catalog, tuple(draw.choices(ids, k=length))) for _ in range(count)]
