"""SAELens' SAEs: a folder with `cfg.json`, `sae_weights.safetensors` and sometimes `sparsity.safetensors`.

    W_enc [d_in, d_sae]   W_dec [d_sae, d_out]   b_enc [d_sae]   b_dec [d_out]
    threshold [d_sae], jumprelu       b_gate, b_mag, r_mag [d_sae] instead of b_enc, gated
    W_skip [d_out, d_out], skip transcoders: of no account for activations
    sparsity [d_sae], log10 of the firing frequency

As SAELens reads it: architecture, k, normalisation and apply_b_dec_to_input stand at the top of `cfg.json` and nowhere
else, the facts about the model in `metadata` (before version 6 `cfg.json` was flat, and a top-k SAE a standard one with
another activation function). BatchTopK and Matryoshka are exported as jumprelu. Inputs of `hook_z` are the heads side
by side, which is how the engine hands them over.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import DensityFile, Description
from saeserve_server.sources.formats.common import check_sizes, describe_file, get, layer_in, one_of, opened
from saeserve_server.sources.layout import Layout, Part
from saeserve_server.sources.tensors import naming
from saeserve_server.sources.weights import WeightFile, has_weights
from saeserve_server.sources.weights.files import read_json, stands

NAME = "saelens"
FILES = "cfg.json + sae_weights.safetensors"
CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"

EXPECTED_AVERAGE = "expected_average_only_in"
"""Inputs were scaled by a constant found in training, so that their mean norm is sqrt(d_in)."""
NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale", EXPECTED_AVERAGE)

ACTIVATIONS = {
    "standard": "relu",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "topk": "topk",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
"""Architectures that are served, and their activations."""
WRITTEN = r"hook_(resid_(pre|mid|post)|attn_out|mlp_out|embed)$"
"""Hook points of what is written into the residual stream, which centring its writers changes."""
CHANGING = {
    "fold_ln": r"\.ln\d|mlp\.hook_in|hook_mlp_in|hook_normalized",
    "fold_value_biases": r"hook_(z|v)$",
    "refactor_factored_attn_matrices": r"hook_(q|k|v|z)$",
}
"""What TransformerLens does to weights where it is told to, and the hook points that it changes."""
REFUSED = {
    "abstopk": "its latents fire on negative pre-activations too, and activations served are never negative",
    "matching_pursuit": "its latents are found one after another, not by one linear map",
    "temporal": "what a latent does on a token depends on the tokens before it",
    "batchtopk": "a training checkpoint; export it with SAELens' save_inference_model, which makes it a jumprelu SAE",
    "matryoshka_batchtopk": "a training checkpoint; export it with SAELens' save_inference_model",
}
"""Architectures that are known and cannot be served, and why."""


def recognise(path: Path) -> bool:
    """Whether the folder holds SAELens' files."""
    return (path / CONFIG).is_file() and has_weights(path / WEIGHTS)


def describe(path: Path) -> Description:
    """What the folder says. Raises ConfigError, which names the file and what is wrong with it."""
    with naming(path / CONFIG):
        values = read_json(path / CONFIG)
        facts = _facts(values)
    with opened(path / WEIGHTS) as file:
        layout = _layout(facts["architecture"], file)
        density = DensityFile(path / SPARSITY, "sparsity", log10=True) if stands(path / SPARSITY) else None
        beside = (path / CONFIG, *((density.path,) if density else ()))
        if facts["layer"] is None:
            facts["layer"] = layer_in(Path(facts["hook_name"] or path.name))
        description = describe_file(NAME, file, layout, beside=beside, density=density, **facts)
        check_sizes(description, values, CONFIG)
    return description


def _layout(architecture: str, file: WeightFile) -> Layout:
    is_transcoder = architecture.endswith("transcoder")
    out = "d_out" if is_transcoder else "d_in"
    parts = {"W_enc": Part("W_enc", "d_in", "d_sae")}
    if architecture == "gated":
        parts |= {name: Part(name, "d_sae") for name in ("b_gate", "b_mag", "r_mag")}
    else:
        parts["b_enc"] = Part("b_enc", "d_sae")
    if ACTIVATIONS[architecture] == "jumprelu":
        parts["threshold"] = Part("threshold", "d_sae")
    parts |= {"b_dec": Part("b_dec", out), "W_dec": Part("W_dec", "d_sae", out)}
    ignored = ("W_skip",) if "skip" in architecture else ()
    return Layout(parts, ignored, must_be_one=("scaling_factor",))


def _facts(values: dict[str, Any]) -> dict[str, Any]:
    metadata = get(values, "metadata", dict, {})
    about = {**values, **{key: value for key, value in metadata.items() if value is not None}}  # of the model
    if about.get("hook_head_index", about.get("hook_point_head_index")) is not None:
        raise ConfigError("hook_head_index: expected none, SAEs of one attention head are not supported")
    if values.get("is_transcoder"):
        raise ConfigError("is_transcoder: expected false, transcoders of before version 6 are not supported")
    one_of(values, "reshape_activations", ("none", "hook_z"), "none")
    is_flat = _is_flat(values, metadata)
    architecture, k = _architecture(values, is_flat=is_flat)
    is_transcoder = architecture.endswith("transcoder")
    subtract = get(values, "apply_b_dec_to_input", bool, not is_transcoder)
    if is_transcoder and subtract:
        raise ConfigError("apply_b_dec_to_input: expected false, the b_dec of a transcoder is of its output")
    normalization = _normalization(values)
    hook, layer = _hook(about)
    kwargs = get(about, "model_from_pretrained_kwargs", dict, {})
    for option, changed in CHANGING.items():
        if kwargs.get(option) and re.search(changed, hook or ""):
            raise ConfigError(
                f"model_from_pretrained_kwargs: {option} changes what {hook} gives, and models are served as published"
            )
    is_written = re.search(WRITTEN, hook or "") is not None
    rescale = get(values, "rescale_acts_by_decoder_norm", bool, False)
    return {
        "architecture": architecture,
        "activation": ACTIVATIONS[architecture],
        "k": k,
        "rescale": rescale and architecture == "topk",
        "subtract_bias": subtract,
        "normalization": "none" if normalization == EXPECTED_AVERAGE else normalization,
        "expects_scaling": normalization == EXPECTED_AVERAGE,
        "center_input": is_written and bool(kwargs.get("center_writing_weights")),
        "centring_is_unsaid": is_written and is_flat and not metadata and "model_from_pretrained_kwargs" not in about,
        "hook_name": hook,
        "layer": layer,
        "model": get(about, "model_name", str),
        "bos": get(about, "prepend_bos", bool, True),
    }


def _hook(about: dict[str, Any]) -> tuple[str | None, int | None]:
    """Hook point and layer. Old files write `{layer}` into the one.

    `hook_mlp_in` is TransformerLens' copy of the residual stream before the norm, but where SAELens gave that name to
    a hook point of Hugging Face's, which it then names too.
    """
    hook = get(about, "hook_name", str) or get(about, "hook_point", str)
    layer = get(about, "hook_layer", int, get(about, "hook_point_layer", int))
    if hook is not None and "{layer}" in hook and layer is not None:
        hook = hook.replace("{layer}", str(layer))
    if hook is not None and hook.endswith(".hook_mlp_in"):
        hook = get(about, "hf_hook_name", str, hook.replace("hook_mlp_in", "hook_resid_mid"))
    return hook, layer


def _is_flat(values: dict[str, Any], metadata: dict[str, Any]) -> bool:
    """Whether the file is of a version before 6."""
    version = str(values.get("sae_lens_version") or metadata.get("sae_lens_version") or "0").partition(".")[0]
    return not (version.isdecimal() and int(version) >= 6)


def _architecture(values: dict[str, Any], *, is_flat: bool) -> tuple[str, int | None]:
    """The architecture, and k for topk."""
    architecture = get(values, "architecture", str, "standard")
    if architecture in REFUSED:
        raise ConfigError(f"architecture: {architecture} cannot be served: {REFUSED[architecture]}")
    one_of(values, "architecture", tuple(ACTIVATIONS), "standard")
    key = "activation_fn_str" if values.get("activation_fn_str") is not None else "activation_fn"
    function = one_of(values, key, ("relu", "topk"), "relu")
    kwargs = get(values, "activation_fn_kwargs", dict, {})
    if function == "topk" and architecture != "topk":
        if not is_flat or architecture != "standard":
            raise ConfigError(f"{key}: expected relu for architecture {architecture}, got topk")
        architecture = "topk"
    if architecture != "topk":
        return architecture, None
    return architecture, get(values, "k", int, get(kwargs, "k", int))


def _normalization(values: dict[str, Any]) -> str:
    """`normalize_activations`; true, in old files, is what was later called expected_average_only_in."""
    value = values.get("normalize_activations")
    if isinstance(value, bool):
        return EXPECTED_AVERAGE if value else "none"
    if value == "covariance_whitening":
        raise ConfigError(
            "normalize_activations: covariance_whitening is not supported: the file holds no whitening to apply; fold "
            "it into the weights before saving (SAELens' fold_activation_whitening)"
        )
    return str(one_of(values, "normalize_activations", NORMALIZATIONS, "none"))
