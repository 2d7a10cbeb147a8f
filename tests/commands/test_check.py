"""`saeserve-server check`: what files are and what serving them needs, told without weights."""

import json
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from saeserve_server.commands.main import main
from saeserve_server.config import load_config
from saeserve_server.models.locate import locate_model
from tests.commands.hub import SCOPE, Hub

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = GOLDEN / "published"
RESIDUAL = PUBLISHED / "google/gemma-scope-2-1b-pt/resid_post/layer_2_width_16k_l0_small"


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*paths: Path | str) -> Any:
        capsys.readouterr()
        status = main(["check", *map(str, paths)])
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return command


def told(out: str, fact: str) -> str:
    lines = (line.strip() for line in out.splitlines())
    return next(line.removeprefix(fact).strip() for line in lines if line.startswith(fact))


def test_of_one_sae_all_facts_are_told(check: Any) -> None:
    done = check(RESIDUAL)
    assert (done.status, done.err) == (0, "")
    assert told(done.out, "format") == "gemma-scope"
    assert told(done.out, "model") == "google/gemma-3-1b-pt"
    assert told(done.out, "hook point") == "blocks.2.hook_resid_post"
    assert told(done.out, "SAE") == "jumprelu, 64 inputs, 96 latents"
    assert told(done.out, "texts") == "begin with BOS"
    assert told(done.out, "on disk") == "49.5 KiB, float32"


@pytest.mark.parametrize("one", json.loads((GOLDEN / "published.json").read_text()), ids=lambda one: one["name"])
def test_every_published_layout_is_understood_and_asks_for_a_hook_point_only_if_it_names_none(
    check: Any, one: dict[str, str]
) -> None:
    done = check(GOLDEN / one["path"])
    assert (done.status, done.err) == (0, "")
    assert (told(done.out, "hook point") == "not said by the files") == ("\nhook = " in done.out)


def test_of_the_hub_what_was_fetched_beside_or_lies_in_the_cache_is_told_and_nothing_is_asked_for(
    check: Any, hub: Hub, tmp_path: Path
) -> None:
    name = "resid_post/layer_2_width_16k_l0_small"
    hub.repos["google/scope"] = {f"{name}/{file.name}": file.read_bytes() for file in RESIDUAL.iterdir()} | SCOPE
    missing = check(f"hf://google/scope/{name}")
    assert missing.status == 1
    assert f"`saeserve-server fetch --sae 'hf://google/scope/{name}'` brings it" in missing.err

    huggingface_hub.snapshot_download("google/scope", allow_patterns=[f"{name}/*"])  # a part of the repository
    hub.asked.clear()
    cached = check(f"hf://google/scope/{name}")
    assert (cached.status, told(cached.out, "hook point")) == (0, "blocks.2.hook_resid_post")

    shutil.rmtree(tmp_path / "hub")
    assert main(["fetch", "--sae", f"hf://google/scope/{name}"]) == 0
    hub.asked.clear()
    beside = check(f"hf://google/scope/{name}")
    assert (beside.status, told(beside.out, "hook point")) == (0, "blocks.2.hook_resid_post")
    assert hub.asked == []


def test_a_model_of_which_only_what_it_needs_lies_in_the_cache_is_found(hub: Hub) -> None:
    folder = huggingface_hub.snapshot_download("google/tiny", allow_patterns=["*.json", "*.safetensors"])
    hub.asked.clear()
    assert locate_model(load_config(None, {"model": "google/tiny"}, {})).folder == Path(folder)
    assert hub.asked == []


def test_what_is_to_be_written_is_toml_that_names_the_model_and_the_path(check: Any) -> None:
    text = check(RESIDUAL).out.partition("to serve it:\n")[2]
    written = tomllib.loads(text)
    assert written == {"model": "google/gemma-3-1b-pt", "sources": [{"set": "res", "path": str(RESIDUAL)}]}


def test_an_sae_that_was_trained_without_bos_says_so_in_what_is_to_be_written(check: Any) -> None:
    assert 'bos = "none"' in check(PUBLISHED / "openai/v5/2.pt").out
    assert "bos =" not in check(RESIDUAL).out


def test_a_folder_of_many_is_a_table_and_what_cannot_be_served_is_a_line(check: Any) -> None:
    done = check(GOLDEN / "saelens")
    assert done.status == 1
    there = len(list((GOLDEN / "saelens").glob("*/cfg.json")))
    assert f"{there - 6} SAEs, " in done.out
    row = next(line.split() for line in done.out.splitlines() if line.startswith("standard-hookpost"))
    assert row[1:6] == ["saelens", "blocks.2.mlp.hook_post", "standard", "256", "96"]
    refused = done.err.splitlines()
    assert len(refused) == 6
    assert sum("abstopk cannot be served: its latents fire on negative" in line for line in refused) == 3


def test_weights_that_no_format_knows_are_not_passed_over(check: Any, tmp_path: Path) -> None:
    shutil.copytree(RESIDUAL, tmp_path / "layer_2")
    (tmp_path / "other").mkdir()
    save_file({"x": torch.zeros(3)}, tmp_path / "other" / "what.safetensors")
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "cut.safetensors").write_bytes(b"\0" * 100)
    done = check(tmp_path)
    assert done.status == 1
    assert told(done.out, "format") == "gemma-scope"
    damaged, unknown = done.err.splitlines()
    assert damaged.startswith(f"saeserve-server: error: {tmp_path}/third/cut.safetensors: not a safetensors file")
    assert unknown == f"saeserve-server: error: {tmp_path}/other: no known layout of an SAE: it holds what.safetensors"


def test_what_is_no_sae_is_one_line_that_names_the_known_layouts(check: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    done = check(tmp_path)
    assert (done.status, done.out) == (1, "")
    assert "no known layout of an SAE: it holds notes.txt. Known are saelens: cfg.json" in done.err
    assert done.err.count("\n") == 1


def test_the_weights_are_not_read(check: Any, tmp_path: Path) -> None:
    whole = (RESIDUAL / "params.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    shutil.copytree(RESIDUAL, tmp_path / "sae")
    nothing = b"\xff" * (len(whole) - header)  # NaN everywhere, which no SAE is loaded from
    (tmp_path / "sae" / "params.safetensors").write_bytes(whole[:header] + nothing)
    assert check(tmp_path / "sae").status == 0
