"""Gemma Scope 1 and 2: JumpReLU SAEs and transcoders for Gemma 2 and 3; nothing is subtracted from their inputs.

    1   params.npz          W_enc [d_in, d_sae]   W_dec [d_sae, d_out]   b_enc   b_dec   threshold [d_sae]
    2   params.safetensors  w_enc [d_in, d_sae]   w_dec [d_sae, d_out]   b_enc   b_dec   threshold [d_sae]
                            affine_skip_connection [d_in, d_out], where there is one; config.json beside it
        and of cross-layer transcoders one file a layer, whose w_dec is [d_sae, layers, d_out]

Layer, hook point and model stand in the names of folders. Embedding SAEs read embeddings scaled by 1/sqrt(d_in).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import Description
from saeserve_server.sources.formats.common import describe_file, find_in, get, holds, layer_in, opened
from saeserve_server.sources.layout import Layout, Part
from saeserve_server.sources.tensors import naming
from saeserve_server.sources.weights import WeightFile, has_weights
from saeserve_server.sources.weights.files import read_json, stands

NAME = "gemma-scope"
FILES = "params.npz, or params.safetensors (of cross-layer transcoders one .safetensors file a layer)"
ONE, TWO, CONFIG = "params.npz", "params.safetensors", "config.json"

HOOKS_ONE = {
    "res": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "att": "attn.hook_z",
    "transcoders": "ln2.hook_normalized",
}
"""By the last word of the repository's name: gemma-scope-2b-pt-res."""
HOOKS_TWO = {
    "resid_post": "hook_resid_post",
    "attn_out": "attn.hook_z",
    "mlp_out": "hook_mlp_out",
    "transcoder": "mlp.hook_in",
    "clt": "mlp.hook_in",
}
"""By the kind of SAE that a folder above names: resid_post/, transcoder_all/."""


def recognise(path: Path) -> bool:
    """Whether it is a folder with either's parameters, or such a file."""
    if path.is_dir():
        return has_weights(path / ONE) or has_weights(path / TWO)
    return path.suffix == ".npz" or (path.suffix == ".safetensors" and holds(path, "w_enc"))


def describe(path: Path) -> Description:
    """What file and folder names say. Raises ConfigError."""
    if path.is_dir():
        path = path / ONE if stands(path / ONE) else path / TWO
        if not stands(path) and not has_weights(path):
            raise ConfigError(f"{path.parent}: holds neither {ONE} nor {TWO}: fetch it again")
    if path.suffix == ".npz":
        with opened(path) as file:
            return _one(path, file)
    config = path.parent / CONFIG
    with naming(config):
        facts = _facts(config)
    with opened(path) as file:
        return _two(path, file, facts)


def _one(path: Path, file: WeightFile) -> Description:
    repository = find_in(path, r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")
    is_embedding = find_in(path.parent, r"^embedding$", 3) is not None
    layer = 0 if is_embedding else layer_in(path.parent, 3)
    hook = model = None
    is_transcoder = repository is not None and repository[3] == "transcoders"
    if repository is not None:
        model = f"gemma-2-{repository[1]}" + ("-it" if repository[2] == "it" else "")
        hook = "hook_embed" if is_embedding else _hook(layer, HOOKS_ONE[repository[3]])
    out = "d_out" if is_transcoder else "d_in"
    layout = Layout(
        {
            "W_enc": Part("W_enc", "d_in", "d_sae"),
            "b_enc": Part("b_enc", "d_sae"),
            "threshold": Part("threshold", "d_sae"),
            "b_dec": Part("b_dec", out),
            "W_dec": Part("W_dec", "d_sae", out),
        },
        must_be_one=("scaling_factor",),
    )
    description = describe_file(
        NAME,
        file,
        layout,
        architecture="jumprelu_transcoder" if is_transcoder else "jumprelu",
        activation="jumprelu",
        hook_name=hook,
        layer=layer,
        model=model,
        bos=True,
    )
    return replace(description, scaling_factor=description.d_in**-0.5) if is_embedding else description


@dataclass(frozen=True, slots=True)
class _Facts:
    """What config.json says."""

    hook: str | None = None
    model: str | None = None
    is_affine: bool = False
    is_crosscoder: bool = False


def _facts(config: Path) -> _Facts | None:
    """None where there is none."""
    if not stands(config):
        return None
    values = read_json(config)
    if get(values, "architecture", str, "jump_relu") != "jump_relu":
        raise ConfigError(f"architecture: expected jump_relu, got {values['architecture']!r}")
    return _Facts(
        get(values, "hf_hook_point_in", str),
        get(values, "model_name", str),
        get(values, "affine_connection", bool, False),
        values.get("type") == "crosscoder",
    )


def _two(path: Path, file: WeightFile, facts: _Facts | None) -> Description:
    folder = path.parent
    config = folder / CONFIG
    beside = () if facts is None else (config,)
    facts = facts or _Facts()
    if facts.is_crosscoder or find_in(path, r"^crosscoder$", 4):
        raise ConfigError("a crosscoder cannot be served: its files do not say which layers a latent reads")
    kind = find_in(path, r"(?:^|-)(resid_post|attn_out|mlp_out|transcoder|clt)(?:_all)?(?:$|[_-])", 3)
    layer = layer_in(path if path.name != TWO else folder, 2)
    warnings: tuple[str, ...] = ()
    hook = facts.hook
    if kind is not None:
        named, hook = hook, _hook(layer, HOOKS_TWO[kind[1]])
        if named and hook and not (_may_be(named, kind[1]) and layer_in(Path(named)) in (None, layer)):
            warnings = (f"its config.json names {named} as input, its folder {kind[1]}: the folder is followed",)
    may_be_clt = kind is None or kind[1] in ("transcoder", "clt")
    is_clt = may_be_clt and "w_dec" in file.entries and len(file.entries["w_dec"].shape) == 3
    is_transcoder = is_clt or (kind is not None and may_be_clt)
    parts = {
        "W_enc": Part("w_enc", "d_in", "d_sae"),
        "b_enc": Part("b_enc", "d_sae"),
        "threshold": Part("threshold", "d_sae"),
    }
    if is_clt:
        ignored: tuple[str, ...] = ("w_dec", "b_dec")
    else:
        out = "d_out" if is_transcoder else "d_in"
        parts |= {"b_dec": Part("b_dec", out), "W_dec": Part("w_dec", "d_sae", out)}
        ignored = ()
    if facts.is_affine or find_in(path, r"_affine", 2) or is_transcoder:
        ignored += ("affine_skip_connection",)
    repository = find_in(path, r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)")
    model = facts.model
    if model is None and repository is not None:
        model = f"google/gemma-3-{repository[1]}-{repository[2]}"
    return describe_file(
        NAME,
        file,
        Layout(parts, ignored),
        beside=beside,
        architecture="jumprelu" + ("_transcoder" if is_transcoder else ""),
        activation="jumprelu",
        hook_name=hook,
        layer=layer,
        model=None if model is None else model.replace("gemma-v3", "gemma-3").replace("270m-pt", "270m"),
        bos=True,
        warnings=warnings,
    )


def _hook(layer: int | None, name: str) -> str | None:
    return None if layer is None else f"blocks.{layer}.{name}"


def _may_be(named: str, kind: str) -> bool:
    """Whether a Hugging Face name of a hook point may be that of this kind of SAE."""
    words = {
        "resid_post": r"layers\.\d+\.output$",
        "attn_out": r"o_proj\.input$",
        "mlp_out": r"post_feedforward_layernorm\.output$",
        "transcoder": r"pre_feedforward_layernorm\.output$",
        "clt": r"pre_feedforward_layernorm\.output$",
    }
    return find_in(Path(named), words[kind]) is not None
