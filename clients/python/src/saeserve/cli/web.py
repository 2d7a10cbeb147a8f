"""`saeserve web`: the gateway."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import signal
from typing import Any

from saeserve.cli import streams
from saeserve.cli.values import text

NEEDED = ("starlette", "uvicorn", "httptools", "prometheus_client")
DEFAULT_BIND = "127.0.0.1:8080"


def options(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument(
        "--bind",
        metavar="HOST:PORT",
        type=text,
        default=DEFAULT_BIND,
        help=f"where it listens (default: {DEFAULT_BIND})",
    )


def run(arguments: argparse.Namespace, connection: dict[str, Any]) -> int:
    """Serve until told to end; returns the exit code. Raises ValueError for what cannot be served."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'saeserve web needs {", ".join(missing)}: pip install "saeserve[web]"')
    from saeserve.web import serving
    from saeserve.web.settings import Settings

    host, _, port = arguments.bind.rpartition(":")
    settings = Settings(host=host.strip("[]"), port=int(port))
    if arguments.timeout:
        settings = dataclasses.replace(settings, timeout=arguments.timeout)
    try:
        sock = serving.listen(settings)
    except OSError as error:
        raise ValueError(f"--bind {arguments.bind}: {error.strerror}") from error

    def ready(address: str) -> None:
        target = connection["target"]
        asked = target if isinstance(target, str) else ",".join(target)
        streams.complain(f"saeserve web: {address} asks {asked}")

    told = serving.serve(sock, connection, settings, ready)
    return 130 if told == signal.SIGINT else 0
