"""What fits is found out before anything is loaded, and what does not is refused with the numbers."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from saeserve_server.config import load_config
from saeserve_server.engine import build, memory
from saeserve_server.engine.memory import MemoryPlan, free_host_bytes, memory_plan, process_bytes, return_freed
from saeserve_server.errors import ConfigError
from saeserve_server.models.load import Outline, outline
from saeserve_server.sources.registry import sae_bytes

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {20 * GIB // 1024} kB\n"}


def test_free_memory_is_the_machine_s_within_the_limits_of_every_group(tmp_path: Path) -> None:
    assert free_host_bytes(tmp_path) is None
    assert free_host_bytes(write(tmp_path, MACHINE)) == 20 * GIB
    group = "sys/fs/cgroup/service/worker"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/service/worker\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.current": "5\n",
            "sys/fs/cgroup/service/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/service/memory.current": f"{5 * GIB}\n",
            "sys/fs/cgroup/service/memory.stat": f"anon 1\ninactive_file {GIB}\n",  # given back when needed
        },
    )
    assert free_host_bytes(tmp_path) == 4 * GIB


def test_free_memory_within_a_group_of_version_1(tmp_path: Path) -> None:
    write(tmp_path, MACHINE)
    group = "sys/fs/cgroup/memory"
    for limit, free in ((3 * GIB, 2 * GIB), (2**63 - 4096, 20 * GIB), (GIB // 2, 0)):
        write(tmp_path, {f"{group}/memory.limit_in_bytes": str(limit), f"{group}/memory.usage_in_bytes": str(GIB)})
        assert free_host_bytes(tmp_path) == free


def test_what_cannot_fit_is_refused_with_numbers_and_remedies(caplog: pytest.LogCaptureFixture) -> None:
    plan = MemoryPlan(15 * GIB, 9 * GIB, 0, 23 * GIB, "cuda:0")
    with pytest.raises(ConfigError) as error:
        plan.check("server.toml")
    assert str(error.value).startswith(
        "server.toml: does not fit: memory on cuda:0: model 15.0 GiB + SAEs 9.0 GiB = 24.0 GiB of weights, "
        "23.0 GiB free; what would help: "
    )
    assert 'model_dtype = "bfloat16"' in str(error.value)
    MemoryPlan(15 * GIB, 9 * GIB, 0, None, "cpu").check("")
    MemoryPlan(15 * GIB, 9 * GIB, 0, 26 * GIB, "cpu").check("")
    assert not caplog.records
    MemoryPlan(15 * GIB, 9 * GIB, 0, 24 * GIB, "cpu").check("")
    assert "about 1.0 GiB are wanted besides" in caplog.text


def test_what_is_mapped_need_not_fit_but_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    plan = MemoryPlan(2 * GIB, GIB, 4 * GIB, 9 * GIB, "cpu")
    assert str(plan) == (
        "memory on cpu: model 2.0 GiB + SAEs 1.0 GiB = 3.0 GiB of weights and 4.0 GiB mapped from files, 9.0 GiB free"
    )
    plan.check("")
    assert not caplog.records
    MemoryPlan(2 * GIB, GIB, 40 * GIB, 9 * GIB, "cpu").check("")
    assert "40.0 GiB mapped from files, 9.0 GiB free; about 1.0 GiB are wanted besides" in caplog.text


def test_memory_of_one_s_own_and_pages_of_files_are_told_apart(tmp_path: Path) -> None:
    size = 2**26
    (tmp_path / "pages").write_bytes(bytes(size))
    private, mapped = process_bytes()
    ballast = bytearray(b"x") * size
    assert abs(process_bytes()[0] - private - size) < size / 4
    assert abs(process_bytes()[1] - mapped) < size / 4
    pages = np.memmap(tmp_path / "pages", np.uint8, "r")
    assert pages.sum() == 0
    assert abs(process_bytes()[1] - mapped - size) < size / 4
    assert abs(process_bytes()[0] - private - size) < size / 4
    del ballast


def test_what_was_freed_between_what_was_not_goes_back_to_the_system() -> None:
    pieces = [bytes([1]) * 2**16 for _ in range(1024)]  # on the heap: large ones are mapped each by itself
    kept = pieces[::8]
    del pieces
    before, _ = process_bytes()
    return_freed()
    assert before - process_bytes()[0] > 2**24
    del kept


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 5 * GIB)
    monkeypatch.setattr(build, "load_model", lambda *_: pytest.fail("it was loaded"))
    shape = 'model = "synthetic:large"\n[synthetic.large]\nlayers = 48\nd_model = 1600\nheads = 25\n'
    write(tmp_path, {"server.toml": shape})
    with pytest.raises(ConfigError, match=r"does not fit: memory on cpu: model 5\.8 GiB \+ SAEs .* 5\.0 GiB free"):
        build.build_runner(load_config(tmp_path / "server.toml", {"device": "cpu"}, {}))
    assert "memory on cpu: model 5.8 GiB" in caplog.text
    assert memory_plan(GIB, 0, 0, torch.device("cpu")).free_bytes == 5 * GIB


@pytest.mark.parametrize(
    ("name", "layers", "parameters", "weights_of_saes"),
    [
        ("gpt2-small", 12, 124_439_808, 12 * 32768 * 768),
        ("gemma-2-2b", 26, 2_265_707_520, 26 * 16384 * 2304),
        ("gemma-2-2b-65k", 26, 2_265_707_520, 26 * 65536 * 2304),
        ("llama-8b", 32, 7_003_054_080, 32 * 32768 * 4096),
    ],
)
def test_built_in_shapes_are_planned_without_being_made(
    name: str, layers: int, parameters: int, weights_of_saes: int
) -> None:
    flags = {"model": f"synthetic:{name}", "model_dtype": "bfloat16", "dtype": "bfloat16"}
    config = load_config(None, flags, {})
    expected = outline(config)
    assert (expected.n_layers, expected.weight_bytes) == (layers, 2 * parameters)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    plan = memory_plan(expected.weight_bytes, *sae_bytes(config, [], cpu), cpu)
    assert plan.mapped_bytes == 0
    assert 1 < plan.source_bytes / (2 * weights_of_saes) < 1.02  # biases, norms
    full = load_config(None, {"model": f"synthetic:{name}"}, {})
    copies = sae_bytes(full, [], cpu)[0] - sae_bytes(full, [], gpu)[0]
    assert 1 < copies / weights_of_saes < 1.03  # small integers, of one byte


@pytest.mark.parametrize(
    ("cuda", "there", "warned"), [("12.8", True, True), ("12.8", False, False), (None, True, False)]
)
def test_a_gpu_that_torch_cannot_use_is_spoken_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cuda: str,
    there: bool,
    warned: bool,
) -> None:
    device = tmp_path / "nvidiactl"
    if there:
        device.touch()
    monkeypatch.setattr(build, "NVIDIA_DEVICES", (str(device),))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(build, "outline", lambda _: Outline(4, 10**18))
    with pytest.raises(ConfigError, match="does not fit"):
        build.build_runner(load_config(None, {}, {}))
    assert ("device: auto is the CPU, though there is an NVIDIA GPU" in caplog.text) == warned
