"""The Node client: its own tests against the demo's server, its example, its README, its generated code."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import saeserve
from saeserve.answers.as_json import as_json
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub

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


def test_its_json_is_that_of_the_contract(demo: saeserve.Client) -> None:
    script = """
        import { Client } from 'saeserve'
        const client = new Client(process.env.SAESERVE_TARGET)
        const found = await client.search(process.argv[1], { limit: 3 })
        const sparse = await client.encode(process.argv[1], { sources: '0-demo' })
        const dense = await client.encode(process.argv[1], { features: '0-demo:1633' })
        const item = await client.encodeStream([process.argv[1]], { sources: '0-demo' }).next()
        console.log(JSON.stringify([found, sparse, dense, item.value]))
        client.close()
    """
    printed = json.loads(run("node", "--input-type=module", "-e", script, TEXT, target=demo.target))
    text, feature = types.Input(text=TEXT), types.FeatureId(source="0-demo", index=1633)
    with grpc.insecure_channel(demo.target) as channel:
        stub = FeatureServiceStub(channel)
        answers = [
            stub.Search(service.SearchRequest(input=text, limit=3)),
            stub.Encode(service.EncodeRequest(inputs=[text], sources=["0-demo"])),
            stub.Encode(service.EncodeRequest(inputs=[text], features=[feature])),
        ]
    for got, answer in zip(printed, answers, strict=False):
        ours, wanted = dict(leaves(got)), dict(leaves(as_json(answer)))
        assert ours.keys() == wanted.keys()
        for place, value in wanted.items():
            if isinstance(value, float):  # its last bits differ by what shares its batch
                assert ours[place] == pytest.approx(value, abs=1e-4), place
                assert ours[place] in (value, float(str(np.float32(ours[place])))), place
            elif not place.startswith("/callInfo/"):
                assert ours[place] == value, place
    assert printed[3]["result"]["sparse"]["0-demo"]["indices"] == printed[1]["sparse"][0]["indices"]


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What stands where in JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield place, value
    else:
        for name, one in inner:
            yield from leaves(one, f"{place}/{name}")


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
