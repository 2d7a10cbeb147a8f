"""Qwen Scope: top-k SAEs of the residual stream, a file `layer{n}.sae.pt` for each layer.

    W_enc [d_sae, d_in]   W_dec [d_in, d_sae]   b_enc [d_sae]   b_dec [d_in], not subtracted from the input

k and the model stand in `config.json` beside the files, or in the name of the repository:
SAE-Res-Qwen3-8B-Base-W64K-L0_50.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import Description
from saeserve_server.sources.formats.common import check_sizes, describe_file, find_in, get, layer_in, one_of, opened
from saeserve_server.sources.layout import Layout, Part
from saeserve_server.sources.tensors import naming
from saeserve_server.sources.weights.files import read_json, stands

NAME = "qwen-scope"
FILES = "layer{n}.sae.pt"
CONFIG = "config.json"

LAYOUT = Layout(
    {
        "W_enc": Part("W_enc", "d_sae", "d_in"),
        "b_enc": Part("b_enc", "d_sae"),
        "b_dec": Part("b_dec", "d_in"),
        "W_dec": Part("W_dec", "d_in", "d_sae"),
    }
)


def recognise(path: Path) -> bool:
    """Whether it is named like one of its files."""
    return path.is_file() and path.name.endswith(".sae.pt")


def describe(path: Path) -> Description:
    """What the file and its neighbours say. Raises ConfigError."""
    config, values = path.parent / CONFIG, dict[str, Any]()
    if stands(config):
        with naming(config):
            values = read_json(config)
            one_of(values, "model_type", ("topk_sae",), "topk_sae")
            one_of(values, "hook_point", ("resid_post",), "resid_post")
    repository = find_in(path, r"SAE-Res-(.+)-W\d+K-L0_(\d+)")
    with naming(config):
        named = int(repository[2]) if repository else None
        k = get(values, "k", int, named)
        if named not in (None, k):
            raise ConfigError(f"k: {k}, but the folder's name says {named}; set k")
        model = get(values, "base_model", str, f"Qwen/{repository[1]}" if repository else None)
    layer = layer_in(Path(path.name))
    with opened(path) as file:
        description = describe_file(
            NAME,
            file,
            LAYOUT,
            beside=(config,) if values else (),
            architecture="topk",
            activation="topk",
            k=k,
            hook_name=None if layer is None else f"blocks.{layer}.hook_resid_post",
            layer=layer,
            model=model,
        )
        check_sizes(description, values, CONFIG, d_in="d_model")
    return description
