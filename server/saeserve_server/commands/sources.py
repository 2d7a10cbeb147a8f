"""`saeserve-server sources`: loads model and sources, and prints what would be served."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from saeserve_server.commands.preflight import check_served
from saeserve_server.commands.settings import add_settings, read_config, unknown_variables
from saeserve_server.logs import configure_console

if TYPE_CHECKING:
    from saeserve_server.commands.settings import Commands

log = logging.getLogger(__name__)


def add_command(commands: Commands) -> None:
    """Adds the command to the parser."""
    sources = commands.add_parser(
        "sources", help="print what would be served", description="Loads model and sources, and prints them."
    )
    add_settings(sources)
    sources.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the table; returns the exit status. Raises ConfigError."""
    config = read_config(options)
    configure_console()
    for line in unknown_variables():
        log.warning("%s", line)
    check_served(config, with_index=True)
    from saeserve_server.engine.build import build_runner
    from saeserve_server.records.density import density_of
    from saeserve_server.records.store import RecordStore
    from saeserve_server.sources.listing import listing

    runner, folder = build_runner(config)
    sources, index = runner.catalog.sources, RecordStore.open(folder) if folder else None
    densities = {source.id: density_of(source, index) for source in sources}
    print(listing(runner.catalog, densities))
    return 0
