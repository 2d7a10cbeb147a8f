"""OpenAI's SAEs for GPT-2 small: `.pt` state dicts of `sparse_autoencoder.Autoencoder`, versions 1, 4 and 5.

    pre_bias [d_in]   encoder.weight [d_sae, d_in]   latent_bias [d_sae]   decoder.weight [d_in, d_sae]
    latents_activation_frequency [d_sae]                    later files only, as are other statistics, not read here
    activation = "TopK", activation_state_dict = {k, postact_fn}     version 5; without them it is a ReLU

Inputs of TopK are layer-normed: `activation` is the only sign of it. The files do not say which hook point they read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saeserve_server.errors import ConfigError
from saeserve_server.sources.sae import ReLU, Sae, TopK
from saeserve_server.sources.tensors import Tensors, naming

ZIP_MAGIC = b"PK\x03\x04"


def files(path: Path) -> list[Path]:
    """What the SAE at `path` consists of."""
    return [path]


def hook_name(path: Path) -> str | None:
    """None: these files do not name their hook point."""
    return None


def read(path: Path) -> Sae:
    """The SAE in the file. Raises ConfigError, which names the file and what is wrong with it."""
    with naming(path):
        state = _load(path)
        tensors = Tensors(state.keys(), state.__getitem__)
        W_enc = tensors.take("encoder.weight", "d_sae", "d_in")
        b_enc = tensors.take("latent_bias", "d_sae")
        b_dec = tensors.take("pre_bias", "d_in")
        decoder_norm = tensors.take("decoder.weight", "d_in", "d_sae").norm(dim=0)
        density, warning = None, None
        if "latents_activation_frequency" in tensors:
            density, warning = tensors.take_density("latents_activation_frequency", "d_sae")
        activation = _activation(state)
        return Sae(
            W_enc=W_enc.clone(memory_format=torch.contiguous_format),  # no longer the file's memory
            b_enc=b_enc.clone(),
            decoder_norm=decoder_norm,
            b_dec=b_dec.clone(),
            activation=activation,
            normalization="layer_norm" if isinstance(activation, TopK) else "none",
            density=density,
            warnings=(warning,) if warning else (),
        )


def _activation(state: Mapping[str, Any]) -> ReLU | TopK:
    name = state.get("activation", "ReLU")
    if name == "ReLU":
        return ReLU()
    if name != "TopK":
        raise ConfigError(f"activation: expected ReLU or TopK, got {name!r}")
    options = state.get("activation_state_dict")
    if not isinstance(options, Mapping):
        raise ConfigError("activation_state_dict: missing, expected a table with k and postact_fn")
    if options.get("postact_fn", "ReLU") != "ReLU":
        raise ConfigError(f"activation_state_dict.postact_fn: expected ReLU, got {options['postact_fn']!r}")
    k = options.get("k")
    if isinstance(k, torch.Tensor) and k.numel() == 1:
        k = k.item()
    if not isinstance(k, int) or isinstance(k, bool):
        raise ConfigError(f"activation_state_dict.k: expected a whole number, got {k!r}")
    return TopK(k)


def _load(path: Path) -> Mapping[str, Any]:
    """The dictionary in the file, which never runs code: `weights_only`, and memory-mapped where the format allows."""
    try:
        with path.open("rb") as file:
            mapped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)  # noqa: TID251 - weights only
    except Exception as error:  # what a damaged or hostile file raises has no common type
        raise ConfigError(_explain(error)) from error
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ConfigError(f"expected a state dict, got {type(state).__name__}")
    return state


def _explain(error: Exception) -> str:
    """What is wrong with a file that `torch.load(weights_only=True)` refused."""
    code = re.search(r"\bGLOBAL ([\w.]+)", str(error))
    if code:
        return f"refused: it holds pickled code or objects ({code[1]}), expected tensors only"
    return "not a PyTorch state dict of tensors, or truncated or damaged"
