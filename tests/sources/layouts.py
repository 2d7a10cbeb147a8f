"""The files of published SAEs, layout by layout: those that SAELens' loader of a release opens, with their own names.

What a layout is follows from those loaders, and where published files are known, from them; not from our readers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from tests.sources.trees import D_IN, D_SAE, K, Published, tensors

NORM = 6.3125
"""Mean norm of inputs in Llama Scope's files."""


def files(sae: Published, *, config: bool = True) -> dict[str, bytes]:
    """What a repository holds of an SAE, by path; without `config` less what SAELens does without."""
    return WRITERS[sae.layout](sae, config)


BIASES = ("b_enc=b_enc", "b_dec=b_dec")
SAELENS: tuple[str, ...] = ("W_enc=encoder.t", "W_dec=decoder", *BIASES)
LINEAR = ("encoder.weight=encoder", "decoder.weight=decoder.t")
BOTH_BIASES = ("encoder.bias=b_enc", "decoder.bias=b_dec")


def _gemma_2(sae: Published, config: bool) -> dict[str, bytes]:
    return {f"{sae.path}/params.npz": tensors("npz", *SAELENS, "threshold=threshold")}


def _gemma_3(sae: Published, config: bool) -> dict[str, bytes]:
    crosses, affine = "clt/" in sae.path, "_affine" in sae.path
    parts = ["w_enc=encoder.t", *BIASES, "threshold=threshold"]
    parts += ["w_dec=several_decoders" if crosses else "w_dec=decoder"]
    parts += ["affine_skip_connection=skip"] if affine else []
    kind = sae.path.partition("/")[0].removesuffix("_all")
    module, kind_of_type = {
        "resid_post": ("output", "sae"),
        "attn_out": ("self_attn.o_proj.input", "sae"),
        "mlp_out": ("post_feedforward_layernorm.output", "sae"),
        "transcoder": ("pre_feedforward_layernorm.output", "transcoder"),
        "clt": ("pre_feedforward_layernorm.output", "clt"),
    }[kind]
    values = {
        "hf_hook_point_in": f"model.layers.{'{all}' if crosses else sae.layer}.{module}",
        "width": D_SAE,
        "model_name": sae.repository.replace("gemma-scope-2", "gemma-3"),
        "architecture": "jump_relu",
        "l0": 20,
        "affine_connection": affine,
        "type": kind_of_type,
    }
    folder, held = sae.path, {sae.place if crosses else f"{sae.path}/params.safetensors": tensors("st", *parts)}
    if crosses:
        folder = sae.path.rpartition("/")[0]
    return held | ({f"{folder}/config.json": _json(values)} if config else {})


DICTIONARIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("matryoshka", "MatryoshkaBatchTopKSAE", (*SAELENS, "k=k", "threshold=one_threshold", "group_sizes=group_sizes")),
    ("gated", "GatedAutoEncoder", (*LINEAR, "decoder_bias=b_dec", "r_mag=r_mag", "gate_bias=b_enc", "mag_bias=b_mag")),
    ("topk_width", "AutoEncoderTopK", (*LINEAR, "encoder.bias=b_enc", "b_dec=b_dec", "k=k", "threshold=one_threshold")),
    ("topk", "AutoEncoderTopK", (*LINEAR, "encoder.bias=b_enc", "b_dec=b_dec")),
    ("jump", "JumpReluAutoEncoder", (*SAELENS, "threshold=threshold")),
    (
        "resid_post_layer",
        "BatchTopKSAE",
        (*LINEAR, "encoder.bias=b_enc", "b_dec=b_dec", "k=k", "threshold=one_threshold"),
    ),
    ("", "AutoEncoder", (*LINEAR, "encoder.bias=b_enc", "bias=b_dec")),
)
"""dictionary_learning's classes by what the path says first: a sweep's name, or none (BatchTopK)."""


def dictionary(sae: Published) -> tuple[str, tuple[str, ...]]:
    """The class of a dictionary_learning SAE, and its tensors."""
    sweep = sae.path.partition("/")[0].casefold()
    return next((name, parts) for word, name, parts in DICTIONARIES if sweep.startswith(word) or f"_{word}" in sweep)


def _dictionary_learning(sae: Published, config: bool) -> dict[str, bytes]:
    name, parts = dictionary(sae)
    trainer = {
        "dict_class": name,
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "layer": sae.layer,
        "lm_name": sae.model,
        "submodule_name": f"resid_post_layer_{sae.layer}",
        **({"k": K} if "TopK" in name else {}),
    }
    values = {"trainer": trainer, "buffer": {"d_submodule": D_IN, "io": "out", "ctx_len": 128}}
    return {f"{sae.path}/ae.pt": tensors("pt", *parts), f"{sae.path}/config.json": _json(values)}


def _qwen_scope(sae: Published, config: bool) -> dict[str, bytes]:
    found = re.search(r"SAE-Res-(.+)-W\d+K-L0_(\d+)$", sae.repository)
    assert found, sae.repository
    values = {
        "model_type": "topk_sae",
        "base_model": f"Qwen/{found[1]}",
        "d_model": D_IN,
        "d_sae": D_SAE,
        "k": int(found[2]),
        "num_layers": 28,
        "hook_point": "resid_post",
        "dtype": "float32",
    }
    held = {sae.path: tensors("pt", "W_enc=encoder", "W_dec=decoder.t", *BIASES)}
    return held | ({"config.json": _json(values)} if config else {})


FLAT_WITH_HOOK_POINT = ("GPT2-Small-SAEs-Reformatted", "GPT2-Small-Feature-Splitting", "gpt2-small-mlp-out-saes")
"""Repositories whose `cfg.json` is SAELens' oldest."""


def saelens_hook(sae: Published) -> str:
    """The hook point in the file."""
    return re.sub(r"_\d+$", "", sae.id)


def _saelens(sae: Published, config: bool) -> dict[str, bytes]:
    values: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "device": "cpu"}
    hook, parts = saelens_hook(sae), SAELENS
    held: dict[str, bytes] = {}
    if any(name in sae.repository for name in FLAT_WITH_HOOK_POINT):
        is_tm = sae.repository.startswith("tommmcgrath")
        values |= {"model_name": "gpt2" if is_tm else sae.model, "hook_point": hook, "hook_point_layer": sae.layer}
        values |= {"hook_point_head_index": None, "dataset_path": "Skylion007/openwebtext", "context_size": 128}
        values |= {"expansion_factor": 32, "b_dec_init_method": "geometric_median", "use_ghost_grads": False}
        values |= {"normalize_activations": True} if is_tm else {}
        parts = (*parts, "scaling_factor=ones")
        held[f"{sae.path}/sparsity.safetensors"] = tensors("st", "sparsity=log10_density")
    elif sae.repository.startswith("chanind/"):
        parts = (*parts, "threshold=threshold")
        values |= {"architecture": "jumprelu", "apply_b_dec_to_input": True, "normalize_activations": "none"}
        values |= {"reshape_activations": "none", "dtype": "float32"}
        about = {"sae_lens_version": "6.10.0", "model_name": sae.model, "hook_name": hook, "hook_head_index": None}
        values["metadata"] = about | {"prepend_bos": True, "context_size": 1024}
    else:
        is_openai, is_gated = "-OAI-v5-" in sae.repository, "llama-3-8b-it-res" in sae.repository
        values |= {"architecture": "gated" if is_gated else "standard", "model_name": sae.model, "hook_name": hook}
        values |= {"hook_layer": sae.layer, "hook_head_index": None, "apply_b_dec_to_input": True}
        values |= {"activation_fn_str": "topk" if is_openai else "relu", "finetuning_scaling_factor": False}
        values |= {"activation_fn_kwargs": {"k": 32} if is_openai else {}, "prepend_bos": not is_openai}
        values |= {"normalize_activations": "layer_norm" if is_openai else "none", "sae_lens_training_version": None}
        if sae.factor is not None:
            values["normalize_activations"] = "expected_average_only_in"
        if is_gated:
            parts = ("W_enc=encoder.t", "W_dec=decoder", "b_dec=b_dec", "b_gate=b_enc", "b_mag=b_mag", "r_mag=r_mag")
    return held | {f"{sae.path}/cfg.json": _json(values), f"{sae.path}/sae_weights.safetensors": tensors("st", *parts)}


def _connor_rob(sae: Published, config: bool) -> dict[str, bytes]:
    values = {"act_size": D_IN, "dict_size": D_SAE, "act_name": f"blocks.{sae.layer}.attn.hook_z", "seed": 49}
    return {sae.path: tensors("pt", *SAELENS), f"{sae.path.split('.pt')[0]}_cfg.json": _json(values)}


LLAMA_SCOPE_HOOKS = {"A": "hook_attn_out", "M": "hook_mlp_out", "R": "hook_resid_post"}


def _llama_scope(sae: Published, config: bool) -> dict[str, bytes]:
    position = re.search(r"-L\d+([AMR])-", sae.path)
    assert position, sae.path
    hook = f"blocks.{sae.layer}.{LLAMA_SCOPE_HOOKS[position[1]]}"
    values = {
        "hook_point_in": hook,
        "hook_point_out": hook,
        "dtype": "torch.bfloat16",
        "d_model": D_IN,
        "d_sae": D_SAE,
        "expansion_factor": D_SAE // D_IN,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.2021484375,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": NORM, "out": NORM},
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "sparsity_include_decoder_norm": True,
        "top_k": 50,
    }
    weights = tensors("st", *LINEAR, *BOTH_BIASES, "bfloat16")
    return {f"{sae.path}/hyperparams.json": _json(values), f"{sae.path}/checkpoints/final.safetensors": weights}


def _llama_scope_r1(sae: Published, config: bool) -> dict[str, bytes]:
    hook = f"blocks.{sae.layer}.hook_resid_post"
    values = {"hook_point_in": hook, "hook_point_out": hook, "d_model": D_IN, "expansion_factor": D_SAE // D_IN}
    values |= {"act_fn": "jumprelu", "norm_activation": "dataset-wise", "use_decoder_bias": True}
    weights = tensors("st", *LINEAR, *BOTH_BIASES, "log_jumprelu_threshold=log_threshold")
    return {f"{sae.path}/config.json": _json(values), f"{sae.path}/sae_weights.safetensors": weights}


def _mwhanna(sae: Published, config: bool) -> dict[str, bytes]:
    size = re.search(r"qwen3-([\d.]+)b", sae.repository)
    assert size, sae.repository
    facts: dict[str, Any] = {"d_model": {"value": D_IN}, "d_feature": {"value": D_SAE}, "batch_size": {"value": 8192}}
    held = {sae.path: tensors("st", "W_enc=encoder", "W_dec=decoder", *BIASES)}
    if size[1] == "14":  # it has no config.yaml, and the other's name is misspelt
        return held | {"wanb-config.yaml": _yaml(facts)}
    values = {"model_name": f"Qwen/Qwen3-{size[1]}B", "model_kind": "transcoder_set", "transcoders": []}
    values |= {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    return held | {"wandb-config.yaml": _yaml(facts), "config.yaml": _yaml(values)}


def _mntss(sae: Published, config: bool) -> dict[str, bytes]:
    n = sae.path
    encoder = tensors("st", f"W_enc_{n}=encoder", f"b_enc_{n}=b_enc", f"b_dec_{n}=b_dec")
    values = {"model_name": "google/gemma-2-2b", "model_kind": "cross_layer_transcoder"}
    values |= {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    return {
        f"W_enc_{n}.safetensors": encoder,
        f"W_dec_{n}.safetensors": tensors("st", f"W_dec_{n}=several_decoders"),
        "config.yaml": _yaml(values),
    }


def _linear(sae: Published, config: bool) -> dict[str, bytes]:
    names: tuple[str, ...] = (*LINEAR, *BOTH_BIASES)
    if sae.layout == "goodfire":
        names = tuple(name.replace("coder.", "coder_linear.", 1) for name in names)
    return {sae.path: tensors("pt", *names)}


def _sparsify(sae: Published, config: bool) -> dict[str, bytes]:
    values = {"expansion_factor": 32, "normalize_decoder": True, "k": K, "d_in": D_IN}
    values |= {} if sae.path == "embed_tokens" else {"num_latents": D_SAE}
    parts = ["encoder.weight=encoder", "encoder.bias=b_enc", "W_dec=decoder", "b_dec=b_dec"]
    if "skip-transcoder" in sae.repository:
        values |= {"multi_topk": False, "skip_connection": True}
        parts += ["W_skip=skip"]
    else:
        values["signed"] = False
    return {f"{sae.path}/cfg.json": _json(values), f"{sae.path}/sae.safetensors": tensors("st", *parts)}


def _temporal(sae: Published, config: bool) -> dict[str, bytes]:
    values = {"llm": {"dimin": D_IN}, "sae": {"exp_factor": D_SAE // D_IN, "scaling_factor": 0.01}}
    weights = tensors("st", "D=decoder", "E=encoder", "b=b_dec", "attn_layers.0.k_ctx.weight=skip")
    return {f"{sae.path}/conf.yaml": _yaml(values), f"{sae.path}/latest_ckpt.safetensors": weights}


WRITERS: Mapping[str, Callable[[Published, bool], dict[str, bytes]]] = {
    "sae_lens": _saelens,
    "gemma_2": _gemma_2,
    "gemma_2_transcoder": _gemma_2,
    "gemma_3": _gemma_3,
    "dictionary_learning_1": _dictionary_learning,
    "qwen_scope": _qwen_scope,
    "connor_rob_hook_z": _connor_rob,
    "llama_scope": _llama_scope,
    "llama_scope_r1_distill": _llama_scope_r1,
    "mwhanna_transcoder": _mwhanna,
    "mntss_clt_layer_transcoder": _mntss,
    "goodfire": _linear,
    "deepseek_r1": _linear,
    "sparsify": _sparsify,
    "temporal": _temporal,
}
"""By SAELens' names of loaders."""


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode()


def _yaml(values: Mapping[str, Any]) -> bytes:
    return yaml.safe_dump(dict(values)).encode()
