"""What turns out only while it loads: `saeserve-server start` ends with status 2 and says which file and key, and why.

What is told before, tests/commands/test_early.py tries.
"""

from __future__ import annotations

import pickle  # noqa: TID251 (to write what must be refused)
import socket
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.service.servers import run_to_end
from tests.service.wire import DEMO
from tests.sources.formats import write_openai, write_saelens

MODEL = DEMO / "model"
BOUND = 120.0
"""Seconds within which every start has ended; most take as long as importing torch."""


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
CASES: dict[Callable[[Path], Path], tuple[int, tuple[str, ...]]] = {
    # What is wrong → number of problems, and what the lines say
    nan_model: (1, ("nan", "finite")),
    nan_weights: (1, ("server.toml", "sources[0]", "sae_weights.safetensors", "W_enc", "NaN")),
    code_in_pt: (1, ("server.toml", "sources[0]", "code.pt")),
}

Ends = dict[str, Future[tuple[Path, int, str]]]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory, cache_folder: Path) -> Ends:
    """Every case is started, two at a time; the tests look at how it ended."""

    def start(case: Callable[[Path], Path]) -> tuple[Path, int, str]:
        folder = tmp_path_factory.mktemp(case.__name__)
        ended = run_to_end("start", "--config", str(case(folder)), timeout=BOUND)
        assert ended.stdout == ""
        return folder, ended.returncode, ended.stderr

    pool = ThreadPoolExecutor(2)
    return {case.__name__: pool.submit(start, case) for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_a_start_that_cannot_be_ends_with_status_2_and_says_why(ends: Ends, case: Callable[[Path], Path]) -> None:
    folder, status, printed = ends[case.__name__].result(BOUND * len(CASES))
    count, says = CASES[case]
    assert status == 2, printed
    assert "Traceback" not in printed
    problems = [line for line in printed.splitlines() if line.startswith("saeserve-server: error: ")]
    assert len(problems) == count, printed
    for part in says:
        assert part in "\n".join(problems)
    assert max(map(len, problems)) < 500
    assert not (folder / "ran").exists()


def test_a_start_that_fails_leaves_the_port_file_of_another_alone(tmp_path: Path) -> None:
    config = port_in_use(tmp_path)
    (tmp_path / "port").write_text("127.0.0.1:1")
    ended = run_to_end("start", "--config", str(config), "--port-file", str(tmp_path / "port"))
    assert ended.returncode == 2
    assert (tmp_path / "port").read_text() == "127.0.0.1:1"
