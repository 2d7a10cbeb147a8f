"""OpenAI's SAEs for GPT-2 small: `.pt` state dicts of `sparse_autoencoder.Autoencoder`, versions 1, 4 and 5.

    pre_bias [d_in]   encoder.weight [d_sae, d_in]   latent_bias [d_sae]   decoder.weight [d_in, d_sae]
    decoder.linear.weight [d_sae, d_in]     instead, tied: the encoder's own
    latents_activation_frequency [d_sae]    later files only, as are other statistics, not read here
    activation = "TopK", activation_state_dict = {k, postact_fn}     version 5; without them it is a ReLU

Inputs of TopK are layer-normed: `activation` is the only sign of it. The files do not say which hook point they read;
the folder that they are published in does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saeserve_server.errors import ConfigError, shown
from saeserve_server.sources.description import DensityFile, Description
from saeserve_server.sources.formats.common import describe_file, find_in, holds, opened
from saeserve_server.sources.layout import Layout, Part

NAME = "openai"
FILES = "{n}.pt, a state dict with pre_bias and latent_bias"

LOCATIONS = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_post_mlp": "hook_resid_post",
}
"""Hook points by the folder of the published files: mlp_post_act/autoencoders/0.pt, resid_post_mlp_v5_32k/…"""

STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
OPTIONS = ("activation", "activation_state_dict", "activation.k", "activation.postact_fn")
FREQUENCY = "latents_activation_frequency"


def recognise(path: Path) -> bool:
    """Whether it is a state dict with OpenAI's names."""
    return path.is_file() and path.suffix == ".pt" and holds(path, "pre_bias", "latent_bias")


def describe(path: Path) -> Description:
    """What the file and its folder say. Raises ConfigError."""
    with opened(path) as file:
        k, warnings = _activation(file.extras)
        tied = "decoder.linear.weight" in file.entries and "decoder.weight" not in file.entries
        layout = Layout(
            {
                "W_enc": Part("encoder.weight", "d_sae", "d_in"),
                "b_enc": Part("latent_bias", "d_sae"),
                "b_dec": Part("pre_bias", "d_in"),
                "W_dec": Part("decoder.linear.weight", "d_sae", "d_in")
                if tied
                else Part("decoder.weight", "d_in", "d_sae"),
            },
            STATISTICS,
            options=OPTIONS,
        )
        location = find_in(path, rf"^({'|'.join(LOCATIONS)})(_v\d+\w*)?$")
        layer = int(path.stem) if re.fullmatch(r"\d+", path.stem) else None
        return describe_file(
            NAME,
            file,
            layout,
            architecture="standard" if k is None else "topk",
            activation="relu" if k is None else "topk",
            k=k,
            normalization="none" if k is None else "layer_norm",
            subtract_bias=True,
            hook_name=f"blocks.{layer}.{LOCATIONS[location[1]]}" if location and layer is not None else None,
            layer=layer,
            model="gpt2-small" if location else None,
            bos=None if k is None else False,
            density=DensityFile(path, FREQUENCY) if FREQUENCY in file.entries else None,
            warnings=warnings,
        )


def _activation(extras: Mapping[str, Any]) -> tuple[int | None, tuple[str, ...]]:
    """k of a TopK, None for a ReLU; and warnings."""
    name = extras.get("activation", "ReLU")
    if name == "ReLU":
        return None, ()
    if name != "TopK":
        raise ConfigError(f"activation: expected ReLU or TopK, got {shown(name)}")
    options = extras.get("activation_state_dict")
    if not isinstance(options, Mapping):
        raise ConfigError("activation_state_dict: missing, expected a table with k and postact_fn")
    after = options.get("postact_fn", "ReLU")
    if after not in ("ReLU", "Identity"):
        raise ConfigError(f"activation_state_dict.postact_fn: expected ReLU or Identity, got {shown(after)}")
    k = options.get("k")
    if not isinstance(k, int) or isinstance(k, bool):
        raise ConfigError(f"activation_state_dict.k: expected a whole number, got {shown(k)}")
    if after == "ReLU":
        return k, ()
    return k, ("saved with postact_fn = Identity: of the k largest, those below 0 are served as 0",)
