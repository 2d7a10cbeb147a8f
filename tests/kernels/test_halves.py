"""Screening in bfloat16, by torch's own operations: nothing that fires is missed, and the device is waited for once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from saeserve_server.errors import ConfigError
from saeserve_server.kernels import cuda, ways
from saeserve_server.kernels.bounds import gamma
from saeserve_server.kernels.cuda import HalfKernel, fitted, rows_many
from saeserve_server.rows import Csr
from saeserve_server.sources.activations import JumpReLU, ReLU
from saeserve_server.sources.plain import PlainKernel
from saeserve_server.sources.sae import Sae, fold_decoder_norm
from tests.kernels.halves import ACTIVATIONS, entries, hard_rows, hard_sae


def everything(kernel: HalfKernel, x: Tensor) -> dict[tuple[int, int], float]:
    """What fires where every latent is computed by the product that decides, and none is left out."""
    sae = kernel._sae
    inputs = sae.inputs(x)
    row, index = torch.meshgrid(torch.arange(len(x)), torch.arange(sae.d_sae), indexing="ij")
    products = kernel._rescored(inputs, row.flatten(), index.flatten(), torch.tensor(row.numel()))
    a = sae.activation.apply(sae.rescaled(products.view(len(x), -1) + sae.b_enc))
    places = a.nonzero()
    return dict(zip(map(tuple, places.tolist()), a[*places.t()].tolist(), strict=True))


def differs(found: dict[tuple[int, int], float], expected: dict[tuple[int, int], float]) -> bool:
    return found.keys() != expected.keys() or any(
        not math.isclose(found[at], value, rel_tol=1e-6, abs_tol=1e-12) for at, value in expected.items()
    )


@settings(max_examples=60)
@given(st.sampled_from(ACTIVATIONS), st.integers(0, 10**6), st.booleans())
def test_screening_leaves_out_nothing_that_the_deciding_product_lets_fire(
    activation: str, seed: int, rescale: bool
) -> None:
    kernel = HalfKernel(hard_sae(activation, seed, rescale=rescale))
    x = hard_rows(seed)
    expected = everything(kernel, x)
    assert not differs(entries(kernel.rows(x)), expected)
    assert kernel.overflows == 0
    assert kernel.seen.candidates < kernel.seen.values


@settings(max_examples=30)
@given(st.sampled_from(["relu", "jumprelu"]), st.integers(0, 10**6))
def test_what_fires_is_what_float64_says_but_within_float32_s_rounding_of_the_bar(activation: str, seed: int) -> None:
    sae, x = hard_sae(activation, seed), hard_rows(seed)
    found = entries(HalfKernel(sae).rows(x))
    inputs, W_enc = sae.inputs(x).double(), sae.W_enc.double()
    p = inputs @ W_enc.t() + sae.b_enc.double()
    rounding = gamma(sae.d_in + 2) * (inputs.abs() @ W_enc.abs().t() + sae.b_enc.abs())
    bar = sae.activation.threshold.double() if isinstance(sae.activation, JumpReLU) else torch.zeros(sae.d_sae)
    fires, values = torch.zeros(p.shape, dtype=torch.bool), torch.zeros_like(p)
    for place, value in found.items():
        fires[place], values[place] = True, value
    surely = (p - bar).abs() > rounding
    assert torch.equal(fires[surely], (p > bar)[surely])
    assert ((values - p).abs()[fires] <= rounding[fires] + 1e-38).all()


def near_the_bar(seed: int, sign: float = 1.0) -> tuple[Sae, Tensor]:
    """One row, on which every latent's pre-activation is float32's least step over the bar, or under it."""
    draw = torch.Generator().manual_seed(seed)
    W_enc, x = torch.randn(4096, 64, generator=draw), torch.randn(1, 64, generator=draw)
    products = (W_enc * x).sum(dim=1)
    return Sae(W_enc, -products + sign * products.abs() * 2.0**-22), x


def test_a_bound_that_is_loosened_misses_some_and_the_bound_none() -> None:
    sae, x = near_the_bar(3)
    kernel = HalfKernel(sae)
    kernel._capacity = 10**6
    expected = everything(kernel, x)
    assert len(expected) > 4000
    assert not differs(entries(kernel.rows(x)), expected)
    latents = kernel._latents
    for share in (0.0, 0.1):
        kernel._latents = replace(latents, norm=latents.norm * share, error=latents.error * share)
        assert entries(kernel.rows(x)).keys() < expected.keys()


def test_what_is_surely_out_is_left_out() -> None:
    draw = torch.Generator().manual_seed(0)
    sae = Sae(torch.randn(8192, 256, generator=draw) / 16, torch.full((8192,), -2.7))
    kernel = HalfKernel(sae)
    kernel.rows(torch.randn(64, 256, generator=draw))
    assert kernel.seen.entries > 500
    assert kernel.seen.candidates < 1.5 * kernel.seen.entries
    assert kernel.seen.candidate_share == kernel.seen.candidates / (64 * 8192)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_are_kept_in_half_precision_are_screened_as_they_are_kept(dtype: torch.dtype) -> None:
    sae = replace(hard_sae("relu", 2), W_enc=torch.randn(240, 48)).stored_as(dtype)
    kernel, x = HalfKernel(sae), hard_rows(2)
    assert (kernel._latents.W.data_ptr() == sae.W_enc.data_ptr()) == (dtype == torch.bfloat16)
    assert not differs(entries(kernel.rows(x)), everything(kernel, x))


def test_folded_norms_and_plain_rows_agree() -> None:
    sae, x = fold_decoder_norm(hard_sae("jumprelu", 4)), hard_rows(4).clamp(-3, 3)
    ours, plain = entries(HalfKernel(sae).rows(x)), entries(PlainKernel(sae).rows(x))
    assert ours.keys() == plain.keys()


# What does not fit, and what is not finite


def test_where_a_buffer_was_too_small_the_plain_way_answers_and_the_next_is_larger() -> None:
    sae, x = hard_sae("relu", 6, d_sae=4096), hard_rows(6, rows=40)
    kernel = HalfKernel(sae)
    expected = entries(PlainKernel(sae).rows(x))
    overflows = []
    for _ in range(6):
        assert entries(kernel.rows(x)).keys() == expected.keys()
        overflows.append(kernel.overflows)
    assert overflows[0] == 1
    assert 1 < overflows[-1] == overflows[-2]  # it has grown to what is wanted


def test_more_than_half_is_given_dense() -> None:
    sae = Sae(torch.eye(8), torch.ones(8))
    rows = HalfKernel(sae).rows(torch.zeros(3, 8))
    assert isinstance(rows, np.ndarray)
    assert rows.tolist() == [[1.0] * 8] * 3


def test_no_rows_and_rows_of_nothing() -> None:
    sae = Sae(torch.eye(8), -torch.ones(8))
    for count in (0, 2):
        rows = HalfKernel(sae).rows(torch.zeros(count, 8))
        assert isinstance(rows, Csr)
        assert (rows.indptr.tolist(), rows.columns, len(rows.data)) == ([0] * (count + 1), 8, 0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_is_refused(activation: str) -> None:
    x = hard_rows(1)
    x[3, 5] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN"):
        HalfKernel(hard_sae(activation, 1)).rows(x)


@pytest.mark.parametrize("largest", [1e37, 3.4e38])
def test_rows_near_the_end_of_the_range_are_computed_exactly(largest: float) -> None:
    sae = Sae(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * 1e-38, torch.full((64,), -0.5))
    x = torch.zeros(1, 8)
    x[0, 0] = largest
    kernel = HalfKernel(sae)
    assert not differs(entries(kernel.rows(x)), everything(kernel, x))
    assert kernel.seen.candidates == 64


def test_an_sae_too_wide_for_the_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match="d_in: expected at most 65536, got 65537"):
        HalfKernel(Sae(torch.zeros(1, 2**16 + 1), torch.zeros(1)))


# Tried before it is used


def test_a_kernel_is_tried_and_without_loops_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(cuda.triton_loops, "is_there", lambda weights: True)
    monkeypatch.setattr(cuda.triton_loops, "load", broken)
    kernel = fitted(hard_sae("jumprelu", 2), hard_rows(2))
    assert kernel._loops is None
    assert kernel.seen.values == 0


def test_one_that_is_wrong_is_refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    right = HalfKernel.finish

    def wrong(kernel: HalfKernel, *parts: Any) -> Any:
        rows = right(kernel, *parts)
        return rows * np.float32(1.1) if isinstance(rows, np.ndarray) else replace(rows, data=rows.data * 1.1)

    monkeypatch.setattr(HalfKernel, "finish", wrong)
    with pytest.raises(ConfigError, match="fails or is wrong on this device"):
        fitted(hard_sae("relu", 2), hard_rows(2))
    assert "of what fires differs" in caplog.text


def test_it_is_for_gpus_only() -> None:
    assert ways.build("cuda-bf16", hard_sae("relu", 2), hard_rows(2)) is None


# Waiting for the device


class Waiting(TorchDispatchMode):
    """Fails at what waits for a GPU: numbers read, and shapes that follow from values."""

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique2", "item"), name
        if name in ("index", "index_put"):
            assert all(one is None or one.dtype != torch.bool for one in args[1]), "a mask"
        if name == "repeat_interleave":
            raise AssertionError(name)
        return func(*args, **(kwargs or {}))


def test_what_is_looked_for_is_found() -> None:
    with Waiting(), pytest.raises(AssertionError, match="nonzero"):
        torch.ones(3).nonzero()
    with Waiting(), pytest.raises(AssertionError, match="mask"):
        torch.ones(3)[torch.ones(3) > 0]
    with Waiting(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(3).sum().item()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_source_is_begun_without_waiting_for_the_device(activation: str) -> None:
    kernel = HalfKernel(hard_sae(activation, 8, rescale=True))
    with Waiting():
        kernel.begin(hard_rows(8))


def test_three_copies_come_back_however_many_sources_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    monkeypatch.setattr(cuda, "_to_host", lambda tensor: copies.append(tensor.numel()) or tensor.cpu())
    asked = [
        (HalfKernel(hard_sae(activation, seed)), hard_rows(seed, rows=5 + seed))
        for seed in range(4)
        for activation in ACTIVATIONS
    ]
    together = rows_many(asked)
    assert len(copies) == 3
    assert [entries(one) for one in together] == [entries(kernel.rows(x)) for kernel, x in asked]
    assert rows_many([]) == []
    assert isinstance(HalfKernel(Sae(torch.eye(4), torch.zeros(4), activation=ReLU())).rows(torch.eye(4)), Csr)
