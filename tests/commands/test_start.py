"""What the commands cost before they do anything: nothing heavy is imported, and a wrong file is told at once."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = "{'torch', 'transformers', 'transformer_lens', 'huggingface_hub', 'numpy', 'grpc'}"


def heavy_after(*arguments: str) -> tuple[int, str, str]:
    """Exit status of `saeserve-server`, what of `HEAVY` it imported, and what it said."""
    code = (
        "import sys\nfrom saeserve_server.commands.main import main\n"
        "try:\n    status = main(sys.argv[1:])\nexcept SystemExit as end:\n    status = end.code\n"
        f"print(*sorted({HEAVY} & set(sys.modules)))\nsys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines()[-1], done.stderr


def test_help_imports_nothing_heavy() -> None:
    assert heavy_after("--help")[:2] == (0, "")
    assert heavy_after("fetch", "--help")[:2] == (0, "")


@pytest.mark.parametrize("command", [["start"], ["sources"], ["index", "build", "out", "texts"]], ids=lambda it: it[0])
def test_a_wrong_file_is_told_before_anything_heavy_is_imported(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text("modle = 'demo'\n")
    status, heavy, said = heavy_after(*command, "--config", str(tmp_path / "server.toml"))
    assert (status, heavy) == (2, "")
    assert said.endswith("server.toml: modle: unknown key; did you mean model?\n")
