"""What SAELens' loaders say of published SAEs: the rules of its configuration functions, restated."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.sources.layouts import LLAMA_SCOPE_HOOKS, NORM, dictionary, saelens_hook
from tests.sources.trees import D_IN, K, Published


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The facts that activations follow from, by our names."""

    hook_name: str
    model: str
    activation: str = "relu"
    k: int | None = None
    subtract_bias: bool = False
    """`apply_b_dec_to_input`"""
    normalization: str = "none"
    center_input: bool = False
    """`center_writing_weights`"""
    scaling_factor: float | None = None


def expected(sae: Published) -> Expected | None:
    """What SAELens serves; None for an architecture that is refused."""
    return None if sae.layout == "temporal" else Expected(**RULES[sae.layout](sae))


def _block(sae: Published, hook: str) -> str:
    return f"blocks.{sae.layer}.{hook}"


def _gemma_2(sae: Published) -> dict[str, Any]:
    found = re.search(r"gemma-scope-(\w+)-(pt|it)-(res|mlp|att|transcoders)", sae.repository)
    assert found, sae.repository
    hooks = {
        "res": "hook_resid_post",
        "mlp": "hook_mlp_out",
        "att": "attn.hook_z",
        "transcoders": "ln2.hook_normalized",
    }
    embeds = sae.path.startswith("embedding/")
    return {
        "hook_name": "hook_embed" if embeds else _block(sae, hooks[found[3]]),
        "model": f"gemma-2-{found[1]}" + ("-it" if found[2] == "it" else ""),
        "activation": "jumprelu",
        "scaling_factor": D_IN**-0.5 if embeds else None,  # W_enc is divided by sqrt(d_in)
    }


def _gemma_3(sae: Published) -> dict[str, Any]:
    hooks = {
        "resid_post": "hook_resid_post",
        "attn_out": "attn.hook_z",
        "mlp_out": "hook_mlp_out",
        "transcoder": "mlp.hook_in",  # SAELens calls it hook_mlp_in
        "clt": "mlp.hook_in",
    }
    model = sae.repository.replace("gemma-scope-2", "gemma-3")
    return {
        "hook_name": _block(sae, hooks[sae.path.partition("/")[0].removesuffix("_all")]),
        "model": model.replace("270m-pt", "270m"),
        "activation": "jumprelu",
    }


def _dictionary_learning(sae: Published) -> dict[str, Any]:
    name, _ = dictionary(sae)
    is_topk = name == "AutoEncoderTopK"
    jumps = name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")
    return {
        "hook_name": _block(sae, "hook_resid_post"),
        "model": sae.model,
        "activation": "topk" if is_topk else "jumprelu" if jumps else "gated" if name.startswith("Gated") else "relu",
        "k": K if is_topk else None,
        "subtract_bias": name != "JumpReluAutoEncoder",
    }


def _qwen_scope(sae: Published) -> dict[str, Any]:
    k = int(sae.repository.rpartition("_")[2])
    return {"hook_name": _block(sae, "hook_resid_post"), "model": sae.model, "activation": "topk", "k": k}


def _saelens(sae: Published) -> dict[str, Any]:
    is_openai = "-OAI-v5-" in sae.repository
    jumps, is_gated = sae.repository.startswith("chanind/"), "llama-3-8b-it-res" in sae.repository
    kwargs = sae.overrides.get("model_from_pretrained_kwargs", {})
    return {
        "hook_name": saelens_hook(sae),
        "model": sae.model,
        "activation": "topk" if is_openai else "jumprelu" if jumps else "gated" if is_gated else "relu",
        "k": 32 if is_openai else None,
        "subtract_bias": True,
        "normalization": sae.overrides.get("normalize_activations", "layer_norm" if is_openai else "none"),
        "center_input": kwargs.get("center_writing_weights", False),
        "scaling_factor": sae.factor,
    }


def _llama_scope(sae: Published) -> dict[str, Any]:
    hook = LLAMA_SCOPE_HOOKS[sae.path.rpartition("-")[0][-1]]
    return {
        "hook_name": _block(sae, hook),
        "model": sae.model,
        "activation": "jumprelu",
        "scaling_factor": D_IN**0.5 / NORM,
    }


def _llama_scope_r1(sae: Published) -> dict[str, Any]:
    # Its loader says Llama 3.1 8B, the directory and the release's own name say the distilled model.
    return {
        "hook_name": _block(sae, "hook_resid_post"),
        "model": sae.model,
        "activation": "jumprelu",
        "scaling_factor": sae.factor,
    }


def _sparsify(sae: Published) -> dict[str, Any]:
    # SAELens' loader is broken: this is what sparsify itself does. Its folders are named after the module.
    plain, side = re.fullmatch(r"layers\.\d+", sae.path), "input" if "transcoder" in sae.repository else "output"
    hook = _block(sae, "hook_resid_post") if plain else f"{sae.path}.{side}"
    embeds = sae.path == "embed_tokens"
    return {
        "hook_name": "hook_embed" if embeds else hook,
        "model": sae.model,
        "activation": "topk",
        "k": K,
        "subtract_bias": True,
    }


def _plain(hook: str, **facts: Any) -> Callable[[Published], dict[str, Any]]:
    return lambda sae: {"hook_name": _block(sae, hook), "model": sae.model, **facts}


RULES: Mapping[str, Callable[[Published], dict[str, Any]]] = {
    "sae_lens": _saelens,
    "gemma_2": _gemma_2,
    "gemma_2_transcoder": _gemma_2,
    "gemma_3": _gemma_3,
    "dictionary_learning_1": _dictionary_learning,
    "qwen_scope": _qwen_scope,
    "connor_rob_hook_z": _plain("attn.hook_z", subtract_bias=True),
    "llama_scope": _llama_scope,
    "llama_scope_r1_distill": _llama_scope_r1,
    "mwhanna_transcoder": _plain("mlp.hook_in"),
    "mntss_clt_layer_transcoder": _plain("hook_resid_mid"),
    "goodfire": _plain("hook_resid_post"),
    "deepseek_r1": _plain("hook_resid_post"),
    "sparsify": _sparsify,
}
"""By SAELens' names of loaders; that of sparsify is broken, and no release names it."""
