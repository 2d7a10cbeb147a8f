"""The exact top K: against a plain sort, ties among them."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from saeserve_server.engine.ranking import Candidates, aggregate_max, aggregate_sum, candidates, merge

VALUES = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.5, 1.0, 2.0]), min_size=1, max_size=30)


def plain(sources: list[list[float]], limit: int) -> list[tuple[float, int, int]]:
    every = [(-value, rank, index) for rank, values in enumerate(sources) for index, value in enumerate(values)]
    return sorted(one for one in every if one[0] < 0)[:limit]


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 40))
def test_ties_go_to_the_lower_source_then_the_lower_index(sources: list[list[float]], limit: int) -> None:
    parts = [candidates(torch.tensor([values]), limit, rank)[0] for rank, values in enumerate(sources)]
    ranked, order = merge(parts, limit)
    found = [(-v, s, i) for v, s, i in zip(ranked.value, ranked.source, ranked.index, strict=True)]
    assert found == plain(sources, limit)
    indices = np.concatenate([part.index for part in parts])
    assert (indices[order] == ranked.index).all()


@given(st.lists(VALUES, min_size=1, max_size=1), st.integers(2, 6), st.integers(1, 10))
def test_each_row_ranks_by_itself(sources: list[list[float]], rows: int, limit: int) -> None:
    values = torch.stack([torch.tensor(sources[0]).roll(row) for row in range(rows)])
    for row, found in enumerate(candidates(values, limit, 3)):
        assert found.source == 3
        ranked, _ = merge([found], limit)
        own = [(-v, 0, i) for v, i in zip(ranked.value, ranked.index, strict=True)]
        assert own == plain([values[row].tolist()], limit)


def test_many_ties_at_the_last_place_keep_no_more_than_asked() -> None:
    (found,) = candidates(torch.ones(1, 10_000), 5, 0)
    assert found.index.tolist() == [0, 1, 2, 3, 4]


def test_nothing_above_zero_is_nothing() -> None:
    (found,) = candidates(torch.tensor([[0.0, -1.0]]), 5, 0)
    assert len(found.index) == 0
    ranked, order = merge([found, Candidates(1, np.array([2]), np.array([0.5], np.float32))], 5)
    assert ranked.source.tolist() == [1]
    assert order.tolist() == [0]


def test_aggregates() -> None:
    rows = torch.tensor([[1.0, -2.0], [3.0, 5.0], [0.5, 0.0]])
    assert aggregate_max(rows, None).tolist() == [[3.0, 5.0]]
    assert aggregate_max(rows, torch.tensor([0, 2])).tolist() == [[1.0, 0.0]]
    assert aggregate_sum(rows, torch.tensor([0, 1])).tolist() == [[4.0, 3.0]]
