"""File descriptors: as many as the system allows, and no more connections than leave enough for everything else."""

from __future__ import annotations

import contextlib
import logging
import resource

from saeserve_server.api.watch_port import MOST_CONNECTIONS
from saeserve_server.config import Config
from saeserve_server.errors import ConfigError

log = logging.getLogger(__name__)

ITSELF = 32
"""What the front end holds with nothing to do: 26 were counted."""
RESTART = 16
"""For the pipes to a worker that is started, and to open the index anew."""
WATCHERS = 3 * MOST_CONNECTIONS
"""Connections to the port of the metrics: asking, being answered, and accepted at once."""
REDIS = 16
LEAST_CONNECTIONS = 8
ENOUGH = 2**20
"""Asked for where the hard limit is none."""
MACOS = 10240
"""What macOS gives at most, whatever it says that the hard limit is."""


def fit_connections(config: Config) -> Config:
    """Raises the soft limit to the hard one; the configuration with as many connections as that leaves room for.

    Raises ConfigError where it leaves room for hardly any.
    """
    allowed = _raise_limit()
    taken = ITSELF + RESTART + (WATCHERS if config.metrics_bind != "none" else 0) + (REDIS if config.cache_url else 0)
    room = allowed - taken
    if room >= config.max_connections:
        return config
    if room < LEAST_CONNECTIONS:
        raise ConfigError(
            f"this process may open {allowed} files and connections (ulimit -n), and it takes {taken} for itself: "
            f"expected {taken + LEAST_CONNECTIONS} at least; raise the limit"
        )
    log.warning(
        "max_connections is %d instead of %d: this process may open %d files and connections (ulimit -n) and takes %d "
        "for itself; raise the limit for more",
        room,
        config.max_connections,
        allowed,
        taken,
    )
    return config.model_copy(update={"max_connections": room})


def _raise_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else hard
    for more in (wanted, MACOS):
        if soft == resource.RLIM_INFINITY or soft >= more:
            break
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    return ENOUGH if soft == resource.RLIM_INFINITY else soft
