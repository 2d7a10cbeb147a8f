"""Published releases, tiny, in their own layouts: served from the path that a person writes, as SAELens serves them."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from saeserve_server.config import load_config
from saeserve_server.errors import ConfigError
from saeserve_server.sources.plan import PlannedSae, plan_saes
from saeserve_server.sources.reading import read
from saeserve_server.sources.registry import same_model
from tests.sources.layouts import WRITERS, files
from tests.sources.loaders import Expected, expected
from tests.sources.releases import RELEASES, scope2
from tests.sources.trees import D_IN, D_SAE, WEIGHTS, Published, put

BOS = dict.fromkeys(
    ("qwen_scope", "mwhanna_transcoder", "mntss_clt_layer_transcoder", "dictionary_learning_1", "sparsify"), None
)
"""Where files say nothing, or what their BOS is follows from the model."""
NAMELESS = ("sparsify",)
"""Layouts that do not say which model they are for."""


def plan(folder: Path, path: str) -> list[PlannedSae]:
    file = folder / "server.toml"
    file.write_text(f'model = "somewhere"\n\n[[sources]]\nset = "s"\npath = "{path}"\n')
    return plan_saes(load_config(file, {}, {}), n_layers=80)


def check(planned: PlannedSae, sae: Published) -> None:
    facts = expected(sae)
    assert facts is not None
    description = planned.description
    assert (planned.id, planned.hook_name) == (f"{sae.layer}-s", facts.hook_name)
    assert (description.d_in, description.d_sae, description.warnings) == (D_IN, D_SAE, ())
    assert description.bos is BOS.get(sae.layout, "-OAI-v5-" not in sae.repository)
    if sae.layout in NAMELESS:
        assert description.model is None
    else:
        assert description.model is not None
        assert same_model(description.model, facts.model)
    for one in fields(Expected):
        if one.name not in ("model", "scaling_factor"):
            assert getattr(description, one.name) == getattr(facts, one.name), one.name
    assert description.scaling_factor == (None if facts.scaling_factor is None else pytest.approx(facts.scaling_factor))
    weights, warnings = read(description)
    assert warnings == ()
    torch.testing.assert_close(weights.W_enc, WEIGHTS["encoder"], atol=0.02, rtol=0)  # some are stored in bfloat16


@pytest.mark.parametrize(("sae", "written"), RELEASES, ids=lambda one: one.path if isinstance(one, Published) else "")
def test_a_release_is_served_as_saelens_serves_it(
    sae: Published, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{sae.repository}/{written or sae.place}".removesuffix("/.")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    put(tmp_path / "cache", sae.repository, files(sae), cached=True)
    [cached] = plan(tmp_path, f"hf://{path}")
    check(cached, sae)
    put(tmp_path, sae.repository, files(sae, config=False))
    [downloaded] = plan(tmp_path, path)
    check(downloaded, sae)
    assert downloaded.path == tmp_path / sae.repository / sae.place


def test_every_layout_that_saelens_loads_is_among_them() -> None:
    assert {sae.layout for sae, _ in RELEASES} | {"temporal"} == set(WRITERS)


@pytest.mark.parametrize(
    ("layout", "repository", "name", "model"),
    [
        ("mwhanna_transcoder", "mwhanna/qwen3-14b-transcoders-lowl0", "layer_{}.safetensors", "Qwen/Qwen3-14B"),
        ("mntss_clt_layer_transcoder", "mntss/clt-gemma-2-2b-2.5M", "{}", "google/gemma-2-2b"),
        ("qwen_scope", "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50", "layer{}.sae.pt", "Qwen/Qwen3-8B-Base"),
        ("connor_rob_hook_z", "ckkissane/attn-saes-gpt2-small-all-layers", "gpt2-small_L{}_Hcat_z_v9.pt", "gpt2-small"),
        ("llama_scope", "fnlp/Llama3_1-8B-Base-LXM-8x", "Llama3_1-8B-Base-L{}M-8x", "meta-llama/Llama-3.1-8B"),
        ("gemma_3", "google/gemma-scope-2-4b-pt", "mlp_out_all/layer_{}_width_16k_l0_big", "google/gemma-3-4b-pt"),
        ("dictionary_learning_1", "andyrdt/saes-qwen2.5-7b-instruct", "resid_post_layer_{}/trainer_1", "Qwen2.5-7B"),
    ],
)
def test_a_repository_is_a_folder_of_many(layout: str, repository: str, name: str, model: str, tmp_path: Path) -> None:
    saes = [Published(layout, repository, name.format(layer), model) for layer in (0, 2, 11)]
    for sae in saes:
        put(tmp_path, repository, files(sae))
    for planned, sae in zip(plan(tmp_path, repository), saes, strict=True):
        check(planned, sae)


def test_a_temporal_sae_is_refused_by_name(tmp_path: Path) -> None:
    sae = Published("temporal", "canrager/temporalSAEs", "gemma-2-2B/layer_12/temporal", "gemma-2-2b")
    put(tmp_path, sae.repository, files(sae))
    with pytest.raises(ConfigError, match=r"/layer_12/temporal: a temporal SAE cannot be served: what a latent does"):
        plan(tmp_path, f"{sae.repository}/gemma-2-2B/layer_{{layer}}/temporal")


@pytest.mark.parametrize("config", [True, False])
def test_a_crosscoder_is_not_taken_for_an_sae_of_the_layer_in_its_files_name(config: bool, tmp_path: Path) -> None:
    folder = "crosscoder/layer_7_13_17_22_width_65k_l0_medium"
    held = files(scope2("clt/width_65k_l0_medium/params_layer_2"), config=config)
    moved = {name.replace("clt/width_65k_l0_medium", folder): data for name, data in held.items()}
    put(tmp_path, "google/gemma-scope-2-1b-pt", moved)
    with pytest.raises(ConfigError, match=r"params_layer_2\.safetensors: a crosscoder cannot be served"):
        plan(tmp_path, f"google/gemma-scope-2-1b-pt/{folder}/params_layer_{{layer}}.safetensors")
