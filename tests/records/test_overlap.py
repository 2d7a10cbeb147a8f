"""Overlaps of firing positions and of records, against sets that are known whole."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve_server.records.overlap import Overlap, by_firing, by_records, jaccard, wilson
from saeserve_server.rows import Csr

TOKENS = 4096


def hashed(positions: np.ndarray, seed: int = 0) -> np.ndarray:
    """uint64 of positions, ascending; different ones differ."""
    mixed = (positions.astype(np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    return np.sort(mixed * np.uint64(0xBF58476D1CE4E5B9))


class Store:
    """An index of sources whose features fire on given sets of positions: `a` sparse, every other as bits."""

    tokens = TOKENS

    def __init__(self, sources: dict[str, list[set[int]]], sampled: np.ndarray | None = None, seed: int = 0) -> None:
        self._sources = {
            name: [np.array(sorted(one), dtype=np.int64) for one in sets] for name, sets in sources.items()
        }
        self._sampled = np.arange(TOKENS) if sampled is None else sampled
        self._seed = seed

    def fires(self, source: str) -> np.ndarray:
        return np.array([len(one) for one in self._sources[source]])

    def sketch(self, source: str) -> tuple[np.ndarray, np.ndarray]:
        kept = ~np.uint64(2047 if source == "a" else 511)  # a source of more features keeps fewer bits
        hashes = [hashed(one, self._seed)[:128] & kept for one in self._sources[source]]
        return np.cumsum([0, *map(len, hashes)]), np.concatenate(hashes)

    def dense(self, source: str) -> np.ndarray:
        rows = np.zeros((TOKENS, len(self._sources[source])), dtype=bool)
        for index, one in enumerate(self._sources[source]):
            rows[one, index] = True
        return rows[self._sampled]

    def sampled_rows(self, source: str) -> Csr:
        row, index = np.nonzero(self.dense(source))
        indptr = np.searchsorted(row, np.arange(len(self._sampled) + 1))
        return Csr(indptr, index.astype(np.uint32), np.ones(len(index), np.float32), len(self._sources[source]))

    def sampled_bits(self, source: str) -> np.ndarray | None:
        return None if source == "a" else np.packbits(self.dense(source), axis=1, bitorder="little")

    def record_blocks(self, source: str) -> tuple[np.ndarray, np.ndarray]:
        blocks = [one.astype(np.uint64) for one in self._sources[source]]
        return np.cumsum([0, *map(len, blocks)]), np.concatenate(blocks)


def everything(store: Store, sources: list[str]) -> dict[str, np.ndarray]:
    return {name: np.ones(len(store.fires(name)), dtype=bool) for name in sources}


def brute(sources: dict[str, list[set[int]]], asked: tuple[str, int]) -> list[tuple[float, int, int, int]]:
    """Value, source, index, union of every feature that has something in common, in order."""
    own = sources[asked[0]][asked[1]]
    found = []
    for place, (name, sets) in enumerate(sources.items()):
        for index, one in enumerate(sets):
            if (name, index) != asked and own & one:
                found.append((len(own & one) / len(own | one), place, index, len(own | one)))
    return sorted(found, key=lambda one: (-np.float32(one[0]), *one[1:3]))


def few(low: int, high: int) -> st.SearchStrategy[list[set[int]]]:
    return st.lists(st.sets(st.integers(0, 200), min_size=low, max_size=high), min_size=1, max_size=6)


@given(few(0, 60), few(0, 100), st.data())
def test_overlaps_of_features_whose_hashes_are_all_kept_are_exact(a: list, b: list, data: st.DataObject) -> None:
    """Whether the feature is rare, and found by hashes, or not, and found by the sampled positions."""
    sources = {"a": a, "b": b}
    store = Store(sources)
    name = data.draw(st.sampled_from(["a", "b"]))
    asked = (name, data.draw(st.integers(0, len(sources[name]) - 1)))
    expected = brute(sources, asked)
    masks = everything(store, ["a", "b"])
    for found in (by_firing(store, ["a", "b"], masks, asked, 50), by_records(store, ["a", "b"], masks, asked, 50)):
        assert [(one.source, one.index, one.positions) for one in found] == [one[1:] for one in expected]
        assert [one.value for one in found] == pytest.approx([one[0] for one in expected])


def test_shares_of_either_are_counted_on_the_sampled_positions() -> None:
    sources = {"a": [set(range(400)), set(range(40)), set(range(380, 1000))], "b": [set(range(0, 4000, 2))]}
    sampled = np.arange(0, TOKENS, 4)
    store = Store(sources, sampled)
    found = by_firing(store, ["a", "b"], everything(store, ["a", "b"]), ("a", 0), 10)
    shares = {(one.source, one.index): (one.contained, one.contains) for one in found}
    assert shares[0, 1] == (10 / 100, 1.0)
    assert shares[0, 2] == (5 / 100, 5 / 155)
    assert shares[1, 0] == (1.0, 100 / 1000)


def test_only_what_the_masks_say_is_found_and_at_most_the_limit() -> None:
    sources = {"a": [set(range(index, index + 50)) for index in range(20)]}
    store = Store(sources)
    mask = np.arange(20) % 2 == 0
    found = by_firing(store, ["a"], {"a": mask}, ("a", 4), 3)
    assert [one.index for one in found] == [2, 6, 0]


def test_a_sketch_estimates_without_bias_and_as_well_as_it_says() -> None:
    """Sets of very different sizes too: under the smaller bar both sketches are complete."""
    one, other = np.arange(1500), np.arange(1000, 4000)
    truth = 500 / 4000
    estimates, covered = [], 0
    for seed in range(400):
        hashes = hashed(one, 10_000 * seed)[:128], hashed(other, 10_000 * seed)[:128]
        value, positions = jaccard(hashes[0], False, hashes[1], False)
        low, high = wilson(value, positions)
        estimates.append(value)
        covered += low <= truth <= high
    assert np.mean(estimates) == pytest.approx(truth, abs=3 * np.std(estimates) / 20)
    assert covered >= 370


def test_an_interval_is_wilsons_and_unset_on_few_positions() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.16113), abs=1e-5)
    assert Overlap(0, 0, 0.5, 15).interval is None
    assert Overlap(0, 0, 0.5, 16).interval == wilson(0.5, 16)


def test_a_feature_that_never_fires_has_nothing_in_common_with_any() -> None:
    sources = {"a": [set(), {1, 2}, set()], "b": [set()]}
    store = Store(sources)
    for find, asked in itertools.product((by_firing, by_records), (("a", 0), ("b", 0), ("a", 1))):
        assert find(store, ["a", "b"], everything(store, ["a", "b"]), asked, 5) == []
