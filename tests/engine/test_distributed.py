"""An index whose chunks were handed out to Ray's workers has the bytes of one that was built in one process."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch

from saeserve_server.config import load_config
from saeserve_server.engine.build import PASSAGES, build_runner, pin_kernels
from saeserve_server.engine.distributed import build_with_ray, part_folders
from saeserve_server.errors import ConfigError
from saeserve_server.records.builder import Settings, build_index, merge_parts
from saeserve_server.records.building.part import Part
from saeserve_server.records.made_of import Keeping
from saeserve_server.text.tokenizer import Tokenizer

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

SETTINGS = Settings(keeping=Keeping(records=4, per_power=1, near_misses=1, positions=64), context=16)


def corpus(texts: int) -> list[str]:
    passages = [json.loads(line)["text"] for line in PASSAGES.read_text().splitlines()]
    draw = random.Random(0)
    return [" ".join(draw.choice(passages).split()[: draw.choice([0, 4, 12])]) for _ in range(texts)]


TEXTS = corpus(64 * 6 + 10)


@pytest.fixture(scope="module")
def local():
    """Configuration, runner, tokenizer, and the index of TEXTS that this process builds."""
    threads = torch.get_num_threads()
    config = load_config(None, {"index": "none", "threads": "1", "device": "cpu"}, {})
    runner, _ = build_runner(config, with_index=False)
    pin_kernels(config, runner)
    yield config, runner, Tokenizer(runner.catalog.model.tokenizer_json, runner.catalog.model.bos_id)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(local, tmp_path_factory):
    _, runner, tokenizer = local
    out = tmp_path_factory.mktemp("whole") / "index"
    return build_index(runner, tokenizer.ids, TEXTS, out, piece=tokenizer.piece, settings=SETTINGS)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


def build(local, work: Path, texts=TEXTS, **options):
    config, runner, _ = local
    options = {"rows_bytes": 2**30, "workers": 2, **options}
    return build_with_ray(config, texts, SETTINGS.made_of(runner), work, **options)


def merged(local, parts: list[Part], out: Path):
    _, runner, tokenizer = local
    return merge_parts(runner, parts, out, piece=tokenizer.piece)


def test_two_workers_build_the_same_bytes_though_one_is_killed_and_the_build_is_broken_off(local, whole, tmp_path):
    """In one: model and sources are loaded by every worker."""
    work, told = tmp_path / "work", []

    class Broken(Exception):
        pass

    def half():
        yield from TEXTS[: 64 * 5]
        raise Broken

    def progress(done):
        told.append(done)
        if len(told) == 2:  # a worker with chunks in its hands, and one that it has not saved
            os.kill(worker_pids()[0], signal.SIGKILL)

    with pytest.raises(Broken):
        build(local, work, half(), progress=progress, checkpoint=0)
    assert any(Part.open(folder).chunks for folder in part_folders(work))
    again = []
    parts = build(local, work, progress=again.append)
    assert sorted(chunk for part in parts for chunk in part.chunks) == list(range(7))
    assert all(part.chunks for part in parts)
    assert merged(local, parts, tmp_path / "index").content == whole.content


def worker_pids() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name = (folder / "cmdline").read_bytes()
                parent = (folder / "status").read_text()
            except OSError:
                continue
            if name.startswith(b"ray::FoldingWorker"):
                found.append(int(folder.name))
    return found
