from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.sources.activations import Activation, JumpReLU, ReLU, TopK
from saeserve_server.sources.description import Facts
from saeserve_server.sources.formats import describe
from saeserve_server.sources.reading import read
from saeserve_server.sources.sae import Sae, fold_decoder_norm
from tests.sources import plain
from tests.sources.formats import load, write_openai, write_saelens

ROWS = 17


def inputs(d_in: int, seed: int = 1, rows: int = ROWS) -> Tensor:
    """[rows, d_in] with a mean and a scale, so that normalisation matters."""
    return 0.4 + 1.7 * torch.randn(rows, d_in, generator=torch.Generator().manual_seed(seed))


def assert_same(sae: Sae, x: Tensor, expected: tuple[np.ndarray, np.ndarray], tolerance: float = 1e-5) -> None:
    """Latents agree within the tolerance, and are on where the reference has them on unless it is that close."""
    p, a = expected
    tolerance *= max(1.0, np.abs(p).max())
    before = x.clone()
    ours = sae.encode(x)
    assert ours.dtype == torch.float32
    assert ours.shape == a.shape
    assert torch.equal(x, before)
    assert (ours >= 0).all()
    assert np.abs(sae.pre_activations(x).numpy() - p).max() <= tolerance
    margins = sae.margins(x).numpy()
    flipped = (ours.numpy() > 0) != (a > 0)
    assert (np.abs(margins[flipped]) <= tolerance).all()
    assert flipped.sum() <= 1
    assert np.abs(ours.numpy() - a)[~flipped].max() <= tolerance
    assert ((margins > 0) == (ours.numpy() > 0)).all()
    assert 0 < (a > 0).mean() < 0.9


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("version", ["v1", "v4", "v5"])
def test_openai_files_encode_as_their_formula_says(
    tmp_path: Path, version: str, statistics: bool, legacy: bool
) -> None:
    state = write_openai(tmp_path / "0.pt", version=version, statistics=statistics, legacy=legacy)
    sae = load(tmp_path / "0.pt")
    x = inputs(12)
    assert_same(sae, x, plain.openai(state, x))
    described = describe(tmp_path / "0.pt")
    assert described.architecture == ("topk" if version == "v5" else "standard")
    assert described.normalization == ("layer_norm" if version == "v5" else "none")
    assert described.hook_name is None
    assert np.allclose(sae.decoder_norm, state["decoder.weight"].norm(dim=0))
    if statistics and version != "v1":
        assert np.allclose(sae.density, state["latents_activation_frequency"])
    else:
        assert sae.density is None


@pytest.mark.parametrize("apply_b_dec", [False, True])
@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize(("architecture", "flat"), list(product(["standard", "jumprelu", "topk"], [False, True])))
def test_saelens_folders_encode_as_their_formula_says(
    tmp_path: Path, architecture: str, flat: bool, normalize: str, apply_b_dec: bool
) -> None:
    cfg, tensors = write_saelens(
        tmp_path,
        architecture=architecture,
        flat=flat,
        normalize_activations=normalize,
        apply_b_dec_to_input=apply_b_dec,
    )
    sae = load(tmp_path)
    x = inputs(12)
    assert_same(sae, x, plain.saelens(cfg, tensors, x))
    described = describe(tmp_path)
    assert described.architecture == architecture
    assert described.normalization == normalize
    assert described.hook_name == "blocks.0.hook_mlp_out"
    assert described.warnings == ()


def test_topk_rescaled_by_decoder_norms_keeps_the_largest_rescaled_latents(tmp_path: Path) -> None:
    cfg, tensors = write_saelens(tmp_path, architecture="topk", rescale=True)
    sae = load(tmp_path)
    x = inputs(12)
    assert_same(sae, x, plain.saelens(cfg, tensors, x))
    plainly = plain.saelens(cfg | {"rescale_acts_by_decoder_norm": False}, tensors, x)[1]
    assert ((plainly > 0) != (sae.encode(x).numpy() > 0)).any()


def test_folding_leaves_rescaled_topk_as_it_is(tmp_path: Path) -> None:
    write_saelens(tmp_path, architecture="topk", rescale=True)
    sae = load(tmp_path)
    x = inputs(12)
    assert torch.equal(fold_decoder_norm(sae).encode(x), sae.encode(x))


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_folding_multiplies_activations_by_decoder_norms(tmp_path: Path, architecture: str) -> None:
    cfg, tensors = write_saelens(tmp_path, architecture=architecture)
    x = inputs(12)
    folded = fold_decoder_norm(load(tmp_path))
    assert_same(folded, x, plain.saelens(cfg, tensors, x, fold=True))
    assert np.allclose(folded.decoder_norm, tensors["W_dec"].norm(dim=1))


def test_folding_is_refused_where_it_would_change_the_k_largest(tmp_path: Path) -> None:
    write_openai(tmp_path / "0.pt", version="v5")
    with pytest.raises(ConfigError, match="fold_decoder_norm: expected false, it would change which"):
        fold_decoder_norm(load(tmp_path / "0.pt"))


@pytest.mark.parametrize("normalize", ["expected_average_only_in", True])
@pytest.mark.parametrize(("architecture", "rescale"), [("standard", False), ("jumprelu", False), ("topk", True)])
def test_a_scaling_factor_encodes_raw_inputs_as_training_encoded_scaled_ones(
    tmp_path: Path, architecture: str, rescale: bool, normalize: str | bool
) -> None:
    cfg, tensors = write_saelens(
        tmp_path, architecture=architecture, rescale=rescale, flat=False, normalize_activations=normalize
    )
    described = describe(tmp_path)
    assert described.expects_scaling
    x = inputs(12)
    scaled = read(Facts(scaling_factor=0.37).over(described))[0]
    assert_same(scaled, x, plain.saelens(cfg, tensors, x, scaling_factor=0.37))
    if architecture != "topk":
        expected = plain.saelens(cfg, tensors, x, scaling_factor=0.37, fold=True)
        assert_same(fold_decoder_norm(scaled), x, expected)


def test_old_files_without_normalisation_are_not_normalised(tmp_path: Path) -> None:
    for value in (False, None):
        write_saelens(tmp_path, flat=True, normalize_activations=value)
        described = describe(tmp_path)
        assert (described.normalization, described.expects_scaling) == ("none", False)


@pytest.mark.parametrize("flat", [False, True])
def test_hook_z_reads_the_heads_side_by_side(tmp_path: Path, flat: bool) -> None:
    cfg, tensors = write_saelens(tmp_path, hook_name="blocks.1.attn.hook_z", flat=flat)
    x = inputs(12).reshape(ROWS, 3, 4)  # [rows, heads, d_head]
    sae = load(tmp_path)
    assert_same(sae, x.flatten(1), plain.saelens(cfg, tensors, x.flatten(1)))
    assert describe(tmp_path).hook_name == "blocks.1.attn.hook_z"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_files_of_any_float_type_are_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    cfg, tensors = write_saelens(tmp_path / "s", architecture="jumprelu", dtype=dtype)
    state = write_openai(tmp_path / "0.pt", version="v5", dtype=dtype)
    x = inputs(12)
    assert_same(load(tmp_path / "s"), x, plain.saelens(cfg, tensors, x))
    assert_same(load(tmp_path / "0.pt"), x, plain.openai(state, x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("d_sae", [40, 8192 + 40])
def test_weights_kept_in_half_precision_are_computed_in_float32(tmp_path: Path, dtype: torch.dtype, d_sae: int) -> None:
    cfg, tensors = write_saelens(tmp_path, d_sae=d_sae)
    sae = load(tmp_path)
    x = inputs(12)
    rounded = tensors | {"W_enc": tensors["W_enc"].to(dtype)}
    assert_same(sae.stored_as(dtype), x, plain.saelens(cfg, rounded, x))
    assert sae.memory_bytes - sae.stored_as(dtype).memory_bytes == d_sae * 12 * 2


def test_weights_that_do_not_fit_their_type_are_refused(tmp_path: Path) -> None:
    write_saelens(tmp_path)
    sae = load(tmp_path)
    sae.W_enc[3, 2] = 1e6
    with pytest.raises(ConfigError, match=r"up to 1e\+06 do not fit into torch\.float16"):
        sae.stored_as(torch.float16)


@pytest.mark.filterwarnings("ignore:std")  # of no rows
@settings(max_examples=60)
@given(
    d_in=st.integers(2, 9),
    d_sae=st.integers(1, 30),
    rows=st.integers(0, 5),
    k=st.integers(1, 30),
    seed=st.integers(0, 1000),
    architecture=st.sampled_from(["standard", "jumprelu", "topk"]),
    normalize=st.sampled_from(["none", "layer_norm", "constant_norm_rescale"]),
)
def test_any_shape_encodes_as_the_formula_says(
    tmp_path_factory: pytest.TempPathFactory,
    d_in: int,
    d_sae: int,
    rows: int,
    k: int,
    seed: int,
    architecture: str,
    normalize: str,
) -> None:
    folder = tmp_path_factory.mktemp("sae")
    k = min(k, d_sae)
    cfg, tensors = write_saelens(
        folder, architecture=architecture, normalize_activations=normalize, d_in=d_in, d_sae=d_sae, k=k, seed=seed
    )
    sae = load(folder)
    x = inputs(d_in, seed, rows)
    p, a = plain.saelens(cfg, tensors, x)
    ours, margins = sae.encode(x).numpy(), sae.margins(x).numpy()
    assert ours.shape == a.shape == (rows, d_sae)
    far = np.abs(margins) > 1e-4  # what is nearer may go either way
    assert np.abs(ours - a)[far].max(initial=0) <= 1e-4 * max(1, np.abs(p).max(initial=0))


def test_margins_say_how_far_a_latent_is_from_going_on_or_off() -> None:
    p = torch.tensor([[3.0, -1.0, 2.0, 0.5]])

    def sae(activation: Activation) -> Sae:
        return Sae(torch.eye(4), torch.zeros(4), torch.ones(4), activation=activation)

    threshold = torch.tensor([3.5, -2.0, 1.5, 0.5])
    assert sae(ReLU()).margins(p).tolist() == p.tolist()
    assert sae(JumpReLU(threshold)).margins(p).tolist() == [[-0.5, -1.0, 0.5, 0.0]]
    assert sae(JumpReLU(threshold)).encode(p).tolist() == [[0.0, 0.0, 2.0, 0.0]]
    assert sae(TopK(2)).margins(p).tolist() == [[2.5, -3.0, 1.5, -1.5]]
    assert sae(TopK(4)).margins(p).tolist() == [[3.0, -1.0, 2.0, 0.5]]
    assert sae(TopK(4)).encode(p).tolist() == [[3.0, 0.0, 2.0, 0.5]]


@pytest.mark.parametrize("normalize", ["layer_norm", "constant_norm_rescale"])
def test_rows_of_zeros_and_huge_rows_stay_finite(tmp_path: Path, normalize: str) -> None:
    write_saelens(tmp_path, normalize_activations=normalize)
    x = torch.stack([torch.zeros(12), torch.linspace(-1e15, 1e15, 12)])
    assert torch.isfinite(load(tmp_path).encode(x)).all()


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
def test_nan_in_a_row_shows_in_that_row_only(tmp_path: Path, architecture: str) -> None:
    write_saelens(tmp_path, architecture=architecture)
    x = inputs(12)
    x[3, 0] = torch.nan
    a = load(tmp_path).encode(x)
    assert a[3].isnan().any()
    assert torch.isfinite(a[[0, 1, 2, 4]]).all()


def test_firing_frequencies_come_from_the_sparsity_file(tmp_path: Path) -> None:
    _, tensors = write_saelens(tmp_path, sparsity=True)
    sae = load(tmp_path)
    assert sae.density is not None
    assert sae.density.dtype == np.float32
    assert np.allclose(sae.density, 10.0 ** tensors["sparsity"].double())


def test_whether_an_sae_was_trained_with_bos_is_read(tmp_path: Path) -> None:
    for flat in (False, True):
        for prepend_bos in (False, True):
            write_saelens(tmp_path, prepend_bos=prepend_bos, flat=flat)
            assert describe(tmp_path).bos is prepend_bos


def test_an_sae_moves_between_devices(tmp_path: Path) -> None:
    write_saelens(tmp_path, architecture="jumprelu")
    moved = load(tmp_path).to("meta")
    assert {t.device.type for t in moved._tensors()} == {"meta"}
