"""A whole export: features of an index, or of an import, into a new folder in one of the formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from saeserve_server.errors import ConfigError
from saeserve_server.records.export import neuron_records, neuronpedia, parquet
from saeserve_server.records.export.features import Chosen, OutFeature, Pieces
from saeserve_server.records.export.from_imports import ImportedFeatures
from saeserve_server.records.export.from_index import index_features
from saeserve_server.records.export.neuronpedia import About
from saeserve_server.records.export.place import describe, new_folder
from saeserve_server.records.store import RecordStore

FORMATS: Final = {module.NAME: module for module in (neuron_records, neuronpedia, parquet)}
_AGAIN: Final = {
    neuron_records.NAME: "Imported again by `saeserve-server records import STORE FOLDER --set SET --name NAME`, the "
    "folder of a set at a time, with `--set` left out for neurons; explanations from `explanations.jsonl`.",
    neuronpedia.NAME: "Imported again by `saeserve-server records import STORE FOLDER --name NAME`.",
    parquet.NAME: "Read by pandas, Polars, DuckDB: one row a feature, a record, an explanation.",
}


def export_index(
    store: RecordStore,
    out: Path,
    form: str,
    chosen: Chosen,
    pieces: Pieces,
    *,
    model: str,
    hooks: Mapping[str, str],
) -> int:
    """Writes the features of an index; returns how many. Raises ConfigError."""
    about = About(_folder_name(model), store.revision[:12], hooks)
    module = FORMATS[form]
    lists = {"not_held": module.NOT_HELD, "not_known": module.NOT_KNOWN}
    origin = f"an index of {store.model_name}, revision {store.revision}"
    return _write(out, form, origin, lists, about, lambda: index_features(store, chosen, pieces))


def export_import(found: ImportedFeatures, out: Path, form: str, chosen: Chosen, *, model: str | None) -> int:
    """Writes what was imported; returns how many features. Raises ConfigError."""
    beside = found.beside()
    named = next((line.line.get("id") for line in beside if line.file == "model"), None)
    given = model or (named if isinstance(named, str) else None) or _model_of(found) or found.summary.name
    kept = () if model else tuple((line.file, line.line) for line in beside)
    about = About(_folder_name(given), found.summary.name, {}, kept)
    is_same = form == found.summary.format or (form, found.summary.format) == ("neuron-records", "openai-explanations")
    lost = [] if is_same or form == parquet.NAME else [f"fields of {found.summary.format} that {form} has no place for"]
    origin = f"the import {found.summary.name} of {found.summary.format}"
    return _write(out, form, origin, {"not_held": lost}, about, lambda: found.features(chosen))


def _write(
    out: Path,
    form: str,
    origin: str,
    lists: Mapping[str, Sequence[str]],
    about: About,
    features: Callable[[], Iterable[OutFeature]],
) -> int:
    with new_folder(out) as folder:
        if form == neuronpedia.NAME:
            count = neuronpedia.write(features(), folder, about)
        elif form == parquet.NAME:
            count = parquet.write(features(), folder)
        else:
            count = neuron_records.write(features(), folder)
        if not count:
            raise ConfigError("nothing to export: no feature is among those chosen")
        describe(folder, form, origin, lists, _AGAIN[form])
    return count


def _model_of(found: ImportedFeatures) -> str | None:
    """The model that the first feature's file names."""
    for feature in found.features(Chosen()):
        name = (feature.kept or {}).get("modelId")
        return name if isinstance(name, str) else None
    return None


def _folder_name(model: str) -> str:
    """A model's name as a folder's."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", model)
    return name if name.strip(".") else "model"
