"""Where the demo's index goes where it cannot be kept, and what becomes of one in the cache that is damaged."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saeserve_server.config import load_config
from saeserve_server.engine import build
from saeserve_server.engine.runner import BatchRunner
from saeserve_server.errors import ConfigError
from saeserve_server.records import builder
from saeserve_server.records.locate import demo_index_folder
from saeserve_server.records.store import RecordStore
from saeserve_server.records.unfinished import is_passing, remove_unfinished
from saeserve_server.records.writer import CannotWrite, StoreWriter
from tests.records.reference import FakeReader
from tests.records.reference import tokenise as letters


@pytest.fixture(scope="module")
def runner() -> BatchRunner:
    tiny = load_config(None, {"model": "synthetic:tiny", "neurons": "false", "device": "cpu"}, {})
    return build.build_runner(tiny, with_index=False)[0]


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Path]]:
    """Folders in which there is no space; the cache is in `cache`, temporary files are in `temporary`."""
    folders: set[Path] = set()

    def build_index(runner: object, tokenise: object, texts: object, out: Path, **settings: object) -> None:
        with StoreWriter(out):
            if folders & set(out.parents):
                raise CannotWrite(f"{out}: No space left on device")
        builder.build_index(FakeReader(), letters, ["bcd"], out)  # a small one

    monkeypatch.setattr(build, "build_index", build_index)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield folders
    remove_unfinished()


def test_it_is_kept_in_the_cache_and_found_there(runner: BatchRunner, full: set[Path], tmp_path: Path) -> None:
    folder = build.demo_index(runner)
    assert tmp_path / "cache" in folder.parents
    assert not is_passing(folder)
    built = folder.stat().st_ino
    assert build.demo_index(runner) == folder
    assert folder.stat().st_ino == built


@pytest.mark.parametrize("how", ["cut", "a file is missing", "no manifest", "of another format"])
def test_one_in_the_cache_that_is_of_no_use_is_built_again(
    how: str, runner: BatchRunner, full: set[Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = build.demo_index(runner)
    manifest, tokens = folder / "index.json", folder / "tokens.npy"
    if how == "cut":
        tokens.write_bytes(tokens.read_bytes()[:-1])
    elif how == "of another format":
        manifest.write_text(manifest.read_text().replace('"version": ', '"version": 9'))
    else:
        (tokens if how == "a file is missing" else manifest).unlink()
    with caplog.at_level(logging.WARNING):
        assert build.demo_index(runner) == folder
    assert "is of no use, and is built again" in caplog.text
    RecordStore.open(folder, verify=True)


def test_other_passages_are_indexed_elsewhere(runner: BatchRunner, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("red")
    other.write_text("blue")
    keeping = build.DEMO_SETTINGS.keeping
    assert demo_index_folder(runner.catalog, one, keeping) != demo_index_folder(runner.catalog, other, keeping)
    fewer = replace(keeping, records=3)
    assert demo_index_folder(runner.catalog, one, keeping) != demo_index_folder(runner.catalog, one, fewer)


@pytest.mark.parametrize("how", ["full", "a file", "no home"])
def test_a_cache_that_cannot_be_written_to_makes_it_pass(
    how: str,
    runner: BatchRunner,
    full: set[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if how == "full":
        full.add(tmp_path / "cache")
    elif how == "a file":
        (tmp_path / "cache").touch()
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "expanduser", no_home)
    with caplog.at_level(logging.WARNING):
        folder = build.demo_index(runner)
    assert tmp_path / "temporary" in folder.parents
    assert is_passing(folder)
    assert "cannot be kept, and is built in a temporary folder for this run only" in caplog.text
    assert not list(tmp_path.rglob(".*"))
    remove_unfinished()
    assert not list((tmp_path / "temporary").iterdir())


def no_home(path: Path) -> Any:
    raise RuntimeError("Could not determine home directory.")


def test_where_nothing_can_be_written_anywhere_that_is_said(
    runner: BatchRunner, full: set[Path], tmp_path: Path
) -> None:
    full.add(tmp_path)
    with pytest.raises(ConfigError, match=r"built nowhere.*No space left.*make room, or set index to none"):
        build.demo_index(runner)
