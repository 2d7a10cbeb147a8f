"""The benchmark measures what it says: the same work on every side, a side's own CPU time, exact floors."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from loadtests.bench import __main__ as bench
from loadtests.bench import floor, same, sides, usage
from loadtests.bench.report import Cell, describe
from loadtests.bench.windows import Load, Ran, Unanswered, Window, measure
from loadtests.connect import Server
from loadtests.percentiles import mean
from loadtests.processes import Address
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import types_pb2 as types
from tests import answers
from tests.loadtests.fake import Behaviour, Refusal, after, at_once, one_at_a_time, serving

ROOT = Path(__file__).parents[2]
TOP = [("0-a", 7, 9.0), ("1-a", 3, 5.0), ("1-a", 4, 5.0), ("0-a", 1, 2.0)]


@pytest.mark.slow
def test_all_sides_answer_alike_and_are_measured_beside_each_other(tmp_path, monkeypatch, capsys) -> None:
    options = ["--model", "demo", "--base", "HEAD", "--out", str(tmp_path)]
    options += ["--tokens", "6", "--callers", "1,3", "--window", "0.3", "--seconds", "0"]
    monkeypatch.setattr(usage, "WATCHED", 0.5)  # nothing is made of the numbers
    monkeypatch.setattr(sys, "argv", ["bench", *options])
    monkeypatch.setattr(bench, "leave_nothing_behind", lambda: None)
    bench.main()
    printed = capsys.readouterr().out
    assert "plain, ours, base: the same features for 4 texts" in printed
    found = json.loads((tmp_path / "bench-demo.json").read_text())
    assert [(cell["tokens"], cell["callers"]) for cell in found["cells"]] == [(6, 1), (6, 3)]
    assert sum(found["kernels"].values()) == 4
    for cell in found["cells"]:
        assert cell["sides"].keys() == {"plain", "ours", "base"}
        assert all(side["rate"] > 0 and side["cpu_seconds"] > 0 for side in cell["sides"].values())
        ours, plain = cell["sides"]["ours"], cell["sides"]["plain"]
        assert cell["ratios"]["rate_by_plain"] == pytest.approx(ours["rate"] / plain["rate"])
        assert 1 <= ours["mean_batch"] <= cell["callers"]
        assert cell["floor"]["encoder_seconds"].keys() == floor.KERNELS.keys()
    assert all(held["private"] > 2**27 and held["mapped"] > 2**20 for held in found["memory"].values())
    trees = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "saeserve-bench-" not in trees.stdout


def test_every_length_is_compared_and_measured_with_every_number_of_callers(monkeypatch) -> None:
    compared: list[str] = []
    measured: list[tuple[int, int]] = []

    async def compare(_: object, texts: list[str]) -> None:
        compared.extend(texts)

    def another(_: object, servers: object, cell: Cell, *rest: object) -> None:
        measured.append((cell.words, cell.callers))
        cell.took = 0.0

    monkeypatch.setattr(bench, "compare", compare)
    monkeypatch.setattr(bench, "encoders", lambda server: [])
    monkeypatch.setattr(bench, "Floor", lambda model, sources: SimpleNamespace(measure=None))
    monkeypatch.setattr(bench, "another", another)
    asked = Namespace(model="demo", tokens=[6, 9], callers=[1, 3], seed=0)
    cells = bench.run(asked, {sides.OURS: Address(Server(""))}, 0.0)
    assert measured == [(cell.words, cell.callers) for cell in cells] == [(6, 1), (6, 3), (9, 1), (9, 3)]
    assert [len(text.split()) for text in compared] == [6] * 4 + [9] * 4


def test_answers_are_the_same_as_far_as_the_comparator_of_the_tests_goes() -> None:
    assert same.EPSILON == answers.EPSILON
    slack = same.EPSILON * 9.0
    assert same.difference(TOP, TOP) is None
    assert same.difference([TOP[0], TOP[2], TOP[1], TOP[3]], TOP) is None  # a tie
    assert same.difference([(*one[:2], one[2] + 0.9 * slack) for one in TOP], TOP) is None
    assert same.difference([*TOP[:3], ("2-a", 5, 2.0 + 0.9 * slack)], TOP) is None  # close to the last


@pytest.mark.parametrize(
    "answer",
    [
        TOP[:3],
        [*TOP[:3], ("0-a", 1, 2.0 - 9.2e-4)],
        [TOP[1], TOP[0], *TOP[2:]],
        [("0-a", 8, 9.0), *TOP[1:]],
        [TOP[0], ("1-a", 5, 5.0), *TOP[2:]],
        [],
    ],
    ids=["one less", "another value", "another order", "another feature first", "another feature between", "nothing"],
)
def test_other_answers_are_told(answer) -> None:
    assert same.difference(answer, TOP) is not None


def test_a_side_that_answers_something_else_ends_the_run_before_it_is_measured() -> None:
    async def compare(value: float) -> None:
        async with serving(at_once) as (plain, first), serving(at_once) as (ours, second):
            first.results, second.results = [result(6, 1.0)], [result(6, value)]
            await same.compare({"plain": Server(plain), "ours": Server(ours)}, ["a text", "another"])

    asyncio.run(compare(1.0))
    with pytest.raises(same.Differs, match=r"ours does not answer 'a text' as plain does: number 1 is 0-a:6 = 1.5"):
        asyncio.run(compare(1.5))


def result(index: int, value: float) -> pb.FeatureResult:
    facts = types.FeatureFacts(feature=types.FeatureId(source="0-a", index=index))
    return pb.FeatureResult(facts=facts, value=value)


def windowed(behaviour: Behaviour, load: Load, pid: int) -> Window:
    async def run() -> Window:
        async with serving(behaviour) as (target, _):
            return await measure(Address(Server(target), pid=pid), load, sources=1)

    return asyncio.run(run())


def test_a_window_opens_when_everybody_was_answered_and_counts_what_follows() -> None:
    found = windowed(one_at_a_time(0.02), Load(5, 6, seconds=1.0, patience=20, seed=0), os.getpid())
    assert found.rate * mean(found.latencies) == pytest.approx(5, rel=0.3)  # callers, by Little's law
    assert len(found.latencies) == pytest.approx(found.rate * 1.0, abs=5)
    assert min(found.latencies) > 4 * 0.02  # nobody is alone any more
    assert found.ran is None


def test_cpu_time_is_that_of_the_side_s_processes() -> None:
    """Two processes that compute all the time, and answers that come at a known rate."""
    burn = "while True: pass"
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}]); exec({burn!r})"
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as busy:
        try:
            wait_for(lambda: len(usage.processes(busy.pid)) == 2)
            pids = usage.processes(busy.pid)
            before, began = usage.cpu_seconds(pids), time.monotonic()
            found = windowed(after(0.05), Load(1, 6, seconds=1.5, patience=20, seed=0), busy.pid)
            share = (usage.cpu_seconds(pids) - before) / (time.monotonic() - began)  # of a second, on this busy machine
            assert found.cpu * found.rate == pytest.approx(share, rel=0.5)
        finally:
            os.killpg(busy.pid, signal.SIGKILL)


def test_a_server_is_at_rest_when_its_processes_take_no_more_cpu_time(monkeypatch) -> None:
    monkeypatch.setattr(usage, "WATCHED", 0.2)
    script = f"import time\nwhile time.process_time() < {1.0}: pass\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script]) as busy:
        try:
            usage.come_to_rest(busy.pid, 60)
            assert usage.cpu_seconds([busy.pid]) >= 0.9
        finally:
            busy.kill()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            with pytest.raises(TimeoutError, match="still computes"):
                usage.come_to_rest(busy.pid, 1)
        finally:
            busy.kill()


def test_a_call_that_fails_is_no_measurement() -> None:
    async def refuse(number: int) -> None:
        if number > 3:
            raise Refusal

    with pytest.raises(Unanswered, match="RESOURCE_EXHAUSTED"):
        windowed(refuse, Load(2, 6, seconds=0.5, patience=5, seed=0), os.getpid())


def test_memory_that_was_written_is_private_and_pages_of_a_file_are_mapped(tmp_path) -> None:
    size = 2**26
    file = tmp_path / "weights"
    file.write_bytes(bytes(size))
    script = (
        "import mmap, sys\n"
        "print(flush=True); input()\n"
        f"written = b'x' * {size}\n"
        "print(flush=True); input()\n"
        f"file = open({str(file)!r}, 'rb')\n"
        "mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)\n"
        "sum(mapped[i] for i in range(0, len(mapped), 4096)); print(flush=True); input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as held:
        steps = []
        for _ in range(3):
            held.stdout.readline()
            steps.append(usage.memory([held.pid]))
            held.stdin.write(b"\n")
            held.stdin.flush()
    grown = [(late.private - early.private, late.mapped - early.mapped) for early, late in itertools.pairwise(steps)]
    assert [[round(size_ / size, 1) for size_ in each] for each in grown] == [[1.0, 0.0], [0.0, 1.0]]


def test_every_kernel_of_the_floor_gives_the_product() -> None:
    weight = torch.randint(-127, 128, (96, 40)).float()
    weight[:, 0] = 127  # then the nearest integers are the weights
    x = torch.randint(-floor.LARGEST, floor.LARGEST + 1, (2 * floor.BLOCK + 1, 40)).float()
    exact = (x.double() @ weight.double().t()).float()
    assert floor.KERNELS.keys() == {"plain", "packed", "int8"}
    assert torch.equal(floor.plain(weight)(x), exact)
    assert torch.equal(floor.packed(weight)(x), exact)
    assert torch.equal(torch.cat(floor.int8(weight)(x)), exact)


def test_the_floor_runs_the_model_s_linear_layers_up_to_the_deepest_source() -> None:
    hook = "blocks.{}.hook_mlp_out"
    shapes = [tuple(weight.shape) for weight, _ in floor.linears("synthetic:tiny", [(hook.format(0), 32, 256)])]
    assert shapes == [(96, 32), (32, 32), (128, 32), (32, 128)]
    both = floor.linears("synthetic:tiny", [(hook.format(layer), 32, 256) for layer in (0, 1)])
    assert [tuple(weight.shape) for weight, _ in both] == 2 * shapes


def test_ratios_are_of_medians_and_the_floor_is_of_the_quickest_kernel() -> None:
    cell = Cell(10, 2)
    for plain, ours in ((1.0, 8.0), (2.0, 10.0), (9.0, 12.0)):
        cell.add(sides.PLAIN, Window(plain, 0.8, (0.5,) * 2, None))
        cell.add(sides.OURS, Window(ours, 0.2, (0.1,), Ran(2.0, 22.0, 20.0)))
        encoders = {"plain": floor.Cost(0.3, 0.6), "int8": floor.Cost(0.05, 0.08)}
        cell.floors.append((2.0, floor.Floored(floor.Cost(0.05, 0.08), encoders)))
    assert cell.kernel == "int8"
    assert cell.ratios() == pytest.approx(
        {"rate_by_plain": 5.0, "cpu_by_plain": 0.25, "share_of_floor": 0.5, "share_of_cpu": 0.4}
    )
    rows = [[each.strip() for each in line.split("|")[1:-1]] for line in describe([cell]).splitlines()]
    assert ["10", "2", "plain", "2.00", "500", "500", "800", "–"] in rows
    assert ["10", "2", "ours", "10.0", "200\\*", "–", "200", "2.00"] in rows  # one answer for two callers
    assert ["10", "2", "floor, int8", "20.0", "", "", "80.0", ""] in rows
    assert ["10", "2", "5.00", "0.25", "50%", "40%"] in rows
    json.dumps(cell.numbers(), allow_nan=False)


def test_a_revision_s_files_are_there_for_as_long_as_they_are_needed(tmp_path) -> None:
    with sides.worktree("HEAD", tmp_path / "tree") as tree:
        assert (tree / "server" / "saeserve_server" / "__main__.py").exists()
    assert not tree.exists()
    with pytest.raises(SystemExit, match="no-such-revision"):
        sides.revision_of("no-such-revision")


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
