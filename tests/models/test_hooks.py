"""Hook points by all their names, probed together, and refused where they would not give what they say."""

from pathlib import Path
from typing import Any

import pytest
import torch

from saeserve_server.errors import ConfigError
from saeserve_server.models.forward import HookedForward
from saeserve_server.models.hooks import HookPlace
from saeserve_server.models.loaded import LoadedModel
from tests.models.shapes import build, save
from tests.models.test_shapes import load

ALIASES = {
    "gpt2": {
        "transformer.h.1.output": "blocks.1.hook_resid_post",
        "transformer.h.1": "blocks.1.hook_resid_post",
        "transformer.h.1.input": "blocks.1.hook_resid_pre",
        "h.1.mlp": "blocks.1.hook_mlp_out",
        "transformer.h.1.attn.c_proj.input": "blocks.1.attn.hook_z",
        "transformer.h.1.mlp.c_proj.input": "blocks.1.mlp.hook_post",
        "transformer.wte": "hook_embed",
        "blocks.1.hook_resid_mid": "blocks.1.hook_resid_mid",
        "blocks.1.hook_mlp_in": "blocks.1.mlp.hook_in",
    },
    "gemma3": {
        "model.layers.1.output": "blocks.1.hook_resid_post",
        "model.layers.1": "blocks.1.hook_resid_post",
        "layers.1": "blocks.1.hook_resid_post",
        "model.language_model.layers.1.output": "blocks.1.hook_resid_post",
        "language_model.model.layers.1.output": "blocks.1.hook_resid_post",
        "model.layers.1.self_attn.o_proj.input": "blocks.1.attn.hook_z",
        "model.layers.1.post_attention_layernorm.output": "blocks.1.hook_attn_out",
        "model.layers.1.post_feedforward_layernorm.output": "blocks.1.hook_mlp_out",
        "model.layers.1.pre_feedforward_layernorm.output": "blocks.1.ln2.hook_out",
        "model.layers.1.mlp.input": "blocks.1.mlp.hook_in",
        "model.layers.1.mlp.output": "blocks.1.mlp.hook_out",
        "model.embed_tokens.output": "hook_embed",
    },
}
UNKNOWN = ["model.layers.9.output", "blocks.9.hook_mlp_in", "model.layers.1.nothing", "", ".", "output", "layers"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    folder = tmp_path_factory.mktemp("hooks")
    return {shape: load(save(folder / shape, build(shape))) for shape in ALIASES}


@pytest.mark.parametrize("shape", ALIASES)
def test_a_hook_point_is_known_by_hugging_face_s_names(models: dict[str, LoadedModel], shape: str) -> None:
    model = models[shape]
    assert {name: model.resolve(name) for name in ALIASES[shape]} == ALIASES[shape]
    assert [name for name in UNKNOWN if model.resolve(name) is not None] == []
    for name, canonical in ALIASES[shape].items():
        assert model.width(name) == model.width(canonical) is not None
        assert model.place(name) == model.place(canonical)
    assert [name for name in UNKNOWN if model.width(name) is not None] == []


def test_ln2_hook_normalized_is_the_norm_without_its_weight(models: dict[str, LoadedModel]) -> None:
    """As it stands in the papers, for an RMSNorm and for a LayerNorm; some weights of the norm are 0."""
    for shape, centred, eps in (("gemma3", False, 1e-6), ("gpt2", True, 1e-5)):
        model = models[shape]
        norm = model.forward._model.get_submodule(model._names.place("blocks.1.ln2.hook_out").module)  # type: ignore[union-attr]
        norm.weight.data[:4] = -1.0 if shape == "gemma3" else 0.0
        names = ["blocks.1.ln2.hook_normalized", "blocks.1.hook_resid_mid"]
        model.prepare(names)
        [read] = model.forward.run([[3, 5, 6, 7]], {name: model.place(name) for name in names})
        rows = read["blocks.1.hook_resid_mid"].double()
        rows = rows - rows.mean(-1, keepdim=True) if centred else rows
        expected = rows / (rows.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        assert not (expected[:, :4] == 0).any()
        torch.testing.assert_close(read["blocks.1.ln2.hook_normalized"].double(), expected, atol=1e-5, rtol=1e-5)


def test_many_hook_points_are_probed_in_as_many_passes_as_one(
    models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []

    def counting(kind: type, name: str) -> None:
        whole: Any = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *args, **kwargs: (passes.append(name), whole(*args, **kwargs))[1])

    model = models["gemma3"]
    model._places.clear()
    counting(HookedForward, "run")
    counting(type(model._bridge), "run_with_cache")
    names = [
        f"blocks.{layer}.{name}" for layer in (0, 1) for name in ("hook_resid_post", "hook_mlp_out", "mlp.hook_in")
    ]
    model.prepare([*names, "model.layers.1.output", "blocks.7.hook_mlp_out"])
    assert sorted(passes) == ["run", "run", "run", "run_with_cache"]
    assert [model.width(name) for name in [*names, "model.layers.1.output"]] == [32] * 7
    assert model.width("blocks.7.hook_mlp_out") is None
    assert len(passes) == 4
    assert model.sample("model.layers.1.output").shape == (47, 32)


def test_a_hook_point_that_is_not_transformer_lens_is_refused_by_name(
    models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["gemma3"]
    model._places.clear()
    places = {
        "blocks.1.hook_mlp_out": HookPlace("model.layers.1.mlp", "out"),  # before the norm that follows it
        "blocks.1.hook_attn_out": HookPlace("model.layers.1.post_attention_layernorm", "out"),
    }
    monkeypatch.setattr(model._names, "place", places.get)
    with pytest.raises(ConfigError, match=r"blocks\.1\.hook_mlp_out of this architecture cannot be served"):
        model.prepare(list(places))


def test_of_many_hook_points_the_one_that_fails_is_named(
    models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["gpt2"]
    model._places.clear()
    good, bad = "blocks.1.hook_mlp_out", "blocks.1.hook_attn_out"
    places = {good: HookPlace("transformer.h.1.mlp", "out"), bad: HookPlace("lm_head", "out")}  # never reached
    monkeypatch.setattr(model._names, "place", places.get)
    with pytest.raises(ConfigError, match=rf"model gpt2: {bad} cannot be read"):
        model.prepare([good, bad])


def test_the_embedding_is_read_without_running_a_layer(models: dict[str, LoadedModel]) -> None:
    model = models["gemma3"]
    model.prepare(["hook_embed"])
    ran: list[str] = []
    layer = model.forward._model.get_submodule("model.layers.0")
    handle = layer.register_forward_pre_hook(lambda *_: ran.append("layer"))
    [read] = model.forward.run([[0, 5]], {"hook_embed": model.place("hook_embed")})
    handle.remove()
    weight = model.forward._model.get_submodule("model.embed_tokens").weight
    torch.testing.assert_close(
        read["hook_embed"], weight[[0, 5]].detach() * 32**0.5
    )  # scaled, as TransformerLens has it
    assert not ran


def test_an_id_without_embedding_never_reaches_the_model(models: dict[str, LoadedModel], tmp_path: Path) -> None:
    """On a GPU it would end the process."""
    model = models["gpt2"]
    model.prepare(["blocks.0.hook_mlp_out"])
    called: list[str] = []
    handle = model.forward._model.register_forward_pre_hook(lambda *_: called.append("model"))
    base = model.forward._base.register_forward_pre_hook(lambda *_: called.append("base"))
    places = {"blocks.0.hook_mlp_out": model.place("blocks.0.hook_mlp_out")}
    for ids in ([0, 8192], [0, 10**6], [-1, 3], [0] * 65):
        with pytest.raises(IndexError, match=r"embedding holds ids 0 to 8191|context holds 64"):
            model.forward.run([[0, 1], ids], places)
    assert not called
    model.forward.run([[0, 8191], [0] * 64], places)
    handle.remove()
    base.remove()
    assert called
