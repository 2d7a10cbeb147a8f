"""The formats in which SAEs are stored, one module each: how files are recognised, and what they say.

A new format is a module with the three things of `Format` and a line in `FORMATS`. None of them reads weights: a
description says where they are and how they lie, and `description.read` reads them all alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import Description
from saeserve_server.sources.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    hook_z,
    linear,
    llama_scope,
    openai,
    qwen_scope,
    saelens,
    sparsify,
)
from saeserve_server.sources.weights import INDEX, open_weights

MOST_LISTED = 8


class Format(Protocol):
    """What a module has to define to be a format."""

    NAME: str
    """Its name in the configuration."""
    FILES: str
    """The files that it consists of, for people."""

    def recognise(self, path: Path) -> bool:
        """Whether `path` is an SAE of this format, by the names of files or of tensors. Never raises."""
        ...

    def describe(self, path: Path) -> Description:
        """What its files say, headers and configuration only. Raises ConfigError, which names the file."""
        ...


ALL: tuple[Format, ...] = (
    saelens,
    sparsify,
    gemma_scope,
    dictionary_learning,
    llama_scope,
    qwen_scope,
    hook_z,
    circuit_tracer,
    openai,
    linear,
)
"""In the order in which they are tried."""

FORMATS: Mapping[str, Format] = {form.NAME: form for form in ALL}

REFUSED = {
    ("conf.yaml", "latest_ckpt.safetensors"): (
        "a temporal SAE cannot be served: what a latent does on a token depends on the tokens before it"
    ),
}
"""Files of families that are known and cannot be served, and why."""

INSIDE = {
    "cfg.json",
    "sae_weights.safetensors",
    "sae.safetensors",
    "sparsity.safetensors",
    "params.npz",
    "params.safetensors",
    "ae.pt",
    "hyperparams.json",
}
"""Files inside the folder of an SAE: who names one means the folder."""


def recognise(path: Path) -> Format | None:
    """The format of the SAE at `path`; None if there is none that is known."""
    path = sae_path(path)
    return next((form for form in ALL if form.recognise(path)), None)


def describe(path: Path, name: str | None = None) -> Description:
    """What the files of the SAE at `path` say; `name` is its format, found out if it is not given.

    Raises ConfigError: of files that no format knows, with the files found and the layouts known.
    """
    path = sae_path(path)
    if name is not None:
        return FORMATS[name].describe(path)
    form = recognise(path)
    if form is None:
        raise ConfigError(f"{path}: {unknown(path)}")
    return form.describe(path)


def sae_path(path: Path) -> Path:
    """The folder of an SAE, where `path` is a file inside it; else `path`."""
    if path.name.removesuffix(INDEX) in INSIDE and path.is_file():
        return path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return path


def unknown(path: Path) -> str:
    """Why nothing at `path` is recognised."""
    if not path.exists():
        return "does not exist"
    if path.is_dir():
        found = sorted(child.name + ("/" if child.is_dir() else "") for child in path.iterdir())
        for files, why in REFUSED.items():
            if all(name in found for name in files):
                return why
        if "cfg.json" in found:
            return "holds cfg.json, and neither sae_weights.safetensors nor sae.safetensors: fetch it again"
    else:
        try:
            file = open_weights(path)
            found = sorted(file.entries) or [f"{name} (not a tensor; save what is in it alone)" for name in file.extras]
        except ConfigError as error:
            return str(error)
    more = f" and {len(found) - MOST_LISTED} more" if found[MOST_LISTED:] else ""
    holds = f"it holds {', '.join(found[:MOST_LISTED])}{more}" if found else "it is empty"
    return f"no known layout of an SAE: {holds}. Known are {'; '.join(f'{one.NAME}: {one.FILES}' for one in ALL)}"
