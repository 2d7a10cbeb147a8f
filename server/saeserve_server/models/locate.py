"""From a model's name to a folder in Hugging Face layout, or to a synthetic shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from saeserve_server.config import Config
from saeserve_server.errors import ConfigError, nearest
from saeserve_server.tables import SyntheticSettings

DEMO_FOLDER = Path(__file__).parent / "demo"
SYNTHETIC_PREFIX = "synthetic:"

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the better first; `NAME.index.json` beside it names the shards of a larger model. Pickles are read
with `weights_only`."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a model is: a folder, or a synthetic shape."""

    name: str
    folder: Path | None = None
    synthetic: SyntheticSettings | None = None


def locate_model(config: Config) -> Location:
    """Finds the configured model; a hub name in the local hub cache only, for nothing is ever downloaded at a start.

    Raises ConfigError naming what was looked for, what is missing and what brings it.
    """
    model = config.model
    if model == "demo":
        return Location(config.model_name or "demo", folder=DEMO_FOLDER / "model")
    if model.startswith(SYNTHETIC_PREFIX):
        shape = model.removeprefix(SYNTHETIC_PREFIX)
        if shape not in config.synthetic:
            raise ConfigError(
                f"{config.origin}: model: no [synthetic.{shape}] shape is configured{nearest(shape, config.synthetic)}"
            )
        return Location(config.model_name or model, synthetic=config.synthetic[shape])
    folder = config.resolve(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{config.origin}: model: {folder} holds no config.json: not a Hugging Face model folder")
        if missing := missing_files(folder):
            raise ConfigError(f"{config.origin}: model: {folder} is not complete: {missing}")
        return Location(config.model_name or folder.name, folder=folder)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigError(f"{config.origin}: model: no folder {folder}")
    if "@" in model:
        raise ConfigError(
            f"{config.origin}: model: expected a name without revision, got {model!r}; `saeserve-server fetch {model}` "
            f"brings that revision, as {model.partition('@')[0]}"
        )
    return Location(config.model_name or model.rpartition("/")[2], folder=_from_hub(config, model))


def _from_hub(config: Config, repository: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    elsewhere = "" if config.base == Path.cwd() else f" --out {config.base}"
    remedy = f"`saeserve-server fetch {repository}{elsewhere}` brings it"
    try:
        # Without patterns a repository of which only a part was downloaded counts as not there.
        folder = Path(snapshot_download(repository, local_files_only=True, allow_patterns=[]))
    except Exception as error:  # not in the cache, or no name that a repository could have
        raise ConfigError(
            f"{config.origin}: model: {repository!r} is neither `demo`, `synthetic:NAME`, a folder, nor in the local "
            f"hub cache {constants.HF_HUB_CACHE}, and nothing is downloaded at a start; {remedy}"
        ) from error
    if missing := missing_files(folder):
        raise ConfigError(f"{config.origin}: model: {folder} in the hub cache is not complete: {missing}; {remedy}")
    return folder


def missing_files(folder: Path) -> str | None:
    """What a model folder lacks, in words: its configuration or weights; None if it has both."""
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
                absent = [shard for shard in shards if not (folder / shard).is_file()]
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                return f"{index.name} cannot be read: {type(error).__name__}: {error}"
            return f"of {len(shards)} shards {', '.join(absent)} is missing" if absent else None
        if (folder / name).is_file():
            return None
    return f"{WEIGHTS[0]} is missing"
