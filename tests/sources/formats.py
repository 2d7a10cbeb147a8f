"""Writes random SAEs in every supported format; what was written is returned, for the plain formulas of `plain.py`."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from saeserve_server.sources.formats import describe
from saeserve_server.sources.reading import read
from saeserve_server.sources.sae import Sae


def load(path: Path, form: str | None = None) -> Sae:
    """The SAE at `path`; its format is found out if it is not given."""
    return read(describe(path, form))[0]


def random_weights(d_in: int, d_sae: int, seed: int, bias: float) -> dict[str, Tensor]:
    """Encoder rows of norm near 1, decoder rows of norms between 0.5 and 2, biases around `bias`."""
    g = torch.Generator().manual_seed(seed)
    decoder = torch.randn(d_sae, d_in, generator=g)
    return {
        "encoder": torch.randn(d_sae, d_in, generator=g) / d_in**0.5,  # [d_sae, d_in]
        "decoder": decoder / decoder.norm(dim=1, keepdim=True) * (0.5 + 1.5 * torch.rand(d_sae, 1, generator=g)),
        "b_enc": bias + 0.2 * torch.randn(d_sae, generator=g),
        "b_dec": 0.3 * torch.randn(d_in, generator=g),
        "threshold": 0.1 + 0.5 * torch.rand(d_sae, generator=g),
        "density": 10 ** (-10 * torch.rand(d_sae, generator=g)),
    }


def write_openai(
    path: Path,
    *,
    version: str = "v4",
    d_in: int = 12,
    d_sae: int = 40,
    k: int = 5,
    seed: int = 0,
    bias: float = -0.5,
    statistics: bool = True,
    dtype: torch.dtype = torch.float32,
    legacy: bool = False,
) -> dict[str, Any]:
    """A `.pt` state dict of version v1, v4 or v5 as OpenAI wrote them; `legacy` is the format before PyTorch 1.6."""
    w = random_weights(d_in, d_sae, seed, bias)
    state: dict[str, Any] = {
        "pre_bias": w["b_dec"].to(dtype),
        "latent_bias": w["b_enc"].to(dtype),
        "encoder.weight": w["encoder"].to(dtype),
        "decoder.weight": w["decoder"].t().contiguous().to(dtype),
    }
    if statistics:
        state["stats_last_nonzero"] = torch.zeros(d_sae, dtype=torch.int64)
    if statistics and version != "v1":
        state["latents_activation_frequency"] = w["density"]
        state["latents_mean_square"] = torch.ones(d_sae)
    if version == "v5":
        state |= {"activation": "TopK", "activation_state_dict": {"k": k, "postact_fn": "ReLU"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return state


def write_saelens(
    folder: Path,
    *,
    architecture: str = "standard",
    flat: bool = False,
    hook_name: str | None = "blocks.0.hook_mlp_out",
    d_in: int = 12,
    d_sae: int = 40,
    k: int = 5,
    rescale: bool = False,
    apply_b_dec_to_input: bool = True,
    normalize_activations: str | bool | None = "none",
    prepend_bos: bool = True,
    sparsity: bool = False,
    seed: int = 0,
    bias: float = -0.5,
    dtype: torch.dtype = torch.float32,
    changes: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A folder as SAELens 6 saves it, or before version 6 if `flat`; gives `cfg.json` and the tensors.

    `changes` replace keys of `cfg.json` at the end; a value of None removes one.
    """
    w = random_weights(d_in, d_sae, seed, bias)
    cfg: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": apply_b_dec_to_input,
        "normalize_activations": normalize_activations,
    }
    hook_z = hook_name is not None and hook_name.endswith("hook_z")
    if flat:
        cfg |= {"model_name": "gpt2-small", "hook_point": hook_name, "hook_point_head_index": None}
        cfg |= {"prepend_bos": prepend_bos, "activation_fn_str": "topk" if architecture == "topk" else "relu"}
        cfg |= {"activation_fn_kwargs": {"k": k}} if architecture == "topk" else {}
        cfg |= {"architecture": "jumprelu"} if architecture == "jumprelu" else {}
    else:
        cfg |= {"architecture": architecture, "reshape_activations": "hook_z" if hook_z else "none"}
        cfg |= {"k": k, "rescale_acts_by_decoder_norm": rescale} if architecture == "topk" else {}
        cfg["metadata"] = {
            "sae_lens_version": "6.18.0",
            "model_name": "gpt2-small",
            "hook_name": hook_name,
            "hook_head_index": None,
            "prepend_bos": prepend_bos,
        }
    cfg |= changes or {}
    cfg = {key: value for key, value in cfg.items() if value is not None}
    tensors = {
        "W_enc": w["encoder"].t().contiguous(),
        "W_dec": w["decoder"].contiguous(),
        "b_enc": w["b_enc"],
        "b_dec": w["b_dec"],
    }
    if architecture == "jumprelu":
        tensors["threshold"] = w["threshold"]
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file(tensors, folder / "sae_weights.safetensors")
    if sparsity:
        tensors["sparsity"] = w["density"].log10()
        save_file({"sparsity": tensors["sparsity"]}, folder / "sparsity.safetensors")
    return cfg, tensors
