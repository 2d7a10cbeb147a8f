"""Groups of records beside the strongest: what they stand for, and in which order they come."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from saeserve_server.records.groups import Group, grouped


@dataclass
class One:
    """A record, as far as groups read it."""

    max_activation: float
    weight: float
    text_index: int
    text_position: int = 0
    max_position: int = 0


@dataclass
class Index:
    sampled: list[One]
    missed: list[One]

    def maximum(self, source_id: str) -> Any:
        return np.array([0, 0, 0, 13.5], np.float32)

    def sample(self, source_id: str, index: int) -> Any:
        return list(self.sampled)

    def near_misses(self, source_id: str, index: int) -> Any:
        return list(self.missed)


SAMPLED = [One(12.0, 1.5, 4), One(9.0, 1.5, 2), One(3.0, 20.0, 7), One(2.5, 20.0, 1), One(0.75, 300.0, 3)]


def test_a_quantile_record_stands_for_its_share_of_its_power_of_two() -> None:
    found = grouped(Index(SAMPLED, []), "0-demo", 3, Group.QUANTILES)
    assert [one.record for one in found] == SAMPLED
    assert [one.stands_for for one in found] == [1.5, 1.5, 20, 20, 300]
    assert [(one.least, one.most) for one in found] == [(8, 13.5), (8, 13.5), (2, 4), (2, 4), (0.5, 1)]
    assert not any(one.is_lower_bound or one.others for one in found)


def test_random_is_the_same_sample_always_in_the_same_order() -> None:
    first, again = (grouped(Index(order, []), "0-demo", 3, Group.RANDOM) for order in (SAMPLED, SAMPLED[::-1]))
    assert [one.record for one in first] == [one.record for one in again]
    assert {id(one.record) for one in first} == {id(one) for one in SAMPLED}


def test_the_first_at_random_is_drawn_by_weight() -> None:
    """Over many features whose samples look alike: as often as it stands for blocks."""
    sample = [One(4.0, weight, text) for text, weight in enumerate((1.0, 2.0, 5.0, 12.0))]

    class Wide(Index):
        def maximum(self, source_id: str) -> Any:
            return np.full(4000, 4.0, np.float32)

    drawn = Counter(
        grouped(Wide(sample, []), "0-demo", index, Group.RANDOM)[0].record.text_index for index in range(4000)
    )
    assert chisquare([drawn[text] for text in range(4)], [200, 400, 1000, 2400]).pvalue > 0.001


def test_a_near_miss_stands_for_itself() -> None:
    missed = [One(0.0, 1.0, 5), One(2.0, 1.0, 6)]
    found = grouped(Index([], missed), "0-demo", 3, Group.NEAR_MISSES)
    assert [(one.record, one.stands_for, one.least, one.most) for one in found] == [
        (missed[0], 1, 0, 0),
        (missed[1], 1, 2, 2),
    ]


@pytest.mark.parametrize("group", [Group.QUANTILES, Group.RANDOM, Group.NEAR_MISSES])
def test_a_feature_without_records_has_none_in_any_group(group: Group) -> None:
    assert grouped(Index([], []), "0-demo", 3, group) == []
