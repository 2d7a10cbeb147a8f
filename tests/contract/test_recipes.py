"""The commands of proto/recipes.md, as they stand there, against the demo's server and a gateway before it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import saeserve
from saeserve.answers.activations import Floats
from saeserve.v1 import feature_service_pb2 as service
from tests.web.conftest import gateway  # noqa: F401  # a fixture
from tests.web.running import Running

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "proto" / "recipes.md").read_text()
RECIPES: list[str] = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
TOOLS = ("curl", "jq", "buf", "grpcurl")
STUBS = sorted((ROOT / "proto" / "stubs").glob("*.yaml"))
TEXT = "My favorite color is red."
RED = "0-demo:1633"
# buf comes with the development environment, a plugin with the Node client's.
OWN = (Path(sys.executable).parent, ROOT / "clients" / "node" / "node_modules" / ".bin")
PATH = os.pathsep.join([*map(str, OWN), os.environ["PATH"]])
ALSO = {"protoc-gen-grpc-java": "grpc_java_plugin"}
"""What Debian calls a plugin."""


def names(demo: saeserve.Client, printed: str) -> None:
    found = [(one["facts"]["name"], round(one["value"], 3)) for one in json.loads(printed)["results"]]
    assert found == [(str(hit.name), round(hit.value, 3)) for hit in demo.search(TEXT, limit=3)]


def names_alone(demo: saeserve.Client, printed: str) -> None:
    found = [line.split() for line in printed.splitlines()]
    wanted = demo.search(TEXT, sort="red", limit=3)
    assert [(name, round(float(value), 3)) for name, value in found] == [
        (str(hit.name), round(hit.value, 3)) for hit in wanted
    ]


def close(got: list[list[float]], wanted: Floats | None) -> None:
    assert wanted is not None
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


def activations(demo: saeserve.Client, printed: str) -> None:
    offsets, data = json.loads(printed)
    wanted = demo.encode(["a red hat", "a crimson hat"], features=RED)
    assert tuple(offsets) == wanted.text_offsets
    close(data, wanted.dense)


def events(demo: saeserve.Client, printed: str) -> None:
    answers = [json.loads(line.removeprefix("data:")) for line in printed.splitlines() if line.startswith("data:")]
    found = {one["sequence"]: one["chunk"]["dense"]["data"] for one in answers if "chunk" in one}
    wanted = demo.encode(["a red hat", "a blue hat"], features=RED)
    assert sorted(found) == ["1", "2"]
    for text, rows in zip(wanted, (found["1"], found["2"]), strict=True):
        close(rows, text.dense)


def refused(demo: saeserve.Client, printed: str) -> None:
    assert json.loads(printed)["error"]["reason"] == "SOURCE_NOT_FOUND"


def methods(demo: saeserve.Client, printed: str) -> None:
    ours = service.DESCRIPTOR.services_by_name["FeatureService"].methods
    listed = {line.strip().replace("/", ".") for line in printed.splitlines()}
    assert {method.full_name for method in ours} <= listed


def streamed(demo: saeserve.Client, printed: str) -> None:
    answer = json.loads(printed)
    assert (answer["sequence"], answer["chunk"]["last"]) == ("7", True)


def healthy(demo: saeserve.Client, printed: str) -> None:
    assert json.loads(printed) == {"status": "SERVING"}


CHECKS: tuple[Callable[[saeserve.Client, str], None], ...] = (
    *(names, names_alone, activations, events, refused),
    *(names, methods, streamed),
    *(names, methods, healthy),
)


def run(command: str, folder: Path, path: str = PATH) -> str:
    """What a shell prints; its errors, if the command, or one before a pipe, fails."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needed(*tools: str, path: str = PATH) -> None:
    for tool in tools:
        if shutil.which(tool, path=path) is None:
            pytest.skip(f"{tool} is not installed")


@pytest.mark.parametrize(("recipe", "check"), list(zip(RECIPES, CHECKS, strict=True)), ids=range(len(RECIPES)))
def test_a_recipe_gives_what_the_client_is_given(
    recipe: str,
    check: Callable[[saeserve.Client, str], None],
    demo: saeserve.Client,
    gateway: Running,  # noqa: F811
) -> None:
    needed(*(tool for tool in TOOLS if re.search(rf"(?:^|\| *)\s*{tool} ", recipe, re.MULTILINE)))
    assert "127.0.0.1" in recipe
    asked = recipe.replace("http://127.0.0.1:50051", f"http://{demo.target}").replace("127.0.0.1:50051", demo.target)
    check(demo, run(asked.replace("127.0.0.1:8080", gateway.url.removeprefix("http://")), ROOT))


@pytest.mark.parametrize("template", STUBS, ids=lambda path: path.stem)
def test_the_stubs_of_another_language_are_generated(template: Path, tmp_path: Path) -> None:
    (command,) = re.findall(rf"`(?:npx )?(buf generate --template proto/stubs/{template.name})`", PAGE)
    assert f"#   {command}\n" in template.read_text()
    plugins = yaml.safe_load(template.read_text())["plugins"]
    for name in (one["local"] for one in plugins if one.get("local") in ALSO):
        other = shutil.which(ALSO[name])
        if shutil.which(name, path=PATH) is None and other is not None:
            (tmp_path / name).symlink_to(other)
    path = os.pathsep.join([PATH, str(tmp_path)])
    builtin = ["protoc" for one in plugins if "protoc_builtin" in one]
    needed("buf", *builtin, *(one["local"] for one in plugins if "local" in one), path=path)
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    run(command, tmp_path, path)
    made = [file.read_bytes() for file in (tmp_path / "gen" / template.stem).rglob("*") if file.is_file()]
    assert any(b"FeatureService" in one for one in made)
    assert any(b"GetVectorsRequest" in one for one in made)
