"""The surprisal of an activation, read off a histogram, beside all activations counted one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from saeserve_server.records import bins as binning
from saeserve_server.records.surprisal import Surprisal

TOKENS = 5000
ACTIVATIONS = st.floats(2.0**-24, 2.0**23, width=32) | st.sampled_from([0.5, 1.0, 1.125, 2.0, 2.5, 3.0])
FEATURES = st.lists(st.lists(ACTIVATIONS, max_size=60), min_size=1, max_size=8)
FEW = settings(max_examples=40)
ASKED = st.lists(ACTIVATIONS | st.sampled_from([0.0, -0.0, -1.0, math.inf]), min_size=1, max_size=20)


def histograms(features: list[list[float]], tokens: int = TOKENS) -> Surprisal:
    """What an index would keep of such activations, in arrays that cannot be written to."""
    offsets, codes, counts, maxima = [0], [], [], []
    for activations in features:
        found, times = np.unique(binning.bin_of(np.array(activations, np.float32)), return_counts=True)
        codes += list(found + binning.FIRST_CODE)
        counts += list(times)
        offsets.append(len(codes))
        maxima.append(max(activations, default=0))
    made = [
        np.array(maxima, np.float32),
        np.array(offsets, np.int64),
        np.array(codes, np.uint16),
        np.array(counts, np.uint64),
    ]
    for array in made:
        array.flags.writeable = False
    return Surprisal(tokens, *made)


def of_all(features: list[list[float]], values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Each value of each feature."""
    index = np.repeat(np.arange(len(features)), len(values))
    return index, np.tile(np.array(values, np.float32), len(features))


@FEW
@given(FEATURES, ASKED)
def test_it_is_within_one_bin_of_the_number_of_tokens_that_are_as_active(
    features: list[list[float]], values: list[float]
) -> None:
    index, value = of_all(features, values)
    found = histograms(features).tokens_at_least(index, value)
    for feature, asked, given_ in zip(index.tolist(), value, found.tolist(), strict=True):
        own = np.array(features[feature], np.float32)
        truth = np.count_nonzero(own >= asked)
        if asked <= 0:
            truth = len(own)
        mine = binning.bin_of(np.array([max(asked, np.float32(0))], np.float32))[0]
        slack = np.count_nonzero(binning.bin_of(own) == mine)
        assert max(1, truth - slack) - 1e-9 <= given_ <= max(1, truth + slack) + 1e-9
        if slack == 0:
            assert given_ == max(1, truth)


@FEW
@given(FEATURES, ASKED)
def test_it_falls_as_the_activation_rises_from_all_firings_to_one_at_the_maximum(
    features: list[list[float]], values: list[float]
) -> None:
    surprisal = histograms(features)
    for feature, own in enumerate(features):
        rising = np.unique(np.array([*values, *own], np.float32))
        index = np.full(len(rising), feature)
        found = surprisal.tokens_at_least(index, rising)
        assert (np.diff(found) <= 0).all()
        assert (found >= 1).all()
        assert found[0] <= max(1, len(own))
        bits = surprisal.bits(index, rising)
        assert (np.diff(bits) >= 0).all()
        assert (bits >= 0).all()
        assert bits.dtype == np.float32
        beyond = rising >= max(own, default=0)
        assert (found[beyond] == 1).all()
        assert (bits[beyond] == np.float32(math.log2(TOKENS))).all()


@FEW
@given(FEATURES, ASKED)
def test_below_the_lowest_bin_it_is_every_token_on_which_the_feature_fires(
    features: list[list[float]], values: list[float]
) -> None:
    surprisal = histograms([[one for one in own if one >= 2.0**-10] for own in features])
    found = surprisal.tokens_at_least(*of_all(features, [0.0, 2.0**-11]))
    kept = [sum(one >= 2.0**-10 for one in own) for own in features]
    assert found.tolist() == [max(1, count) for count in kept for _ in range(2)]


@FEW
@given(FEATURES, ASKED, st.integers(1, 400))
def test_many_at_once_are_those_one_by_one(features: list[list[float]], values: list[float], times: int) -> None:
    surprisal = histograms(features)
    index, value = (np.tile(array, times) for array in of_all(features, values))
    together = surprisal.tokens_at_least(index, value)
    few = slice(0, len(features) * len(values))
    alone = [surprisal.tokens_at_least(index[i : i + 1], value[i : i + 1])[0] for i in range(few.stop)]
    assert together.tolist() == alone * times


@FEW
@given(arrays.arrays(np.float32, 200, elements=st.floats(1, 64, width=32)))
def test_inside_a_bin_its_tokens_lie_evenly(values: np.ndarray) -> None:
    own = [*values.tolist(), 128.0]  # 128: alone in the highest bin
    surprisal = histograms([own])
    for asked in values[:20]:
        code = int(np.array([asked]).view(np.uint32)[0] >> binning.SHIFT)
        lower, upper = binning.edges(np.array([code]))[0]
        above = np.count_nonzero(np.array(own) >= upper)
        count = np.count_nonzero((np.array(own) >= lower) & (np.array(own) < upper))
        expected = above + count * (upper - asked) / (upper - lower)
        assert surprisal.tokens_at_least(np.array([0]), np.array([asked]))[0] == pytest.approx(expected)


def test_the_highest_bin_ends_at_the_maximum_where_one_token_is_left() -> None:
    surprisal = histograms([[1.0, 1.01, 1.02, 1.08]])  # [1, 1.125) is one bin
    asked = np.array([1.0, 1.04, 1.08, 1.1], np.float32)
    found = surprisal.tokens_at_least(np.zeros(4, np.int64), asked)
    assert found == pytest.approx([4, 1 + 3 * 0.5, 1, 1], rel=1e-5)
    assert surprisal.bits(np.zeros(1, np.int64), asked[2:3])[0] == np.float32(math.log2(TOKENS))


def test_a_feature_that_fires_on_every_token_is_worth_nothing_at_its_usual_activations() -> None:
    surprisal = histograms([[2.0] * 999 + [9.0]], tokens=1000)
    asked = np.array([0.1, 1.9, 2.0, 9.0], np.float32)
    found = surprisal.bits(np.zeros(4, np.int64), asked)
    assert found == pytest.approx([0, 0, 0, math.log2(1000)], abs=1e-6)


def test_a_source_of_which_nothing_fires_does_not_fail() -> None:
    surprisal = histograms([[], []])
    assert surprisal.tokens_at_least(np.array([0, 1]), np.array([1, 0], np.float32)).tolist() == [1, 1]
    assert surprisal.bits(np.zeros(0, np.int64), np.zeros(0, np.float32)).tolist() == []
