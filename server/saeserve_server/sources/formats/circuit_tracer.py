"""circuit-tracer's transcoders, as mwhanna and others publish them: a file a layer, `config.yaml` beside them.

    layer_{n}.safetensors   W_enc [d_sae, d_in]   W_dec [d_sae, d_out]   b_enc   b_dec [d_out]
                            activation_function.threshold [d_sae], JumpReLU   W_skip [d_out, d_in]
    W_enc_{n}.safetensors   of a cross-layer transcoder: W_enc_{n} [d_sae, d_in]   b_enc_{n}  b_dec_{n}  threshold_{n};
                            its decoders of the layers above stand in W_dec_{n}.safetensors, which is not needed

Nothing is subtracted from inputs. `config.yaml` names model and hook points (`feature_input_hook`); some of mwhanna's
repositories have none, and their names say it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import Description
from saeserve_server.sources.formats.common import describe_file, find_in, get, holds, opened
from saeserve_server.sources.layout import Layout, Part
from saeserve_server.sources.tensors import naming
from saeserve_server.sources.weights import WeightFile
from saeserve_server.sources.weights.files import read_yaml, stands

NAME = "circuit-tracer"
FILES = "layer_{n}.safetensors, or W_enc_{n}.safetensors of a cross-layer transcoder, + config.yaml"
CONFIG = "config.yaml"

ENCODER = re.compile(r"W_enc_(\d+)\.safetensors$")
LAYER = re.compile(r"layer_(\d+)\.safetensors$")
THRESHOLD = "activation_function.threshold"


def recognise(path: Path) -> bool:
    """Whether it is a file of a transcoder, by its name or its tensors."""
    if not path.is_file() or path.suffix != ".safetensors":
        return False
    return ENCODER.search(path.name) is not None or holds(path, "W_enc", "W_dec", "b_enc", "b_dec")


def describe(path: Path) -> Description:
    """What the file and its neighbour say. Raises ConfigError."""
    config, beside = path.parent / CONFIG, tuple[Path, ...]()
    values = _of_repository(path)
    if stands(config):
        with naming(config):
            values, beside = {**values, **read_yaml(config)}, (config,)
    crosses = ENCODER.search(path.name)
    match = crosses or LAYER.search(path.name)
    layer = int(match[1]) if match else None
    with naming(config):
        hook = get(values, "feature_input_hook", str)
        model = get(values, "model_name", str)
    with opened(path) as file:
        layout = _crossing(file, int(crosses[1])) if crosses else _single(file)
        jumps = "threshold" in layout.parts
        return describe_file(
            NAME,
            file,
            layout,
            beside=beside,
            architecture=("jumprelu_" if jumps else "") + ("cross_layer_" if crosses else "") + "transcoder",
            activation="jumprelu" if jumps else "relu",
            hook_name=None if hook is None or layer is None else f"blocks.{layer}.{hook}",
            layer=layer,
            model=model,
        )


def _single(file: WeightFile) -> Layout:
    parts = {
        "W_enc": Part("W_enc", "d_sae", "d_in"),
        "b_enc": Part("b_enc", "d_sae"),
        "b_dec": Part("b_dec", "d_out"),
        "W_dec": Part("W_dec", "d_sae", "d_out"),
    }
    if THRESHOLD in file.entries:
        parts["threshold"] = Part(THRESHOLD, *(["d_sae"] if file.entries[THRESHOLD].shape else []))
    if "log_thresholds" in file.entries:
        raise ConfigError("log_thresholds: of an older version, expected activation_function.threshold")
    return Layout(parts, ("W_skip",))


def _crossing(file: WeightFile, layer: int) -> Layout:
    parts = {
        "W_enc": Part(f"W_enc_{layer}", "d_sae", "d_in"),
        "b_enc": Part(f"b_enc_{layer}", "d_sae"),
    }
    if f"threshold_{layer}" in file.entries:
        parts["threshold"] = Part(f"threshold_{layer}", "d_sae")
    return Layout(parts, (f"b_dec_{layer}", f"W_skip_{layer}"))


def _of_repository(path: Path) -> dict[str, Any]:
    """What `config.yaml` says of mwhanna's transcoders for Qwen 3: qwen3-14b-transcoders-lowl0 lies without one."""
    match = find_in(path, r"qwen3-(\d+(?:\.\d+)?)b-transcoders")
    if match is None:
        return {}
    return {"model_name": f"Qwen/Qwen3-{match[1]}B", "feature_input_hook": "mlp.hook_in"}
