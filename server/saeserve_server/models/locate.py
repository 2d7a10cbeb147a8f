"""From a model's name to a folder in Hugging Face layout, or to a synthetic shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saeserve_server.config import Config, SyntheticSettings
from saeserve_server.errors import ConfigError, nearest

DEMO_FOLDER = Path(__file__).parent / "demo"
SYNTHETIC_PREFIX = "synthetic:"

HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
"""What is fetched of a hub repository."""
HUB_PICKLES = ["*.bin"]
"""What is fetched besides of one without safetensors. Such weights are read with `weights_only`."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a model is: a folder, or a synthetic shape."""

    name: str
    folder: Path | None = None
    synthetic: SyntheticSettings | None = None


def locate_model(config: Config) -> Location:
    """Finds the configured model; a hub name is fetched, or taken from the local hub cache.

    Raises ConfigError naming what was looked for.
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
        return Location(config.model_name or folder.name, folder=folder)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigError(f"{config.origin}: model: no folder {folder}")
    return Location(config.model_name or model.rpartition("/")[2], folder=_from_hub(config, model))


def _from_hub(config: Config, repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, allow_patterns=HUB_FILES))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repository, allow_patterns=HUB_FILES + HUB_PICKLES))
        return folder
    except Exception as error:  # the hub client raises many kinds: bad names, no network, no such repository
        raise ConfigError(
            f"{config.origin}: model: {repository!r} is neither `demo`, `synthetic:NAME`, a folder, "
            f"nor a model that the hub gave: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
