"""SAEs that SAELens saves, or reads out of published releases: run by SAELens, with the facts of its own directory.

    python -m venv /tmp/saelens
    /tmp/saelens/bin/pip install torch==2.13.0
    /tmp/saelens/bin/pip install sae-lens==6.54.12
    /tmp/saelens/bin/python tests/golden/make/saelens_saes.py

Its loaders read the hub; here they are given files of `published/` instead, tiny ones in the releases' layouts.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import D_IN, D_SAE, GOLDEN, LAYER, Random, enter, inputs, record
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import LocalEntryNotFoundError
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.loading.pretrained_saes_directory import get_config_overrides, get_repo_id_and_folder_name
from sae_lens.saes import sae as saes
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

PUBLISHED = GOLDEN / "published"
ELSEWHERE = {"JoshEngels/Mistral-7B-Residual-Stream-SAEs": "downloads"}
"""Releases that do not lie in a folder of their own name, so that a configuration has to name them."""
TINY: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE}
"""Sizes that SAELens knows by heart."""
FACTOR = 1.7


def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
    path = PUBLISHED / ELSEWHERE.get(repo_id, repo_id) / subfolder / filename
    if not path.exists():
        raise LocalEntryNotFoundError(str(path))
    return str(path)


def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
    with safe_open(local(repo_id, filename), framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict


def from_release(release: str, sae_id: str, overrides: dict[str, Any] | None = None, **options: Any) -> SAE[Any]:
    loaders.hf_hub_download = local
    loaders.get_safetensors_tensor_shapes = shapes
    saes.get_config_overrides = lambda *names: {**get_config_overrides(*names), **(overrides or {})}
    return SAE.from_pretrained(release, sae_id, **options)


def folder_of(release: str, sae_id: str) -> Path:
    repository, folder = get_repo_id_and_folder_name(release, sae_id)
    path = PUBLISHED / ELSEWHERE.get(repository, repository) / folder
    path.mkdir(parents=True, exist_ok=True)
    return path


def standard(random: Random) -> dict[str, Tensor]:
    return {
        "W_enc": random.encoder(D_IN, D_SAE),
        "b_enc": random.b_enc(),
        "W_dec": random.decoder(D_SAE, D_IN),
        "b_dec": random.b_dec(),
    }


def old_saelens(release: str, sae_id: str, hook: str, note: str, *, centre: bool, **facts: Any) -> None:
    """A release in the flat layout of SAELens before version 6, whose files leave out facts of the directory."""
    settings = facts.pop("settings", {})
    folder = folder_of(release, sae_id)
    about = {"hook_point": sae_id, "hook_point_layer": int(sae_id.split(".")[1]), "hook_point_head_index": None}
    cfg = {"model_name": "gpt2-small", **about, "context_size": 128, "dtype": "torch.float32", **TINY, **facts}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    random = Random(release)
    state = standard(random)
    if facts.get("normalize_activations") is True:
        state["scaling_factor"] = torch.ones(D_SAE)
    save_file(state, folder / "sae_weights.safetensors")
    save_file({"sparsity": random.between(-5.0, -0.5, D_SAE)}, folder / "sparsity.safetensors")
    x = inputs(hook)
    acts = from_release(release, sae_id).encode(x - x.mean(dim=1, keepdim=True) if centre else x)
    record(f"saelens-{release}", folder, hook, acts, note, **settings)


def releases_of_saelens() -> None:
    note = "inputs centred: center_writing_weights in SAELens' directory"
    old_saelens("gpt2-small-res-jb", f"blocks.{LAYER}.hook_resid_pre", "hook_resid_pre", note, centre=True)
    note = "inputs centred, and scaled by the factor in SAELens' directory"
    of_mlp = {"normalize_activations": True, "activation_fn_str": "relu"}
    old_saelens("gpt2-small-mlp-tm", f"blocks.{LAYER}.hook_mlp_out", "hook_mlp_out", note, centre=True, **of_mlp)
    note = "top-k by activation_fn_str, layer_norm"
    top = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 8}, "normalize_activations": "layer_norm"}
    release = "gpt2-small-mlp-out-v5-32k"
    old_saelens(release, f"blocks.{LAYER}.hook_mlp_out", "hook_mlp_out", note, centre=False, prepend_bos=False, **top)
    name = "mistral-7b-res-wg"
    note = "constant_norm_rescale in SAELens' directory; named by the configuration"
    old_saelens(name, "blocks.8.hook_resid_pre", "hook_resid_pre", note, centre=False, settings={"release": name})


def gemma_scope_1() -> None:
    release, sae_id = "gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6"
    folder, random = folder_of(release, sae_id), Random("embedding")
    state = standard(random) | {"threshold": random.threshold(D_SAE)}
    state["W_enc"] *= D_IN**0.5
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in state.items()})
    acts = from_release(release, sae_id, TINY).encode(inputs("hook_resid_pre"))
    record("gemmascope1-embedding", folder, "hook_resid_pre", acts, "W_enc is divided by sqrt(d_in)")


def gemma_scope_2() -> None:
    release, sae_id = "gemma-scope-2-4b-pt-transcoders-all", f"layer_{LAYER}_width_16k_l0_big_affine"
    folder, random = folder_of(release, sae_id), Random("affine")
    of_latents = {"w_enc": random.encoder(D_IN, D_SAE), "b_enc": random.b_enc(), "threshold": random.threshold(D_SAE)}
    skip = {"affine_skip_connection": random.encoder(D_IN, D_IN)}
    decoder = {"w_dec": random.decoder(D_SAE, D_IN), "b_dec": random.b_dec()}
    save_file(of_latents | decoder | skip, folder / "params.safetensors")
    config = {
        "hf_hook_point_in": f"model.layers.{LAYER}.pre_feedforward_layernorm.output",
        "hf_hook_point_out": f"model.layers.{LAYER}.post_feedforward_layernorm.output",
        "width": D_SAE,
        "model_name": "gemma-v3-4b-pt",
        "architecture": "jump_relu",
        "l0": 100,
        "affine_connection": True,
        "type": "transcoder",
    }
    (folder / "config.json").write_text(json.dumps(config))
    acts = from_release(release, sae_id).encode(inputs("mlp.hook_in"))
    record("gemmascope2-transcoder-affine", folder, "mlp.hook_in", acts, "affine_skip_connection")

    repository, sae_id = "google/gemma-scope-2-1b-pt", f"clt/width_262k_l0_big_affine/params_layer_{LAYER}"
    file, random = PUBLISHED / repository / f"{sae_id}.safetensors", Random("clt")
    file.parent.mkdir(parents=True, exist_ok=True)
    of_latents = {"w_enc": random.encoder(D_IN, D_SAE), "b_enc": random.b_enc(), "threshold": random.threshold(D_SAE)}
    decoder = {"w_dec": random.encoder(D_SAE, 2, D_IN), "b_dec": random.b_dec()}
    save_file(of_latents | decoder | skip, file)
    sae = from_release(repository, sae_id, converter=loaders.gemma_3_sae_huggingface_loader)
    note = "one layer of a cross-layer transcoder; w_dec [d_sae, layers, d_out]"
    record("gemmascope2-clt-affine", file, "mlp.hook_in", sae.encode(inputs("mlp.hook_in")), note)


def llama_scope_r1() -> None:
    release, sae_id = "llama_scope_r1_distill", f"l{LAYER}r_800m_slimpajama"
    folder, random = folder_of(release, sae_id), Random("r1")
    factor = saes.get_norm_scaling_factor(release, sae_id)
    assert factor is not None
    state = {
        "encoder.weight": random.encoder(D_SAE, D_IN) / factor,
        "encoder.bias": random.b_enc(),
        "decoder.weight": random.decoder(D_IN, D_SAE) * factor,
        "decoder.bias": random.b_dec(),
        "log_jumprelu_threshold": random.threshold(D_SAE).log(),
    }
    save_file(state, folder / "sae_weights.safetensors")
    hook = f"blocks.{LAYER}.hook_resid_post"
    config = {"hook_point_in": hook, "hook_point_out": hook, "d_model": D_IN, "d_sae": D_SAE, "expansion_factor": 1.5}
    (folder / "config.json").write_text(json.dumps(config | {"act_fn": "jumprelu", "norm_activation": "dataset-wise"}))
    x = inputs("hook_resid_post")
    note = "inputs scaled by the factor in SAELens' directory"
    acts = from_release(release, sae_id, TINY).encode(x)
    record("llamascope-r1", folder, "hook_resid_post", acts, note)
    acts = from_release(release, sae_id, TINY, fold_W_dec_norm=True).encode(x)
    record("llamascope-r1-folded", folder, "hook_resid_post", acts, note, fold_decoder_norm=True)


def saved_by_saelens() -> None:
    random, d_out, hook = Random("skip"), 32, "mlp.hook_in"
    about = saes.SAEMetadata(model_name="gpt2", hook_name=f"blocks.{LAYER}.{hook}", prepend_bos=True)
    facts = {**TINY, "d_out": d_out, "apply_b_dec_to_input": False, "metadata": about}
    sae = JumpReLUSkipTranscoder(JumpReLUSkipTranscoderConfig(**facts))
    decoder = {"W_dec": random.decoder(D_SAE, d_out), "b_dec": random.b_dec(d_out)}
    others = {"threshold": random.threshold(D_SAE), "W_skip": random.encoder(d_out, D_IN)}
    sae.load_state_dict(standard(random) | decoder | others)
    folder = GOLDEN / "saelens" / "jumprelu_skip_transcoder"
    sae.save_model(folder)
    record("jumprelu_skip_transcoder", folder, hook, SAE.load_from_disk(folder).encode(inputs(hook)), "64 to 32 wide")

    random, hook = Random("gated"), "hook_resid_post"
    about = saes.SAEMetadata(model_name="gpt2", hook_name=f"blocks.{LAYER}.{hook}", prepend_bos=True)
    scaled = {"normalize_activations": "expected_average_only_in", "metadata": about}
    sae = GatedSAE(GatedSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=True, **scaled))
    gate = {"b_gate": random.b_enc(), "b_mag": random.b_enc(), "r_mag": random.normal(D_SAE, std=0.3)}
    state = {name: value for name, value in standard(random).items() if name != "b_enc"}
    sae.load_state_dict(state | gate)
    sae.save_model(GOLDEN / "saelens" / "gated-expected_average_only_in")


def folded() -> None:
    """SAELens' two folds: of the factor of inputs, which its files never hold, and of decoder norms."""
    hook = "hook_resid_post"
    for name in ("standard", "jumprelu", "gated"):
        folder = GOLDEN / "saelens" / f"{name}-expected_average_only_in"
        sae = SAE.load_from_disk(folder)
        sae.fold_activation_norm_scaling_factor(FACTOR)
        note = "fold_activation_norm_scaling_factor"
        record(f"{name}-scaled", folder, hook, sae.encode(inputs(hook)), note, scaling_factor=FACTOR)
        sae.fold_W_dec_norm()
        both = {"scaling_factor": FACTOR, "fold_decoder_norm": True}
        record(f"{name}-scaled-folded", folder, hook, sae.encode(inputs(hook)), f"{note}, fold_W_dec_norm", **both)
    for name, hook in (
        ("jumprelu-layer_norm", "hook_resid_post"),
        ("topk-rescaleTrue-none", "hook_resid_post"),
        ("jumprelu_transcoder", "mlp.hook_in"),
    ):
        folder = GOLDEN / "saelens" / name
        acts = SAE.load_from_disk(folder, fold_W_dec_norm=True).encode(inputs(hook))
        record(f"{name}-folded", folder, hook, acts, "fold_W_dec_norm", fold_decoder_norm=True)


def shard(whole: Path, folder: Path, stem: str, config: str) -> None:
    """Cuts one that is there whole, by huggingface_hub, as it cuts models."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(whole / config, folder)
    state = load_file(whole / f"{stem}.safetensors")
    save_torch_state_dict(state, folder, filename_pattern=stem + "{suffix}.safetensors", max_shard_size=30_000)


def sharded() -> None:
    whole, folder = GOLDEN / "saelens" / "jumprelu-none", GOLDEN / "saelens" / "jumprelu-sharded"
    shard(whole, folder, "sae_weights", "cfg.json")
    enter("jumprelu-sharded", folder, "hook_resid_mid", whole / "reference.npz", "jumprelu-none in two shards")
    scope, name = PUBLISHED / "google" / "gemma-scope-2-1b-pt", f"layer_{LAYER}_width_16k_l0_small"
    shard(scope / "resid_post" / name, scope / "resid_post_all" / name, "params", "config.json")
    expected = GOLDEN / "expected" / "gemmascope2-resid_post.npz"
    note = "gemmascope2-resid_post in two shards"
    enter("gemmascope2-sharded", scope / "resid_post_all" / name, "hook_resid_post", expected, note)


torch.set_grad_enabled(False)
releases_of_saelens()
gemma_scope_1()
gemma_scope_2()
llama_scope_r1()
saved_by_saelens()
folded()
sharded()
