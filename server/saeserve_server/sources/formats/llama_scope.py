"""Llama Scope (OpenMOSS): JumpReLU SAEs; nothing is subtracted from their inputs, which are scaled.

encoder.weight [d_sae, d_in]   encoder.bias [d_sae]   decoder.weight [d_in, d_sae]   decoder.bias [d_in]

first series    `hyperparams.json`, `checkpoints/final.safetensors`. Inputs are scaled to a mean norm of sqrt(d_in)
                by the norm that stands in the file; the one threshold counts in unscaled inputs.
R1 distill      `config.json`, `sae_weights.safetensors` with log_jumprelu_threshold [d_sae]. The scale is not in
                the files: the table of releases has it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import Description
from saeserve_server.sources.formats.common import check_sizes, describe_file, get, layer_in, one_of, opened
from saeserve_server.sources.layout import Layout, Part
from saeserve_server.sources.tensors import naming
from saeserve_server.sources.weights import has_weights
from saeserve_server.sources.weights.files import read_json, stands

NAME = "llama-scope"
FILES = "hyperparams.json + checkpoints/final.safetensors, or config.json + sae_weights.safetensors"
FIRST, FIRST_WEIGHTS = "hyperparams.json", Path("checkpoints", "final.safetensors")
R1, R1_WEIGHTS = "config.json", "sae_weights.safetensors"

PARTS = {
    "W_enc": Part("encoder.weight", "d_sae", "d_in"),
    "b_enc": Part("encoder.bias", "d_sae"),
    "b_dec": Part("decoder.bias", "d_in"),
    "W_dec": Part("decoder.weight", "d_in", "d_sae"),
}


def recognise(path: Path) -> bool:
    """Whether the folder holds the files of either series."""
    first = (path / FIRST).is_file() and has_weights(path / FIRST_WEIGHTS)
    return first or ((path / R1).is_file() and has_weights(path / R1_WEIGHTS) and not (path / "cfg.json").exists())


def describe(path: Path) -> Description:
    """What the folder says. Raises ConfigError."""
    return _first(path) if stands(path / FIRST) or stands((path / FIRST_WEIGHTS).parent) else _r1(path)


def _check_options(values: dict[str, Any]) -> None:
    """Raises ConfigError for what its trainer can do and is not done here."""
    one_of(values, "act_fn", ("jumprelu",), "jumprelu")
    one_of(values, "norm_activation", ("dataset-wise",), "dataset-wise")
    for option in ("apply_decoder_bias_to_pre_encoder", "use_glu_encoder"):
        if values.get(option):
            raise ConfigError(f"{option}: expected false, it is not supported")


def _first(path: Path) -> Description:
    with naming(path / FIRST):
        values = read_json(path / FIRST)
        _check_options(values)
        norm = get(get(values, "dataset_average_activation_norm", dict, {}), "in", float)
        threshold = get(values, "jump_relu_threshold", float)
        if norm is not None and norm <= 0:
            raise ConfigError("dataset_average_activation_norm.in: expected a number over 0")
        hook = get(values, "hook_point_in", str)
    with opened(path / FIRST_WEIGHTS) as file:
        description = describe_file(
            NAME,
            file,
            Layout(PARTS),
            beside=(path / FIRST,),
            architecture="jumprelu",
            activation="jumprelu",
            threshold=threshold,
            threshold_is_unscaled=True,
            expects_scaling=True,
            hook_name=hook,
            layer=layer_in(Path(hook or path.name)),
            model="meta-llama/Llama-3.1-8B",
            bos=True,
        )
        check_sizes(description, values, FIRST, d_in="d_model")
    factor = None if norm is None else float(description.d_in**0.5 / norm)
    return replace(description, scaling_factor=factor)


def _r1(path: Path) -> Description:
    with naming(path / R1):
        values = read_json(path / R1)
        _check_options(values)
        hook = get(values, "hook_point_in", str)
    threshold = Part("log_jumprelu_threshold", "d_sae")
    with opened(path / R1_WEIGHTS) as file:
        description = describe_file(
            NAME,
            file,
            Layout({**PARTS, "threshold": threshold}),
            beside=(path / R1,),
            architecture="jumprelu",
            activation="jumprelu",
            threshold_is_log=True,
            expects_scaling=True,
            hook_name=hook,
            layer=layer_in(Path(hook or path.name)),
            model="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
            bos=True,
        )
        check_sizes(description, values, R1, d_in="d_model")
    return description
