import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saeserve_server.errors import ConfigError
from saeserve_server.sources.formats import describe
from saeserve_server.sources.reading import read
from tests.sources.formats import load, write_openai, write_saelens


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_pt_files_are_refused(tmp_path: Path, share: float, legacy: bool) -> None:
    path = tmp_path / "0.pt"
    write_openai(path, legacy=legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ConfigError, match=r"0\.pt: .*truncated or damaged"):
        load(path, "openai")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.weight": None}, r"encoder\.weight: missing"),
        ({"latent_bias": None}, r"latent_bias: missing"),
        ({"pre_bias": None}, r"pre_bias: missing"),
        ({"decoder.weight": None}, r"decoder\.weight: missing"),
        ({"latent_bias": torch.zeros(39)}, r"latent_bias: expected shape \[d_sae = 40\], got \[39\]"),
        ({"pre_bias": torch.zeros(12, 1)}, r"pre_bias: expected shape \[d_in = 12\], got \[12, 1\]"),
        ({"decoder.weight": torch.zeros(40, 12)}, r"decoder\.weight: expected shape \[d_in = 12, d_sae = 40\]"),
        ({"encoder.weight": torch.zeros(0, 12)}, r"encoder\.weight: expected shape \[d_sae, d_in\], got \[0, 12\]"),
        ({"encoder.weight": torch.zeros(40, 12, dtype=torch.int8)}, r"encoder\.weight: expected floating-point"),
        ({"encoder.weight": [1.0]}, r"encoder\.weight: expected an array of numbers, got list"),
        ({"encoder.weight": torch.full((40, 12), math.nan)}, r"encoder\.weight: holds values that are not finite"),
        ({"latent_bias": torch.full((40,), -math.inf)}, r"latent_bias: holds values that are not finite"),
        ({"decoder.weight": torch.full((12, 40), math.inf)}, r"decoder\.weight: holds values that are not finite"),
        ({"latents_activation_frequency": torch.zeros(39)}, r"latents_activation_frequency: expected shape"),
        ({"activation": "Identity"}, r"activation: expected ReLU or TopK, got 'Identity'"),
        ({"activation_state_dict": None}, r"activation_state_dict: missing"),
        ({"activation_state_dict": {"k": 0, "postact_fn": "ReLU"}}, r"k: expected 1 to 40, .*, got 0"),
        ({"activation_state_dict": {"k": 41, "postact_fn": "ReLU"}}, r"k: expected 1 to 40, .*, got 41"),
        ({"activation_state_dict": {"k": 2.5, "postact_fn": "ReLU"}}, r"k: expected a whole number, got 2.5"),
        ({"activation_state_dict": {"postact_fn": "ReLU"}}, r"k: expected a whole number, got None"),
        (
            {"activation_state_dict": {"k": 5, "postact_fn": "Tanh"}},
            r"postact_fn: expected ReLU or Identity, got 'Tanh'",
        ),
        ({"W_skip": torch.zeros(12, 12)}, r"W_skip: a tensor \[12, 12\] that this kind of SAE does not have"),
    ],
)
def test_openai_errors_name_file_and_tensor(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "0.pt"
    state = write_openai(path, version="v5") | change
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    with pytest.raises(ConfigError, match=rf"0\.pt: .*{message}"):
        load(path, "openai")


def test_a_file_that_holds_no_table_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "0.pt")
    with pytest.raises(ConfigError, match=r"0\.pt: expected a state dict, got a tensor alone"):
        load(tmp_path / "0.pt", "openai")


def test_one_bad_value_among_many_is_found(tmp_path: Path) -> None:
    state = write_openai(tmp_path / "0.pt")
    state["encoder.weight"][39, 11] = math.nan
    torch.save(state, tmp_path / "0.pt")
    with pytest.raises(ConfigError, match=r"encoder\.weight: holds values that are not finite"):
        load(tmp_path / "0.pt", "openai")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("W_enc", None, r"W_enc: missing"),
        ("b_enc", None, r"b_enc: missing"),
        ("threshold", None, r"threshold: missing"),
        ("W_dec", torch.zeros(40, 13), r"W_dec: expected shape \[d_sae = 40, d_in = 12\], got \[40, 13\]"),
        ("threshold", torch.zeros(1), r"threshold: expected shape"),
        ("threshold", torch.full((40,), math.nan), r"threshold: holds values that are not finite"),
        ("b_dec", torch.full((12,), math.inf), r"b_dec: holds values that are not finite"),
        ("b_enc", torch.zeros(40, dtype=torch.int32), r"b_enc: expected floating-point numbers"),
    ],
)
def test_saelens_errors_name_file_and_tensor(tmp_path: Path, name: str, value: Any, message: str) -> None:
    write_saelens(tmp_path, architecture="jumprelu")
    weights = tmp_path / "sae_weights.safetensors"
    tensors = load_file(weights) | {name: value}
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, weights)
    with pytest.raises(ConfigError, match=rf"sae_weights\.safetensors: {message}"):
        load(tmp_path, "saelens")


@pytest.mark.parametrize(
    "architecture", ["abstopk", "matching_pursuit", "temporal", "batchtopk", "matryoshka_batchtopk"]
)
def test_architectures_that_cannot_be_served_are_refused_by_name_with_the_reason(
    tmp_path: Path, architecture: str
) -> None:
    write_saelens(tmp_path, changes={"architecture": architecture})
    with pytest.raises(ConfigError, match=rf"cfg\.json: architecture: {architecture} cannot be served: \w+"):
        load(tmp_path)


@pytest.mark.parametrize("architecture", ["crosscoder", 7])
def test_other_architectures_are_refused_with_the_supported_ones(tmp_path: Path, architecture: Any) -> None:
    write_saelens(tmp_path, changes={"architecture": architecture})
    with pytest.raises(ConfigError, match=r"architecture: expected (one of standard, jumprelu, gated|str, got 7)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("gated", r"b_gate: missing"),
        ("jumprelu", r"threshold: missing"),
        ("transcoder", r"apply_b_dec_to_input: expected false"),
    ],
)
def test_files_that_are_not_of_the_architecture_they_say_are_refused(
    tmp_path: Path, architecture: str, message: str
) -> None:
    write_saelens(tmp_path, changes={"architecture": architecture})
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "topk", "k": None}, r"safetensors: k: missing, .*; set k"),
        ({"architecture": "topk", "k": 0}, r"safetensors: k: expected 1 to 40, .* got 0"),
        ({"architecture": "topk", "k": 41}, r"safetensors: k: expected 1 to 40, .* got 41"),
        ({"architecture": "topk", "k": "5"}, r"cfg\.json: k: expected int, got '5'"),
        ({"d_in": True}, r"d_in: expected int, got True"),
        ({"d_in": 13}, r"d_in is 12, but cfg\.json says 13"),
        ({"d_sae": 41}, r"d_sae is 40, but cfg\.json says 41"),
        ({"normalize_activations": "rms"}, r"cfg\.json: normalize_activations: expected one of none, layer_norm"),
        ({"reshape_activations": "hook_q"}, r"cfg\.json: reshape_activations: expected one of none, hook_z"),
        ({"activation_fn_str": "tanh-relu"}, r"cfg\.json: activation_fn_str: expected one of relu, topk"),
        ({"apply_b_dec_to_input": "yes"}, r"cfg\.json: apply_b_dec_to_input: expected bool, got 'yes'"),
        ({"metadata": 3}, r"cfg\.json: metadata: expected dict"),
        ({"metadata": {"hook_head_index": 3}}, r"cfg\.json: hook_head_index: expected none"),
    ],
)
def test_saelens_config_errors_name_file_and_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_saelens(tmp_path, changes=change)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "saelens")


def test_a_flat_topk_without_k_is_refused(tmp_path: Path) -> None:
    write_saelens(tmp_path, flat=True, changes={"activation_fn_str": "topk"})
    with pytest.raises(ConfigError, match=r"safetensors: k: missing, .*; set k"):
        load(tmp_path, "saelens")


def test_frequencies_that_cannot_be_shares_are_left_out_with_a_warning(tmp_path: Path) -> None:
    for bad in (math.nan, 3.0):
        _, tensors = write_saelens(tmp_path, sparsity=True)
        tensors["sparsity"][7] = bad
        save_file({"sparsity": tensors["sparsity"]}, tmp_path / "sparsity.safetensors")
        sae, warnings = read(describe(tmp_path))
        assert sae.density is None
        assert "sparsity are not served" in warnings[0]
    state = write_openai(tmp_path / "0.pt")
    state["latents_activation_frequency"][7] = -0.5
    torch.save(state, tmp_path / "0.pt")
    assert load(tmp_path / "0.pt", "openai").density is None


def test_latents_that_never_fired_have_density_zero(tmp_path: Path) -> None:
    _, tensors = write_saelens(tmp_path, sparsity=True)
    tensors["sparsity"][7] = -math.inf
    save_file({"sparsity": tensors["sparsity"]}, tmp_path / "sparsity.safetensors")
    density = load(tmp_path, "saelens").density
    assert density is not None
    assert density[7] == 0


def test_frequencies_that_were_never_measured_are_unknown(tmp_path: Path) -> None:
    state = write_openai(tmp_path / "0.pt")
    torch.save(state | {"latents_activation_frequency": torch.ones(40)}, tmp_path / "0.pt")
    sae, warnings = read(describe(tmp_path / "0.pt"))
    assert sae.density is None
    assert warnings == ()


def test_a_sparsity_file_of_another_sae_is_refused(tmp_path: Path) -> None:
    write_saelens(tmp_path)
    save_file({"sparsity": torch.zeros(41)}, tmp_path / "sparsity.safetensors")
    with pytest.raises(
        ConfigError, match=r"sparsity\.safetensors: sparsity: expected shape \[d_sae = 40\], got \[41\]"
    ):
        load(tmp_path, "saelens")


def test_nothing_but_an_encoder_that_is_mapped_depends_on_the_file_once_read(tmp_path: Path) -> None:
    write_openai(tmp_path / "0.pt")
    write_saelens(tmp_path / "s", architecture="jumprelu")
    mapped, copied = load(tmp_path / "0.pt", "openai"), load(tmp_path / "s", "saelens")
    W_enc, x = mapped.W_enc.clone(), torch.randn(3, 12)
    before = [sae.encode(x).clone() for sae in (mapped, copied)]
    for path in (tmp_path / "0.pt", tmp_path / "s" / "sae_weights.safetensors"):
        with path.open("r+b") as file:  # in place, so that a memory map would see it
            file.write(b"\0" * path.stat().st_size)
    for sae, expected in zip((replace(mapped, W_enc=W_enc), copied), before, strict=True):
        assert np.array_equal(sae.encode(x), expected)


def test_extra_keys_do_no_harm(tmp_path: Path) -> None:
    state = write_openai(tmp_path / "0.pt")
    torch.save(state | {"note": "trained in May", "steps": 7}, tmp_path / "0.pt")
    load(tmp_path / "0.pt", "openai")
    write_saelens(tmp_path / "s", changes={"wandb_id": "x", "l1_coefficient": 5})
    weights = tmp_path / "s" / "sae_weights.safetensors"
    save_file(load_file(weights) | {"scaling_factor": torch.ones(40)}, weights)
    load(tmp_path / "s", "saelens")
    assert json.loads((tmp_path / "s" / "cfg.json").read_text())["wandb_id"] == "x"
