"""Integer products are exact, or their kernels refuse themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saeserve_server.errors import ConfigError
from saeserve_server.kernels.products import ExactProduct, Fbgemm, exact, exact_levels
from saeserve_server.kernels.screened import ScreenedKernel
from saeserve_server.sources.sae import Sae
from tests.kernels.test_screened import PRODUCTS


class Cutting(Fbgemm):
    """As a CPU cuts sums of two products of bytes that do not fit into 16 bits."""

    name = "cutting"
    largest = 2**15 - 1

    def __init__(self, weights: np.ndarray, row_levels: int) -> None:
        self._w, self._zero = weights.astype(np.int64), row_levels

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        odd = [(0, 0), (0, rows.shape[1] % 2)]
        u, w = np.pad(rows.astype(np.int64) + self._zero, odd), np.pad(self._w, odd)
        pairs = u[:, None] * w
        sums = np.clip(pairs[..., ::2] + pairs[..., 1::2], -self.largest - 1, self.largest)
        return (sums.sum(axis=-1) - self._zero * self._w.sum(axis=1)).astype(np.float32)


@pytest.mark.parametrize("product", PRODUCTS)
@settings(max_examples=25, deadline=None)
@given(shape=st.tuples(st.integers(1, 50), st.integers(1, 80), st.integers(1, 300)), seed=st.integers(0, 999))
def test_products_are_exact_up_to_the_levels_that_a_kernel_is_given(
    product: type[ExactProduct], shape: tuple[int, int, int], seed: int
) -> None:
    rows, latents, d_in = shape
    generator = np.random.default_rng(seed)
    for row_levels, weight_levels in exact_levels(product):
        w = generator.integers(-weight_levels, weight_levels + 1, (latents, d_in)).astype(np.int8)
        x = generator.integers(-row_levels, row_levels + 1, (rows, d_in)).astype(np.int8)
        if seed % 2:  # the extremes
            w, x = np.where(w < 0, -weight_levels, weight_levels), np.where(x < 0, -row_levels, row_levels)
        found = product(w.astype(np.int8), row_levels)(x.astype(np.int8))
        assert np.array_equal(found, x.astype(np.int64) @ w.astype(np.int64).T)


def test_a_product_that_is_cut_is_given_fewer_levels() -> None:
    assert exact_levels(Cutting) == ((64, 127), (90, 91), (127, 64))
    assert not exact(Cutting, 127, 127)
    assert not exact(Cutting, 127, 65)


def test_a_product_that_is_cut_even_then_is_refused() -> None:
    class CutShort(Cutting):
        largest = 2**14

    with pytest.raises(ConfigError, match="product: expected an exact one"):
        ScreenedKernel(Sae(W_enc=torch.randn(8, 4), b_enc=torch.zeros(8)), CutShort)


def test_beyond_what_float32_holds_a_product_is_rounded_once() -> None:
    d_in = 5001
    row_levels, weight_levels = exact_levels(Fbgemm)[0]
    x, w = np.full((1, d_in), row_levels, dtype=np.int8), np.full((3, d_in), weight_levels, dtype=np.int8)
    w[0, 0] -= 1
    found = Fbgemm(w, row_levels)(x).astype(np.float64)
    exactly = x.astype(np.int64) @ w.astype(np.int64).T
    assert exactly.max() > 2**24
    assert (np.abs(found - exactly) <= exactly * 2.0**-24).all()
