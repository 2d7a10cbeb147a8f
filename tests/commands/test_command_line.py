"""`saeserve-server` on a terminal: help, version, completion, and texts of files and users that are shown escaped."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from saeserve.cli import main as client
from saeserve_server.commands import healthcheck
from saeserve_server.commands.main import main

ODD = "x\x1b[31m\x9b\x7f\u202e\U000e0041\u2028y"
GOLDEN = Path(__file__).parents[1] / "golden" / "saelens" / "inf-standard"


def shows_nothing(text: str) -> bool:
    return all(char == "\n" or char.isprintable() for char in text)


def test_alone_it_prints_its_help_and_both_commands_tell_their_version_alike(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    assert "Exit codes: 0 done" in " ".join(capsys.readouterr().out.split())
    assert client.main(["--version"]) == 0
    assert capsys.readouterr().out == "saeserve 0.1.0\n"
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == "saeserve-server 0.1.0\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_settings(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("max-batch", "verify", "end-with-caller"))


@pytest.mark.parametrize("arguments", [[f"--{ODD}"], [ODD], ["start", f"--{ODD}"], ["start", "--max-tok=4"]])
def test_wrong_usage_is_one_printable_line_and_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    err = capsys.readouterr().err
    assert err.startswith("saeserve-server: error: ")
    assert err.count("\n") == 1
    assert shows_nothing(err)


def test_a_folder_of_any_name_is_shown_escaped_and_can_be_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ODD
    shutil.copytree(GOLDEN, folder)
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert shows_nothing(out)
    assert tomllib.loads(out[out.index("model = ") :])["sources"][0]["path"] == str(folder)


def test_what_a_server_says_of_its_health_is_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main([f"unix:/{ODD}"]) == 1
    assert shows_nothing(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("redirection", "status", "says"),
    [
        (">/dev/full", 1, "saeserve-server: error: what it says cannot be written: No space left on device\n"),
        ("| true", 0, ""),
        ("/nowhere 2>&-", 1, ""),
        ("/nowhere 2>/dev/full", 1, ""),
    ],
)
def test_streams_that_are_full_or_closed_are_no_traceback(redirection: str, status: int, says: str) -> None:
    line = f'"$0" -m saeserve_server check {redirection if "nowhere" in redirection else f"{GOLDEN} {redirection}"}'
    done = subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", says)
