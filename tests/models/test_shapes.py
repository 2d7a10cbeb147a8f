"""Every family that public SAEs are for: what is read equals TransformerLens' `run_with_cache` at every hook point."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from saeserve_server.config import load_config
from saeserve_server.models.load import load_model
from saeserve_server.models.loaded import LoadedModel
from tests.conftest import DEVICE
from tests.models.shapes import SHAPES, build, build_multimodal, save, save_multimodal

pytestmark = pytest.mark.device

SEQUENCES = [[0, 5, 6, 7], [0, *range(200, 240)], [0, 9], [0, *range(30, 60)]]
NAMES = [
    "hook_embed",
    *(
        f"blocks.{layer}.{name}"
        for layer in (0, 1)
        for name in (
            "hook_resid_pre",
            "hook_resid_mid",
            "hook_resid_post",
            "attn.hook_z",
            "hook_attn_out",
            "ln2.hook_normalized",
            "mlp.hook_in",
            "mlp.hook_post",
            "hook_mlp_out",
        )
    ),
]
LACKING = {"neox": {"hook_resid_mid"}, "olmo2": {"ln2.hook_normalized"}}
MIXTURES = {"qwen3-moe", "gpt-oss"}
HEADS = {"gemma", "gemma2", "gemma3", "qwen3", "qwen3-moe", "gpt-oss"}


def load(folder: Path, **flags: str) -> LoadedModel:
    config = load_config(None, {"model": str(folder), "device": DEVICE, **flags}, {})
    return load_model(config, torch.device(DEVICE))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_family_is_read_as_run_with_cache_reads_it(shape: str, tmp_path: Path) -> None:
    folder = save(tmp_path / shape, build(shape))
    model = load(folder)
    names = [name for name in NAMES if name.partition(".")[2].partition(".")[2] not in LACKING.get(shape, ())]
    model.prepare(NAMES)
    assert {name for name in NAMES if model.width(name) is None} == set(NAMES) - set(names)
    assert model.width("blocks.1.attn.hook_z") == (64 if shape in HEADS else 32)
    assert model.neuron_hook(1) == (None if shape in MIXTURES else "blocks.1.mlp.hook_post")
    if shape not in MIXTURES:
        assert model.width("blocks.1.mlp.hook_post") == 48
    bridge: Any = TransformerBridge.boot_transformers(str(folder), device="cpu")
    read = model.forward.run(SEQUENCES, {name: model.place(name) for name in names})
    for ids, ours in zip(SEQUENCES, read, strict=True):
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(torch.tensor([ids]), names_filter=names, prepend_bos=False)
        for name in names:
            theirs = cache[name].reshape(len(ids), -1)
            assert ours[name].shape == theirs.shape, name
            assert float((ours[name].cpu() - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max()), name


def test_multimodal_gemma_3_is_served_by_its_language_model(tmp_path: Path) -> None:
    whole = build_multimodal()
    model = load(save_multimodal(tmp_path / "gemma-3-4b-pt"))
    assert (model.info.n_layers, model.info.d_model, model.info.vocabulary) == (2, 32, 8192)
    assert not [
        name for name, _ in model.forward._model.named_parameters() if "vision" in name or "multi_modal" in name
    ]
    names = {"blocks.1.hook_resid_post": None, "blocks.1.hook_mlp_out": "post_feedforward_layernorm"}
    model.prepare(list(names))
    seen: dict[str, Any] = {}
    layer = whole.model.language_model.layers[1]
    for name, part in names.items():
        module = layer if part is None else getattr(layer, part)
        module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: out}))
    ids = SEQUENCES[1]
    with torch.inference_mode():
        whole(input_ids=torch.tensor([ids]))
    [ours] = model.forward.run([ids], {name: model.place(name) for name in names})
    for name in names:
        theirs = seen[name][0] if isinstance(seen[name], tuple) else seen[name]
        torch.testing.assert_close(ours[name].cpu(), theirs.reshape(len(ids), -1), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shape", ["gpt2", "gemma3", "olmo2"])
def test_a_model_runs_in_bfloat16_as_it_was_trained(shape: str, tmp_path: Path) -> None:
    whole = build(shape).to(torch.bfloat16)
    folder = save(tmp_path / shape, whole)
    model, exact = load(folder, model_dtype="auto"), load(folder)
    assert (model.info.dtype, exact.info.dtype) == ("bfloat16", "float32")
    assert model.info.revision != exact.info.revision
    names = [f"blocks.1.{name}" for name in ("hook_resid_post", "attn.hook_z", "hook_mlp_out")]
    model.prepare([*NAMES])
    [ours] = model.forward.run([SEQUENCES[1]], {name: model.place(name) for name in names})
    [theirs] = exact.forward.run([SEQUENCES[1]], {name: model.place(name) for name in names})
    for name in names:
        assert ours[name].dtype is torch.float32
        difference = float((ours[name] - theirs[name]).norm() / theirs[name].norm())
        assert 1e-4 < difference < 0.1, name
