"""The Node client: its own tests against the demo's server, its example, its README, its generated code."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import saeserve

NODE = Path(__file__).parents[2] / "clients" / "node"
TEXT = "My favorite color is red."


def run(*command: str | Path, target: str = "", code: int = 0) -> str:
    """What a program prints in the client's folder, asking the server at `target`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SAESERVE_", "NODE_"))}
    done = subprocess.run(
        command,
        cwd=NODE,
        env=kept | ({"SAESERVE_TARGET": target} if target else {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if not (NODE / "node_modules").is_dir():
        pytest.fail("clients/node has no packages: make test-web installs them (npm ci)")
    if shutil.which("node") is None:
        pytest.fail("node is not installed: Node 20 or newer is needed")
    run("npm", "run", "build", "--silent")


def test_its_own_tests_pass_and_none_is_skipped(demo: saeserve.Client) -> None:
    printed = run("npm", "test", "--silent", target=demo.target)
    counts = dict(re.findall(r"^# (tests|pass|fail|skipped) (\d+)$", printed, re.MULTILINE))
    assert int(counts["tests"]) > 60, printed
    assert counts["pass"] == counts["tests"], printed
    assert (counts["fail"], counts["skipped"]) == ("0", "0"), printed


def test_the_example_prints_the_top_features(demo: saeserve.Client) -> None:
    printed = run("node", "examples/search.js", TEXT, "red", target=demo.target).splitlines()
    found = demo.search(TEXT, sort="red", limit=4)
    assert [line.split()[:2] for line in printed[:-1]] == [[str(hit.name), f"{hit.value:.3f}"] for hit in found]
    for line, hit in zip(printed, found, strict=False):
        assert f'"{found.tokens[hit.max_position].display}"' in line
    assert printed[-1] == f"{found.features_considered} features of {len(found.sources_considered)} sources considered"
    assert run("node", "examples/search.js", TEXT, "zebra", target=demo.target, code=1) == ""


def test_what_the_readme_shows_is_what_is_printed(demo: saeserve.Client, tmp_path: Path) -> None:
    shown = re.findall(
        r"```js\n(.*?)```\s+(?:prints.*?\n\n)?```\n(.*?)```", (NODE / "README.md").read_text(), re.DOTALL
    )
    assert len(shown) == 3
    script = NODE / "build" / "readme.mjs"  # where `saeserve` is found
    script.parent.mkdir(exist_ok=True)
    for code, output in shown:
        assert "127.0.0.1:50051" in code
        script.write_text(code.replace("127.0.0.1:50051", demo.target))
        assert run("node", script).rstrip() == output.rstrip()


def test_the_generated_code_is_that_of_the_contract(tmp_path: Path) -> None:
    run("npm", "run", "generate", "--silent", "--", tmp_path)
    committed, generated = NODE / "src" / "gen", tmp_path / "src" / "gen"
    names = [
        sorted(str(file.relative_to(folder)) for file in folder.rglob("*.ts")) for folder in (committed, generated)
    ]
    assert names[0] == names[1]
    _, different, errors = filecmp.cmpfiles(committed, generated, names[0], shallow=False)
    assert (different, errors) == ([], []), "npm run generate in clients/node, and commit what it writes"


def test_the_package_has_what_it_needs_and_nothing_else() -> None:
    files = set(re.findall(r'"path": "(.*?)"', run("npm", "pack", "--dry-run", "--json", "--ignore-scripts")))
    assert {"package.json", "README.md", "dist/index.js", "dist/index.d.ts"} <= files
    assert not [name for name in files if name.startswith(("test/", "build/", "node_modules/"))]
    assert run("node", "-e", "console.log(typeof require('saeserve').Client)").strip() == "function"


def test_the_lock_file_names_no_host() -> None:
    assert '"resolved"' not in (NODE / "package-lock.json").read_text()
