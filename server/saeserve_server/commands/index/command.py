"""`saeserve-server index …`: its options, and what needs no model: `verify` and `info`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve_server.commands.index.build import run_build, run_merge
from saeserve_server.commands.settings import add_settings
from saeserve_server.errors import shown
from saeserve_server.units import parse_bytes, readable_bytes

if TYPE_CHECKING:
    from saeserve_server.commands.settings import Commands

MOST_CONTEXT, MOST_RECORDS, MOST_BATCH, MOST_SHARDS, MOST_WORKERS = 2**20, 1000, 2**24, 10_000, 1024
MOST_SECONDS = 86_400
"""What the numbers of `build` are at most, for any model: known before one is loaded."""


def add_command(commands: Commands) -> None:
    """Adds the command, which has some of its own, to the parser."""
    index = commands.add_parser("index", help="build, merge, verify or describe an index of top activations")
    indexing = index.add_subparsers(metavar="command", required=True)
    build = indexing.add_parser(
        "build",
        help="build an index over texts",
        description="Runs texts through model and sources, and keeps for every feature its top activations, a sample "
        "of all, near misses, density, mean, maximum, histogram, usual tokens. What was begun lies in OUT.part until "
        "it is whole: --resume goes on with it.",
    )
    build.add_argument("out", type=Path, help="folder of the index; an older index there is replaced")
    build.add_argument(
        "texts",
        nargs="+",
        help="text, JSONL, Parquet files, folders, globs, data sets: saved, or by hub name what was fetched",
    )
    build.add_argument("--lines", action="store_true", help="each line of a text file is a text; default: each file")
    build.add_argument("--field", default="text", help="key or column of the text (default: text)")
    build.add_argument("--split", help="of data sets that have several (default: train)")
    build.add_argument(
        "--context",
        type=_count(MOST_CONTEXT),
        help="tokens of a block, BOS left out (default: 128, if there is room)",
    )
    build.add_argument(
        "--records", type=_count(MOST_RECORDS), default=64, help="records kept for a feature (default: 64)"
    )
    build.add_argument("--batch", type=_count(MOST_BATCH), default=2048, help="tokens run at a time (default: 2048)")
    build.add_argument("--resume", action="store_true", help="go on with a build that was killed")
    build.add_argument(
        "--checkpoint",
        type=_count(MOST_SECONDS),
        default=60,
        metavar="SECONDS",
        help="save what is done that often, or if saving takes long more seldom (default: 60)",
    )
    build.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="only the I-th of N shares of the texts: OUT becomes a part to merge",
    )
    build.add_argument("--engine", choices=["local", "ray"], default="local", help="what computes (default: local)")
    build.add_argument(
        "--workers",
        type=_count(MOST_WORKERS),
        help="with Ray: processes (default: as many as there are CPUs for, --threads each)",
    )
    build.add_argument("--ray-address", metavar="ADDRESS", help="with Ray: of a cluster (default: this machine)")
    _add_bounds(build)
    add_settings(build)
    build.set_defaults(run=run_build)
    merge = indexing.add_parser(
        "merge",
        help="make an index of the parts that shards built",
        description="Makes an index of the parts of all shards, in any order, with the model and the sources that they "
        "were built with: the windows round what was chosen are read from the parts' rows, or computed.",
    )
    merge.add_argument("out", type=Path, help="folder of the index; an older index there is replaced")
    merge.add_argument("parts", type=Path, nargs="+", help="folders that `build --shard` made")
    _add_bounds(merge)
    add_settings(merge)
    merge.set_defaults(run=run_merge)
    verify = indexing.add_parser("verify", help="check every byte of an index")
    verify.add_argument("folder", type=Path)
    verify.set_defaults(run=run_verify)
    info = indexing.add_parser("info", help="tell what an index, or a part of one, was made of")
    info.add_argument("folder", type=Path)
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(run=run_info)


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-memory", type=_size, metavar="SIZE", help="refuse what would take more memory besides the weights: 8GiB"
    )
    parser.add_argument(
        "--max-disk", type=_size, metavar="SIZE", help="refuse what would take more disk; rows are kept in what is left"
    )


def _count(most: int) -> Callable[[str], int]:
    """Reads a whole number from 1 on, as an option's type."""

    def read(given: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", given) or not 1 <= int(given) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {most}, got {shown(given)}")
        return int(given)

    return read


def _shard(given: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", given)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST_SHARDS:
        raise argparse.ArgumentTypeError(f"expected a share such as 2/8, the first being 1/8, got {shown(given)}")
    return int(match[1]), int(match[2])


def _size(given: str) -> int:
    try:
        return parse_bytes(given)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a size such as 8GiB, got {shown(given)}") from None


def run_verify(options: argparse.Namespace) -> int:
    """Reads every byte of an index; returns the exit status. Raises ConfigError for a damaged one."""
    from saeserve_server.records.store import RecordStore

    index = RecordStore.open(options.folder, verify=True)
    print(f"{options.folder}: {index.texts} texts, {index.tokens} tokens, {len(index.sources)} sources: intact")
    print(f"revision {index.revision} (what it was made of), content {index.content} (every byte of this build)")
    return 0


def run_info(options: argparse.Namespace) -> int:
    """Tells what an index or a part was made of; returns the exit status. Raises ConfigError for what is neither."""
    import json

    from saeserve_server.records.building.part import Part, is_part
    from saeserve_server.records.store import RecordStore

    told: dict[str, object]
    if is_part(options.folder):
        part = Part.open(options.folder)
        made_of = part.made_of
        told = {
            "kind": "part",
            "chunks": len(part.chunks),
            "texts": len(part.texts),
            "corpus_texts": part.corpus_texts,
            "tokens": part.tokens,
        }
    else:
        index = RecordStore.open(options.folder)
        made_of = index.made_of
        told = {
            "kind": "index",
            "revision": index.revision,
            "content": index.content,
            "texts": index.texts,
            "tokens": index.tokens,
            "bytes": index.bytes,
        }
    if options.json:
        print(json.dumps({**told, "made_of": made_of.told()}, indent=1))
        return 0
    for key, value in told.items():
        print(f"{key:<14}{readable_bytes(int(str(value))) if key == 'bytes' else value}")
    for key, value in made_of.flat().items():
        print(f"{key:<28}{value}")
    return 0
