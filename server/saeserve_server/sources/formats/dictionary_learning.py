"""dictionary_learning's SAEs: a folder with `ae.pt`, a state dict, and `config.json`, whose trainer names the class.

AutoEncoder             encoder.weight [d_sae, d_in]  encoder.bias  decoder.weight [d_in, d_sae]  bias [d_in]
AutoEncoderNew          the same with decoder.bias; nothing is subtracted from the input
GatedAutoEncoder        encoder.weight  decoder.weight  decoder_bias  gate_bias  mag_bias  r_mag
JumpReluAutoEncoder     W_enc [d_in, d_sae]  b_enc  W_dec  b_dec  threshold [d_sae]; nothing is subtracted
AutoEncoderTopK         encoder.*  decoder.weight  b_dec  k; its threshold is of no account
BatchTopKSAE            the same with one threshold, which its encode uses
MatryoshkaBatchTopKSAE  W_enc  b_enc  W_dec  b_dec  k  threshold  group_sizes
"""

from __future__ import annotations

import math
from pathlib import Path

from saeserve_server.errors import ConfigError, shown
from saeserve_server.sources.description import Description
from saeserve_server.sources.formats.common import check_sizes, describe_file, get, layer_in, opened
from saeserve_server.sources.layout import Layout, Part
from saeserve_server.sources.tensors import naming
from saeserve_server.sources.weights import WeightFile, has_weights
from saeserve_server.sources.weights.files import read_json

NAME = "dictionary-learning"
FILES = "ae.pt + config.json"
WEIGHTS, CONFIG = "ae.pt", "config.json"

LINEAR = {
    "W_enc": Part("encoder.weight", "d_sae", "d_in"),
    "W_dec": Part("decoder.weight", "d_in", "d_sae"),
}
MATRICES = {
    "W_enc": Part("W_enc", "d_in", "d_sae"),
    "b_enc": Part("b_enc", "d_sae"),
    "b_dec": Part("b_dec", "d_in"),
    "W_dec": Part("W_dec", "d_sae", "d_in"),
}
ENCODER_BIAS = {"b_enc": Part("encoder.bias", "d_sae")}
GATE = {"b_gate": Part("gate_bias", "d_sae"), "b_mag": Part("mag_bias", "d_sae"), "r_mag": Part("r_mag", "d_sae")}

CLASSES: dict[str, tuple[str, str, bool, Layout]] = {
    "AutoEncoder": ("standard", "relu", True, Layout({**LINEAR, **ENCODER_BIAS, "b_dec": Part("bias", "d_in")})),
    "AutoEncoderNew": (
        "standard",
        "relu",
        False,
        Layout({**LINEAR, **ENCODER_BIAS, "b_dec": Part("decoder.bias", "d_in")}),
    ),
    "GatedAutoEncoder": ("gated", "gated", True, Layout({**LINEAR, **GATE, "b_dec": Part("decoder_bias", "d_in")})),
    "JumpReluAutoEncoder": (
        "jumprelu",
        "jumprelu",
        False,
        Layout({**MATRICES, "threshold": Part("threshold", "d_sae")}),
    ),
    "AutoEncoderTopK": (
        "topk",
        "topk",
        True,
        Layout({**LINEAR, **ENCODER_BIAS, "b_dec": Part("b_dec", "d_in")}, ("k", "threshold")),
    ),
    "BatchTopKSAE": (
        "jumprelu",
        "jumprelu",
        True,
        Layout({**LINEAR, **ENCODER_BIAS, "b_dec": Part("b_dec", "d_in"), "threshold": Part("threshold")}, ("k",)),
    ),
    "MatryoshkaBatchTopKSAE": (
        "jumprelu",
        "jumprelu",
        True,
        Layout({**MATRICES, "threshold": Part("threshold")}, ("k", "group_sizes")),
    ),
}
"""Architecture, activation, whether the bias is subtracted, and layout, by `dict_class`."""

HOOKS = {"out": "hook_resid_post", "in": "hook_resid_pre"}
"""Of `submodule_name` resid_post_layer_3, a layer of the model, by which side of it the buffer reads. Other names are
free text, and what they mean depends on the model."""


def recognise(path: Path) -> bool:
    """Whether the folder holds dictionary_learning's files."""
    return (path / CONFIG).is_file() and has_weights(path / WEIGHTS)


def describe(path: Path) -> Description:
    """What the folder says. Raises ConfigError."""
    with naming(path / CONFIG):
        values = read_json(path / CONFIG)
        trainer = get(values, "trainer", dict)
        if trainer is None:
            raise ConfigError("trainer: missing, expected the settings of dictionary_learning's trainer")
        buffer = get(values, "buffer", dict, {})
        name = get(trainer, "dict_class", str)
        if name not in CLASSES:
            raise ConfigError(f"trainer.dict_class: expected one of {', '.join(CLASSES)}, got {shown(name)}")
        submodule = get(trainer, "submodule_name", str)
        layer = _layer(path, submodule, get(trainer, "layer", int))
        k = get(trainer, "k", int)
        model = get(trainer, "lm_name", str)
        hook = _hook(submodule or "resid_post", get(buffer, "io", str, "out"), layer)
    with opened(path / WEIGHTS) as file:
        if name == "AutoEncoder" and "decoder.bias" in file.entries and "bias" not in file.entries:
            name = "AutoEncoderNew"  # some trainers write the name of the other
        architecture, activation, subtract, layout = CLASSES[name]
        if activation == "topk":
            k = _k_of(file, k)
        description = describe_file(
            NAME,
            file,
            layout,
            beside=(path / CONFIG,),
            architecture=architecture,
            activation=activation,
            k=k if activation == "topk" else None,
            subtract_bias=subtract,
            hook_name=hook,
            layer=layer,
            model=model,
        )
        check_sizes(description, trainer, CONFIG, d_in="activation_dim", d_sae="dict_size")
    return description


def _layer(path: Path, submodule: str | None, stated: int | None) -> int | None:
    """The layer that the submodule, the trainer or the names of folders say."""
    named = None if submodule is None else layer_in(Path(submodule))
    if None not in (named, stated) and named != stated:
        raise ConfigError(f"trainer.layer: expected {named}, as submodule_name {shown(submodule)} says, got {stated}")
    return next((one for one in (named, stated, layer_in(path, 2)) if one is not None), None)


def _hook(submodule: str, side: str, layer: int | None) -> str | None:
    if layer is None or side not in HOOKS or not submodule.startswith("resid_post"):
        return None
    return f"blocks.{layer}.{HOOKS[side]}"


def _k_of(file: WeightFile, k: int | None) -> int | None:
    """k of a top-k SAE: the file's, which the configuration's may not contradict; None where neither says it."""
    if "k" in file.entries:
        entry = file.entries["k"]
        if math.prod(entry.shape) != 1 or not entry.dtype.startswith(("int", "uint")):
            raise ConfigError(f"k: expected one whole number, got {entry.dtype} of shape {list(entry.shape)}")
        stored_k = int(file.numbers("k").item())
        if k is not None and k != stored_k:
            raise ConfigError(f"k is {stored_k}, but {CONFIG} says {k}")
        return stored_k
    return k
