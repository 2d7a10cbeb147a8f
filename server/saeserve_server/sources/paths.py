"""Where the SAEs of a `[[sources]]` table lie on this machine: a path for each, and its layer where the table says it.

A path is a file or a folder of one SAE; a folder of many; a pattern with `{layer}`, `*` and `?`, of which exactly one
must match for each layer; `hf://OWNER/NAME[@REVISION]/…`, looked for beside the configuration and in the local hub
cache and never downloaded; or a table from layers to any of these.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from saeserve_server.config import Config
from saeserve_server.errors import ConfigError, shown
from saeserve_server.layers import LAYER, path_expression
from saeserve_server.sources.formats import recognise, sae_path, unknown
from saeserve_server.sources.weights import open_weights

HUB = "hf://"
DEPTH = 8
"""How far down a folder of many SAEs is searched."""
MOST_LISTED = 8
WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")
CONFIGURATIONS = ("cfg.json", "hyperparams.json")
"""What only the folder of an SAE holds."""
NOT_SAES = ("model", "pytorch_model", "optimizer", "training_state", "trainer_state", "scheduler")
"""Beginnings of the names of files that lie beside SAEs and are none."""


Damaged = tuple[Path, str]
"""Something that nearly is an SAE, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Located:
    """A path of an SAE."""

    path: Path
    layer: int | None = None
    """Where the table says it; else the files do."""


def locate(
    config: Config, path: str, layers: Sequence[int] | None, n_layers: int, damaged: list[Damaged] | None = None
) -> list[Located]:
    """The SAEs at `path`, for `layers` or for all that are there. Raises ConfigError: it says what was looked for.

    In a folder of many, one that cannot be read must not be left out in silence while the others are served: that
    raises ConfigError too, unless `damaged` takes it.
    """
    if "\0" in path:
        raise ConfigError(f"expected a path, got {shown(path)}")
    path = _of_hub(config, path) if path.startswith(HUB) else path
    if LAYER in path:
        found = list(_by_layer(config, path, layers, n_layers))
        if not found:
            folder = _folder(config.resolve(path))
            remedy = _remedy(config, path)
            raise ConfigError(f"nothing matches {path} for layers 0 to {n_layers - 1}, searched in {folder}{remedy}")
        return found
    whole = config.resolve(path)
    if whole.exists():
        return [Located(one) for one in _in_folder(whole, damaged)]
    if not has_pattern(path):
        raise ConfigError(f"{whole}: does not exist{_remedy(config, path)}")
    matches = _matches(whole)
    if not matches:
        raise ConfigError(f"nothing matches {whole}")
    return [Located(one) for match in matches for one in _in_folder(match, damaged)]


def _remedy(config: Config, path: str) -> str:
    """The command that brings what a configuration names, where it is a repository that is not there yet."""
    parts = Path(path).parts
    if (
        len(parts) < 3
        or Path(path).is_absolute()
        or not Path(config.origin).is_file()
        or config.resolve(parts[0]).exists()
    ):
        return ""
    return f"; `saeserve-server fetch {config.origin}` brings what it names"


def _by_layer(config: Config, path: str, layers: Sequence[int] | None, n_layers: int) -> Iterator[Located]:
    for layer in range(n_layers) if layers is None else layers:
        pattern = config.resolve(path.replace(LAYER, str(layer)))
        whole = path_expression(str(config.resolve(path)))  # layer_{layer}* of layer 1 is not layer_10
        matches = [one for one in _matches(pattern) if (match := whole.fullmatch(str(one))) and int(match[1]) == layer]
        if len(matches) > 1:
            listed = ", ".join(str(match.relative_to(_folder(pattern))) for match in matches[:MOST_LISTED])
            more = f" and {len(matches) - MOST_LISTED} more" if matches[MOST_LISTED:] else ""
            raise ConfigError(
                f"{path}: expected one match for layer {layer}, got {len(matches)}: {listed}{more}; name one, or give "
                "a table from layers to paths"
            )
        if matches:
            yield Located(sae_path(matches[0]), layer)
        elif layers is not None:
            raise ConfigError(f"{pattern}: does not exist")


def _in_folder(path: Path, damaged: list[Damaged] | None) -> list[Path]:
    """The SAE at `path`, or those in the folder. Raises ConfigError if it is neither."""
    path = sae_path(path)
    if not path.is_dir() or recognise(path) is not None:
        return [path]
    found, broken = list[Path](), list[Damaged]()
    for one in _walk(path, DEPTH, set()):
        if (what := _damage(one)) is None:
            found.append(one)
        else:
            broken.append((one, what))
    if broken and damaged is None:
        raise ConfigError(f"{broken[0][0]}: {broken[0][1]}")
    if damaged is not None:
        damaged += broken
    if not found and not broken:
        raise ConfigError(f"{path}: {unknown(path)}")
    return found


def _walk(folder: Path, depth: int, walked: set[Path]) -> Iterator[Path]:
    """The SAEs below, and what seems to be some; each folder is walked once, so that links to folders above end."""
    walked.add(folder.resolve())
    for child in sorted(folder.iterdir(), key=natural):
        if child.name.startswith("."):
            continue
        if recognise(child) is not None or _damage(child) is not None:
            yield child
        elif child.is_dir() and depth > 1 and child.resolve() not in walked:
            yield from _walk(child, depth - 1, walked)


def _damage(path: Path) -> str | None:
    """What is wrong with something that nearly is an SAE; None for an SAE, and for what is passed over."""
    if recognise(path) is not None:
        return None
    if path.suffix in WEIGHTS and path.is_file() and not path.name.startswith(NOT_SAES):
        try:
            open_weights(path)
        except ConfigError as error:
            return str(error)
    if path.is_dir() and any((path / name).is_file() for name in CONFIGURATIONS):
        return unknown(path)
    return None


def natural(path: Path) -> list[tuple[int, str]]:
    """Sorts names with numbers in them as people do: layer_2 before layer_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _matches(pattern: Path) -> list[Path]:
    """What is there, of a path that may hold `*` and `?`."""
    if pattern.exists():
        return [pattern]
    if not has_pattern(str(pattern)):
        return []
    found = glob.glob(str(pattern).replace("[", "[[]"))  # noqa: PTH207 - the pattern is a whole path
    return sorted(map(Path, found), key=natural)


def has_pattern(path: str) -> bool:
    """Whether it names what matches rather than one thing."""
    return "*" in path or "?" in path


def _folder(pattern: Path) -> Path:
    """The deepest folder of a pattern that depends neither on the layer nor on a match."""
    while LAYER in str(pattern) or has_pattern(str(pattern)):
        pattern = pattern.parent
    return pattern


def _of_hub(config: Config, path: str) -> str:
    """The folder that a `hf://` path stands for, with the rest of the path.

    `OWNER/NAME` beside the configuration, where `fetch` puts it, as for models, else in the local hub cache.
    """
    from huggingface_hub import constants, snapshot_download

    match = re.fullmatch(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@([^/\s]+))?(?:/(.*))?", path)
    if match is None:
        raise ConfigError(f"expected hf://OWNER/NAME/PATH, got {shown(path)}")
    repository, revision, rest = match.groups()
    beside = config.resolve(repository)
    if beside.is_dir() and revision is not None:
        raise ConfigError(
            f"{path}: beside the configuration lies {repository}, of which nothing says that it is {revision}: take "
            "the revision away, or the folder"
        )
    if beside.is_dir():
        return str(beside / rest) if rest else str(beside)
    try:
        # Without patterns a repository of which only a part was downloaded counts as not there.
        folder = snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=[])
    except Exception as error:  # not there, or no name that a repository could have: the library raises many kinds
        remedy = config.origin if Path(config.origin).is_file() else f"--sae '{path}'"
        raise ConfigError(
            f"{path}: {repository} is not in the local hub cache {constants.HF_HUB_CACHE}, and nothing is downloaded "
            f"at start; `saeserve-server fetch {remedy}` brings it"
        ) from error
    return f"{folder}/{rest}" if rest else folder
