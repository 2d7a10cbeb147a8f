"""`saeserve-server index build` and `index verify`: texts from files, progress on stderr."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve_server.commands.preflight import check_out, check_served
from saeserve_server.commands.settings import add_settings, read_config, unknown_variables
from saeserve_server.errors import shown
from saeserve_server.logs import configure_console

if TYPE_CHECKING:
    from saeserve_server.commands.settings import Commands
    from saeserve_server.records.builder import Progress

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
MOST_CONTEXT, MOST_RECORDS, MOST_BATCH = 2**20, 1000, 2**24
"""What the numbers of `build` are at most, for any model: known before one is loaded."""


def add_command(commands: Commands) -> None:
    """Adds the command, which has two of its own, to the parser."""
    index = commands.add_parser("index", help="build or verify an index of top activations")
    indexing = index.add_subparsers(metavar="command", required=True)
    build = indexing.add_parser(
        "build",
        help="build an index over texts",
        description="Runs texts through model and sources, and keeps for every feature its top activations, density, "
        "mean, maximum, histogram and usual tokens.",
    )
    build.add_argument("out", type=Path, help="folder of the index; an older index there is replaced")
    build.add_argument("texts", nargs="+", help="text files, JSONL files, folders or globs")
    build.add_argument("--lines", action="store_true", help="each line of a text file is a text; default: each file")
    build.add_argument("--field", default="text", help="key of the text in JSONL objects (default: text)")
    build.add_argument(
        "--context",
        type=_count(MOST_CONTEXT),
        help="tokens of a block, BOS left out (default: 128, if there is room)",
    )
    build.add_argument(
        "--records", type=_count(MOST_RECORDS), default=20, help="records kept for a feature (default: 20)"
    )
    build.add_argument("--batch", type=_count(MOST_BATCH), default=2048, help="tokens run at a time (default: 2048)")
    add_settings(build)
    build.set_defaults(run=run_build)
    verify = indexing.add_parser("verify", help="check every byte of an index")
    verify.add_argument("folder", type=Path)
    verify.set_defaults(run=run_verify)


def _count(most: int) -> Callable[[str], int]:
    """Reads a whole number from 1 on, as an option's type."""

    def read(given: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", given) or not 1 <= int(given) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {most}, got {shown(given)}")
        return int(given)

    return read


def run_build(options: argparse.Namespace) -> int:
    """Builds the index; returns the exit status. Raises ConfigError."""
    config = read_config(options)
    configure_console()
    for line in unknown_variables():
        log.warning("%s", line)
    from saeserve_server.records.corpus import Corpus, find_files

    files = find_files(options.texts)
    corpus = Corpus(files, lines=options.lines, field=options.field)
    corpus.check()
    check_out(options.out)
    check_served(config, with_index=False)
    from saeserve_server.engine.build import build_runner
    from saeserve_server.records.builder import build_index
    from saeserve_server.text.tokenizer import Tokenizer

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
        corpus,
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


def run_verify(options: argparse.Namespace) -> int:
    """Reads every byte of an index; returns the exit status. Raises ConfigError for a damaged one."""
    from saeserve_server.records.store import RecordStore

    index = RecordStore.open(options.folder, verify=True)
    print(f"{options.folder}: {index.texts} texts, {index.tokens} tokens, {len(index.sources)} sources: intact")
    print(f"revision {index.revision} (what it was made of), content {index.content} (every byte of this build)")
    return 0


def _line(progress: Progress, seconds: float) -> str:
    return (
        f"{progress.texts} texts, {progress.tokens} tokens, {progress.tokens / max(seconds, 1e-9):,.0f} tokens/s, "
        f"{seconds:.0f} s"
    )
