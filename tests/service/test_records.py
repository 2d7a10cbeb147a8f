"""TopActivations: records that say for how many they stand, and other groups than the strongest."""

from __future__ import annotations

from collections import Counter

import grpc
import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.service.wire import TIMEOUT

FEATURE = "0-DEMO:1633"
LEVELS = ["none", "token", "folded-token", "phrase", "sentence", "text", "semantic"]
BY_OVERLAP = ["phrase", "sentence", "text", "semantic"]


def key(record: saeserve.Record) -> tuple[int, int, int]:
    return record.text_index, record.text_position, record.max_position


def on(record: saeserve.Record) -> str:
    return record.tokens[record.max_position].piece.decode(errors="replace").strip().casefold()


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_shown_at_a_level_is_a_choice_of_the_records_in_their_order(demo: saeserve.Client, level: str) -> None:
    every = [key(record) for record in demo.iter_top_activations(FEATURE, page_size=100)]
    shown = [key(record) for record in demo.iter_top_activations(FEATURE, diversity=level, page_size=3)]  # type: ignore[arg-type]
    assert shown[0] == every[0]
    assert [one for one in every if one in set(shown)] == shown
    again = [key(record) for record in demo.iter_top_activations(FEATURE, diversity=level, page_size=100)]  # type: ignore[arg-type]
    assert again == shown


def test_by_token_every_block_of_the_index_is_counted(demo: saeserve.Client) -> None:
    shown = list(demo.iter_top_activations(FEATURE, diversity="token"))
    pieces = [record.tokens[record.max_position].piece for record in shown]
    assert len(set(pieces)) == len(pieces)
    kept = Counter(
        record.tokens[record.max_position].piece for record in demo.iter_top_activations(FEATURE, page_size=100)
    )
    assert set(kept) == set(pieces)
    for record, piece in zip(shown, pieces, strict=True):
        assert not record.is_lower_bound
        assert record.stands_for >= kept[piece]
        assert record.least_activation <= record.most_activation == pytest.approx(record.max_activation)
        assert len(record.examples) == min(3, kept[piece] - 1)
        assert all(piece.decode() in example.text for example in record.examples)
    assert sum(record.stands_for for record in shown) <= demo.top_activations(FEATURE).statistics.blocks


def test_at_other_levels_every_kept_record_is_counted_once_as_a_lower_bound(demo: saeserve.Client) -> None:
    every = list(demo.iter_top_activations(FEATURE, page_size=100))
    assert len(every) < demo.top_activations(FEATURE).statistics.blocks
    for level in BY_OVERLAP:
        shown = list(demo.iter_top_activations(FEATURE, diversity=level, threshold=0.1))  # type: ignore[arg-type]
        assert sum(record.stands_for for record in shown) == len(every)
        assert all(record.is_lower_bound for record in shown)
        assert all(record.least_activation <= record.max_activation == record.most_activation for record in shown)
        assert all(example.activation <= record.max_activation for record in shown for example in record.examples)


def test_a_lower_threshold_shows_no_more(demo: saeserve.Client) -> None:
    for level in BY_OVERLAP:
        counts = [
            len(list(demo.iter_top_activations(FEATURE, diversity=level, threshold=threshold, page_size=100)))  # type: ignore[arg-type]
            for threshold in (0.01, 1.0)
        ]
        assert counts[0] <= counts[1]
    tokens = len(list(demo.iter_top_activations(FEATURE, diversity="folded-token")))
    for level in ("phrase", "sentence"):  # the peak token is in every n-gram set: any overlap folds
        assert len(list(demo.iter_top_activations(FEATURE, diversity=level, threshold=1e-9))) == tokens  # type: ignore[arg-type]


def test_latents_that_are_active_at_the_peak_are_told_the_strongest_first(demo: saeserve.Client) -> None:
    record = demo.top_activations(FEATURE, page_size=1)[0]
    assert saeserve.FeatureName.parse(FEATURE).index in record.active_features
    assert 1 <= len(record.active_features) <= 16
    assert len(set(record.active_features)) == len(record.active_features)
    assert demo.top_activations("0:52", page_size=1)[0].active_features == ()


def test_quantile_groups_cover_all_blocks_by_weight(demo: saeserve.Client) -> None:
    sample = list(demo.iter_top_activations(FEATURE, group="quantiles", page_size=2))
    values = [record.max_activation for record in sample]
    assert values == sorted(values, reverse=True)
    assert sum(record.stands_for for record in sample) == pytest.approx(demo.top_activations(FEATURE).statistics.blocks)
    for record in sample:
        assert record.least_activation <= record.max_activation <= record.most_activation
    drawn = list(demo.iter_top_activations(FEATURE, group="random", page_size=2))
    assert sorted(map(key, drawn)) == sorted(map(key, sample))
    assert [key(one) for one in demo.iter_top_activations(FEATURE, group="random", page_size=100)] == [*map(key, drawn)]


def test_at_a_near_miss_it_does_not_fire_on_a_token_that_it_usually_fires_on(demo: saeserve.Client) -> None:
    seen = 0
    for index in range(1600, 1650):
        answer = demo.top_activations(("0-demo", index), group="near-misses", page_size=100)
        usual = {usual.token.piece for usual in answer.feature.usual_tokens}
        for record in answer:
            seen += 1
            assert record.activations[record.max_position] == 0
            assert record.tokens[record.max_position].piece in usual
            assert record.stands_for == 1
    assert seen


def request(**changes: object) -> service.TopActivationsRequest:
    feature = types.FeatureId(source="0-demo", index=1633)
    return service.TopActivationsRequest(**({"feature": feature} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"group": 9}, "group"),
        ({"diversity": 9}, "diversity"),
        ({"origin": 9}, "origin"),
        ({"threshold": 0.5}, "threshold"),
        ({"threshold": 0.5, "diversity": types.DIVERSITY_TOKEN}, "threshold"),
        *[({"threshold": t, "diversity": types.DIVERSITY_PHRASE}, "threshold") for t in (0, -0.1, 1.1, float("nan"))],
        *[
            ({"group": group, "diversity": types.DIVERSITY_TOKEN}, "diversity")
            for group in (types.RECORD_GROUP_QUANTILES, types.RECORD_GROUP_RANDOM, types.RECORD_GROUP_NEAR_MISSES)
        ],
        ({"feature": types.FeatureId(source="0", index=52), "diversity": types.DIVERSITY_SEMANTIC}, "diversity"),
    ],
)
def test_what_cannot_be_meant_is_refused(stub: FeatureServiceStub, changes: dict[str, object], field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.TopActivations(request(**changes), timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(f"{field}: ")


def test_a_page_token_belongs_to_what_was_asked(demo: saeserve.Client) -> None:
    asked = {"diversity": "phrase", "threshold": 0.9}
    token = demo.top_activations(FEATURE, page_size=1, **asked).next_page_token  # type: ignore[arg-type]
    assert demo.top_activations(FEATURE, page_size=1, page_token=token, **asked).records  # type: ignore[arg-type]
    others: list[dict[str, object]] = [
        {},
        {"diversity": "phrase"},
        {"diversity": "sentence", "threshold": 0.9},
        {"group": "quantiles"},
    ]
    for other in others:
        with pytest.raises(saeserve.InvalidArgument) as caught:
            demo.top_activations(FEATURE, page_token=token, **other)  # type: ignore[arg-type]
        assert caught.value.reason == "INVALID_PAGE_TOKEN"


def test_names_of_groups_levels_and_origins_are_checked_before_anything_is_sent(demo: saeserve.Client) -> None:
    for wrong in ({"group": "best"}, {"diversity": "words"}, {"origin": "here"}):
        with pytest.raises(ValueError, match="is none of"):
            demo.top_activations(FEATURE, **wrong)  # type: ignore[arg-type]
