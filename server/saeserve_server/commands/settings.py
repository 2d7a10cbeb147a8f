"""What commands share: the settings as flags, and the configuration that file, environment and flags make."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve_server.config import ENVIRONMENT_PREFIX, Config, ServerSettings, load_config
from saeserve_server.errors import nearest, printable

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    """The parser's commands, to which each module adds its own: `add_command(commands)`."""

OTHER_VARIABLES = (
    "CONFIG",
    # The client's and its command line's.
    "TARGET",
    "TOKEN",
    "TOKEN_FILE",
    "ALLOW_INSECURE_TOKEN",
    "TLS",
    "CA_CERT",
    "CLIENT_CERT",
    "CLIENT_KEY",
    "SERVER_NAME",
    "CLIENT_NAME",
    # Of `fetch`, and of the tests.
    "OPENAI_URL",
    "TEST_DEVICE",
)
"""Variables that are no settings of a server, by their names behind the prefix."""
OF_KUBERNETES = re.compile(r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?)")
"""What Kubernetes sets in every pod beside a service whose name begins with saeserve."""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds `--config` and a flag for each setting."""
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--config", type=Path, metavar="FILE", help=f"TOML file with settings and sources [{ENVIRONMENT_PREFIX}CONFIG]"
    )
    for name, setting in ServerSettings.model_fields.items():
        default = "" if setting.default is None else f" (default: {str(setting.default).lower()})"
        text = f"{setting.description}{default} [{ENVIRONMENT_PREFIX}{name.upper()}]"
        group.add_argument("--" + name.replace("_", "-"), metavar="VALUE", help=text.replace("%", "%%"))


def read_config(options: argparse.Namespace) -> Config:
    """The configuration. Raises ConfigError; call it before importing what is slow to import."""
    flags = {name: getattr(options, name, None) for name in ServerSettings.model_fields}
    return load_config(options.config, flags)


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """A line for each variable that looks like a setting and is none: a typo there would pass in silence.

    It is no error: what runs beside a server may have variables of its own.
    """
    known = [*(name.upper() for name in ServerSettings.model_fields), *OTHER_VARIABLES]
    names = sorted(name.removeprefix(ENVIRONMENT_PREFIX) for name in environment if name.startswith(ENVIRONMENT_PREFIX))
    return [
        f"{ENVIRONMENT_PREFIX}{printable(name)}: no such setting, it changes nothing"
        + nearest(f"{ENVIRONMENT_PREFIX}{name}", [f"{ENVIRONMENT_PREFIX}{one}" for one in known], 1)
        for name in names
        if name not in known and not OF_KUBERNETES.fullmatch(name)
    ]
