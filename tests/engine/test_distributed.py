"""An index whose chunks were handed out to Ray's workers has the bytes of one that was built in one process."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch

from saeserve_server.config import load_config
from saeserve_server.engine.build import PASSAGES, build_runner, pin_kernels
from saeserve_server.engine.distributed import build_with_ray
from saeserve_server.records.builder import Progress, Settings, build_index, build_part, merge_parts, open_part
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
    """Configuration, runner and tokenizer of this process."""
    threads = torch.get_num_threads()
    config = load_config(None, {"index": "none", "threads": "1", "device": "cpu"}, {})
    runner, _ = build_runner(config, with_index=False)
    pin_kernels(config, runner)
    yield config, runner, Tokenizer(runner.catalog.model.tokenizer_json, runner.catalog.model.bos_id)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_worker_is_killed_and_the_index_has_the_same_bytes(local, tmp_path):
    """In a build that goes on from another. One test: every worker loads torch, model and sources."""
    config, runner, tokenizer = local
    made_of, work = SETTINGS.made_of(runner), tmp_path / "work"
    left = open_part(made_of, work / "part-0")
    build_part(runner, tokenizer.ids, TEXTS[: 64 * 2], left, 2**30, wanted=lambda chunk: chunk == 1)
    # As a build that was broken off leaves it.
    left.corpus_texts = None
    left.save()
    killed = list[int]()

    def progress(done: Progress) -> None:
        if not killed:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    parts = build_with_ray(config, TEXTS, made_of, work, rows_bytes=2**30, workers=2, progress=progress)
    assert killed
    assert sorted(chunk for part in parts for chunk in part.chunks) == list(range(7))
    merged = merge_parts(runner, parts, tmp_path / "merged", piece=tokenizer.piece)
    whole = build_index(runner, tokenizer.ids, TEXTS, tmp_path / "whole", piece=tokenizer.piece, settings=SETTINGS)
    assert merged.content == whole.content


def workers() -> list[int]:
    """Process ids."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and b"ray::FoldingWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found
