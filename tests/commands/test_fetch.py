"""`saeserve-server fetch` against a server in the hub's layout: what lands on the disk, what is asked for and said."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from saeserve_server.config import load_config
from tests.commands.hub import MODEL, SCOPE, Hub


def files_under(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_and_saes_are_fetched_checked_and_configured(fetch: Any, tmp_path: Path) -> None:
    done = fetch("google/tiny", "--sae", "res=hf://google/scope/layer_{layer}/width_16k/average_l0_1*", "--out", "tiny")
    assert done.status == 0, done.err
    saes = {f"google/scope/{name}" for name in SCOPE if "average_l0_40" not in name}
    model = {f"google/tiny/{name}" for name in ("config.json", "tokenizer.json", "model.safetensors")}
    assert files_under(tmp_path / "tiny") == {*saes, *model, "google/scope/config.json", "SHA256SUMS", "tiny.toml"}
    for line in (tmp_path / "tiny" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "tiny" / name).read_bytes()).hexdigest() == digest
    text = (tmp_path / "tiny" / "tiny.toml").read_text()
    assert 'model = "google/tiny"' in text
    assert '1 = "google/scope/layer_1/width_16k/average_l0_102"' in text
    assert done.out.splitlines()[-1] == "next: saeserve-server start --config tiny/tiny.toml"
    assert "fetched 7 files, 6.9 KiB, into tiny" in done.out
    assert done.err == ""  # no progress where there is no terminal


def test_the_written_configuration_loads(fetch: Any, tmp_path: Path) -> None:
    fetch("google/tiny", "--sae", "hf://google/scope/layer_{layer}/width_16k/average_l0_1*", "--layers", "0-1")
    config = load_config(tmp_path / "tiny.toml", {}, {})
    assert config.resolve(config.model).is_dir()
    assert [source.set for source in config.sources] == ["scope"]
    paths = dict(config.sources[0].path)  # type: ignore[arg-type]
    assert [config.resolve(path).is_dir() for path in paths.values()] == [True, True]


def test_what_is_whole_is_not_fetched_again_and_what_is_damaged_is(fetch: Any, hub: Hub, tmp_path: Path) -> None:
    fetch("google/tiny")
    again = fetch("google/tiny")
    assert hub.fetched() == []
    assert "fetched 0 files, 0 B, into the current folder (3 were there)" in again.out

    weights = tmp_path / "google" / "tiny" / "model.safetensors"
    weights.write_bytes(b"x" * len(MODEL["model.safetensors"]))
    mended = fetch("google/tiny")
    assert hub.fetched() == [("model.safetensors", None)]
    assert "google/tiny/model.safetensors: damaged, or of another version: fetched again" in mended.err
    assert weights.read_bytes() == MODEL["model.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])  # by its SHA-256, by its name in git
def test_a_file_that_arrives_damaged_never_gets_its_name(fetch: Any, hub: Hub, tmp_path: Path, name: str) -> None:
    hub.damaged.add(name)
    done = fetch("google/tiny")
    assert done.status == 2
    assert f"google/tiny/{name}: damaged on its way" in done.err
    assert done.err.count("\n") == 1
    assert name not in {file.rpartition("/")[2] for file in files_under(tmp_path)}
    hub.damaged.clear()
    assert fetch("google/tiny").status == 0


def test_an_interrupted_file_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    weights = os.urandom(11 * 2**20)  # the hub's client writes 10 MiB at a time
    hub.repos["google/tiny"] = {**MODEL, "model.safetensors": weights}
    hub.stalls["model.safetensors"] = len(weights) - 1000
    command = [sys.executable, "-m", "saeserve_server", "fetch", "google/tiny"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    with subprocess.Popen(command, env=environment) as process:
        assert hub.stalled.wait(60)
        part = wait_for_part(tmp_path / "google" / "tiny")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert part.exists()
    hub.asked.clear()
    hub.stalls.clear()
    assert subprocess.run(command, env=environment, timeout=60, capture_output=True, check=False).returncode == 0
    assert [one for one in hub.fetched() if one[0].startswith("model")] == [("model.safetensors", "bytes=10485760-")]
    assert (tmp_path / "google" / "tiny" / "model.safetensors").read_bytes() == weights
    assert not part.exists()


def wait_for_part(folder: Path) -> Path:
    import time

    end = time.monotonic() + 30
    while time.monotonic() < end:
        for part in folder.glob(".model.safetensors.*.part"):
            if part.stat().st_size == 10 * 2**20:
                return part
        time.sleep(0.01)
    raise AssertionError("nothing was written")


def test_a_pattern_that_matches_two_is_refused_and_lists_both(fetch: Any, tmp_path: Path) -> None:
    done = fetch("google/tiny", "--sae", "hf://google/scope/layer_{layer}/width_16k/average_l0_*")
    assert done.status == 2
    assert "expected one match for each layer; choose one of" in done.err
    both = "layer_1/width_16k/average_l0_102 layer_1/width_16k/average_l0_40"
    assert f"layer 1: {both}" in done.err
    assert "layer 0" not in done.err
    assert files_under(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["google/nowhere"], "google/nowhere: no such repository at"),
        (["gpt2-small-openai-v6"], "did you mean gpt2-small-openai-v5"),
        (["google/tiny@v9"], "no revision v9"),
        (["google/scope"], "expected a model with config.json and weights"),
        (["google/tiny", "--sae", "hf://google/scope/layer_{layer}/width_1m"], "nothing there matches"),
        (
            ["--sae", "hf://google/scope/layer_{layer}/width_16k/average_l0_1*", "--layers", "1-4"],
            "for layers 3-4; layers 0-2 do",
        ),
        (["google/tiny", "--sae", "google/scope"], "expected [SET=]hf://OWNER/NAME"),
        (["google/tiny", "--sae", "hf://google/scope", "--layers", "1"], "expected {layer} in the path"),
        (["google/tiny", "--layers", "3-1"], "expected layers such as 0-11"),
        ([], "expected a name or --sae"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(fetch: Any, tmp_path: Path, arguments: list[str], says: str) -> None:
    done = fetch(*arguments)
    assert done.status == 2
    assert says in done.err
    assert done.err.count("\n") == 1
    assert files_under(tmp_path) == set()


def test_a_gated_model_is_told_before_anything_is_fetched(
    fetch: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add("google/tiny")
    done = fetch("google/tiny")
    assert done.status == 2
    assert f"google/tiny: gated: accept its terms at {hub.url}/google/tiny" in done.err
    assert "HF_TOKEN" in done.err
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "right")
    assert fetch("google/tiny").status == 0


def test_a_full_disk_is_told_before_anything_is_fetched(
    fetch: Any, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**26))
    done = fetch("google/tiny")
    assert done.status == 2
    assert "the current folder: no room: 4.0 KiB to fetch, 64.0 MiB free" in done.err
    assert hub.asked == []
    assert files_under(tmp_path) == set()


def test_a_dry_run_lists_sizes_and_writes_nothing(fetch: Any, hub: Hub, tmp_path: Path) -> None:
    done = fetch("google/tiny", "--dry-run")
    assert done.status == 0
    assert "  3.9 KiB  google/tiny/model.safetensors" in done.out
    assert "3 of 3 files to fetch into the current folder, 4.0 KiB; nothing was fetched" in done.out
    assert hub.asked == []
    assert files_under(tmp_path) == set()


def test_what_lies_in_the_hub_cache_is_taken_from_there(fetch: Any, hub: Hub, tmp_path: Path) -> None:
    huggingface_hub.snapshot_download("google/tiny", allow_patterns=["*.json", "*.safetensors"])
    assert fetch("google/tiny").status == 0
    assert hub.fetched() == []
    weights = tmp_path / "google" / "tiny" / "model.safetensors"
    assert weights.read_bytes() == MODEL["model.safetensors"]
    assert weights.stat().st_nlink == 2  # no second copy of what is large
    assert (weights.parent / "config.json").stat().st_nlink == 1  # what one may edit is one's own


def test_saes_alone_say_what_to_add_to_a_configuration(fetch: Any, tmp_path: Path) -> None:
    done = fetch("--sae", "hf://google/scope/layer_0/width_16k/average_l0_105")
    assert done.status == 0
    assert '[[sources]]\nset = "scope"\npath = "google/scope/layer_0/width_16k/average_l0_105"\n' in done.out
    assert "google/scope/layer_0/width_16k/average_l0_105/params.npz" in files_under(tmp_path)
    assert not list(tmp_path.glob("*.toml"))


def test_a_configuration_that_was_edited_is_left_as_it_is(fetch: Any, tmp_path: Path) -> None:
    fetch("google/tiny")
    file = tmp_path / "tiny.toml"
    file.write_text("threads = 3\n" + file.read_text())
    done = fetch("google/tiny", "--sae", "hf://google/scope/layer_0/width_16k/average_l0_105")
    assert file.read_text().startswith("threads = 3\n")
    assert "is there already and was left as it is; to add to it:" in done.out
    assert 'path = "google/scope/layer_0/width_16k/average_l0_105"' in done.out


def test_a_file_that_no_fetch_brought_is_not_replaced(fetch: Any, hub: Hub, tmp_path: Path) -> None:
    own = tmp_path / "google" / "tiny" / "model.safetensors"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"weeks of training")
    done = fetch("google/tiny")
    assert done.status == 2
    assert "google/tiny/model.safetensors: is there, is another file, and no fetch brought it" in done.err
    assert own.read_bytes() == b"weeks of training"
    assert hub.asked == []


def test_offline_mode_is_the_users_word(fetch: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = fetch("google/tiny")
    assert done.status == 2
    assert "HF_HUB_OFFLINE is set" in done.err
    assert hub.asked == []
