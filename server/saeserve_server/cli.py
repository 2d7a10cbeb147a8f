"""The command `saeserve-server`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import saeserve_server
from saeserve_server.config import ENVIRONMENT_PREFIX, Config, ServerSettings, load_config
from saeserve_server.errors import ConfigError

CONFIG_ERROR = 2
"""Exit status for a configuration that cannot be served, as for wrong usage."""


ENDED_BY_SIGNAL = 128 + signal.SIGTERM
"""Exit status after a second SIGTERM or Ctrl-C, which waits for nothing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    # Before anything loads torch, and inherited by the worker: its threads sleep while they wait for each other. By
    # default they spin, which starves whatever shares their cores: the front end, to begin with.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        return command(options)
    except ConfigError as error:
        for line in str(error).splitlines():
            print(f"saeserve-server: error: {line}", file=sys.stderr)
        return CONFIG_ERROR
    except KeyboardInterrupt:
        return 130


def _start(options: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is said by us, in a line
    from saeserve_server.api.server import run_server
    from saeserve_server.logs import configure_logging

    config = _config(options)
    configure_logging(config)
    try:
        import uvloop
    except ImportError:  # not built for this platform
        in_order = asyncio.run(run_server(config))
    else:
        in_order = uvloop.run(run_server(config))
    return 0 if in_order else ENDED_BY_SIGNAL


def _sources(options: argparse.Namespace) -> int:
    from saeserve_server.engine.build import build_runner
    from saeserve_server.records.density import density_of
    from saeserve_server.records.store import RecordStore
    from saeserve_server.sources.describe import describe

    runner, folder = build_runner(_config(options))
    sources, index = runner.catalog.sources, RecordStore.open(folder) if folder else None
    densities = {source.id: density_of(source, index) for source in sources}
    print(describe(sources, densities, runner.catalog.model.device))
    return 0


def _index_build(options: argparse.Namespace) -> int:
    from saeserve_server.index_command import build

    return build(_config(options), options)


def _index_verify(options: argparse.Namespace) -> int:
    from saeserve_server.records.store import RecordStore

    index = RecordStore.open(options.folder, verify=True)
    print(f"{options.folder}: {index.texts} texts, {index.tokens} tokens, {len(index.sources)} sources: intact")
    return 0


def _config(options: argparse.Namespace) -> Config:
    flags = {name: getattr(options, name, None) for name in ServerSettings.model_fields}
    return load_config(options.config, flags)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="saeserve-server",
        description="Serves what a language model's features respond to, over gRPC.",
        epilog="Every setting is a flag, an environment variable, and a key of the TOML file, in falling precedence. "
        "Without any, the demo model that ships with the package is served.",
    )
    parser.add_argument("--version", action="version", version=saeserve_server.__version__)
    commands = parser.add_subparsers(metavar="command", required=True)

    start = commands.add_parser("start", help="run the server", description="Runs the server until SIGTERM or Ctrl-C.")
    _add_settings(start)
    start.set_defaults(run=_start)

    sources = commands.add_parser(
        "sources", help="print what would be served", description="Loads model and sources, and prints them."
    )
    _add_settings(sources)
    sources.set_defaults(run=_sources)

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
        "--context", type=int, help="tokens of a block, BOS left out (default: 128, if the model holds it)"
    )
    build.add_argument("--records", type=int, default=20, help="most records kept for a feature (default: 20)")
    build.add_argument("--batch", type=int, default=2048, help="tokens run at a time (default: 2048)")
    _add_settings(build)
    build.set_defaults(run=_index_build)
    verify = indexing.add_parser("verify", help="check every byte of an index")
    verify.add_argument("folder", type=Path)
    verify.set_defaults(run=_index_verify)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--config", type=Path, metavar="FILE", help=f"TOML file with settings and sources [{ENVIRONMENT_PREFIX}CONFIG]"
    )
    for name, setting in ServerSettings.model_fields.items():
        default = "" if setting.default is None else f" (default: {str(setting.default).lower()})"
        text = f"{setting.description}{default} [{ENVIRONMENT_PREFIX}{name.upper()}]"
        group.add_argument("--" + name.replace("_", "-"), metavar="VALUE", help=text.replace("%", "%%"))


if __name__ == "__main__":
    sys.exit(main())
