"""Bounds of screened cosines: whatever the directions are, the exact ones lie within."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeserve_server.kernels.cosines import Cosines, points_of, product_for


@settings(max_examples=40)
@given(
    count=st.integers(1, 40),
    width=st.integers(1, 130),
    spread=st.sampled_from([0.0, 1.0, 6.0]),
    scale=st.sampled_from([1e-12, 1.0, 1e9]),
    parts=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_exact_cosines_lie_within_what_screening_says(
    count: int, width: int, spread: float, scale: float, parts: int, seed: int
) -> None:
    """With columns of any size, rows of 0, and directions that are known only so far."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(count, width)) * np.exp(spread * generator.normal(size=width)) * scale
    rows[generator.random(count) < 0.1] = 0
    given_rows = rows.astype(np.float32)
    norms = np.linalg.norm(given_rows.astype(np.float64), axis=1)
    off_by = generator.normal(size=rows.shape)
    off_by *= (norms * generator.choice([0, 0.01], count) / np.linalg.norm(off_by, axis=1))[:, None]
    product = product_for(width)
    assert product is not None
    cosines = Cosines(count, width, product)
    for first, end in zip(
        *(lambda cuts: (cuts[:-1], cuts[1:]))(np.linspace(0, count, parts + 1).astype(int)), strict=True
    ):
        here = slice(first, end)
        cosines.add(int(first), given_rows[here], norms[here], np.linalg.norm(off_by[here], axis=1))
    cosines.finish()
    x = generator.normal(size=(3, width))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    about, off = cosines.screen(points_of(x, product))
    exact = x.astype(np.float64) @ ((given_rows + off_by) / np.where(norms > 0, norms, 1)[:, None]).T
    assert (np.abs(exact - about) <= off).all()
    assert (off[:, norms == 0] <= 1e-6).all()


def test_nothing_is_screened_before_all_is_in() -> None:
    product = product_for(8)
    assert product is not None
    with pytest.raises(RuntimeError, match="not all in"):
        Cosines(4, 8, product).screen(points_of(np.ones((1, 8), np.float32), product))
