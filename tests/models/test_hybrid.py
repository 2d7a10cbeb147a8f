"""Qwen 3.5, dense and with experts, as it is published: multimodal, with linear attention in most layers."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from saeserve_server.config import load_config
from saeserve_server.models.load import load_model
from tests.conftest import DEVICE
from tests.models.shapes import save, with_weights

pytestmark = pytest.mark.device

TEXT = {
    "vocab_size": 8192,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}
VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 14,
    "num_position_embeddings": 16,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {"qwen3.5": ("Qwen3_5", {}), "qwen3.5-moe": ("Qwen3_5Moe", EXPERTS)}
HOOKS = ("hook_resid_post",)
IDS = [0, *range(200, 240)]


@pytest.mark.parametrize("shape", SHAPES)
def test_its_residual_stream_is_what_hugging_face_computes(shape: str, tmp_path: Path) -> None:
    name, more = SHAPES[shape]
    config = getattr(transformers, f"{name}Config")(text_config={**TEXT, **more}, vision_config=dict(VISION))
    whole = with_weights(getattr(transformers, f"{name}ForConditionalGeneration"), config)
    folder = save(tmp_path / shape, whole)
    model = load_model(load_config(None, {"model": str(folder), "device": DEVICE}, {}), torch.device(DEVICE))
    assert (model.info.n_layers, model.info.d_model) == (2, 32)
    names = [f"blocks.{layer}.{hook}" for layer in (0, 1) for hook in HOOKS]
    model.prepare(names)
    seen: dict[str, Any] = {}
    for layer, module in enumerate(whole.model.language_model.layers):
        key = f"blocks.{layer}.hook_resid_post"
        module.register_forward_hook(lambda _, args, out, key=key: seen.update({key: out}))
    with torch.inference_mode():
        whole(input_ids=torch.tensor([IDS]))
    [ours] = model.forward.run([IDS], {name: model.place(name) for name in names})
    for name in names:
        theirs = seen[name][0] if isinstance(seen[name], tuple) else seen[name]
        torch.testing.assert_close(ours[name].cpu(), theirs.reshape(len(IDS), -1), atol=1e-4, rtol=1e-5)
    assert model.width("blocks.0.attn.hook_z") is None
    assert model.neuron_hook(1) == (None if more else "blocks.1.mlp.hook_post")
