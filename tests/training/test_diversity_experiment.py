"""The experiment on planted features measures what it says."""

from __future__ import annotations

import numpy as np

from experiments.diversity import KEPT, KINDS, MODES, SHOWN, measure, plant, ways


def test_no_choice_among_the_kept_records_shows_more_than_they_hold() -> None:
    table = measure(2, seed=3)
    kept = table[f"kept ({KEPT})"]
    assert len(kept) == len(KINDS) * len(MODES)
    for name, shares in table.items():
        if name.startswith(("top", "diversity")):
            assert all(share <= most for share, most in zip(shares, kept, strict=True)), name
    assert measure(2, seed=3) == table


def test_every_way_chooses_at_most_so_many_records() -> None:
    planted = plant("words", 4, np.random.default_rng(0))
    for name, choose in ways().items():
        assert 1 <= len(choose(planted)) <= (KEPT if name.startswith("kept") else SHOWN)
