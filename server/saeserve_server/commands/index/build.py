"""`saeserve-server index build` and `index merge`: texts from files, model and sources from the configuration."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve_server.commands.index.progress import ProgressLine
from saeserve_server.commands.preflight import check_out, check_served
from saeserve_server.commands.settings import read_config, unknown_variables
from saeserve_server.errors import ConfigError
from saeserve_server.logs import configure_console
from saeserve_server.units import readable_bytes

if TYPE_CHECKING:
    from saeserve_server.config import Config
    from saeserve_server.engine.runner import BatchRunner
    from saeserve_server.records.made_of import Keeping
    from saeserve_server.records.store import RecordStore
    from saeserve_server.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def run_build(options: argparse.Namespace) -> int:
    """Builds an index, or with `--shard` a part of one; returns the exit status. Raises ConfigError."""
    config = _config(options)
    from saeserve_server.records.building.part import is_part, part_folders
    from saeserve_server.records.corpus import Corpus, find_files

    corpus = Corpus(find_files(options.texts, options.split), lines=options.lines, field=options.field)
    corpus.check()
    work: Path = options.out if options.shard else options.out.with_name(options.out.name + ".part")
    if not options.shard:
        check_out(options.out)
    if options.shard and options.engine == "ray":
        raise ConfigError("--shard: Ray shares the texts out itself: give it all of them, without --shard")
    begun = is_part(work) or bool(part_folders(work))
    if begun and not options.resume:
        raise ConfigError(f"{work}: a build that was not finished: --resume goes on with it, or remove it")
    check_served(config, with_index=False)
    from saeserve_server.records.builder import Settings, build_part, merge_parts, open_part
    from saeserve_server.records.made_of import Keeping

    runner, tokenizer = _runner(config)
    keeping = Keeping(records=options.records)
    rows_bytes = _bound(options, runner, keeping, work)
    settings = Settings(context=options.context, keeping=keeping, batch_tokens=options.batch)
    made_of = settings.made_of(runner)
    began = time.monotonic()
    share, of = options.shard or (1, 1)
    line = ProgressLine(lambda: corpus.read / max(1, corpus.size))
    try:
        if options.engine == "ray":
            from saeserve_server.engine.distributed import build_with_ray

            parts = build_with_ray(
                config,
                corpus,
                made_of,
                work,
                rows_bytes=rows_bytes,
                workers=options.workers,
                address=options.ray_address,
                checkpoint=options.checkpoint,
                progress=line,
            )
        else:
            parts = [open_part(made_of, work)]
            build_part(
                runner,
                tokenizer.ids,
                corpus,
                parts[0],
                rows_bytes,
                wanted=lambda chunk: chunk % of == share - 1,
                progress=line,
                checkpoint=options.checkpoint,
            )
        line.end()
        if options.shard:
            part = parts[0]
            print(
                f"{work}: part {share} of {of}, {len(part.texts)} of {part.corpus_texts} texts, {part.tokens} tokens, "
                f"in {time.monotonic() - began:.1f} s; `saeserve-server index merge` makes an index of all parts"
            )
            return 0
        # Rows that there was no room for then have none now.
        index = merge_parts(runner, parts, options.out, piece=tokenizer.piece, rows_bytes=0, progress=line)
        line.end()
    except KeyboardInterrupt:
        if is_part(work) or part_folders(work):
            print(f"\n{work} holds what was done: --resume goes on with it", file=sys.stderr)
        raise
    shutil.rmtree(work, ignore_errors=True)
    _tell(options.out, index, began)
    return 0


def run_merge(options: argparse.Namespace) -> int:
    """Makes an index of the parts that shards built; returns the exit status. Raises ConfigError."""
    config = _config(options)
    check_out(options.out)
    from saeserve_server.records.building.part import Part

    for folder in options.parts:
        Part.open(folder)  # what is none is known before the model is loaded
    check_served(config, with_index=False)
    from saeserve_server.records.builder import merge_parts

    runner, tokenizer = _runner(config)
    began = time.monotonic()
    parts = [Part.open(folder) for folder in options.parts]
    rows_bytes = _bound(options, runner, parts[0].made_of.keeping, options.out)
    line = ProgressLine(lambda: 1.0)
    index = merge_parts(runner, parts, options.out, piece=tokenizer.piece, rows_bytes=rows_bytes, progress=line)
    line.end()
    _tell(options.out, index, began)
    return 0


def _config(options: argparse.Namespace) -> Config:
    config = read_config(options)
    configure_console()
    for line in unknown_variables():
        log.warning("%s", line)
    return config


def _runner(config: Config) -> tuple[BatchRunner, Tokenizer]:
    """Model and sources with the kernels that an index is computed with, and the tokenizer."""
    from saeserve_server.engine.build import build_runner, pin_kernels
    from saeserve_server.text.tokenizer import Tokenizer

    runner, _ = build_runner(config, with_index=False)
    pin_kernels(config, runner)
    model = runner.catalog.model
    return runner, Tokenizer(model.tokenizer_json, model.bos_id)


def _bound(options: argparse.Namespace, runner: BatchRunner, keeping: Keeping, place: Path) -> int:
    """What rows may take on the disk. Tells what the build takes, and raises ConfigError where that is too much."""
    from saeserve_server.engine.memory import free_host_bytes
    from saeserve_server.records.builder import DEFAULT_ROWS_BYTES
    from saeserve_server.records.building.estimate import estimate

    most = estimate(runner.catalog.sources, keeping)
    folder = next(parent for parent in place.absolute().parents if parent.exists())
    free_disk = shutil.disk_usage(folder).free
    disk = free_disk if options.max_disk is None else options.max_disk
    log.info(
        "at most %s of memory besides the weights; on the disk at most %s for the index and what is built, and about "
        "%s for the rows of a million tokens",
        readable_bytes(most.memory),
        readable_bytes(2 * most.index),
        readable_bytes(most.rows_per_token * 10**6),
    )
    if options.max_memory is not None and most.memory > options.max_memory:
        raise ConfigError(
            f"--max-memory: {readable_bytes(options.max_memory)} is less than the {readable_bytes(most.memory)} that "
            "may be needed: fewer --records, or fewer sources at a time"
        )
    if 2 * most.index > disk and (options.max_disk is not None or most.index > disk):
        what = "--max-disk" if options.max_disk is not None else f"{folder}: free space"
        raise ConfigError(
            f"{what}: {readable_bytes(disk)} is less than the {readable_bytes(2 * most.index)} that may be needed: "
            "fewer --records, fewer sources, another place"
        )
    free = free_host_bytes()
    if options.max_memory is None and free is not None and most.memory > free:
        log.warning("%s of memory are free, and up to %s needed", readable_bytes(free), readable_bytes(most.memory))
    left = max(0, disk - 2 * most.index)
    return left if options.max_disk is not None else min(DEFAULT_ROWS_BYTES, left // 2)


def _tell(out: Path, index: RecordStore, began: float) -> None:
    print(
        f"{out}: {index.texts} texts, {index.tokens} tokens, {len(index.sources)} sources, "
        f"{index.bytes / 2**20:.1f} MiB, revision {index.revision[:12]}, in {time.monotonic() - began:.1f} s"
    )
