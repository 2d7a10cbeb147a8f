"""What changes activations is applied, refused or said: never dropped in silence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import Facts, complete, doubts
from saeserve_server.sources.formats import describe
from saeserve_server.sources.paths import locate
from saeserve_server.sources.reading import read
from saeserve_server.sources.registry import _maths
from saeserve_server.sources.releases import with_release
from tests.sources.formats import write_openai, write_saelens
from tests.sources.test_golden import GOLDEN
from tests.sources.test_registry import Hooks, configure, load, sae_table

PUBLISHED = GOLDEN / "published"


def copy(source: str, to: Path) -> Path:
    """A golden SAE, file or folder, at another place."""
    whole = PUBLISHED / source
    to.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(whole, to) if whole.is_dir() else shutil.copy(whole, to))


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("hook", "kwargs", "centred"),
    [
        ("hook_resid_pre", {"center_writing_weights": True}, True),
        ("hook_mlp_out", {"center_writing_weights": True}, True),
        ("attn.hook_z", {"center_writing_weights": True}, False),
        ("mlp.hook_post", {"center_writing_weights": True}, False),
        ("hook_resid_pre", {"center_writing_weights": False}, False),
    ],
)
def test_only_what_is_written_into_the_residual_stream_is_centred(
    tmp_path: Path, hook: str, kwargs: dict[str, bool], centred: bool
) -> None:
    write_saelens(tmp_path, flat=True, hook_name=f"blocks.1.{hook}", changes={"model_from_pretrained_kwargs": kwargs})
    assert describe(tmp_path).center_input is centred


@pytest.mark.parametrize(
    ("hook", "option"),
    [("mlp.hook_in", "fold_ln"), ("ln2.hook_normalized", "fold_ln"), ("attn.hook_z", "fold_value_biases")],
)
def test_processing_that_changes_the_hook_point_is_refused(tmp_path: Path, hook: str, option: str) -> None:
    changes = {"model_from_pretrained_kwargs": {option: True}}
    write_saelens(tmp_path, hook_name=f"blocks.1.{hook}", changes=changes)
    with pytest.raises(ConfigError, match=f"model_from_pretrained_kwargs: {option} changes what blocks.1.{hook} gives"):
        describe(tmp_path)


def test_old_files_that_do_not_say_whether_the_model_was_centred_are_doubted(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae", flat=True, hook_name="blocks.1.hook_mlp_out")
    for settings, warned in [({}, True), ({"center_input": False}, False), ({"release": "gpt2-small-res-jb"}, False)]:
        info = load(tmp_path, "neurons = false\n" + sae_table(**settings))[0].info
        assert any("center_input" in warning for warning in info.warnings) is warned
    (source,) = load(tmp_path, "neurons = false\n" + sae_table(), Hooks(layer_normed=False))
    assert source.info.warnings == ()  # TransformerLens never centred such models
    assert source.info.normalization == "none"


def test_of_models_without_layer_norm_nothing_is_centred(tmp_path: Path) -> None:
    changes = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    write_saelens(tmp_path / "sae", flat=True, hook_name="blocks.1.hook_mlp_out", changes=changes)
    for normed, expected in [(True, "centred"), (False, "none")]:
        (source,) = load(tmp_path, "neurons = false\n" + sae_table(), Hooks(layer_normed=normed))
        assert source.info.normalization == expected


@pytest.mark.parametrize(
    "extra", [{"k": 9}, {"activation": "topk"}, {"threshold": 0.5}, {"apply_b_dec_to_input": True}]
)
@pytest.mark.parametrize(
    "source",
    [
        "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19/DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
        "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer2.sae.pt",
    ],
)
def test_options_among_the_tensors_are_refused(tmp_path: Path, source: str, extra: dict[str, Any]) -> None:
    path = copy(source, tmp_path / Path(source).name)
    state = torch.load(path, weights_only=True)  # noqa: TID251 - weights only
    torch.save(state | extra, path)
    with pytest.raises(ConfigError, match=f"{next(iter(extra))}: .*, beside the tensors: nothing says what it does"):
        describe(path)


def test_folders_above_those_of_the_release_say_nothing(tmp_path: Path) -> None:
    one = copy(
        "google/gemma-scope-2b-pt-res/layer_2/width_16k/average_l0_71",
        tmp_path / "embedding/layer_9/gemma-scope-2b-pt-res/layer_2/width_16k/average_l0_71",
    )
    described = describe(one)
    assert (described.hook_name, described.scaling_factor) == ("blocks.2.hook_resid_post", None)
    two = copy(
        "google/gemma-scope-2-1b-pt/resid_post/layer_2_width_16k_l0_small",
        tmp_path / "crosscoder/my-mlp_out-study/x/resid_post/layer_2_width_16k_l0_small",
    )
    assert describe(two).hook_name == "blocks.2.hook_resid_post"
    three = copy("canrager/saebench/TopK/resid_post_layer_2/trainer_0", tmp_path / "layer_3_study/a/b/trainer_0")
    trainer = json.loads((three / "config.json").read_text())["trainer"]
    change(three / "config.json", trainer=trainer | {"layer": None, "submodule_name": "resid_post_layer_1"})
    assert describe(three).hook_name == "blocks.1.hook_resid_post"
    change(three / "config.json", trainer=trainer | {"layer": 2, "submodule_name": "resid_post_layer_1"})
    with pytest.raises(ConfigError, match=r"trainer\.layer: expected 1, as submodule_name .* says, got 2"):
        describe(three)


def test_an_embedding_sae_out_of_its_folder_is_doubted(tmp_path: Path) -> None:
    path = copy("google/gemma-scope-2b-pt-res/layer_2/width_16k/average_l0_71", tmp_path / "emb")
    described = replace(describe(path), hook_name="hook_embed")
    assert "set scaling_factor" in doubts(described)[0]
    assert doubts(Facts(scaling_factor=0.125).over(described)) == []


def test_the_buffers_side_of_the_submodule_is_heeded(tmp_path: Path) -> None:
    path = copy("canrager/saebench/TopK/resid_post_layer_2/trainer_0", tmp_path / "trainer_0")
    for side, hook in [("out", "blocks.2.hook_resid_post"), ("in", "blocks.2.hook_resid_pre"), ("in_and_out", None)]:
        change(path / "config.json", buffer={"io": side})
        assert describe(path).hook_name == hook


def test_an_sae_that_cannot_be_read_is_not_left_out_of_a_folder_of_many(tmp_path: Path) -> None:
    for layer in range(3):
        write_openai(tmp_path / f"many/{layer}.pt")
    whole = (tmp_path / "many/1.pt").read_bytes()
    (tmp_path / "many/1.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"/many/1\.pt: .*truncated or damaged"):
        locate(configure(tmp_path, ""), "many", None, 3)
    (tmp_path / "many/1.pt").unlink()
    write_saelens(tmp_path / "many/sae")
    (tmp_path / "many/sae/sae_weights.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"/many/sae: holds cfg\.json, and neither sae_weights\.safetensors nor"):
        locate(configure(tmp_path, ""), "many", None, 3)


@pytest.mark.parametrize(("key", "value"), [("threshold", "nan"), ("threshold", "inf"), ("scaling_factor", "inf")])
def test_settings_are_finite_numbers(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"sources\[0\]\.{key}"):
        configure(tmp_path, sae_table(activation="jumprelu") + f"{key} = {value}\n")


def test_a_release_that_has_no_factor_for_a_path_is_not_said_to_be_applied(tmp_path: Path) -> None:
    name = "llama_scope_r1_distill"
    path = PUBLISHED / "fnlp/Llama-Scope-R1-Distill/800M-Slimpajama-0-OpenR1-Math-220k/L2R"
    assert with_release(describe(path), path, None).scaling_factor is not None
    elsewhere = Path(shutil.copytree(path, tmp_path / "r1/L2R"))
    with pytest.raises(ConfigError, match=f"{name} has no scaling factor for .*; or set scaling_factor"):
        with_release(describe(elsewhere), elsewhere, name)
    (inside,) = locate(
        configure(tmp_path, ""), str(path / "sae_weights.safetensors").replace("L2R", "L{layer}R"), [2], 4
    )
    assert inside.path == path


def test_what_is_computed_and_its_revision_change_together(tmp_path: Path) -> None:
    write_saelens(tmp_path)
    described = describe(tmp_path)
    variants = [described, *(Facts(scaling_factor=factor).over(described) for factor in (53.529931, 53.529949))]
    variants += [Facts(center_input=True).over(described), Facts(subtract_bias=False).over(described)]
    variants += [Facts(normalization="layer_norm").over(described), Facts(activation="topk", k=3).over(described)]
    assert len({tuple(_maths(one)) for one in variants}) == len(variants)


def test_llama_scopes_threshold_follows_another_factor() -> None:
    path = PUBLISHED / "fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L2R-8x"
    described = describe(path)
    for facts, threshold in [(Facts(), 0.5 * 1.6), (Facts(scaling_factor=1.0), 0.5), (Facts(threshold=0.3), 0.3)]:
        sae, _ = read(facts.over(described))
        assert sae.activation.bar(torch.zeros(1))[0].item() == pytest.approx(threshold)


@pytest.mark.parametrize(
    "change_to", [{"act_fn": "topk"}, {"norm_activation": "token-wise"}, {"use_glu_encoder": True}]
)
def test_llama_scopes_options_that_are_not_applied_are_refused(tmp_path: Path, change_to: dict[str, Any]) -> None:
    for source, file in [
        ("fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L2R-8x", "hyperparams.json"),
        ("fnlp/Llama-Scope-R1-Distill/800M-Slimpajama-0-OpenR1-Math-220k/L2R", "config.json"),
    ]:
        path = copy(source, tmp_path / file.removesuffix(".json"))
        change(path / file, **change_to)
        with pytest.raises(ConfigError, match=f"{next(iter(change_to))}: expected"):
            describe(path)


def test_an_activation_of_its_own_is_not_rescaled(tmp_path: Path) -> None:
    write_saelens(tmp_path, architecture="topk", rescale=True)
    described = describe(tmp_path)
    assert described.rescale
    assert not Facts(activation="relu").over(described).rescale


def test_folding_that_would_change_which_latents_fire_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    write_saelens(tmp_path, architecture="topk")
    with pytest.raises(ConfigError, match="fold_decoder_norm: expected false"):
        complete(Facts(fold_decoder_norm=True).over(describe(tmp_path)))


def test_transformerlens_hook_mlp_in_lies_before_the_norm(tmp_path: Path) -> None:
    write_saelens(tmp_path, hook_name="blocks.1.hook_mlp_in")
    assert describe(tmp_path).hook_name == "blocks.1.hook_resid_mid"
    huggingface = "model.layers.1.pre_feedforward_layernorm.output"
    values = json.loads((tmp_path / "cfg.json").read_text())
    change(tmp_path / "cfg.json", metadata=values["metadata"] | {"hf_hook_name": huggingface})
    assert describe(tmp_path).hook_name == huggingface


def test_old_hook_points_with_the_layer_apart_are_read(tmp_path: Path) -> None:
    write_saelens(tmp_path, flat=True, hook_name="blocks.{layer}.hook_mlp_out", changes={"hook_point_layer": 2})
    described = describe(tmp_path)
    assert (described.hook_name, described.layer) == ("blocks.2.hook_mlp_out", 2)


def test_scales_that_are_not_one_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    write_saelens(tmp_path, changes={"finetuning_scaling_factor": True})
    weights = tmp_path / "sae_weights.safetensors"
    for scale, served in [(1.0, True), (1.0 + 1e-7, True), (1.1, False)]:
        save_file(load_file(weights) | {"scaling_factor": torch.full((40,), scale)}, weights)
        if served:
            describe(tmp_path)
            continue
        with pytest.raises(ConfigError, match="scaling_factor: expected ones only"):
            describe(tmp_path)


def test_a_revision_is_not_taken_on_trust(tmp_path: Path) -> None:
    (tmp_path / "owner/name").mkdir(parents=True)
    with pytest.raises(ConfigError, match="of which nothing says that it is abc: take the revision away"):
        locate(configure(tmp_path, ""), "hf://owner/name@abc/layer_{layer}", None, 3)
