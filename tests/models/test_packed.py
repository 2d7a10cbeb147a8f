"""Packed linear layers: the same activations from one copy of the weights, or plain ones where they would differ."""

import gc
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from saeserve_server.config import load_config
from saeserve_server.models import loaded
from saeserve_server.models.forward import HookedForward
from saeserve_server.models.hooks import HookPlace
from saeserve_server.models.load import load_model
from saeserve_server.models.loaded import KERNEL_TOLERANCE, LoadedModel
from saeserve_server.models.packed import PackedLinear, pack_linears, unpack_linears
from tests.models.shapes import SHAPES, build, save

IDS = [[0, 5, 6, 7], [0, *range(200, 230)], [0, 9]]
PACKED = {
    "gpt2": ("h.0.attn.c_attn", "h.0.mlp.c_proj"),
    "llama3": ("layers.0.self_attn.q_proj", "layers.0.mlp.down_proj"),
}
HOOKS = ["blocks.1.hook_resid_post", "blocks.0.mlp.hook_post", "blocks.1.attn.hook_z", "blocks.0.hook_mlp_out"]


def read(model: Any, places: dict[str, HookPlace]) -> list[dict[str, Tensor]]:
    return HookedForward(model, torch.device("cpu")).run(IDS, places)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_packed_model_gives_what_it_gave_plain_also_at_hooks_on_packed_layers(shape: str) -> None:
    model = build(shape)
    base = model.base_model
    paths = PACKED.get(shape, ())
    prefix = model.base_model_prefix
    places = {f"{path} {side}": HookPlace(f"{prefix}.{path}", side) for path in paths for side in ("in", "out")}
    last = len(base.h if shape == "gpt2" else base.layers) - 1
    places["last"] = HookPlace(f"{prefix}.{'h' if shape == 'gpt2' else 'layers'}.{last}", "out")
    plain = read(model, places)
    linears = [module for module in base.modules() if type(module) in (nn.Linear, Conv1D)]
    assert pack_linears(base, 1) == len(linears) > 0
    assert all(isinstance(base.get_submodule(path), PackedLinear) for path in paths)
    for text, expected in zip(read(model, places), plain, strict=True):
        for name, values in text.items():
            assert (values - expected[name]).abs().max() <= KERNEL_TOLERANCE[torch.float32] * expected[name].abs().max()
    unpack_linears(base)
    assert [module for module in base.modules() if type(module) in (nn.Linear, Conv1D)] == linears
    for text, expected in zip(read(model, places), plain, strict=True):
        assert all(torch.equal(values, expected[name]) for name, values in text.items())


def test_plain_weights_are_gone_once_they_are_packed() -> None:
    model = build("gpt2").base_model
    weights = [weakref.ref(module.weight) for module in model.modules() if isinstance(module, Conv1D)]
    pack_linears(model, 1)
    assert len(weights) == 8
    assert all(weight() is None for weight in weights)


def test_what_is_small_shared_derived_or_not_in_float32_stays_plain() -> None:
    class Derived(nn.Linear):
        pass

    embedding = nn.Embedding(8, 8)
    tied = nn.Linear(8, 8)
    tied.weight = embedding.weight
    twice = nn.Linear(8, 8)
    stay = [tied, Derived(8, 8), nn.Linear(8, 7), nn.Linear(8, 8, dtype=torch.bfloat16), embedding]
    model = nn.Sequential(twice, *stay, twice)
    assert pack_linears(model, 64) == 1
    assert list(model)[1:-1] == stay
    assert isinstance(model[0], PackedLinear)
    assert model[0] is model[6]
    unpack_linears(model)
    assert [*model][::6] == [twice, twice]


@pytest.fixture(params=["gpt2", "llama3"])
def served(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """A tiny model with its hook points asked for, of which any layer is worth packing."""
    monkeypatch.setattr(loaded, "pack_linears", lambda model: pack_linears(model, 1))
    folder = save(tmp_path, build(request.param))
    model = load_model(load_config(None, {"model": str(folder), "device": "cpu"}, {}), torch.device("cpu"))
    model.prepare(HOOKS)
    return model


def places_of(model: LoadedModel) -> dict[str, HookPlace]:
    return {name: model.place(name) for name in HOOKS}


def plain_layers(model: LoadedModel) -> int:
    return sum(type(module) in (nn.Linear, Conv1D) for module in model._plain.modules())


def test_a_sealed_model_is_packed_and_has_no_head(served: LoadedModel) -> None:
    plain = served.forward.run(IDS, places_of(served))
    head = weakref.ref(served._plain.lm_head)
    weights = [weakref.ref(one.weight) for one in served._plain.modules() if type(one) in (nn.Linear, Conv1D)]
    served.seal()
    gc.collect()
    assert head() is None
    embedding = served._plain.get_input_embeddings().weight
    assert [weight() for weight in weights if weight() not in (None, embedding)] == []
    assert plain_layers(served) == 0
    for text, expected in zip(served.forward.run(IDS, places_of(served)), plain, strict=True):
        for name, values in text.items():
            assert loaded._close(values, expected[name], KERNEL_TOLERANCE[torch.float32])


def test_a_model_whose_layers_look_at_each_other_s_weights_stays_plain(
    served: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    [*_, last] = [module for module in served._plain.base_model.modules() if type(module).__name__.endswith("MLP")]
    child = "c_proj" if hasattr(last, "c_proj") else "down_proj"
    usual = type(last).forward
    monkeypatch.setattr(type(last), "forward", lambda self, x: usual(self, x.to(getattr(self, child).weight.dtype)))
    before, plain = plain_layers(served), served.forward.run(IDS, places_of(served))
    with caplog.at_level(logging.WARNING):
        served.seal()
    assert "stay plain, which is slower: packed they cannot be run: AttributeError" in caplog.text
    assert plain_layers(served) == before - 1  # the head
    for text, expected in zip(served.forward.run(IDS, places_of(served)), plain, strict=True):
        assert all(torch.equal(values, expected[name]) for name, values in text.items())


def test_a_model_that_packing_changes_stays_plain(
    served: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: usual(self, x) * (1 + 1e-2))
    plain = served.forward.run(IDS, places_of(served))
    with caplog.at_level(logging.WARNING):
        served.seal()
    assert "packed they change blocks." in caplog.text
    for text, expected in zip(served.forward.run(IDS, places_of(served)), plain, strict=True):
        assert all(torch.equal(values, expected[name]) for name, values in text.items())
