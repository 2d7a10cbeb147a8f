"""Ready configurations, files of the user's, and OpenAI's server, which publishes no checksums."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from saeserve_server.commands.fetch.download import download, part_of
from saeserve_server.commands.fetch.remote import RemoteFile
from saeserve_server.commands.fetch.sums import Sums
from saeserve_server.commands.fetch.wanted import READY, ready_names
from saeserve_server.config import load_config
from tests.commands.hub import MODEL, Hub

OPENAI = "sparse-autoencoder/gpt2-small/mlp_post_act/autoencoders"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def published(hub: Hub) -> None:
    hub.repos["gpt2"] = MODEL
    hub.plain |= {f"{OPENAI}/{layer}.pt": os.urandom(1000) for layer in range(3)}


def remote(hub: Hub, layer: int, etag: str | None = None) -> RemoteFile:
    name = f"{OPENAI}/{layer}.pt"
    return RemoteFile(name, f"{hub.url}/{name}", len(hub.plain[name]), etag=etag or hub.etag(name), on_hub=False)


def test_a_ready_configuration_brings_its_model_and_some_layers(fetch: Any, hub: Hub, tmp_path: Path) -> None:
    done = fetch("gpt2-small-openai-v1", "--layers", "0-1")
    assert done.status == 0, done.err
    folder = tmp_path
    assert (folder / "gpt2" / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    for layer in (0, 1):
        assert (folder / OPENAI / f"{layer}.pt").read_bytes() == hub.plain[f"{OPENAI}/{layer}.pt"]
    assert not (folder / OPENAI / "2.pt").exists()
    config = load_config(folder / "gpt2-small-openai-v1.toml", {}, {})
    assert config.sources[0].layers == "0-1"
    assert config.resolve(config.model) == folder / "gpt2"
    assert "OpenAI publishes no checksums" in done.out
    digest = hashlib.sha256(hub.plain[f"{OPENAI}/1.pt"]).hexdigest()
    assert f"{digest}  {OPENAI}/1.pt" in (folder / "SHA256SUMS").read_text()


def test_of_some_layers_the_configuration_names_only_those(
    fetch: Any, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_config(READY / "gemma-2-2b-gemma-scope.toml", {}, {}).sources[0].path
    repository = "google/gemma-scope-2b-pt-res"
    hub.repos["google/gemma-2-2b"] = MODEL
    hub.repos[repository] = {
        f"{path.removeprefix(repository + '/')}/params.npz": os.urandom(300) for path in dict(whole).values()
    }
    done = fetch("gemma-2-2b-gemma-scope", "--layers", "3,20-21")
    assert done.status == 0, done.err
    config = load_config(tmp_path / "gemma-2-2b-gemma-scope.toml", {}, {})
    assert config.sources[0].layers == "3,20-21"
    got = sorted(path.parent.parent.parent.name for path in tmp_path.rglob("params.npz"))
    assert got == ["layer_20", "layer_21", "layer_3"]


def test_sets_of_one_model_share_it(fetch: Any, hub: Hub) -> None:
    hub.repos["jbloom/GPT2-Small-SAEs-Reformatted"] = {
        f"blocks.{layer}.hook_resid_{where}/{name}": os.urandom(300)
        for layer, where in [*((layer, "pre") for layer in range(12)), (11, "post")]
        for name in ("cfg.json", "sae_weights.safetensors")
    }
    fetch("gpt2-small-openai-v1", "--layers", "0")
    done = fetch("gpt2-small-res-jb")
    assert done.status == 0, done.err
    assert "fetched 26 files, 7.6 KiB, into the current folder (3 were there)" in done.out
    assert {path.rpartition("/")[2] for path, _ in hub.fetched()} == {"cfg.json", "sae_weights.safetensors"}


def test_a_layer_that_openai_has_not_is_named(fetch: Any, tmp_path: Path) -> None:
    done = fetch("gpt2-small-openai-v1", "--layers", "2-3")
    assert done.status == 2
    assert f"{OPENAI}/3.pt: expected a file of OpenAI's, the server answered 404" in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_published_checksum_that_of_the_first_fetch_counts(fetch: Any, hub: Hub, tmp_path: Path) -> None:
    fetch("gpt2-small-openai-v1", "--layers", "0")
    file = tmp_path / OPENAI / "0.pt"
    file.write_bytes(bytes(len(file.read_bytes())))
    assert fetch("gpt2-small-openai-v1", "--layers", "0").status == 0
    assert hub.fetched() == [(f"{OPENAI}/0.pt", None)]
    assert file.read_bytes() == hub.plain[f"{OPENAI}/0.pt"]


def test_what_openai_sent_in_part_goes_on(hub: Hub, tmp_path: Path) -> None:
    file = remote(hub, 0)
    part = part_of(file, tmp_path)
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.plain[file.name][:600])
    download([file], tmp_path, Sums(tmp_path))
    assert hub.fetched() == [(file.name, "bytes=600-")]
    assert (tmp_path / file.name).read_bytes() == hub.plain[file.name]


def test_what_changed_on_the_server_meanwhile_comes_anew(hub: Hub, tmp_path: Path) -> None:
    file = remote(hub, 0, etag='"as it was when the size was asked for"')
    part = part_of(file, tmp_path)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"old" * 200)
    download([file], tmp_path, Sums(tmp_path))
    assert (tmp_path / file.name).read_bytes() == hub.plain[file.name]


def test_a_file_of_the_users_is_completed_beside_it(fetch: Any, tmp_path: Path) -> None:
    (tmp_path / "own" / "saes").mkdir(parents=True)
    file = tmp_path / "own" / "server.toml"
    text = (
        'model = "google/tiny"\n'
        '[[sources]]\nset = "a"\nformat = "saelens"\npath = "google/scope/layer_0/width_16k/average_l0_105"\n'
        '[[sources]]\nset = "b"\nformat = "saelens"\npath = "/elsewhere/{layer}"\n'
        '[[sources]]\nset = "c"\nformat = "saelens"\npath = "saes/{layer}"\n'
    )
    file.write_text(text)
    done = fetch("own/server.toml")
    assert done.status == 0, done.err
    assert (file.parent / "google" / "tiny" / "model.safetensors").exists()
    assert (file.parent / "google/scope/layer_0/width_16k/average_l0_105/params.npz").exists()
    assert file.read_text() == text
    assert "next: saeserve-server start --config" in done.out
    assert fetch("own/server.toml", "--layers", "1").status == 2


def test_of_a_folder_that_no_fetch_brought_nothing_is_touched(fetch: Any, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "google" / "tiny").mkdir(parents=True)
    (tmp_path / "server.toml").write_text('model = "google/tiny"\n')
    done = fetch("server.toml")
    assert done.status == 2
    assert "nothing to fetch" in done.err
    assert hub.asked == []


@pytest.mark.parametrize("name", ready_names())
def test_what_is_ready_is_shipped_in_deploy_and_says_how_to_fetch_it(name: str) -> None:
    text = (READY / f"{name}.toml").read_text()
    assert (ROOT / "deploy" / f"{name}.toml").read_text() == text
    assert f"saeserve-server fetch {name} " in text
    assert f"saeserve-server start --config {name}.toml" in text
    config = load_config(ROOT / "deploy" / f"{name}.toml", {}, {})
    assert config.sources
