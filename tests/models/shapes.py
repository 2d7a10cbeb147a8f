"""Tiny models with random weights in the shape of every family that public SAEs are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

from tests.reference import MODEL

_SIZES = {
    "vocab_size": 8192,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 16}
"""Heads that are together wider than the model, as those of Gemma and Qwen 3."""
_WINDOW = {**_HEADS, "sliding_window": 16}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_EXPERTS = {"num_experts_per_tok": 2}

SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_inner": 48, "vocab_size": 8192, "n_positions": 64},
    ),
    "neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _SIZES),
    "llama2": ("LlamaForCausalLM", "LlamaConfig", _SIZES),
    "llama3": ("LlamaForCausalLM", "LlamaConfig", {**_GROUPED, "rope_parameters": _LLAMA3}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_GROUPED, "sliding_window": 16}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _HEADS),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_WINDOW, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**_WINDOW, "query_pre_attn_scalar": 16}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _HEADS),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**_HEADS, **_EXPERTS, "num_experts": 4, "moe_intermediate_size": 24},
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _GROUPED),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _GROUPED),
    "gpt-oss": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {**_WINDOW, **_EXPERTS, "num_local_experts": 4, "intermediate_size": 64},
    ),
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def build(shape: str) -> Any:
    """A model of a family, with weights so large that every part of it counts."""
    model_class, config_class, sizes = SHAPES[shape]
    return with_weights(getattr(transformers, model_class), getattr(transformers, config_class)(**sizes))


def build_multimodal() -> Any:
    """Gemma 3 with its vision tower, whose language model is `build("gemma3")` in shape."""
    text = SHAPES["gemma3"][2]
    config = transformers.Gemma3Config(text_config=dict(text), vision_config=dict(VISION), mm_tokens_per_image=4)
    return with_weights(transformers.Gemma3ForConditionalGeneration, config)


def with_weights(model_class: Callable[[Any], Any], config: Any) -> Any:
    """A model with random weights, norms and biases included."""
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(5.0) if weights.ndim > 1 else weights.add_(torch.randn_like(weights) * 0.2)
    return model


def save(folder: Path, model: Any) -> Path:
    """Writes a model with the demo's tokenizer as Hugging Face does."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)
    return folder


def save_multimodal(folder: Path) -> Path:
    """Writes `build_multimodal()` in the published layout, with files of a processor that nobody could read."""
    save(folder, build_multimodal())
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).write_text("{")
    return folder
