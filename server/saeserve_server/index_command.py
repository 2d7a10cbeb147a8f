"""`saeserve-server index build`: texts from files, progress on stderr."""

from __future__ import annotations

import argparse
import sys
import time

from saeserve_server.config import Config
from saeserve_server.engine.build import build_runner
from saeserve_server.records.builder import Progress, build_index
from saeserve_server.records.corpus import Corpus, find_files
from saeserve_server.text.tokenizer import Tokenizer

PROGRESS_SECONDS = 1.0


def build(config: Config, options: argparse.Namespace) -> int:
    """Builds the index; returns the exit status. Raises ConfigError."""
    files = find_files(options.texts)
    runner, _ = build_runner(config, with_index=False)
    model = runner.catalog.model
    tokenizer = Tokenizer(model.tokenizer_json, model.bos_id)
    began = last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            print(_line(progress, now - began), file=sys.stderr, flush=True)

    index = build_index(
        runner,
        tokenizer.ids,
        Corpus(files, lines=options.lines, field=options.field),
        options.out,
        context=options.context,
        records_per_feature=options.records,
        batch_tokens=options.batch,
        progress=show,
    )
    print(
        f"{options.out}: {index.texts} texts, {index.tokens} tokens, {len(index.sources)} sources, "
        f"{index.bytes / 2**20:.1f} MiB, revision {index.revision[:12]}, in {time.monotonic() - began:.1f} s"
    )
    return 0


def _line(progress: Progress, seconds: float) -> str:
    return (
        f"{progress.texts} texts, {progress.tokens} tokens, {progress.tokens / max(seconds, 1e-9):,.0f} tokens/s, "
        f"{seconds:.0f} s"
    )
