"""What a request costs: computation and memory, estimated before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve_server.catalog import Catalog, Kind
from saeserve_server.engine.work import Run, run_tokens, runs
from saeserve_server.ranking.similar import AnyWork, SimilarWork, VectorsWork
from saeserve_server.ranking.work import Aggregate, Ranking, SearchWork, Work, needed, row_count
from saeserve_server.rows import Csr, KeptRows, width

SPARSE_ROW_BYTES = 4096
"""What a row of an SAE source is taken to need in an answer: some hundred latents that fire."""
SCREENED_FLOP = 16
"""What comparing a number of a direction is taken for: it is read from memory for one product, and so takes as long as
so many operations of a batch that computes."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one piece of work, or of several."""

    items: int = 0
    work: int = 0
    """Flop where the worker computes, nanoseconds where the front end does."""
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.items + other.items, self.work + other.work, self.bytes + other.bytes)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.items - other.items, self.work - other.work, self.bytes - other.bytes)

    def share_of(self, budget: Cost) -> float:
        """The largest of its shares of a budget's parts."""
        return max(self.items / budget.items, self.work / budget.work, self.bytes / budget.bytes)


class CostModel:
    """Costs of requests to what is served."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        model = catalog.model
        self._token_flop = 2 * 12 * model.n_layers * model.d_model**2  # a transformer's weights, embeddings left out
        self._source_flop = [
            2 * source.d_in * source.n_features if source.kind is Kind.LATENT else 0 for source in catalog.sources
        ]
        self._row_bytes = [
            SPARSE_ROW_BYTES if source.kind is Kind.LATENT else 4 * source.n_features for source in catalog.sources
        ]

    def of(self, work: AnyWork) -> Cost:
        """The cost of one text, of one comparison of directions, or of looking some up."""
        if isinstance(work, SimilarWork):
            count = sum(self._catalog.sources[one.source].n_features for one in work.filters)
            size = count + 16 * work.limit + len(work.vector)
            return Cost(1, SCREENED_FLOP * self._catalog.model.d_model * count, size)
        if isinstance(work, VectorsWork):
            width = max(self._catalog.sources[work.source].d_in, self._catalog.model.d_model)
            return Cost(1, SCREENED_FLOP * width, 8 * width)
        numbers = 0  # of the vectors that a row is projected on
        if isinstance(work, SearchWork):
            row_bytes = work.limit * (12 if work.aggregate is Aggregate.EACH else 4)
        else:
            row_bytes = 4 * work.columns + sum(self._row_bytes[rank] for rank in work.sources)
            numbers = sum(one.width for one in work.projections)
        lengths = [run_tokens(run) for run in self.runs(work)]
        encoding = max(lengths) * (sum(self._source_flop[rank] for rank in needed(work)) + 2 * numbers)
        size = 8 * sum(lengths) + row_count(work) * row_bytes + 4 * numbers
        return Cost(1, sum(lengths) * self._token_flop + encoding, size)

    def runs(self, work: AnyWork) -> frozenset[Run]:
        """The forward passes that it takes."""
        return runs(work, self._catalog)


ENTRY_SECONDS = 40e-9
"""Of a core, for a latent that fires, or a neuron, to be ranked from kept rows."""
RANKED_SECONDS = 0.2e-6
"""The same for a feature in a token's top K."""
KEPT_SECONDS = 150e-6
"""The same for a source that takes part."""
BITS_SECONDS = 0.5e-6
"""The same for an activation whose surprisal is looked up."""


def kept_seconds(work: Work, kept: KeptRows) -> float:
    """About what it takes to answer from kept rows, in seconds of a core."""
    entries = sum(len(rows.data) if isinstance(rows, Csr) else rows.size for rows in kept.values())
    ranked = len(work.rows) * work.limit if isinstance(work, SearchWork) and work.aggregate is Aggregate.EACH else 0
    return (
        len(kept) * KEPT_SECONDS
        + entries * ENTRY_SECONDS
        + ranked * RANKED_SECONDS
        + _looked_up(work, kept) * BITS_SECONDS
    )


def _looked_up(work: Work, kept: KeptRows) -> int:
    """About how many activations have their surprisal looked up: of a maximum that of the maximum alone."""
    if not isinstance(work, SearchWork) or work.ranking is not Ranking.SURPRISAL:
        return 0
    count = 0
    for rows in kept.values():
        entries = len(rows.data) if isinstance(rows, Csr) else rows.size
        count += min(entries, width(rows)) if work.aggregate is Aggregate.MAX else entries
    return count
