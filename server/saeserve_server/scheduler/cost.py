"""What a request costs: computation and memory, estimated before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve_server.catalog import Catalog, Kind
from saeserve_server.engine.work import Aggregate, SearchWork, Work, row_count

SPARSE_ROW_BYTES = 4096
"""What a row of an SAE source is taken to need in an answer: some hundred latents that fire."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one text, or of several."""

    items: int = 0
    flop: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.items + other.items, self.flop + other.flop, self.bytes + other.bytes)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.items - other.items, self.flop - other.flop, self.bytes - other.bytes)

    def share_of(self, budget: Cost) -> float:
        """The largest of its shares of a budget's parts."""
        return max(self.items / budget.items, self.flop / budget.flop, self.bytes / budget.bytes)


class CostModel:
    """Costs of requests to what is served."""

    def __init__(self, catalog: Catalog) -> None:
        model = catalog.model
        self._token_flop = 2 * 12 * model.n_layers * model.d_model**2  # a transformer's weights, embeddings left out
        self._source_flop = [
            2 * source.d_in * source.n_features if source.kind is Kind.LATENT else 0 for source in catalog.sources
        ]
        self._row_bytes = [
            SPARSE_ROW_BYTES if source.kind is Kind.LATENT else 4 * source.n_features for source in catalog.sources
        ]

    def of(self, work: Work) -> Cost:
        """The cost of one text."""
        if isinstance(work, SearchWork):
            sources = {chosen.source for chosen in work.filters}
            row_bytes = work.limit * (12 if work.aggregate is Aggregate.EACH else 4)
        else:
            sources = {*work.sources, *(rank for rank, _ in work.features)}
            row_bytes = 4 * len(work.features) + sum(self._row_bytes[rank] for rank in work.sources)
        flop = len(work.ids) * (self._token_flop + sum(self._source_flop[rank] for rank in sources))
        return Cost(1, flop, 8 * len(work.ids) + row_count(work) * row_bytes)
