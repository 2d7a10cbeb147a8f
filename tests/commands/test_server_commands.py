"""`saeserve-server` as its user types it: sources, index build and verify, the demo, the health check.

What loads a model runs inside the tests' process: what a process of its own is, test_command_line and test_start try.
"""

import contextlib
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

import saeserve
from saeserve_server.commands.main import main
from tests.conftest import DEVICE, START_TIMEOUT
from tests.inside import served_inside
from tests.sources.formats import write_saelens

TEXTS = ["The rose is red and the sky is blue.", "Red wine, white bread, and a red house.", "My ship is red."]


def run(*arguments: str, module: str = "saeserve_server") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT)


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_inside(*arguments: str) -> Done:
    """The same without a process of its own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            status = main(arguments)
    finally:
        root.handlers[:], root.level = handlers, level
        logging.captureWarnings(False)
    return Done(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with one random SAE, and texts to index."""
    folder = tmp_path_factory.mktemp("own")
    hook = "blocks.1.hook_resid_post"
    write_saelens(folder / "sae-1", architecture="topk", hook_name=hook, d_in=128, d_sae=64, prepend_bos=False)
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    (folder / "server.toml").write_text(
        f'device = "{DEVICE}"\nmetrics_bind = "none"\nindex = "none"\n'
        '[[sources]]\nset = "mine"\nformat = "saelens"\npath = "sae-{layer}"\naliases = ["own{layer}"]\n'
    )
    return folder / "server.toml"


def test_sources_prints_what_would_be_served(config: Path) -> None:
    done = run_inside("sources", "--config", str(config))
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[1].split()
    assert first[0] == "0"
    mine = next(line for line in done.stdout.splitlines() if line.startswith("1-MINE"))
    assert mine.split()[1:5] == ["blocks.1.hook_resid_post", "topk", "128", "64"]
    assert mine.endswith("own1")
    assert "5 sources, 2,112 features" in done.stdout
    assert "warning: 1-MINE: trained on texts without BOS and served on texts with one" in done.stdout
    assert "warning: 1-MINE: trained on gpt2-small, and the served model is called demo" in done.stdout


def test_an_index_is_built_verified_served_and_refused_for_another_model(config: Path) -> None:
    folder = config.parent
    built = run_inside("index", "build", str(folder / "index"), str(folder / "texts.jsonl"), "--config", str(config))
    assert built.returncode == 0, built.stderr
    assert "3 texts" in built.stdout
    verified = run_inside("index", "verify", str(folder / "index"))
    assert verified.returncode == 0
    (told,) = re.findall(r"^revision ([0-9a-f]{32}) .*, content ([0-9a-f]{32}) ", verified.stdout, re.MULTILINE)

    with served_inside(config, index=folder / "index") as target, saeserve.Client(target) as client:
        info = client.server_info()
        assert info.index is not None
        assert info.index.revision == told[0] != told[1]
        assert (info.index.texts, info.model.name) == (3, "demo")
        hit = client.search(TEXTS[0], sources=["OWN1"], limit=1, ranking="relative", min_fires=1).results[0]
        assert str(hit.name).startswith("1-MINE:")
        assert 0 < hit.value <= 1.001  # the text is in the index, so nothing in it exceeds the index's maximum
        page = client.top_activations(hit.name, page_size=100)
        assert page.statistics.max_activation >= hit.max_activation - 1e-4
        assert {record.text_index for record in page} <= {0, 1, 2}
        warned = client.list_sources()["1-mine"]
        assert any("without BOS" in warning for warning in warned.warnings)

    other = ["--index", str(folder / "index"), "--model", "synthetic:tiny", "--bind", "127.0.0.1:0"]
    done = run("start", "--config", str(config), *other)  # told before anything is loaded
    assert done.returncode == 2
    assert "sources[0].path: " in done.stderr
    assert "expected d_in = 32, that of blocks.1.hook_resid_post, got 128" in done.stderr
    assert "built with another model, demo: it knows layer 2, and this model has 2" in done.stderr

    largest = max((folder / "index").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    broken = run_inside("index", "verify", str(folder / "index"))
    assert broken.returncode == 2
    assert largest.name in broken.stderr
    assert "Traceback" not in broken.stderr


def test_the_demo_prints_a_search() -> None:
    done = run(module="saeserve_server.commands.demo")
    assert done.returncode == 0, done.stderr
    assert "0-DEMO:1635" in done.stdout
    assert "8,192 features of 4 sources considered" in done.stdout
    assert "make web" in done.stderr  # how to open the page


def test_the_health_check_tells_by_its_exit_status(demo: saeserve.Client) -> None:
    assert run(demo.target, module="saeserve_server.commands.healthcheck").returncode == 0
    assert run(demo.target, "saeserve.liveness", module="saeserve_server.commands.healthcheck").returncode == 0
    assert run("127.0.0.1:1", module="saeserve_server.commands.healthcheck").returncode == 1


def test_synthetic_models_answer(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(
        'model = "synthetic:small"\nmetrics_bind = "none"\n'
        "[synthetic.small]\nlayers = 2\nd_model = 48\nheads = 3\nvocabulary = 9000\nlatents = 500\nl0 = 20\n"
    )
    with served_inside(config) as target, saeserve.Client(target) as client:
        assert client.server_info().model.name == "synthetic:small"
        encoded = client.encode(TEXTS, sources=["0-synthetic", "1-synthetic"])
        for rows in encoded.sparse.values():
            assert rows.shape[1] == 500
            assert 5 < rows.nnz / rows.shape[0] < 80
        assert len(client.search(TEXTS[0]).results) == 25
