"""What tells two sets of texts apart, against scipy's own tests on every feature by itself."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from saeserve_server.ranking.contrast import A, B, Tally, false_discovery, fisher, fold
from saeserve_server.rows import as_csr

SIZES = [40, 25]


def drawn(texts: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """float32 [texts, features] maxima of texts, most of them 0."""
    generator = np.random.default_rng(seed)
    fires = generator.random((texts, sum(SIZES))) < generator.random(sum(SIZES)) * 0.8
    return np.where(fires, np.exp(generator.normal(shift, 1.5, fires.shape)), 0).astype(np.float32)


def tallied(a: np.ndarray, b: np.ndarray, most_cells: int = 2**19) -> Tally:
    tally = Tally(SIZES, most_cells)
    for side, texts in ((A, a), (B, b)):
        for text in texts:
            parts = np.split(text, np.cumsum(SIZES)[:-1])
            tally.add(side, [(np.flatnonzero(part), part[part > 0]) for part in parts])
    return tally


@pytest.mark.parametrize("texts", [(5, 5), (30, 12), (90, 120)])
def test_every_number_is_that_of_a_test_of_the_feature_by_itself(texts: tuple[int, int]) -> None:
    a, b = drawn(texts[0], 1), drawn(texts[1], 2, shift=1.0)
    found = tallied(a, b).found(1000)
    tested = np.flatnonzero((a > 0).any(0) | (b > 0).any(0))
    assert found.tested == len(tested)
    p = np.array([fisher_of(a[:, one], b[:, one]) for one in tested])
    q = dict(zip(tested.tolist(), stats.false_discovery_control(p), strict=True))
    feature = np.array([0, *np.cumsum(SIZES)])[found.source] + found.index
    differing = {one for one in tested.tolist() if (a[:, one] > 0).mean() != (b[:, one] > 0).mean()}
    assert set(feature.tolist()) == differing
    assert (np.diff(found.p) >= -1e-12).all()
    for place, one in enumerate(feature.tolist()):
        in_a, in_b = a[:, one], b[:, one]
        assert (found.texts_a[place], found.texts_b[place]) == ((in_a > 0).sum(), (in_b > 0).sum())
        assert found.difference[place] == pytest.approx((in_a > 0).mean() - (in_b > 0).mean())
        odds = [((x > 0).sum() + 0.5) / ((x == 0).sum() + 0.5) for x in (in_a, in_b)]
        assert found.log_odds[place] == pytest.approx(np.log(odds[0] / odds[1]))
        assert found.p[place] == pytest.approx(fisher_of(in_a, in_b), rel=1e-6)
        assert found.q[place] == pytest.approx(q[one], rel=1e-6)
        auc = stats.mannwhitneyu(in_a.astype(float), in_b.astype(float)).statistic / (len(a) * len(b))
        assert abs(found.auc[place] - auc) <= found.auc_error[place] + 1e-12
        assert (found.max_a[place], found.max_b[place]) == (in_a.max(), in_b.max())


def fisher_of(a: np.ndarray, b: np.ndarray) -> float:
    table = [[(a > 0).sum(), (a == 0).sum()], [(b > 0).sum(), (b == 0).sum()]]
    return float(stats.fisher_exact(table).pvalue)


def test_each_side_has_its_own_best_and_ties_fall_in_the_order_of_features() -> None:
    a, b = drawn(40, 3), drawn(40, 4)
    a[:, [3, 7, 50]], b[:, [3, 7, 50]] = 1.0, 0.0
    b[:, 9], a[:, 9] = 1.0, 0.0
    found = tallied(a, b).found(3)
    assert [(s, i) for s, i, d in zip(found.source, found.index, found.difference, strict=True) if d == 1] == [
        (0, 3),
        (0, 7),
        (1, 10),
    ]
    assert (found.difference > 0).sum() == (found.difference < 0).sum() == 3
    assert (found.source[2], found.index[2], found.difference[2]) == (0, 9, -1)


def test_histograms_that_would_be_too_large_get_coarser_and_say_so() -> None:
    a, b = drawn(200, 5), drawn(200, 6, shift=0.5)
    fine, coarse = tallied(a, b), tallied(a, b, most_cells=1)
    one, other = fine.found(10), coarse.found(10)
    assert len(coarse._cells) <= 2 * sum(SIZES) < len(fine._cells)
    assert (one.index == other.index).all()
    assert (one.p == other.p).all()
    assert (one.auc_error < 0.1).all()
    assert (other.auc_error >= one.auc_error).all()
    assert other.auc_error.sum() > 2 * one.auc_error.sum()
    assert (np.abs(one.auc - other.auc) <= one.auc_error + other.auc_error).all()


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_p_is_fishers_for_any_margins(texts_a: int, texts_b: int, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(st.integers(0, texts_a), st.integers(0, texts_b)), min_size=1, max_size=5))
    a, b = np.array(pairs).T
    expected = [stats.fisher_exact([[x, texts_a - x], [y, texts_b - y]]).pvalue for x, y in pairs]
    assert fisher(a, b, texts_a, texts_b) == pytest.approx(expected, rel=1e-6)


def test_nothing_tested_is_no_error() -> None:
    tally = Tally(SIZES)
    for side in (A, B) * 5:
        tally.add(side, [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(SIZES))
    found = tally.found(5)
    assert (found.tested, len(found.p)) == (0, 0)
    assert len(false_discovery(np.zeros(0))) == 0


def entries() -> st.SearchStrategy[Sequence[float]]:
    return st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.5, 2.0]), min_size=4, max_size=4)


@given(st.lists(entries(), min_size=1, max_size=6), st.data())
def test_a_text_is_folded_to_the_largest_of_each_feature(rows: list, data: st.DataObject) -> None:
    """Sparse rows and dense ones alike; what is negative, or masked, or stands in other rows does not count."""
    dense = np.array(rows, dtype=np.float32)
    kept = np.array(sorted(data.draw(st.sets(st.integers(0, len(rows) - 1)))), dtype=np.int64)
    mask = data.draw(st.sampled_from([None, np.array([True, False, True, True])]))
    expected = dense[kept].max(axis=0, initial=0.0) * (1 if mask is None else mask)
    for given_rows in (as_csr(dense), np.where(dense > 0, dense, -1).astype(np.float32)):
        index, value = fold(given_rows, kept, mask)
        assert index.tolist() == np.flatnonzero(expected).tolist()
        assert value.tolist() == expected[expected > 0].tolist()
