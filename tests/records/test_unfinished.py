"""Folders that are half written: gone with who made them, swept where that could not be, and never while in use."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from saeserve_server.errors import ConfigError
from saeserve_server.records import unfinished
from saeserve_server.records.unfinished import Unfinished, beside, is_passing, passing_folder, remove_unfinished, sweep
from saeserve_server.records.writer import CannotWrite, StoreWriter


@contextmanager
def building(place: Path, run: str = "build()") -> Iterator[subprocess.Popen[str]]:
    """Another process in the midst of a build, run as a command or otherwise."""
    code = textwrap.dedent("""
        import numpy, pathlib, sys, time
        from saeserve_server.commands import main
        from saeserve_server.commands.index import command
        from saeserve_server.records.writer import StoreWriter

        def build(options=None):
            with StoreWriter(pathlib.Path(sys.argv[1])) as writer:
                writer.write("tokens.npy", numpy.zeros(3))
                print(writer.folder.name, flush=True)
                time.sleep(60)

        command.run_build = build
    """)
    with subprocess.Popen([sys.executable, "-c", code + run, place], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().startswith(f".{place.name}.building-")
        yield other
        other.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda one: one.name)
def test_a_command_that_is_ended_removes_what_it_has_half_written(number: signal.Signals, tmp_path: Path) -> None:
    with building(tmp_path / "index", "sys.exit(main.main(['index', 'build', 'out', 'texts']))") as other:
        other.send_signal(number)
        assert other.wait(60) == 128 + number
    assert names(tmp_path) == []


def test_what_a_killed_build_left_is_swept_by_the_next_beside_it_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    with building(tmp_path / "one") as one, building(tmp_path / "two") as two:
        one.kill()
        one.wait()
        assert len(names(tmp_path)) == 2
        with StoreWriter(tmp_path / "three") as writer:
            left = [name for name in names(tmp_path) if name != writer.folder.name]
            assert [name.split("-")[0] for name in left] == [".two.building"]
        assert two.poll() is None
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_an_index_that_had_stepped_aside_for_a_build_that_was_killed_is_put_back(tmp_path: Path) -> None:
    place = tmp_path / "index"
    (old := beside(place, "old")).mkdir()
    (old / "index.json").touch()
    sweep(tmp_path)
    assert names(tmp_path) == ["index"]
    beside(place, "old").mkdir()  # its successor did come
    sweep(tmp_path)
    assert names(tmp_path) == ["index"]


def test_nothing_else_is_swept(tmp_path: Path) -> None:
    for name in (".index.building", ".index.building-12345678.bak", "index.building-12345678", ".building-12345678"):
        (tmp_path / name).mkdir()
    (tmp_path / ".index.building-12345678").touch()  # no folder
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".index.old-12345678").symlink_to(tmp_path / "elsewhere")
    before = names(tmp_path)
    sweep(tmp_path)
    sweep(tmp_path / "not-there")
    assert names(tmp_path) == before


def test_folders_that_pass_go_with_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(unfinished.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = passing_folder()
    assert is_passing(folder / "index")
    assert not is_passing(tmp_path / "index")
    unfinished.sweep_passing()
    assert names(tmp_path) == [folder.name]  # in use
    remove_unfinished()
    assert names(tmp_path) == []
    (tmp_path / folder.name).mkdir()  # of a process that was killed
    unfinished.sweep_passing()
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_to_is_told_from_one_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match="file"), StoreWriter(tmp_path / "file" / "index"):
        pass
    with pytest.raises(ConfigError, match="not an index") as caught, StoreWriter(tmp_path / "file"):
        pass
    assert not isinstance(caught.value, CannotWrite)
    with StoreWriter(tmp_path / "index") as writer:
        (writer.folder / "tokens.npy").symlink_to("/dev/full")
        with pytest.raises(CannotWrite, match="No space left"):
            writer.write("tokens.npy", np.zeros(4, np.uint32))
    assert names(tmp_path) == ["file"]


def test_one_that_is_swept_before_it_can_be_locked_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tries = []

    def name() -> Path:
        tries.append(beside(tmp_path / "index", "building"))
        return tries[-1]

    lock = unfinished._lock

    def swept_first(folder: Path, descriptor: int) -> bool | None:
        if len(tries) == 1:
            folder.rmdir()
        return lock(folder, descriptor)

    monkeypatch.setattr(unfinished, "_lock", swept_first)
    one = Unfinished.make(name)
    assert one.folder == tries[1]
    one.remove()
    assert names(tmp_path) == []
