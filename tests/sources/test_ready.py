"""The configurations in deploy/, each on tiny files in the layout that it names."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from saeserve_server.catalog import ModelInfo
from saeserve_server.config import load_config
from saeserve_server.sources.plan import plan_saes
from saeserve_server.sources.registry import load_sources
from tests.sources.formats import write_openai
from tests.sources.layouts import files
from tests.sources.releases import CENTRED, native, scope, scope2
from tests.sources.test_registry import Hooks
from tests.sources.trees import D_IN, Published, put

DEPLOY = Path(__file__).parents[2] / "deploy"


class AnyHook(Hooks):
    """Hook points of a model that has all of them, 12 wide."""

    def resolve(self, name: str) -> str | None:
        return name

    def width(self, hook_name: str) -> int | None:
        return D_IN


CANONICAL = "105 102 141 59 124 68 70 69 71 73 77 80 82 84 84 78 78 77 74 73 71 70 72 75 73 116"
"""How many latents fire in Gemma Scope's canonical SAEs of each layer, as their folders are called."""
RES_JB = "jbloom/GPT2-Small-SAEs-Reformatted"


def openai(folder: Path, location: str) -> None:
    for layer in range(12):
        file = folder / f"sparse-autoencoder/gpt2-small/{location}/autoencoders/{layer}.pt"
        write_openai(file, version="v5" if "_v5_" in location else "v1")


def scopes(kind: str, layers: range | tuple[int, ...], end: str) -> list[Published]:
    return [scope2(f"{kind}/layer_{layer}_width_16k_l0_{end}") for layer in layers]


READY: Mapping[str, tuple[int, tuple[str, ...], list[Published], Mapping[str, str]]] = {
    "gpt2-small-openai-v1": (12, ("mlp_post_act",), [], {"mlp-oai": "mlp.hook_post"}),
    "gpt2-small-openai-v5": (
        12,
        ("resid_post_mlp_v5_32k", "resid_post_attn_v5_32k", "resid_delta_mlp_v5_32k", "resid_delta_attn_v5_32k"),
        [],
        {
            "res_post_32k-oai": "hook_resid_post",
            "res_mid_32k-oai": "hook_resid_mid",
            "mlp_32k-oai": "hook_mlp_out",
            "att_32k-oai": "hook_attn_out",
        },
    ),
    "gpt2-small-res-jb": (
        12,
        (),
        [
            native(RES_JB, *[f"blocks.{layer}.hook_resid_{where}"] * 2, overrides=CENTRED)
            for layer, where in [*((layer, "pre") for layer in range(12)), (11, "post")]
        ],
        {"res-jb": "hook_resid_pre"},
    ),
    "gemma-2-2b-gemma-scope": (
        26,
        (),
        [scope("res", f"layer_{layer}/width_16k/average_l0_{l0}") for layer, l0 in enumerate(CANONICAL.split())],
        {"gemmascope-res-16k": "hook_resid_post"},
    ),
    "gemma-3-1b-gemma-scope-2": (
        26,
        (),
        [*scopes("resid_post", (7, 13, 17, 22), "medium"), *scopes("resid_post_all", range(26), "small")],
        {"gemmascope-2-res-all-16k": "hook_resid_post"},
    ),
    "llama-3.1-8b-llama-scope": (
        32,
        (),
        [
            Published("llama_scope", "fnlp/Llama3_1-8B-Base-LXR-8x", f"Llama3_1-8B-Base-L{layer}R-8x", "Llama-3.1-8B")
            for layer in range(32)
        ],
        {"llamascope-res-32k": "hook_resid_post"},
    ),
}
"""Of each ready configuration the model's layers, what is to be made, and the hook points of sets with every layer."""
SOME_LAYERS = {
    ("gpt2-small-res-jb", "res-post-jb"): ["blocks.11.hook_resid_post"],
    ("gemma-3-1b-gemma-scope-2", "gemmascope-2-res-16k"): [f"blocks.{n}.hook_resid_post" for n in (7, 13, 17, 22)],
}


@pytest.mark.parametrize("name", READY)
def test_a_ready_configuration_serves_every_layer_without_a_warning(name: str, tmp_path: Path) -> None:
    n_layers, locations, saes, sets = READY[name]
    for location in locations:
        openai(tmp_path, location)
    for sae in saes:
        put(tmp_path, sae.repository, files(sae))
    text = (DEPLOY / f"{name}.toml").read_text()
    file = tmp_path / f"{name}.toml"
    file.write_text(re.sub(r"(?m)^# (?=\[\[sources\]\]|\w+ = )", "", text))  # what is offered in comments, too
    config = load_config(file, {"neurons": "false"}, {})
    called = config.model_name or config.model.rpartition("/")[2]
    model = ModelInfo(called, n_layers, D_IN, 128, 100, 0, "", "r", "cpu", "float32")
    hooks = AnyHook(n_layers, D_IN)
    sources = load_sources(config, plan_saes(config, n_layers), model, hooks, "cpu")
    found: dict[str, list[str]] = {}
    for source in sorted(sources, key=lambda one: one.info.layer):
        found.setdefault(source.info.set, []).append(source.info.hook_name)
        assert source.info.warnings == ()
    whole = {one: [f"blocks.{layer}.{hook}" for layer in range(n_layers)] for one, hook in sets.items()}
    assert found == whole | {given: hooks for (of, given), hooks in SOME_LAYERS.items() if of == name}


def test_every_ready_configuration_is_among_them() -> None:
    assert {file.stem for file in DEPLOY.glob("*.toml")} == set(READY)
