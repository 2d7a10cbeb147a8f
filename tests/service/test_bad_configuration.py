"""What cannot be served: `saeserve-server start` ends with status 2 and says which file, which key, and why."""

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


def typo(folder: Path) -> Path:
    return toml(folder, "max_imputs = 3")


def typo_in_a_source(folder: Path) -> Path:
    return toml(folder, "[[sources]]", 'set = "x"', 'pth = "y"', 'format = "openai"')


def wrong_type(folder: Path) -> Path:
    return toml(folder, 'max_inputs = "many"', "neurons = 7")


def no_toml(folder: Path) -> Path:
    return toml(folder, "model = ")


def missing_file(folder: Path) -> Path:
    return folder / "nowhere.toml"


def unknown_device(folder: Path) -> Path:
    return toml(folder, 'device = "tpu"')


def absent_device(folder: Path) -> Path:
    return toml(folder, 'device = "cuda:99"')


def missing_model(folder: Path) -> Path:
    return toml(folder, 'model = "./no-such-model"')


def not_a_model(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return toml(folder, 'model = "./empty"')


def truncated_model(folder: Path) -> Path:
    copy = folder / "cut"
    copy.mkdir()
    for file in MODEL.iterdir():
        data = file.read_bytes()
        (copy / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    return toml(folder, 'model = "./cut"')


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


def unknown_shape(folder: Path) -> Path:
    return toml(folder, 'model = "synthetic:gpt2-smal"')


def nan_weights(folder: Path) -> Path:
    _, tensors = write_saelens(folder / "nan", d_in=128)
    tensors["W_enc"][3, 7] = float("nan")
    from safetensors.torch import save_file

    save_file(tensors, folder / "nan" / "sae_weights.safetensors")
    return sae(folder, "nan", "saelens")


def truncated_safetensors(folder: Path) -> Path:
    write_saelens(folder / "cut", d_in=128)
    path = folder / "cut" / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return sae(folder, "cut", "saelens")


def truncated_pt(folder: Path) -> Path:
    write_openai(folder / "cut.pt", d_in=128)
    path = folder / "cut.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    return sae(folder, "cut.pt", "openai")


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


def no_index(folder: Path) -> Path:
    (folder / "index").mkdir()
    (folder / "index" / "notes.txt").write_text("no index")
    return toml(folder, 'index = "index"')


def missing_index(folder: Path) -> Path:
    return toml(folder, 'index = "nowhere"')


def port_in_use(folder: Path) -> Path:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    HELD.append(taken)
    path = folder / "server.toml"
    path.write_text(f'bind = "127.0.0.1:{taken.getsockname()[1]}"\nmetrics_bind = "none"')
    return path


def metrics_port_in_use(folder: Path) -> Path:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    HELD.append(taken)
    path = folder / "server.toml"
    path.write_text(f'bind = "127.0.0.1:0"\nmetrics_bind = "127.0.0.1:{taken.getsockname()[1]}"')
    return path


HELD: list[socket.socket] = []
CASES: dict[Callable[[Path], Path], tuple[int, tuple[str, ...]]] = {
    # What is wrong → number of problems, and what the lines say
    typo: (1, ("server.toml", "max_imputs", "unknown key", "did you mean max_inputs")),
    typo_in_a_source: (
        2,
        ("server.toml", "sources[0].pth", "unknown key", "did you mean path", "sources[0].path: missing"),
    ),
    wrong_type: (2, ("server.toml", "max_inputs", "integer", "'many'", "neurons")),
    no_toml: (1, ("server.toml", "not valid TOML")),
    missing_file: (1, ("nowhere.toml", "No such file")),
    unknown_device: (1, ("server.toml", "device", "'tpu'")),
    absent_device: (1, ("server.toml", "device", "cuda:99")),
    missing_model: (1, ("server.toml", "model", "no-such-model")),
    not_a_model: (1, ("server.toml", "model", "config.json")),
    truncated_model: (1, ("server.toml", "model", "cut", "cannot be loaded")),
    nan_model: (1, ("nan", "finite")),
    unknown_shape: (1, ("server.toml", "model", "gpt2-smal", "gpt2-small")),
    nan_weights: (1, ("server.toml", "sources[0]", "sae_weights.safetensors", "W_enc", "NaN")),
    truncated_safetensors: (1, ("server.toml", "sources[0]", "sae_weights.safetensors")),
    truncated_pt: (1, ("server.toml", "sources[0]", "cut.pt")),
    code_in_pt: (1, ("server.toml", "sources[0]", "code.pt")),
    no_index: (1, ("index",)),
    missing_index: (1, ("nowhere",)),
    port_in_use: (1, ("bind", "127.0.0.1:", "in use")),
    metrics_port_in_use: (1, ("metrics_bind", "127.0.0.1:")),
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


def test_the_environment_and_flags_are_named_where_they_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESERVE_MAX_INPUTS", "0")
    ended = run_to_end("start", "--bind", "nonsense")
    assert ended.returncode == 2
    assert "SAESERVE_MAX_INPUTS: max_inputs" in ended.stderr
    assert "--bind: bind" in ended.stderr
    assert len(ended.stderr.splitlines()) == 2


def test_an_unknown_flag_is_a_usage_error() -> None:
    ended = run_to_end("start", "--max-imputs", "3")
    assert ended.returncode == 2
    assert "--max-imputs" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_start_that_fails_leaves_the_port_file_of_another_alone(tmp_path: Path) -> None:
    config = port_in_use(tmp_path)
    (tmp_path / "port").write_text("127.0.0.1:1")
    ended = run_to_end("start", "--config", str(config), "--port-file", str(tmp_path / "port"))
    assert ended.returncode == 2
    assert (tmp_path / "port").read_text() == "127.0.0.1:1"
