"""The folder of finished parts: what a run finds that was killed, or that meets another one."""

import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from saeserve.files import partial as module
from saeserve.files import parts
from saeserve.files.encode import encode
from saeserve.files.partial import Partial
from saeserve.files.texts import Input
from tests.client.test_encode_inputs import SETTINGS, Silent, stub

OUTPUT = Path("acts.npz")
FOLDER = Path("acts.npz.partial")


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parts, "PART_TEXTS", 4)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    Path("texts.txt").write_text("a text\n" * 9)


def run(settings=SETTINGS, force=False):
    with Partial(OUTPUT, settings, force) as folder:
        given = Input("texts.txt", None, None, None)
        return encode(given, stub, folder, skip=False, told=Silent(), check=lambda: None)


def meanwhile(monkeypatch, happens):
    """Something happens just before the first lock is got."""
    real, calls = fcntl.flock, []

    def flock(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            happens()
        real(*arguments)

    monkeypatch.setattr(module.fcntl, "flock", flock)


def test_a_lock_that_another_run_takes_away_is_no_lock(monkeypatch):
    def another_ends():
        (FOLDER / "lock").unlink()
        FOLDER.rmdir()

    meanwhile(monkeypatch, another_ends)
    with (
        Partial(OUTPUT, SETTINGS),
        pytest.raises(ValueError, match=r"acts\.npz\.partial is in use"),
        Partial(OUTPUT, SETTINGS),
    ):
        pass


def test_what_another_run_finishes_meanwhile_is_not_replaced(monkeypatch):
    meanwhile(monkeypatch, lambda: OUTPUT.write_text("of another run"))
    with pytest.raises(ValueError, match=r"acts\.npz is there already: --force"):
        run()
    assert OUTPUT.read_text() == "of another run"
    assert not FOLDER.exists()


def run_killed_at_its_end(monkeypatch, gone=0):
    """When the output is there, and so many parts are taken away."""

    def killed(folder):
        for part in folder.parts[:gone]:
            part.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            run()


@pytest.mark.parametrize("gone", [0, 2])
def test_a_run_that_was_killed_behind_its_end_left_a_whole_output(monkeypatch, gone):
    run_killed_at_its_end(monkeypatch, gone)
    whole = OUTPUT.read_bytes()
    with pytest.raises(ValueError, match=r"acts\.npz is there already: --force"):
        run(replace(SETTINGS, truncate=True))
    assert FOLDER.exists()
    with pytest.raises(ValueError, match=r"acts\.npz is there already, and whole: .*partial away, which is gone now"):
        run()
    assert OUTPUT.read_bytes() == whole
    assert not FOLDER.exists()
    assert run(force=True).texts == 9


def test_an_output_of_others_is_not_taken_for_the_whole(monkeypatch):
    run_killed_at_its_end(monkeypatch)
    OUTPUT.write_text("of somebody else")
    with pytest.raises(ValueError, match=r"acts\.npz is there already: --force"):
        run()
    OUTPUT.unlink()
    assert run().texts == 9


def test_where_nothing_was_finished_anything_may_be_asked():
    with Partial(OUTPUT, SETTINGS):
        pass
    assert list(FOLDER.iterdir())
    assert run(replace(SETTINGS, truncate=True)).texts == 9
