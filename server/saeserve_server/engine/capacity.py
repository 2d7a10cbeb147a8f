"""What a worker can take at a time and how fast, and the texts that say so. Plain data: both processes read it."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve_server.catalog import Catalog
from saeserve_server.config import Config
from saeserve_server.ranking.work import Aggregate, Ranking, SearchWork, SourceFilter

USUAL_TOKENS = 16
"""Of a text, without BOS, as the rate is measured."""
DEFAULT_MOST_TOKENS = 2048
"""Longest text of a model whose context holds more, unless `max_tokens` is set."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """As measured on a GPU before it takes calls; on a CPU nothing is measured."""

    batch_tokens: int
    """That a batch may hold: so many have been computed at once."""
    tokens_per_second: float
    """Without BOS, in such batches of texts of USUAL_TOKENS, each searched in all sources."""


def longest_text(config: Config, catalog: Catalog) -> int:
    """Tokens of the longest text that is taken, without BOS."""
    return min(catalog.text_tokens, config.max_tokens or DEFAULT_MOST_TOKENS)


def search_of_everything(catalog: Catalog, ids: tuple[int, ...]) -> SearchWork:
    """A search in every source: what a text costs at most."""
    filters = tuple(map(SourceFilter, range(len(catalog.sources))))
    return SearchWork(ids, False, filters, Aggregate.MAX, tuple(range(len(ids))), 25, Ranking.RAW)
