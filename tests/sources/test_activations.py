"""The nonlinearities by themselves: where the bar lies, and which of equal values fires."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.sources.activations import Activation, Gated, GroupMax, JumpReLU, ReLU, TopK, check_activation

D_SAE = 12

numbers = st.floats(-4, 4, width=32).map(lambda value: round(value * 2) / 2)  # few values, so that many are equal
rows = st.lists(st.lists(numbers, min_size=D_SAE, max_size=D_SAE), min_size=1, max_size=4).map(torch.tensor)


def gated() -> Gated:
    generator = torch.Generator().manual_seed(3)
    return Gated(*(torch.randn(D_SAE, generator=generator) for _ in range(3)))


def all_of_them() -> list[Activation]:
    return [ReLU(), JumpReLU(torch.linspace(-1, 2, D_SAE)), gated(), TopK(3), TopK(D_SAE), GroupMax(4), GroupMax(1)]


def plain(activation: Activation, p: Tensor) -> np.ndarray:
    """Activations, one row and latent after another."""
    a = np.zeros(p.shape, dtype=np.float32)
    for row, values in enumerate(p.double().numpy()):
        for latent, value in enumerate(values):
            match activation:
                case ReLU():
                    fires, given = value > 0, value
                case JumpReLU(threshold):
                    fires, given = value > max(threshold[latent].item(), 0), value
                case Gated(b_gate, b_mag, r_mag):
                    given = value * np.exp(r_mag[latent].item()) + b_mag[latent].item()
                    fires = value + b_gate[latent].item() > 0
                case TopK(k):
                    before = sum(other > value or (other == value and at < latent) for at, other in enumerate(values))
                    fires, given = before < k, value
                case GroupMax(groups):
                    size = len(values) // groups
                    first = latent // size * size
                    group = values[first : first + size]
                    fires, given = latent == first + int(np.argmax(group)), value
            a[row, latent] = max(given, 0) if fires else 0
    return a


@settings(max_examples=80)
@given(p=rows, which=st.integers(0, len(all_of_them()) - 1))
def test_each_gives_what_its_definition_says_of_equal_values_the_lower_index(p: Tensor, which: int) -> None:
    activation = all_of_them()[which]
    assert np.allclose(activation.apply(p.clone()).numpy(), plain(activation, p), atol=1e-5)


@settings(max_examples=80)
@given(p=rows, which=st.integers(0, len(all_of_them()) - 1))
def test_what_is_over_the_bar_fires_and_what_is_under_it_does_not(p: Tensor, which: int) -> None:
    activation = all_of_them()[which]
    bar, a = activation.bar(p), activation.apply(p.clone())
    clear = (p - bar).abs() > 1e-5
    if not isinstance(activation, TopK | GroupMax):  # there, the largest themselves lie on the bar
        assert ((a > 0) == (p > bar))[clear].all()
    assert (a[p < bar - 1e-5] == 0).all()
    margins = activation.margins(p)
    assert ((margins > 0) == (a > 0))[margins.abs() > 1e-5].all()


def test_of_many_equal_values_topk_takes_the_lowest_indices() -> None:
    p = torch.ones(3, 4096)
    p[1, 4000] = 2.0
    p[2] = -1.0
    a = TopK(8).apply(p)
    assert a[0].nonzero().squeeze(1).tolist() == [*range(8)]
    assert a[1].nonzero().squeeze(1).tolist() == [*range(7), 4000]
    assert not a[2].any()


def test_of_equal_values_of_a_group_the_first_is_its_largest() -> None:
    a = GroupMax(2).apply(torch.tensor([[1.0, 3.0, 3.0, -1.0, -2.0, -1.0]]))
    assert a.tolist() == [[0.0, 3.0, 0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("activation", all_of_them(), ids=lambda one: one.name)
def test_a_row_with_nan_gives_nan_and_leaves_the_others_alone(activation: Activation) -> None:
    p = torch.randn(3, D_SAE)
    expected = activation.apply(p.clone())
    p[1, 5] = torch.nan
    a = activation.apply(p.clone())
    assert a[1].isnan().any()
    assert torch.equal(a[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (TopK(0), "k: expected 1 to 12"),
        (TopK(13), "k: expected 1 to 12"),
        (GroupMax(5), "k: expected a number of groups that divides 12 latents, got 5"),
        (GroupMax(0), "k: expected a number of groups"),
    ],
)
def test_numbers_of_latents_that_cannot_be_are_refused(activation: Activation, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_activation(activation, D_SAE)


def test_scaling_is_refused_where_other_latents_would_fire() -> None:
    for activation in (TopK(3), GroupMax(4)):
        with pytest.raises(ConfigError, match="fold_decoder_norm: expected false"):
            activation.scaled(torch.ones(D_SAE))
