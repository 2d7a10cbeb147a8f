"""What turns out only while it loads: `saeserve-server start` ends with status 2 and says which file and key, and why.

How an error becomes that end is the same for all that one process finds: one case of the worker's is started and one
that the front end finds before it has a worker; of all the error itself is looked at. What is told before anything is
opened, tests/commands/test_early.py tries.
"""

from __future__ import annotations

import pickle  # noqa: TID251 (to write what must be refused)
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saeserve_server.config import load_config
from saeserve_server.engine.build import build_runner
from saeserve_server.errors import ConfigError
from tests.service.servers import run_to_end
from tests.service.wire import DEMO
from tests.sources.formats import write_openai, write_saelens

MODEL = DEMO / "model"
BOUND = 120.0
"""Seconds within which a start has ended; it takes as long as importing torch."""


def toml(folder: Path, *lines: str) -> Path:
    path = folder / "server.toml"
    path.write_text("\n".join(['bind = "127.0.0.1:0"', 'metrics_bind = "none"', *lines]))
    return path


def sae(folder: Path, path: str, form: str) -> Path:
    """A configuration that serves one SAE on layer 0."""
    table = ["[[sources]]", 'set = "bad"', f'format = "{form}"', f'path = "{path}"', 'layers = "0"']
    return toml(folder, f'model = "{MODEL}"', "neurons = false", *table, 'hook = "blocks.0.hook_mlp_out"')


def nan_model(folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    copy = folder / "nan"
    copy.mkdir()
    for file in MODEL.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tensors = load_file(MODEL / "model.safetensors")
    name = next(name for name in tensors if "mlp" in name and name.endswith("weight"))
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return toml(folder, 'model = "./nan"')


def nan_weights(folder: Path) -> Path:
    _, tensors = write_saelens(folder / "nan", d_in=128)
    tensors["W_enc"][3, 7] = float("nan")
    from safetensors.torch import save_file

    save_file(tensors, folder / "nan" / "sae_weights.safetensors")
    return sae(folder, "nan", "saelens")


class Payload:
    """Unpickled, it would write a file."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._trace,)


def code_in_pt(folder: Path) -> Path:
    write_openai(folder / "good.pt", d_in=128)
    with zipfile.ZipFile(folder / "good.pt") as good, zipfile.ZipFile(folder / "code.pt", "w") as bad:
        for name in good.namelist():
            evil = name.endswith("data.pkl")
            bad.writestr(name, pickle.dumps(Payload(folder / "ran")) if evil else good.read(name))
    return sae(folder, "code.pt", "openai")


def port_in_use(folder: Path) -> Path:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    HELD.append(taken)
    path = folder / "server.toml"
    path.write_text(f'bind = "127.0.0.1:{taken.getsockname()[1]}"\nmetrics_bind = "none"')
    return path


HELD: list[socket.socket] = []
CASES: dict[Callable[[Path], Path], tuple[str, ...]] = {
    # What is wrong → what the one line says
    nan_model: ("nan", "finite"),
    nan_weights: ("server.toml", "sources[0]", "sae_weights.safetensors", "W_enc", "NaN"),
    code_in_pt: ("server.toml", "sources[0]", "code.pt"),
}


def hold(problem: str, says: tuple[str, ...], folder: Path) -> None:
    """One line that says it, and nothing was run of what the files hold."""
    assert "Traceback" not in problem
    assert len(problem.splitlines()) == 1
    for part in says:
        assert part in problem
    assert len(problem) < 500
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_what_cannot_be_loaded_is_a_line_that_says_why(tmp_path: Path, case: Callable[[Path], Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_runner(load_config(case(tmp_path), {}, {}))
    hold(str(caught.value), CASES[case], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", [nan_weights, code_in_pt], ids=["by the worker", "by the front end"])
def test_a_start_that_cannot_be_ends_with_status_2_and_says_why(tmp_path: Path, case: Callable[[Path], Path]) -> None:
    ended = run_to_end("start", "--config", str(case(tmp_path)), timeout=BOUND)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    (problem,) = [line for line in ended.stderr.splitlines() if line.startswith("saeserve-server: error: ")]
    hold(problem, CASES[case], tmp_path)


def test_a_start_that_fails_leaves_the_port_file_of_another_alone(tmp_path: Path) -> None:
    config = port_in_use(tmp_path)
    (tmp_path / "port").write_text("127.0.0.1:1")
    ended = run_to_end("start", "--config", str(config), "--port-file", str(tmp_path / "port"))
    assert ended.returncode == 2
    assert (tmp_path / "port").read_text() == "127.0.0.1:1"
