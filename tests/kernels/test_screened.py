"""The kernel that screens gives what float64 gives but for float32's rounding, on inputs made to trip it."""

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saeserve_server.errors import ConfigError
from saeserve_server.kernels import screened
from saeserve_server.kernels.products import ExactProduct, Fbgemm, OnnxRuntime
from saeserve_server.kernels.screened import ScreenedKernel
from saeserve_server.rows import Csr
from saeserve_server.sources.activations import Activation, Gated, GroupMax, JumpReLU, ReLU, TopK
from saeserve_server.sources.plain import PlainKernel
from saeserve_server.sources.sae import Sae, fold_decoder_norm
from tests.kernels import made
from tests.kernels.made import dense, wrongly
from tests.sources.test_golden import GOLDEN, SERVED, expected, load

LACKS_ONNX = importlib.util.find_spec("onnxruntime") is None
PRODUCTS = [Fbgemm, pytest.param(OnnxRuntime, marks=pytest.mark.skipif(LACKS_ONNX, reason="the extra cpu is missing"))]


def sae_of(activation: Activation, d_in: int = 48, d_sae: int = 320, seed: int = 0) -> Sae:
    generator = torch.Generator().manual_seed(seed)
    return Sae(
        W_enc=torch.randn(d_sae, d_in, generator=generator),
        b_enc=torch.randn(d_sae, generator=generator) - 8,
        activation=activation,
    )


@settings(max_examples=150, deadline=None)
@given(
    weights=st.sampled_from(made.WEIGHTS),
    inputs=st.sampled_from(made.INPUTS),
    bias=st.sampled_from(made.BIASES),
    activation=st.sampled_from(made.ACTIVATIONS),
    steps=st.sampled_from(made.STEPS),
    norms=st.sampled_from(["none", "rescale", "fold"]),
    fitted=st.booleans(),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 160), st.integers(1, 200)),
    seed=st.integers(0, 2**32 - 1),
)
def test_only_what_lies_within_rounding_of_the_bar_may_differ(
    weights: str,
    inputs: str,
    bias: str,
    activation: str,
    steps: str,
    norms: str,
    fitted: bool,
    shape: tuple[int, int, int],
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    rows, d_sae, d_in = shape
    x = made.make_inputs(inputs, rows, d_in, generator)
    sae = Sae(
        W_enc=torch.from_numpy(made.make_weights(weights, d_sae, d_in, generator)),
        b_enc=torch.zeros(d_sae),
        decoder_norm=torch.from_numpy(generator.choice([0, 0.3, 1, 4], d_sae).astype(np.float32)),
        steps=made.make_steps(steps, d_in, generator),
        activation=made.make_activation(activation, d_sae, generator),
        rescale=norms == "rescale",
    )
    if norms == "fold" and not isinstance(sae.activation, TopK | GroupMax):
        sae = fold_decoder_norm(sae)
    sae = made.make_bias(bias, sae, x, generator)
    kernel = ScreenedKernel(sae, Fbgemm, x if fitted else None)
    assert not wrongly(sae, x, dense(kernel.rows(x))).any()


ACTIVATIONS = [
    ReLU(),
    JumpReLU(torch.linspace(0, 6, 320)),
    Gated(torch.linspace(-9, -4, 320), torch.linspace(-9, -4, 320), torch.linspace(-1, 1, 320)),
    TopK(7),
    GroupMax(32),
]


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda one: one.name)
def test_a_row_has_the_same_bits_whatever_else_is_in_the_batch(
    activation: Activation, product: type[ExactProduct], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screened, "BLOCK_ELEMENTS", 37 * 320)
    monkeypatch.setattr(screened, "GROUP_ELEMENTS", 90 * 320)
    sae = sae_of(activation)
    x = 3 * torch.randn(200, 48, generator=torch.Generator().manual_seed(1))
    kernel = ScreenedKernel(sae, product, x)
    together = dense(kernel.rows(x))
    assert 0 < (together > 0).mean() < 0.5
    for size in (1, 3, 50):
        parts = [dense(kernel.rows(part)) for part in x.split(size)]
        assert np.array_equal(np.concatenate(parts), together)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    assert np.array_equal(dense(kernel.rows(x[order])), together[order])


@pytest.mark.parametrize("entry", SERVED, ids=lambda entry: entry["name"])
def test_published_saes_give_what_their_own_code_gives(entry: dict) -> None:
    x = torch.from_numpy(np.load(GOLDEN / "inputs.npz")[entry["hook"].removeprefix("blocks.2.")])
    acts = expected(entry)
    ours = dense(ScreenedKernel(load(entry), sample=x).rows(x))
    assert np.abs(ours - acts).max() <= 1e-5 * acts.max()
    assert ((ours > 0) == (acts > 0)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda one: one.name)
def test_nan_in_an_activation_is_an_error(activation: Activation) -> None:
    x = torch.randn(5, 48)
    x[3, 7] = torch.nan
    kernel = ScreenedKernel(sae_of(activation), sample=x[:2])
    with pytest.raises(FloatingPointError, match="hold NaN"):
        kernel.rows(x)


def test_an_infinite_input_does_what_it_does_to_the_plain_way() -> None:
    x = torch.randn(3, 48)
    x[1, 7] = torch.inf
    sae = sae_of(ReLU())
    ours, plain = dense(ScreenedKernel(sae).rows(x)), dense(PlainKernel(sae).rows(x))
    assert np.isinf(ours).any()
    assert np.array_equal(np.isinf(ours), np.isinf(plain))


def test_what_overflows_is_left_to_float32() -> None:
    sae = Sae(W_enc=torch.full((4, 2), 1e20), b_enc=torch.full((4,), -1e30))
    kernel = ScreenedKernel(sae)
    assert np.array_equal(dense(kernel.rows(torch.tensor([[1e20, 1e20]]))), np.full((1, 4), np.inf))
    assert kernel.seen.candidates == 4
    kernel.rows(torch.tensor([[1e20, -1e20]]))
    assert kernel.seen.candidates == 8


def test_where_most_latents_fire_rows_are_dense() -> None:
    sae = sae_of(ReLU())
    x = torch.randn(4, 48)
    rows = ScreenedKernel(Sae(W_enc=sae.W_enc, b_enc=torch.full((320,), 90.0))).rows(x)
    assert not isinstance(rows, Csr)
    assert rows.shape == (4, 320)


def test_no_rows_give_no_rows() -> None:
    rows = ScreenedKernel(sae_of(ReLU())).rows(torch.empty(0, 48))
    assert dense(rows).shape == (0, 320)


def test_latents_that_cannot_fire_are_never_computed() -> None:
    """Dead ones, of which weights and bias are 0, and all others on a row of zeros, if biases are 0 at most."""
    W_enc = torch.randn(320, 48)
    W_enc[::2] = 0
    kernel = ScreenedKernel(Sae(W_enc=W_enc, b_enc=torch.zeros(320)))
    kernel.rows(torch.randn(8, 48))
    assert 0 < kernel.seen.candidates <= 8 * 160
    before = kernel.seen.candidates
    kernel.rows(torch.zeros(8, 48))
    assert kernel.seen.candidates == before


def test_candidates_are_counted() -> None:
    kernel = ScreenedKernel(sae_of(ReLU()))
    fired = (dense(kernel.rows(4 * torch.randn(50, 48))) > 0).sum()
    assert kernel.seen.values == 50 * 320
    assert kernel.seen.entries == fired
    assert fired < kernel.seen.candidates < 4 * fired
    assert kernel.seen.candidate_share == kernel.seen.candidates / 16000


def test_columns_that_are_unlike_cost_little_once_they_are_equalised() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(300, 256, generator=generator) * torch.randn(256, generator=generator).mul(1.5).exp()
    sae = sae_of(TopK(10), d_in=256)
    fitted, unfitted = ScreenedKernel(sae, sample=x[:100]), ScreenedKernel(sae)
    assert np.array_equal(dense(fitted.rows(x)), dense(unfitted.rows(x)))
    ours, others = (kernel.seen.candidates - kernel.seen.entries for kernel in (fitted, unfitted))
    assert ours < others / 2


def test_half_precision_is_left_to_the_plain_way() -> None:
    with pytest.raises(ConfigError, match="W_enc: expected float32"):
        ScreenedKernel(sae_of(ReLU()).stored_as(torch.bfloat16))
