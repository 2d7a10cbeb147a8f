"""Kissane's attention SAEs for GPT-2 small: `NAME.pt`, a state dict, beside `NAME_cfg.json`.

    W_enc [d_in, d_sae]   W_dec [d_sae, d_in]   b_enc [d_sae]   b_dec [d_in], subtracted from the input

Inputs are the heads of attn.hook_z side by side. `act_name` is the hook point.
"""

from __future__ import annotations

from pathlib import Path

from saeserve_server.sources.description import Description
from saeserve_server.sources.formats.common import check_sizes, describe_file, get, layer_in, opened
from saeserve_server.sources.layout import Layout, Part
from saeserve_server.sources.tensors import naming
from saeserve_server.sources.weights.files import read_json

NAME = "hook-z"
FILES = "NAME.pt + NAME_cfg.json"

LAYOUT = Layout(
    {
        "W_enc": Part("W_enc", "d_in", "d_sae"),
        "b_enc": Part("b_enc", "d_sae"),
        "b_dec": Part("b_dec", "d_in"),
        "W_dec": Part("W_dec", "d_sae", "d_in"),
    }
)


def recognise(path: Path) -> bool:
    """Whether it is a `.pt` file with its configuration beside it."""
    return path.is_file() and path.suffix == ".pt" and _config(path).is_file()


def describe(path: Path) -> Description:
    """What the file and its neighbour say. Raises ConfigError."""
    config = _config(path)
    with naming(config):
        values = read_json(config)
        hook = get(values, "act_name", str)
    with opened(path) as file:
        description = describe_file(
            NAME,
            file,
            LAYOUT,
            beside=(config,),
            architecture="standard",
            activation="relu",
            subtract_bias=True,
            hook_name=hook,
            layer=layer_in(Path(hook or path.name)),
            model="gpt2-small" if path.name.startswith("gpt2-small") else None,
            bos=True,
        )
        check_sizes(description, values, config.name, d_in="act_size", d_sae="dict_size")
    return description


def _config(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".pt") + "_cfg.json")
