"""EleutherAI's sparsify: a folder with `cfg.json` and `sae.safetensors`: top-k or groupmax SAEs and transcoders.

    encoder.weight [d_sae, d_in]   encoder.bias [d_sae]   W_dec [d_sae, d_in]   b_dec [d_in]   W_skip [d_in, d_in]

b_dec is subtracted from the input unless the coder is a transcoder. The folder is named after the module that it reads:
`layers.5`, its output; `layers.5.mlp`, the MLP's, or of a transcoder its input; `embed_tokens`. Before 2025 `cfg.json`
did not say which were transcoders; those with a skip connection are, and b_dec was subtracted from their inputs too.
"""

from __future__ import annotations

import re
from pathlib import Path

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import Description
from saeserve_server.sources.formats.common import check_sizes, describe_file, get, one_of, opened
from saeserve_server.sources.layout import Layout, Part
from saeserve_server.sources.tensors import naming
from saeserve_server.sources.weights import has_weights
from saeserve_server.sources.weights.files import read_json

NAME = "sparsify"
FILES = "cfg.json + sae.safetensors"
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"

PARTS = {
    "W_enc": Part("encoder.weight", "d_sae", "d_in"),
    "b_enc": Part("encoder.bias", "d_sae"),
    "b_dec": Part("b_dec", "d_in"),
    "W_dec": Part("W_dec", "d_sae", "d_in"),
}


def recognise(path: Path) -> bool:
    """Whether the folder holds sparsify's files."""
    return (path / CONFIG).is_file() and has_weights(path / WEIGHTS)


def describe(path: Path) -> Description:
    """What the folder and its name say. Raises ConfigError."""
    with naming(path / CONFIG):
        values = read_json(path / CONFIG)
        activation = one_of(values, "activation", ("topk", "groupmax"), "topk")
        if values.get("signed"):
            raise ConfigError("signed: expected false; its latents fire on negative pre-activations too")
        k = get(values, "k", int)
        transcodes = get(values, "transcode", bool, False)
        skips = get(values, "skip_connection", bool, False)
        if values.get("gram_lookup"):
            raise ConfigError("gram_lookup: expected false; means of n-grams that are subtracted are not in the file")
    hook, layer = _hook(path.name, transcodes or skips)
    with opened(path / WEIGHTS) as file:
        description = describe_file(
            NAME,
            file,
            Layout(PARTS, ("W_skip",) if skips else ()),
            beside=(path / CONFIG,),
            architecture=("skip_" if skips else "") + "transcoder" if transcodes or skips else activation,
            activation=activation,
            k=k,
            subtract_bias=not transcodes,
            hook_name=hook,
            layer=layer,
        )
        sizes = values | {"num_latents": values.get("num_latents") or None}  # 0: so many times d_in
        check_sizes(description, sizes, CONFIG, d_sae="num_latents")
    return description


def _hook(folder: str, transcodes: bool) -> tuple[str | None, int | None]:
    """Hook point and layer by the name of the module that was read."""
    if folder.endswith("embed_tokens"):
        return "hook_embed", 0
    match = re.search(r"(?:^|[._])(?:layers|h)[._](\d+)(\.\w+)*$", folder)
    if match is None:
        return None, None
    layer = int(match[1])
    if match[2] is None:
        return f"blocks.{layer}.hook_resid_{'pre' if transcodes else 'post'}", layer
    return f"{folder}.{'input' if transcodes else 'output'}", layer  # a module of the Hugging Face model
