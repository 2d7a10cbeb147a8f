"""The formats in which SAEs are stored, by the name that the configuration gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from saeserve_server.sources import openai, saelens
from saeserve_server.sources.sae import Sae


class Format(Protocol):
    """What a module has to define to be a format. All three raise ConfigError, which names the file."""

    def files(self, path: Path) -> list[Path]:
        """The files that the SAE at `path` consists of."""
        ...

    def hook_name(self, path: Path) -> str | None:
        """The hook point that its files name, found without reading the weights."""
        ...

    def read(self, path: Path) -> Sae:
        """The SAE, in float32 on the CPU."""
        ...


FORMATS: Mapping[str, Format] = {"openai": openai, "saelens": saelens}
