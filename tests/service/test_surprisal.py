"""Searches ranked by surprisal on the demo: bits, counts and order follow from the histograms that features show."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.service.wire import TIMEOUT, refused, text_input

RED = "My favorite color is red."
ODD = "]]]] 1983 zebra QUARK; red red red red red \N{ROBOT FACE} 日本 void main(void) {}}"
"""Unlike the index's texts: some features are more active here than anywhere in it."""


@pytest.fixture(scope="module")
def found(demo: saeserve.Client) -> saeserve.SearchResult:
    return demo.search(RED, kinds="all", ranking="surprisal", limit=60)


@pytest.fixture(scope="module")
def odd(demo: saeserve.Client) -> saeserve.SearchResult:
    return demo.search(ODD, kinds="all", ranking="surprisal", limit=1000)


def count_of(statistics: saeserve.Statistics, value: float) -> float:
    """On how many tokens of the index it is at least this active, as its histogram tells."""
    if value >= statistics.max_activation:
        return 1.0
    count = 0.0
    for bin_ in statistics.histogram:
        if bin_.lower > value:
            count += bin_.count
        elif bin_.upper > value:
            top = bin_ is statistics.histogram[-1]
            upper = statistics.max_activation if top else bin_.upper
            share = (upper - value) / (upper - bin_.lower)
            count += 1 + (bin_.count - 1) * share if top else bin_.count * share
    return max(1.0, count)


def statistics_of(demo: saeserve.Client, feature: object) -> saeserve.Statistics:
    statistics = demo.get_feature(feature).statistics  # type: ignore[arg-type]
    assert statistics is not None
    return statistics


def test_a_value_is_the_bits_of_the_largest_activation_and_says_on_how_many_tokens(
    demo: saeserve.Client, found: saeserve.SearchResult
) -> None:
    assert len(found) == 60
    for hit in found[:20]:
        statistics = statistics_of(demo, hit)
        assert hit.tokens_at_least == pytest.approx(count_of(statistics, hit.max_activation), rel=1e-4)
        assert hit.value == pytest.approx(math.log2(statistics.tokens / hit.tokens_at_least), rel=1e-5)
    values = [hit.value for hit in found]
    assert values == sorted(values, reverse=True)


def test_several_sort_tokens_add_their_bits_and_none_where_it_does_not_fire(demo: saeserve.Client) -> None:
    result = demo.search(RED, kinds="all", ranking="surprisal", sort=["red", "color", "My"], limit=20)
    places = list(result.sort_positions)
    assert len(places) == 3
    alone = 0
    for hit in result:
        statistics = statistics_of(demo, hit)
        on = [float(hit.activations[place]) for place in places if hit.activations[place] > 0]
        alone += len(on) < 3
        bits = [math.log2(statistics.tokens / count_of(statistics, value)) for value in on]
        assert hit.value == pytest.approx(sum(bits), rel=1e-4)
        assert hit.tokens_at_least == pytest.approx(count_of(statistics, max(on)), rel=1e-4)
    assert alone


def test_by_token_each_has_the_bits_of_its_own_activation(demo: saeserve.Client, found: saeserve.SearchResult) -> None:
    rows = demo.search(RED, kinds="all", ranking="surprisal", by_token=True, limit=5).token_results
    for row in rows:
        assert list(row.values) == sorted(row.values, reverse=True)
    best = found[0]
    (row,) = [row for row in rows if row.position == best.max_position]
    assert row.values[0] == pytest.approx(best.value, rel=1e-5)


def beyond(result: saeserve.SearchResult) -> Iterator[tuple[saeserve.Hit, float]]:
    for hit in result:
        assert hit.feature.index_max_activation
        yield hit, hit.max_activation / hit.feature.index_max_activation


def test_beyond_the_index_one_token_is_left_and_the_larger_share_of_the_maximum_comes_first(
    odd: saeserve.SearchResult,
) -> None:
    most = odd[0].value
    outside = [(hit, share) for hit, share in beyond(odd) if hit.beyond_index]
    assert len(outside) > 1
    for hit, share in outside:
        assert hit.tokens_at_least == 1
        assert hit.value == most
        assert share > 1
    shares = [share for _, share in outside]
    assert shares == sorted(shares, reverse=True)
    assert all(share <= 1 for hit, share in beyond(odd) if not hit.beyond_index)


def test_of_equal_bits_none_is_lost_to_a_small_limit(demo: saeserve.Client, odd: saeserve.SearchResult) -> None:
    for limit in (1, 3, 10):
        fewer = demo.search(ODD, kinds="all", ranking="surprisal", limit=limit)
        assert [str(hit.name) for hit in fewer] == [str(hit.name) for hit in odd[:limit]]


def test_features_that_rarely_fire_do_not_rank(demo: saeserve.Client) -> None:
    few, many = (demo.search(RED, ranking="surprisal", min_fires=fires, limit=1000) for fires in (300, 1))
    assert 0 < few.features_considered < many.features_considered
    assert {str(hit.name) for hit in few} < {str(hit.name) for hit in many}
    assert demo.search(RED, ranking="surprisal", min_fires=10**9).features_considered == 0


def test_what_is_usual_everywhere_is_worth_little(demo: saeserve.Client) -> None:
    """A feature that fires on most tokens has few bits unless it is unusually active."""
    everything = demo.search(RED, kinds="all", ranking="surprisal", limit=1000)
    dense = [hit for hit in everything if (hit.feature.density or 0) > 0.5]
    assert dense
    for hit in dense:
        statistics = statistics_of(demo, hit)
        if hit.max_activation <= statistics.mean_activation:
            assert hit.value < 3


def test_the_ranking_is_the_same_from_activations_that_were_kept(demo: saeserve.Client) -> None:
    text = "A ship of crimson sails went down the river in the rain."
    demo.search(text, kinds="all")
    again = demo.search(text, kinds="all", ranking="surprisal", limit=100)
    assert again.call_info.cache is saeserve.Cache.INNER
    whole = demo.search(text + " Then it came back.", kinds="all", ranking="surprisal", limit=1000)
    assert np.isfinite([hit.value for hit in whole]).all()


def test_min_fires_is_for_rankings_by_the_index(stub: FeatureServiceStub) -> None:
    refusal = refused(lambda: stub.Search(service.SearchRequest(input=text_input(RED), min_fires=3), timeout=TIMEOUT))
    assert "RANKING_SURPRISAL" in refusal.message
