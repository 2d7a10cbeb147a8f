"""SAELens' SAEs: a folder with `cfg.json`, `sae_weights.safetensors` and sometimes `sparsity.safetensors`.

    W_enc [d_in, d_sae]   W_dec [d_sae, d_in]   b_enc [d_sae]   b_dec [d_in]   threshold [d_sae], jumprelu
    sparsity [d_sae], log10 of the firing frequency

From version 6 on the facts about the model stand in `metadata`; before, `cfg.json` was flat, with
`hook_point`/`hook_name` and `activation_fn_str`/`activation_fn` beside the shapes. Both are read alike: `metadata` is
looked at first, then the top level. BatchTopK is saved as jumprelu. Inputs of `hook_z` SAEs are the heads side by
side, which is how the engine hands them over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from safetensors import SafetensorError, safe_open

from saeserve_server.errors import ConfigError
from saeserve_server.sources.sae import Architecture, JumpReLU, Normalization, ReLU, Sae, TopK
from saeserve_server.sources.tensors import Tensors, naming

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"

EXPECTED_AVERAGE = "expected_average_only_in"
"""Inputs were scaled by a constant found in training, so that their mean norm is sqrt(d_in)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SaelensConfig:
    """What `cfg.json` says, with the defaults of SAELens."""

    architecture: Architecture
    hook_name: str | None
    d_in: int | None
    d_sae: int | None
    k: int | None
    rescale: bool
    apply_b_dec_to_input: bool
    normalization: Normalization
    accepts_scaling: bool
    prepend_bos: bool
    warnings: tuple[str, ...]


def files(path: Path) -> list[Path]:
    """What the SAE in the folder consists of."""
    sparsity = path / SPARSITY
    return [path / CONFIG, path / WEIGHTS, *([sparsity] if sparsity.exists() else [])]


def hook_name(path: Path) -> str | None:
    """The hook point that the folder's `cfg.json` names."""
    return read_config(path).hook_name


def read(path: Path) -> Sae:
    """The SAE in the folder. Raises ConfigError, which names the file and what is wrong with it."""
    config = read_config(path)
    with naming(path / WEIGHTS):
        tensors = _open(path / WEIGHTS)
        W_enc = tensors.take("W_enc", "d_in", "d_sae")
        b_enc = tensors.take("b_enc", "d_sae")
        b_dec = tensors.take("b_dec", "d_in")
        decoder_norm = tensors.take("W_dec", "d_sae", "d_in").norm(dim=1)
        threshold = tensors.take("threshold", "d_sae") if config.architecture == "jumprelu" else None
        for name, expected in (("d_in", config.d_in), ("d_sae", config.d_sae)):
            if expected not in (None, tensors.size(name)):
                raise ConfigError(f"{name} is {tensors.size(name)}, but {CONFIG} says {expected}")
    warnings = list(config.warnings)
    density = None
    if (path / SPARSITY).exists():
        with naming(path / SPARSITY):
            sparsity = _open(path / SPARSITY, d_sae=tensors.size("d_sae"))
            density, warning = sparsity.take_density("sparsity", "d_sae", log10=True)
            warnings += [warning] if warning else []
    activation: ReLU | JumpReLU | TopK = ReLU()
    if threshold is not None:
        activation = JumpReLU(threshold.clone())
    elif config.k is not None:
        activation = TopK(config.k, config.rescale)
    with naming(path / CONFIG):
        return Sae(
            W_enc=W_enc.t().clone(memory_format=torch.contiguous_format),
            b_enc=b_enc.clone(),
            decoder_norm=decoder_norm,
            b_dec=b_dec.clone() if config.apply_b_dec_to_input else None,
            activation=activation,
            normalization=config.normalization,
            density=density,
            hook_name=config.hook_name,
            prepend_bos=config.prepend_bos,
            accepts_scaling=config.accepts_scaling,
            warnings=tuple(warnings),
        )


def read_config(path: Path) -> SaelensConfig:
    """`cfg.json` of the folder, of any version. Raises ConfigError for what cannot be served."""
    with naming(path / CONFIG):
        values = _flat(path / CONFIG)
        if values.get("hook_head_index", values.get("hook_point_head_index")) is not None:
            raise ConfigError("hook_head_index: expected none, SAEs of one attention head are not supported")
        _one_of(values, "reshape_activations", ("none", "hook_z"), "none")
        architecture, k = _architecture(values)
        normalization = _normalization(values)
        prepend_bos = _get(values, "prepend_bos", bool, True)
        warnings = []
        if normalization == EXPECTED_AVERAGE:
            known_normalization: Normalization = "none"
        else:
            known_normalization = normalization  # type: ignore[assignment]
        kwargs = _get(values, "model_from_pretrained_kwargs", dict, {})
        if kwargs.get("center_writing_weights"):
            warnings.append("trained on a model with centred writing weights, served on the model as it was published")
        return SaelensConfig(
            architecture=architecture,
            hook_name=_get(values, "hook_name", str, None) or _get(values, "hook_point", str, None),
            d_in=_get(values, "d_in", int, None),
            d_sae=_get(values, "d_sae", int, None),
            k=k,
            rescale=_get(values, "rescale_acts_by_decoder_norm", bool, False),
            apply_b_dec_to_input=_get(values, "apply_b_dec_to_input", bool, True),
            normalization=known_normalization,
            accepts_scaling=normalization == EXPECTED_AVERAGE,
            prepend_bos=prepend_bos,
            warnings=tuple(warnings),
        )


def _flat(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"expected a JSON object, got {type(values).__name__}")
    metadata = _get(values, "metadata", dict, {})
    return {**values, **{key: value for key, value in metadata.items() if value is not None}}


def _architecture(values: dict[str, Any]) -> tuple[Architecture, int | None]:
    """The architecture, and k for topk. Before version 6 topk was a standard SAE with another activation function."""
    architecture: Architecture = _one_of(values, "architecture", get_args(Architecture), "standard")
    key = "activation_fn_str" if values.get("activation_fn_str") is not None else "activation_fn"
    function = _one_of(values, key, ("relu", "topk"), "relu")
    kwargs = _get(values, "activation_fn_kwargs", dict, {})
    if architecture == "standard" and function == "topk":
        architecture = "topk"
    if architecture != "topk":
        return architecture, None
    k = _get(values, "k", int, _get(kwargs, "k", int, None))
    if k is None:
        raise ConfigError("k: missing, expected the number of latents that a topk SAE keeps")
    return architecture, k


def _normalization(values: dict[str, Any]) -> str:
    """`normalize_activations`; true, in old files, is what was later called expected_average_only_in."""
    value = values.get("normalize_activations")
    if isinstance(value, bool):
        return EXPECTED_AVERAGE if value else "none"
    supported = (*get_args(Normalization), EXPECTED_AVERAGE)
    return str(_one_of(values, "normalize_activations", supported, "none"))


def _get(values: dict[str, Any], key: str, kind: type[T], default: Any) -> Any:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{key}: expected {kind.__name__}, got {value!r}")
    return value


def _one_of(values: dict[str, Any], key: str, supported: tuple[str, ...], default: str) -> Any:
    value = values.get(key)
    if value is None:
        return default
    if value not in supported:
        raise ConfigError(f"{key}: expected one of {', '.join(supported)}, got {value!r}")
    return value


def _open(path: Path, **sizes: int) -> Tensors:
    try:
        file = safe_open(path, framework="pt", device="cpu")
        names = list(file.keys())  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ConfigError(f"not a safetensors file, or truncated or damaged ({error})") from error
    return Tensors(names, file.get_tensor, **sizes)
