"""Search: every option does what its description says."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.service.wire import TIMEOUT, text_input

RED = "My favorite color is red."
ODYSSEY = "Odysseus wept by the sea, and red, red was the wine."
ORDER = ["0-demo", "0", "1-demo", "1", "2-demo", "2", "3-demo", "3"]
LATENTS = ["0-demo", "1-demo", "2-demo", "3-demo"]
NEURONS = ["0", "1", "2", "3"]
ALL_LATENTS = 4 * 2048


def names(result: saeserve.SearchResult) -> list[str]:
    return [str(hit.name) for hit in result.results]


def values(result: saeserve.SearchResult) -> list[float]:
    return [hit.value for hit in result.results]


def near(value: float) -> Any:
    return pytest.approx(value, abs=2e-4 * max(1.0, abs(value)))


@pytest.fixture(scope="module")
def plain(demo: saeserve.Client) -> saeserve.SearchResult:
    return demo.search(RED)


@pytest.fixture(scope="module")
def everything(demo: saeserve.Client) -> dict[str, Any]:
    """[tokens, features] of RED for every source: what a search must be a ranking of."""
    (item,) = demo.encode_stream([RED], sources=ORDER)
    text = item.unwrap()
    return {name: block.toarray() for name, block in text.sparse.items()} | dict(text.neurons)


def ranking(on: dict[str, Any], sources: list[str], rows: list[int], how: Any) -> list[tuple[float, int, int]]:
    """(value, rank of the source, index) of all features > 0, in the order of answers."""
    found = [
        (float(value), ORDER.index(source), index)
        for source in sources
        for index, value in enumerate(how(on[source][rows], axis=0))
        if value > 0
    ]
    return sorted(found, key=lambda one: (-one[0], one[1], one[2]))


def assert_ranks(result: saeserve.SearchResult, expected: list[tuple[float, int, int]], limit: int) -> None:
    """Values agree place by place; so do names where no other value is near."""
    assert len(result.results) == min(limit, len(expected))
    for place, hit in enumerate(result.results):
        value, rank, index = expected[place]
        assert hit.value == near(value)
        others = [one[0] for one in expected[max(0, place - 1) : place + 2] if one != expected[place]]
        if all(abs(other - value) > 2e-3 for other in others):
            assert (hit.name.source, hit.name.index) == (ORDER[rank], index)


# Limits and order


def test_without_options_it_gives_the_25_latents_that_fire_most(plain: saeserve.SearchResult, everything: Any) -> None:
    assert len(plain.results) == 25
    assert_ranks(plain, ranking(everything, LATENTS, list(range(7)), np.max), 25)
    assert list(plain.sources_considered) == LATENTS
    assert plain.features_considered == ALL_LATENTS
    assert not plain.token_results
    assert not plain.sort_positions
    assert not plain.truncated
    assert not plain.bos_included


@pytest.mark.parametrize("limit", [1, 2, 24, 26, 999, 1000])
def test_a_limit_gives_the_first_of_the_same_ranking(
    demo: saeserve.Client, plain: saeserve.SearchResult, everything: Any, limit: int
) -> None:
    result = demo.search(RED, limit=limit)
    assert_ranks(result, ranking(everything, LATENTS, list(range(7)), np.max), limit)
    common = min(limit, 25)
    assert names(result)[:common] == names(plain)[:common]


def test_only_values_above_0_are_returned_however_large_the_limit(demo: saeserve.Client) -> None:
    result = demo.search("red", kinds="all", limit=1000)
    assert 0 < len(result.results) < 1000
    assert min(values(result)) > 0


def test_values_fall_and_ties_go_by_layer_latents_first_then_source_then_index(demo: saeserve.Client) -> None:
    for options in ({}, {"kinds": "all"}, {"sort": [0, 3]}, {"ranking": "relative"}):
        result = demo.search(RED, limit=1000, **options)
        keys = [(-hit.value, ORDER.index(hit.name.source), hit.name.index) for hit in result.results]
        assert keys == sorted(keys)


def test_ties_are_in_the_decided_order(demo: saeserve.Client) -> None:
    """Relative to its maximum every feature whose maximum is in this very text has the same value: about 1."""
    record = demo.top_activations("0-DEMO:1635", page_size=1).records[0]
    result = demo.search(ids=[token.id for token in record.tokens], ranking="relative", kinds="all", limit=1000)
    ties: dict[float, list[tuple[int, int]]] = {}
    for hit in result.results:
        ties.setdefault(hit.value, []).append((ORDER.index(hit.name.source), hit.name.index))
    for tied in ties.values():
        assert tied == sorted(tied)


# What a result carries


def test_every_hit_carries_its_activations_and_where_they_peak(plain: saeserve.SearchResult, everything: Any) -> None:
    for hit in plain.results:
        assert len(hit.activations) == len(plain.tokens) == 7
        np.testing.assert_allclose(
            hit.activations, everything[hit.name.source][:, hit.name.index], atol=1e-4 * max(1, hit.max_activation)
        )
        assert hit.max_activation == hit.activations.max() == hit.activations[hit.max_position]
        assert hit.max_position == int(hit.activations.argmax())
        assert hit.value == hit.max_activation


def test_every_hit_carries_the_facts_that_get_feature_gives(demo: saeserve.Client) -> None:
    result = demo.search(RED, kinds="all", limit=60)
    assert {hit.feature.kind for hit in result.results} == {saeserve.Kind.LATENT, saeserve.Kind.NEURON}
    for hit in result.results:
        info = demo.get_feature(hit.name)
        assert info.feature == hit.feature
        assert info.statistics is not None
        assert hit.feature.density == pytest.approx(info.statistics.density, rel=1e-6)
        assert hit.feature.density_origin is saeserve.DensityOrigin.INDEX
        assert hit.feature.index_max_activation == pytest.approx(info.statistics.max_activation)
        assert hit.feature.usual_tokens == info.statistics.top_tokens[:5]
        assert hit.feature.layer == int(hit.name.source[0])


def test_a_match_says_whether_the_peak_token_is_a_usual_one(demo: saeserve.Client) -> None:
    seen = set()
    for text in (RED, ODYSSEY, "RED is My love", "Is it gray? MY dear."):
        result = demo.search(text, limit=200)
        for hit in result.results:
            peak = result.tokens[hit.max_position].piece
            usual = [one.token.piece for one in hit.feature.usual_tokens]
            folded = [one.decode(errors="surrogateescape").strip().casefold() for one in [peak, *usual]]
            expected = (
                saeserve.Match.UNKNOWN
                if not usual
                else saeserve.Match.EXACT
                if peak in usual
                else saeserve.Match.FOLDED
                if folded[0] in folded[1:]
                else saeserve.Match.NONE
            )
            assert hit.match is expected, (hit.name, peak, usual)
            seen.add(hit.match)
    assert seen >= {saeserve.Match.EXACT, saeserve.Match.FOLDED, saeserve.Match.NONE}


def test_tokens_joined_are_the_text_and_offsets_are_bytes(demo: saeserve.Client) -> None:
    text = "naïve 日本 \N{ROBOT FACE}\u200d!"
    result = demo.search(text)
    data = text.encode()
    assert b"".join(token.piece for token in result.tokens) == data
    for token in result.tokens:
        assert data[token.start : token.end] == token.piece


def test_call_info_says_what_the_call_cost(demo: saeserve.Client, plain: saeserve.SearchResult) -> None:
    text = "What a call cost is told of a text that nobody has asked about before."
    info = demo.search(text, request_id="who-asked").call_info
    about = demo.server_info()
    assert info.request_id == "who-asked"
    assert info.batch_size >= 1
    assert info.server_version == about.version == saeserve.__version__
    assert info.model_revision == about.model.revision
    assert about.index is not None
    assert info.index_revision == about.index.revision
    for micros in (info.tokenize_micros, info.forward_micros, info.encode_micros):
        assert 0 < micros <= info.total_micros
    assert info.queue_micros >= 0
    assert info.total_micros < 60_000_000
    assert plain.call_info.request_id != info.request_id


# Which features take part


@pytest.mark.parametrize(
    ("options", "sources"),
    [
        ({"kinds": "latent"}, LATENTS),
        ({"kinds": "neuron"}, NEURONS),
        ({"kinds": "all"}, ORDER),
        ({"sets": "demo"}, LATENTS),
        ({"sets": "NEURONS"}, NEURONS),
        ({"sets": ["demo", "neurons"]}, ORDER),
        ({"sources": "1-demo"}, ["1-demo"]),
        ({"sources": ["3", "1-DEMO"]}, ["1-demo", "3"]),
        ({"sources": "2-neurons"}, ["2"]),
        ({"sources": "2-NEURONS"}, ["2"]),
        ({"layers": 2}, ["2-demo"]),
        ({"layers": "1-3"}, LATENTS[1:]),
        ({"layers": "0,2-3"}, ["0-demo", "2-demo", "3-demo"]),
        ({"layers": "1-3", "kinds": "all"}, ORDER[2:]),
        ({"layers": "1", "kinds": "neuron"}, ["1"]),
        ({"layers": "1-2", "sources": ["0-demo", "1-demo", "2"]}, ["1-demo", "2"]),
        ({"kinds": "latent", "sources": ["0", "0-demo"]}, ["0-demo"]),
        ({"exclude_layers": 0}, LATENTS[1:]),
        ({"exclude_layers": "1-3", "kinds": "all"}, ["0-demo", "0"]),
        ({"exclude_sources": ["1-DEMO", "2"]}, ["0-demo", "2-demo", "3-demo"]),
        ({"exclude_kinds": "latent", "kinds": "all"}, NEURONS),
        ({"exclude_sets": "neurons", "kinds": "all"}, LATENTS),
        ({"exclude_sets": "neurons", "exclude_layers": "0-2", "kinds": "all"}, ["3-demo"]),
        ({"sources": "0-demo", "exclude_layers": 1}, ["0-demo"]),
    ],
)
def test_a_filter_leaves_just_these_sources(
    demo: saeserve.Client, everything: Any, options: dict[str, Any], sources: list[str]
) -> None:
    result = demo.search(RED, limit=30, **options)
    assert list(result.sources_considered) == sources
    assert result.features_considered == sum(2048 if "-" in source else 512 for source in sources)
    assert_ranks(result, ranking(everything, sources, list(range(7)), np.max), 30)


@pytest.mark.parametrize(
    "options",
    [
        {"sources": "0-demo", "exclude_layers": 0},
        {"exclude_kinds": "latent"},
        {"kinds": "neuron", "sets": "demo"},
        {"layers": 0, "sources": "1"},
        {"features": "0-demo:5", "exclude_features": "0-DEMO:5"},
        {"features": "0-demo:5", "exclude_sources": "0-demo"},
        {"features": "0-demo:5", "kinds": "neuron"},
        {"min_density": 0.999},
        {"max_density": 0.0, "min_density": 0.0, "sources": "0-demo", "features": "0-demo:248"},
    ],
)
@pytest.mark.parametrize("by_token", [False, True])
def test_a_filter_that_leaves_nothing_is_no_error(
    demo: saeserve.Client, options: dict[str, Any], by_token: bool
) -> None:
    result = demo.search(RED, by_token=by_token, **options)
    assert not result.results
    assert result.features_considered == 0
    assert len(result.tokens) == 7
    assert all(not len(row.values) for row in result.token_results)


def test_named_features_alone_take_part(demo: saeserve.Client, everything: Any) -> None:
    chosen = ["0-DEMO:248", "0-DEMO:1635", "2:7", "3-NEURONS:64"]
    result = demo.search(RED, features=chosen)
    assert result.features_considered == 4
    assert list(result.sources_considered) == ["0-demo", "2", "3"]
    assert set(names(result)) <= {"0-DEMO:248", "0-DEMO:1635", "2:7", "3:64"}
    assert {"0-DEMO:248", "0-DEMO:1635", "3:64"} <= set(names(result))
    assert demo.search(RED, features=chosen, layers="1-3").features_considered == 2


def test_excluded_features_make_room_for_the_next(demo: saeserve.Client, plain: saeserve.SearchResult) -> None:
    left_out = names(plain)[:3]
    result = demo.search(RED, exclude_features=left_out, limit=22)
    assert names(result) == names(plain)[3:]
    assert result.features_considered == ALL_LATENTS - 3


def test_density_bounds_act_before_the_top_k(demo: saeserve.Client) -> None:
    everywhere = demo.search(RED, limit=1000)
    bound = 0.02
    expected = [str(hit.name) for hit in everywhere.results if (hit.feature.density or 0) <= bound]
    result = demo.search(RED, max_density=bound, limit=10)
    assert names(result) == expected[:10]
    assert 0 < result.features_considered < ALL_LATENTS
    assert "0-DEMO:248" not in expected
    narrow = demo.search(RED, min_density=0.01, max_density=bound, limit=1000)
    assert names(narrow) == [str(hit.name) for hit in everywhere.results if 0.01 <= (hit.feature.density or 0) <= bound]
    assert demo.search(RED, min_density=0.0, max_density=1.0).features_considered == ALL_LATENTS


def test_density_bounds_are_inclusive(demo: saeserve.Client) -> None:
    density = demo.get_feature("0-DEMO:248").feature.density
    assert density is not None
    for bounds in (
        {"min_density": density},
        {"max_density": density},
        {"min_density": density, "max_density": density},
    ):
        assert demo.search(RED, features="0-demo:248", **bounds).features_considered == 1


# Sort tokens


@pytest.mark.parametrize(
    ("sort", "positions"),
    [
        ("red", [5]),
        (" red", [5]),
        (5, [5]),
        (["red", 5, " red"], [5]),
        (["red", "My"], [0, 5]),
        ([6, 0, 3], [0, 3, 6]),
        ("favorite", [1, 2]),
        ("color is", [3, 4]),
        ("My favorite color is red.", [0, 1, 2, 3, 4, 5, 6]),
        (["favorite", 2, "is"], [1, 2, 4]),
    ],
)
def test_sorting_ranks_by_the_sum_over_a_set_of_tokens(
    demo: saeserve.Client, everything: Any, sort: Any, positions: list[int]
) -> None:
    result = demo.search(RED, sort=sort, limit=40)
    assert list(result.sort_positions) == positions
    assert_ranks(result, ranking(everything, LATENTS, positions, np.sum), 40)
    for hit in result.results:
        assert hit.value == near(float(hit.activations[positions].sum()))
        assert hit.max_activation == hit.activations.max()
        assert hit.max_activation == hit.activations[hit.max_position]


def test_every_occurrence_of_a_sort_token_counts_and_exact_beats_stripped(demo: saeserve.Client) -> None:
    tokens = [token.display for token in demo.tokenize("red red Red\tred").tokens]
    result = demo.search("red red Red\tred", sort="red")
    assert [tokens[place] for place in result.sort_positions] == ["red"] * tokens.count("red")
    assert tokens.count("red") >= 2
    assert len(demo.search("x red, red", sort="red").sort_positions) == 2


def test_sorting_changes_the_order_and_drops_what_does_not_fire_there(
    demo: saeserve.Client, plain: saeserve.SearchResult
) -> None:
    result = demo.search(RED, sort="red")
    assert names(result) != names(plain)
    assert all(hit.activations[5] > 0 for hit in result.results)


def test_neurons_sort_by_sums_that_count_negative_values(demo: saeserve.Client, everything: Any) -> None:
    result = demo.search(RED, kinds="neuron", sort=[0, 1, 2], limit=1000)
    assert_ranks(result, ranking(everything, NEURONS, [0, 1, 2], np.sum), 1000)
    assert any(hit.activations[:3].min() < 0 for hit in result.results)


# By token


def test_by_token_gives_the_top_features_of_each_token(demo: saeserve.Client, everything: Any) -> None:
    result = demo.search(RED, by_token=True, limit=8, kinds="all")
    assert not result.results
    assert [row.position for row in result.token_results] == list(range(7))
    for row in result.token_results:
        expected = ranking(everything, ORDER, [row.position], np.max)[:8]
        assert row.token == result.tokens[row.position]
        assert row.values == near_all([value for value, _, _ in expected])
        assert len(row.features) == len(row.matches) == len(row.values) == len(expected)
        assert min(row.values) > 0
        assert list(row.values) == sorted(row.values, reverse=True)


def near_all(expected: Iterable[float]) -> Any:
    numbers = [float(value) for value in expected]
    return pytest.approx(numbers, abs=2e-4 * max([1.0, *numbers]))


def test_by_token_agrees_with_sorting_by_each_token(demo: saeserve.Client) -> None:
    by_token = demo.search(ODYSSEY, by_token=True, limit=10)
    for row in by_token.token_results:
        alone = demo.search(ODYSSEY, sort=row.position, limit=10)
        assert row.values == near_all(values(alone))
        assert [str(feature.name) for feature in row.features][:3] == names(alone)[:3]
        for feature, hit in zip(row.features, alone.results, strict=True):
            if feature.name == hit.name:
                assert feature == hit.feature


def test_a_sort_token_may_be_asked_for_as_it_is_displayed(demo: saeserve.Client) -> None:
    found = demo.search("red\nblue", sort="\\n")
    assert [found.tokens[place].display for place in found.sort_positions] == ["\\n"]
    assert found.sort_positions == demo.search("red\nblue", sort="\n").sort_positions
    with pytest.raises(saeserve.InvalidArgument, match=r"is none of the tokens 'red', '\\n', 'bl"):
        demo.search("red\nblue", sort="green")


def test_a_sort_token_is_found_in_either_unicode_form(demo: saeserve.Client) -> None:
    for text in ("a caf\u00e9 is", "a cafe\u0301 is"):
        places = [demo.search(text, sort=word).sort_positions for word in ("caf\u00e9", "cafe\u0301")]
        assert places[0] == places[1] != ()


def test_by_token_with_sort_tokens_answers_for_these_only(demo: saeserve.Client) -> None:
    result = demo.search(RED, by_token=True, sort=["red", "My"], limit=4)
    assert [row.position for row in result.token_results] == [0, 5]
    assert list(result.sort_positions) == [0, 5]
    whole = demo.search(RED, by_token=True, limit=4)
    for row in result.token_results:
        assert row.features == whole.token_results[row.position].features
        assert row.matches == whole.token_results[row.position].matches


def test_by_token_writes_each_feature_once(stub: FeatureServiceStub) -> None:
    answer = stub.Search(service.SearchRequest(input=text_input(RED), by_token=True), timeout=TIMEOUT)
    table = [(one.feature.source, one.feature.index) for one in answer.features]
    assert len(table) == len(set(table))
    named = {place for row in answer.token_results for place in row.features}
    assert named == set(range(len(table)))


# BOS


@pytest.mark.parametrize("sort", [(), ("red",)])
def test_a_bos_row_leads_on_request_and_never_ranks(
    demo: saeserve.Client, sort: tuple[str, ...], everything: Any
) -> None:
    without, led = demo.search(RED, sort=sort, kinds="all"), demo.search(RED, sort=sort, kinds="all", include_bos=True)
    assert led.bos_included
    assert not without.bos_included
    assert [token.id for token in led.tokens] == [0, *(token.id for token in without.tokens)]
    assert (led.tokens[0].start, led.tokens[0].end) == (0, 0)
    assert led.tokens[1:] == without.tokens
    assert names(led) == names(without)
    assert list(led.sort_positions) == [place + 1 for place in without.sort_positions]
    for with_bos, hit in zip(led.results, without.results, strict=True):
        assert with_bos.value == near(hit.value)
        assert len(with_bos.activations) == 8
        assert with_bos.max_position == hit.max_position + 1
        assert with_bos.activations[1:] == near_all(hit.activations)
        assert with_bos.match is hit.match


def test_positions_of_sort_tokens_count_from_the_first_text_token_with_a_bos_row_too(demo: saeserve.Client) -> None:
    assert demo.search(RED, sort=5, include_bos=True).sort_positions == (6,)


def test_by_token_skips_the_bos_row(demo: saeserve.Client) -> None:
    result = demo.search(RED, by_token=True, include_bos=True, limit=3)
    assert [row.position for row in result.token_results] == list(range(1, 8))


def test_a_bos_inside_a_text_never_ranks(demo: saeserve.Client) -> None:
    result = demo.search("red<|endoftext|>blue", limit=200)
    assert [token.id for token in result.tokens].count(0) == 1
    middle = [token.id for token in result.tokens].index(0)
    assert all(hit.max_position != middle for hit in result.results)
    for hit in result.results:
        kept = np.delete(hit.activations, middle)
        assert hit.value == hit.max_activation == kept.max()
    rows = demo.search("red<|endoftext|>blue", by_token=True).token_results
    assert [row.position for row in rows] == [place for place in range(len(result.tokens)) if place != middle]
    assert not demo.search("red<|endoftext|>blue", sort=middle).results


# Token ids


def test_token_ids_give_what_their_text_gives_with_and_without_a_leading_bos(demo: saeserve.Client) -> None:
    ids = demo.tokenize(RED).ids
    text = demo.search(RED, sort="red", limit=50)
    for given in (ids, (0, *ids)):
        result = demo.search(ids=given, sort="red", limit=50)
        assert result.tokens == text.tokens
        assert names(result) == names(text)
        assert values(result) == near_all(values(text))
        assert result.sort_positions == text.sort_positions


def test_a_text_that_begins_with_the_bos_is_not_given_another(demo: saeserve.Client) -> None:
    assert names(demo.search("<|endoftext|>" + RED)) == names(demo.search(RED))


# Truncation


def test_truncation_cuts_to_the_limit_and_says_so(demo: saeserve.Client) -> None:
    text = "The red fox saw a blue bird. " * 60
    cut = demo.search(text, truncate=True)
    assert cut.truncated
    assert len(cut.tokens) == demo.server_info().limits.max_tokens
    same = demo.search(ids=demo.tokenize(text).ids[: len(cut.tokens)])
    assert not same.truncated
    assert names(same) == names(cut)
    assert values(same) == near_all(values(cut))


def test_truncation_leaves_short_texts_alone(demo: saeserve.Client, plain: saeserve.SearchResult) -> None:
    result = demo.search(RED, truncate=True)
    assert not result.truncated
    assert names(result) == names(plain)


# Relative ranking


def test_relative_values_are_shares_of_the_index_maximum(demo: saeserve.Client) -> None:
    result = demo.search(RED, ranking="relative", limit=100)
    for hit in result.results:
        assert hit.feature.index_max_activation is not None
        assert hit.value == pytest.approx(hit.max_activation / hit.feature.index_max_activation, rel=1e-4)
    raw = demo.search(RED, limit=1000)
    expected = {
        str(hit.name): hit.value / hit.feature.index_max_activation
        for hit in raw.results
        if hit.feature.index_max_activation
    }
    for hit in result.results[:20]:
        assert hit.value == pytest.approx(expected[str(hit.name)], rel=1e-4)


def test_features_that_rarely_fire_do_not_rank_relatively(demo: saeserve.Client) -> None:
    for least in (10, 200):
        options = {} if least == 10 else {"min_fires": least}
        result = demo.search(RED, ranking="relative", limit=1000, **options)
        assert 0 < result.features_considered < ALL_LATENTS
        for hit in result.results[:30]:
            statistics = demo.get_feature(hit.name).statistics
            assert statistics is not None
            assert statistics.fires >= least
    assert demo.search(RED, ranking="relative", min_fires=10**9).features_considered == 0


@pytest.mark.parametrize("min_fires", [0, 1])
def test_a_feature_that_never_fired_is_no_division_by_zero(demo: saeserve.Client, min_fires: int) -> None:
    result = demo.search("zebra quark \N{ROBOT FACE} 日本", ranking="relative", min_fires=min_fires, limit=1000)
    assert all(np.isfinite(hit.value) for hit in result.results)
    assert all(hit.feature.index_max_activation for hit in result.results)


def test_relative_ranking_sums_and_goes_by_token_too(demo: saeserve.Client) -> None:
    summed = demo.search(RED, ranking="relative", sort=["red", "color"])
    for hit in summed.results:
        assert hit.feature.index_max_activation is not None
        assert hit.value == pytest.approx(
            float(hit.activations[[3, 5]].sum()) / hit.feature.index_max_activation, rel=1e-3
        )
    for row in demo.search(RED, ranking="relative", by_token=True, limit=3).token_results:
        assert list(row.values) == sorted(row.values, reverse=True)


# Again and together


def stripped(answer: service.SearchResponse) -> service.SearchResponse:
    answer.ClearField("call_info")
    return answer


def test_the_same_text_searched_twice_has_the_same_answer(stub: FeatureServiceStub) -> None:
    request = service.SearchRequest(input=text_input(RED))
    assert stripped(stub.Search(request, timeout=TIMEOUT)) == stripped(stub.Search(request, timeout=TIMEOUT))


def test_identical_texts_at_once_have_equal_answers(uncached_stub: FeatureServiceStub) -> None:
    """Asked for ever fewer features each, since those that ask the very same wait for one answer."""
    kinds = [types.FEATURE_KIND_LATENT, types.FEATURE_KIND_NEURON]
    filters = service.Filter(include=service.FeatureSelector(kinds=kinds))
    requests = [service.SearchRequest(input=text_input(ODYSSEY), filter=filters, limit=100 - n) for n in range(64)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda request: uncached_stub.Search(request, timeout=TIMEOUT), requests))
    assert max(answer.call_info.batch_size for answer in answers) > 1
    first = answers[0]
    for place, answer in enumerate(answers):
        expected = first.results[: 100 - place]
        assert [result.facts for result in answer.results] == [result.facts for result in expected]
        assert [result.value for result in answer.results] == near_all([result.value for result in expected])


def test_an_unset_filter_and_an_empty_one_are_the_same(stub: FeatureServiceStub) -> None:
    unset = service.SearchRequest(input=text_input(RED))
    empty = service.SearchRequest(input=text_input(RED), filter=service.Filter(include={}, exclude={}), limit=25)
    assert stripped(stub.Search(unset, timeout=TIMEOUT)) == stripped(stub.Search(empty, timeout=TIMEOUT))


def test_a_layer_range_reads_case_and_bounds_as_documented(stub: FeatureServiceStub) -> None:
    """A LayerRange that is left empty is layer 0, since both ends are."""
    request = service.SearchRequest(input=text_input(RED))
    request.filter.include.layers.add()
    assert list(stub.Search(request, timeout=TIMEOUT).sources_considered) == ["0-demo"]


def test_the_served_model_may_be_named_in_any_case(demo: saeserve.Client, plain: saeserve.SearchResult) -> None:
    assert names(demo.search(RED, model="DEMO")) == names(plain)
