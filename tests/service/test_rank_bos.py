"""A BOS that ranks: searches over rows of which the first is the BOS, against TransformerLens and the plain ranking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.reference import BOS, Reference
from tests.service.wire import TIMEOUT, refused, text_input

RED = "My favorite color is red."
ORDER = ["0-demo", "0", "1-demo", "1", "2-demo", "2", "3-demo", "3"]
Rows = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def rows(demo: saeserve.Client) -> Rows:
    """[BOS and tokens, features] of RED for every source."""
    (item,) = demo.encode_stream([RED], sources=ORDER, include_bos=True)
    text = item.unwrap()
    return {name: block.toarray() for name, block in text.sparse.items()} | dict(text.neurons)


def ranked(on: Rows, how: Any, limit: int) -> list[tuple[str, float]]:
    found = [
        (-float(value), ORDER.index(source), index)
        for source, block in on.items()
        for index, value in enumerate(how(block))
        if value > 0
    ]
    return [(f"{ORDER[rank].upper()}:{index}", -value) for value, rank, index in sorted(found)[:limit]]


def agrees(found: Any, expected: list[tuple[str, float]]) -> None:
    assert [one.value for one in found] == pytest.approx([value for _, value in expected], abs=1e-3)
    assert [str(one.name) for one in found[:3]] == [name for name, _ in expected[:3]]


def test_neurons_on_the_bos_are_those_of_the_bridge(demo: saeserve.Client) -> None:
    reference = Reference.of_demo()
    run = torch.tensor([[BOS, *reference.ids(RED)]])
    hooks = [f"blocks.{layer}.mlp.hook_post" for layer in range(4)]
    with torch.inference_mode():
        _, cache = reference.bridge.run_with_cache(run, names_filter=hooks, prepend_bos=False)
    plain = {str(layer): cache[hook][0].numpy() for layer, hook in enumerate(hooks)}
    agrees(demo.search(RED, kinds="neuron", rank_bos=True), ranked(plain, lambda block: block.max(0), 25))
    by_bos = demo.search(RED, kinds="neuron", rank_bos=True, sort_bos=True)
    agrees(by_bos, ranked(plain, lambda block: block[0], 25))


def test_it_ranks_like_every_other_row(demo: saeserve.Client, rows: Rows) -> None:
    found = demo.search(RED, kinds="all", rank_bos=True, limit=60)
    agrees(found, ranked(rows, lambda block: block.max(0), 60))
    assert found.bos_included
    assert (found.tokens[0].id, len(found.tokens)) == (BOS, 8)
    on_bos = [hit for hit in found if hit.max_position == 0]
    assert on_bos
    assert {hit.match for hit in on_bos} == {saeserve.Match.UNKNOWN}
    assert saeserve.Match.EXACT in {hit.match for hit in found}
    for hit in found:
        assert hit.value == hit.max_activation == hit.activations.max() == hit.activations[hit.max_position]


def test_without_it_the_row_is_shown_and_nothing_else_changes(demo: saeserve.Client) -> None:
    shown, plain = demo.search(RED, include_bos=True, limit=40), demo.search(RED, limit=40)
    assert [(str(one.name), one.value, one.match) for one in shown] == [
        (str(one.name), one.value, one.match) for one in plain
    ]
    both = demo.search(RED, include_bos=True, rank_bos=True, limit=40)
    assert [str(one.name) for one in both] == [str(one.name) for one in demo.search(RED, rank_bos=True, limit=40)]


def test_it_is_a_sort_token_beside_others(demo: saeserve.Client, rows: Rows) -> None:
    found = demo.search(RED, kinds="all", rank_bos=True, sort_bos=True, sort=["red", 0])
    assert found.sort_positions == (0, 1, 6)
    agrees(found, ranked(rows, lambda block: block[[0, 1, 6]].sum(0), 25))
    # Where a feature is most active does not depend on what it is sorted by.
    assert {hit.max_position == 0 for hit in found} == {True, False}
    without = demo.search(RED, kinds="all", rank_bos=True, sort=["red", 0])
    agrees(without, ranked(rows, lambda block: block[[1, 6]].sum(0), 25))


def test_by_token_answers_the_bos_too(demo: saeserve.Client, rows: Rows) -> None:
    found = demo.search(RED, kinds="all", rank_bos=True, by_token=True, limit=5)
    assert [row.position for row in found.token_results] == list(range(8))
    for row in found.token_results:
        expected = ranked(rows, lambda block, place=row.position: block[place], 5)
        assert row.values.tolist() == pytest.approx([value for _, value in expected], abs=1e-3)
    assert set(found.token_results[0].matches) == {saeserve.Match.UNKNOWN}
    alone = demo.search(RED, kinds="all", rank_bos=True, by_token=True, limit=5, sort_bos=True)
    assert [row.position for row in alone.token_results] == [0]
    assert alone.token_results[0].features == found.token_results[0].features


def test_a_bos_inside_the_text_ranks_with_it_only(demo: saeserve.Client) -> None:
    ids = list(demo.tokenize(RED).ids)
    given = [*ids[:3], BOS, *ids[3:]]
    ranks = demo.search(ids=given, rank_bos=True, by_token=True, limit=3)
    assert [row.position for row in ranks.token_results] == list(range(len(given) + 1))
    assert set(ranks.token_results[4].matches) == {saeserve.Match.UNKNOWN}
    shown = demo.search(ids=given, include_bos=True, by_token=True, limit=3)
    assert [row.position for row in shown.token_results] == [1, 2, 3, 5, 6, 7, 8]
    sorted_by = demo.search(ids=given, rank_bos=True, sort=3, limit=3)
    assert [str(hit.name) for hit in sorted_by] == [str(one.name) for one in ranks.token_results[4].features]


def test_relative_to_the_index_and_in_bits_it_is_measured_by_text_tokens(demo: saeserve.Client, rows: Rows) -> None:
    for hit in demo.search(RED, rank_bos=True, ranking="relative", limit=50):
        on = rows[hit.name.source][:, hit.name.index]
        assert hit.value == pytest.approx(on.max() / hit.feature.index_max_activation, rel=1e-4)
    index = demo.server_info().index
    found = demo.search(RED, rank_bos=True, sort_bos=True, ranking="surprisal", limit=50)
    for hit in found:
        assert hit.value == pytest.approx(np.log2(index.tokens / hit.tokens_at_least), abs=1e-3)
        assert hit.beyond_index == (hit.activations[0] > hit.feature.index_max_activation)
    assert any(hit.beyond_index for hit in found)


def test_kept_rows_answer_as_the_worker_does(demo: saeserve.Client, uncached: saeserve.Client) -> None:
    text = "A text of whose rows the first is asked for at the second time."
    demo.search(text, limit=1)
    first = demo.search(text, rank_bos=True, limit=30)  # its row was not kept
    assert first.call_info.cache is saeserve.Cache.NONE
    again = demo.search(text, rank_bos=True, sort_bos=True, limit=30)
    assert again.call_info.cache is saeserve.Cache.INNER
    for found, options in ((first, {}), (again, {"sort_bos": True})):
        anew = uncached.search(text, rank_bos=True, limit=30, **options)
        assert [hit.value for hit in found] == pytest.approx([hit.value for hit in anew], abs=1e-3)
        assert [hit.max_position for hit in found[:3]] == [hit.max_position for hit in anew[:3]]


@pytest.mark.parametrize(
    "changes",
    [
        {"sort_tokens": [{"bos": True}]},
        {"sort_tokens": [{"bos": True}], "include_bos": True},
        {"sort_tokens": [{"bos": False}], "rank_bos": True},
    ],
)
def test_a_bos_that_does_not_rank_is_no_sort_token(stub: FeatureServiceStub, changes: dict[str, Any]) -> None:
    request = service.SearchRequest(input=text_input(RED), **changes)
    refusal = refused(lambda: stub.Search(request, timeout=TIMEOUT))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert list(refusal.fields) == ["sort_tokens[0].bos"]
