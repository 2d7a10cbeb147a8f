"""What a model's folder says of it, read without transformers or torch: enough to judge a configuration at once.

It refuses only what could not be loaded either; what it does not know stays open until the model is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from saeserve_server.errors import ConfigError
from saeserve_server.models.locate import WEIGHTS, Location

MOST_CONFIG_BYTES = 2**22
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
WIDTHS = ("hidden_size", "n_embd", "d_model")
"""Names under which configurations of Hugging Face hold them."""
OF_TOKENIZERS = ("token", "vocab", "merges", "spiece", "sentencepiece", "tekken")
"""In the names of files that a tokenizer is made from."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Sizes of a model; None for one that is not said."""

    n_layers: int | None = None
    d_model: int | None = None
    """Width of the residual stream."""


def read_facts(location: Location, place: str) -> ModelFacts:
    """The sizes of a model that was found, whose files are all of the kind that they claim to be.

    Raises ConfigError; `place` is what its message begins with.
    """
    if location.synthetic is not None:
        return ModelFacts(location.synthetic.layers, location.synthetic.d_model)
    if location.folder is None:
        return ModelFacts()
    settings = _settings(location.folder / "config.json", place)
    _check_weights(location.folder, place)
    names = [file.name for file in location.folder.iterdir()]
    if not any(part in name.casefold() for name in names for part in (*OF_TOKENIZERS, ".model", ".tiktoken")):
        raise ConfigError(f"{place}: {location.folder} has no tokenizer: tokenizer.json is missing")
    inner = settings.get("text_config")
    language = inner if isinstance(inner, dict) else settings
    return ModelFacts(_number(language, LAYERS), _number(language, WIDTHS))


def _settings(file: Path, place: str) -> dict[str, Any]:
    try:
        size = file.stat().st_size
        content = json.loads(file.read_bytes()) if size <= MOST_CONFIG_BYTES else None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: {file} cannot be loaded: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{place}: {file} cannot be loaded: not the configuration of a model")
    return content


def _check_weights(folder: Path, place: str) -> None:
    """Headers of safetensors only: a file that was cut short does not go with its own."""
    name = WEIGHTS[0]
    index = folder / f"{name}.index.json"
    files = [folder / name]
    if index.is_file():  # which `locate_model` has read
        files = [folder / shard for shard in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    for file in files:
        if not file.is_file():
            continue
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"{place}: {folder} cannot be loaded: {file.name} is no safetensors file, or truncated or damaged "
                f"({error}): fetch it again"
            ) from error


def _number(settings: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = (settings.get(name) for name in names)
    return next((one for one in found if isinstance(one, int) and one > 0), None)
