"""Every term of the bound is needed: on inputs where it is all there is, less of it loses a latent that fires.

Each case is an SAE and a row that meet the bound as nearly as can be: rounding errors all on one side.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from saeserve_server.kernels import bounds, screened
from saeserve_server.kernels.compiled import Latents, Rows, dot
from saeserve_server.kernels.screened import ScreenedKernel
from saeserve_server.sources.activations import TopK
from saeserve_server.sources.sae import Sae
from tests.kernels.made import dense

Case = tuple[Sae, Tensor, list[int]]
"""An SAE, a row, and the latents that fire on it."""


def just_fires(W_enc: Tensor, x: Tensor) -> Case:
    """Biases with which the latents fire by 1e-6 of w·x."""
    p = (W_enc.double() @ x.double()).float()
    return Sae(W_enc=W_enc, b_enc=-p * (1 - 1e-6)), x[None], list(range(len(W_enc)))


def rows_are_rounded() -> Case:
    """Every number of x is rounded down by nearly half a step, and the weights are alike."""
    x = torch.arange(64) % 50 + 0.499
    x[0] = 64  # the largest: steps are 1
    return just_fires(torch.full((1, 64), 127.0), x)


def weights_are_rounded() -> Case:
    w = torch.arange(64) % 50 + 0.499
    w[0] = 127
    return just_fires(w[None], torch.full((64,), 64.0))


def sums_are_rounded() -> Case:
    """Nothing is lost to quantising, but the product that decides rounds each of its sums up."""
    best: tuple[float, Case] | None = None
    for exponent in range(12, 24):
        w = torch.full((4096,), 127 / 128)
        x = torch.full((4096,), (1 + 1.1 * 2.0**-exponent) * 128 / 127)
        p = dot(w.numpy(), x.numpy())
        over = float(p) / float(w.double() @ x.double()) - 1
        if best is None or over > best[0]:
            bias = torch.tensor([-np.nextafter(p, np.float32(0))])
            best = over, (Sae(W_enc=w[None], b_enc=bias), x[None], [0])
    assert best is not None
    assert best[0] > 10 * bounds.UNIT
    return best[1]


def bounds_are_rounded() -> Case:
    """A single number, whose product may be rounded up where the bound's is rounded down."""
    generator = torch.Generator().manual_seed(0)
    w, some = 1 + torch.rand(4000, 1, generator=generator), 1 + torch.rand(500, generator=generator)
    rounded = (some / 64 * (64 * 127)).double() / (some.double() * 127)
    x = some[rounded.argmin()].view(1)
    p = w[:, 0] * x
    return Sae(W_enc=w, b_enc=-torch.nextafter(p, torch.zeros(1))), x[None], list(range(4000))


def the_best_is_uncertain() -> Case:
    """The largest looks smaller than it is, the second larger."""
    _, x, _ = rows_are_rounded()
    p = 127 * x.sum()
    return (
        Sae(torch.tensor([[127.0], [-127.0]]).repeat(1, 64), torch.tensor([1000.2 - p, 1000 + p]), activation=TopK(1)),
        x,
        [0],
    )


def change(name: str, **factors: float) -> Callable[[pytest.MonkeyPatch], None]:
    """Multiplies fields of what a function of `screened` gives."""
    ours = getattr(screened, name)

    def changed(*arguments: object) -> tuple[np.ndarray, Latents | Rows]:
        q, terms = ours(*arguments)
        return q, terms._replace(**{field: getattr(terms, field) * np.float32(by) for field, by in factors.items()})

    return lambda patch: patch.setattr(screened, name, changed)


def raise_bars(patch: pytest.MonkeyPatch) -> None:
    ours = screened.kth_best

    def raised(*arguments: object) -> None:
        ours(*arguments)
        arguments[-1][:] *= 1.1

    patch.setattr(screened, "kth_best", raised)


LOOSENED = [
    (rows_are_rounded, change("quantised_rows", reach=0.98)),
    (rows_are_rounded, change("quantised_latents", norm=0.98)),
    (weights_are_rounded, change("quantised_latents", error=0.98)),
    (weights_are_rounded, change("quantised_rows", error_reach=0.98)),
    (sums_are_rounded, lambda patch: patch.setattr(bounds, "gamma", lambda d: 0.0)),
    (bounds_are_rounded, lambda patch: patch.setattr(bounds, "ROUNDING", 0.0)),
    (the_best_is_uncertain, change("quantised_rows", reach=0.98)),
    (the_best_is_uncertain, raise_bars),
]
"""A case, and what is taken from the bound."""


@pytest.mark.parametrize(("case", "loosen"), LOOSENED)
def test_a_loosened_bound_loses_what_fires(
    case: Callable[[], Case], loosen: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, x, fire = case()
    assert np.flatnonzero(dense(ScreenedKernel(sae).rows(x))[0]).tolist() == fire
    loosen(monkeypatch)
    assert np.flatnonzero(dense(ScreenedKernel(sae).rows(x))[0]).tolist() != fire
