"""What commands share: the settings as flags, and the configuration that file, environment and flags make."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve_server.config import ENVIRONMENT_PREFIX, Config, ServerSettings, load_config

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    """The parser's commands, to which each module adds its own: `add_command(commands)`."""


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
