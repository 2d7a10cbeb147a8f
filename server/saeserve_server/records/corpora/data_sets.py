"""The files of a data set of Hugging Face's: as `datasets.save_to_disk` leaves it, or in the layout of the hub.

Saved: a folder with `state.json`, which names its Arrow files; of several splits one with `dataset_dict.json`, and a
folder for each. On the hub, and in a copy of a repository: files `train-00000-of-00002.parquet` in a folder for each
configuration.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from saeserve_server.errors import ConfigError

log = logging.getLogger(__name__)

STATE: Final = "state.json"
DICT: Final = "dataset_dict.json"
DEFAULT_SPLIT: Final = "train"
HUB_NAME: Final = re.compile(r"([\w-][\w.-]*/[\w.-]+)((?:/[\w.=-]+)*)")
"""OWNER/NAME, and a folder in it."""
_FILES: Final = (".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow")
_SHARD: Final = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")


def saved_files(folder: Path, split: str | None) -> list[Path] | None:
    """The Arrow files of a saved data set, in its order; None for a folder that holds none. Raises ConfigError."""
    if (folder / DICT).is_file():
        splits = _json(folder / DICT).get("splits")
        if not isinstance(splits, list) or not all(isinstance(name, str) and name for name in splits):
            raise ConfigError(f"{folder / DICT}: names no splits")
        chosen = _choose(folder, splits, split)
        if "/" in chosen or not (folder / chosen / STATE).is_file():
            raise ConfigError(f"{folder}: split {chosen!r}: no {chosen}/{STATE}: copy the data set as a whole")
        return _of_state(folder / chosen)
    if not (folder / STATE).is_file():
        return None
    files = _of_state(folder)
    own = _json(folder / STATE).get("_split")
    if split is not None and split != own:
        raise ConfigError(f"{folder}: no split {split!r}: it is a data set of the split {own!r}: leave out --split")
    return files


def of_split(folder: Path, files: Sequence[Path], split: str | None) -> list[Path]:
    """Of the files of a folder those of a split, where names tell it; without `split` files named otherwise are all
    taken. Raises ConfigError for a split that is not there, and for files of more than one configuration."""
    shards: dict[str, list[Path]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.stem):
            shards.setdefault(match["split"], []).append(file)
        elif split is not None and file.suffix != ".txt":
            shards.setdefault(file.stem, []).append(file)
    if not shards or (split is None and sum(map(len, shards.values())) < len(files)):
        if split is not None:
            raise ConfigError(f"{folder}: no split {split!r}: no file there is named like a split: leave out --split")
        return list(files)
    chosen = _choose(folder, list(shards), split)
    parents = {file.parent for file in shards[chosen]}
    if len(parents) > 1:
        names = ", ".join(sorted(str(parent.relative_to(folder)) for parent in parents))
        raise ConfigError(f"{folder}: holds several configurations ({names}): name one of these folders")
    return shards[chosen]


def in_hub_cache(name: str) -> Path:
    """The folder of a hub name, OWNER/NAME or OWNER/NAME/FOLDER, in the hub's cache on this machine.

    Raises ConfigError where it is not there: nothing is downloaded."""
    match = HUB_NAME.fullmatch(name)
    if match is None or (not match[2] and Path(name).suffix in _FILES):
        raise ConfigError(f"{name}: no such file or folder")
    from huggingface_hub import constants, snapshot_download

    try:
        # With patterns what was downloaded in part is there too.
        folder = Path(snapshot_download(match[1], repo_type="dataset", local_files_only=True, allow_patterns=[]))
    except Exception as error:  # not in the cache, or no name that a repository could have
        raise ConfigError(
            f"{name}: no such file or folder, nor a data set in the local hub cache {constants.HF_HUB_CACHE}; "
            f"`saeserve-server fetch --dataset {match[1]}` brings it"
        ) from error
    found = folder / match[2].strip("/")
    if not found.exists():
        raise ConfigError(f"{name}: {match[1]} in the hub cache has no {match[2].strip('/')}")
    return found


def _choose(folder: Path, splits: Sequence[str], split: str | None) -> str:
    chosen = split or (DEFAULT_SPLIT if len(splits) > 1 else splits[0])
    if chosen not in splits:
        raise ConfigError(f"{folder}: no split {chosen!r}; it has {', '.join(sorted(splits))}: choose with --split")
    if split is None and len(splits) > 1:
        log.info("%s: split %s; others: %s", folder, chosen, ", ".join(sorted({*splits} - {chosen})))
    return chosen


def _of_state(folder: Path) -> list[Path]:
    state = _json(folder / STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ConfigError(
            f"{folder}: its rows stand in an order of their own: save it with a newer version of datasets"
        )
    try:
        files = [folder / Path(one["filename"]).name for one in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder / STATE}: names no data files") from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise ConfigError(f"{folder}: {len(missing)} of {len(files)} files are missing, the first {missing[0]}")
    if not files:
        raise ConfigError(f"{folder}: a data set without rows")
    return files


def _json(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    return told
