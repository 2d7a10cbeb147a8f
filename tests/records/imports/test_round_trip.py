"""What is imported comes out again as it was: every field of the formats, values as float32 holds them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saeserve_server.errors import ConfigError
from saeserve_server.records.export.features import Chosen
from saeserve_server.records.export.from_imports import ImportedFeatures
from saeserve_server.records.export.whole import export_import
from saeserve_server.records.imported.importer import import_files
from saeserve_server.records.imported.items import Naming
from tests.records.imports import files


def lines_of(folder: Path, pattern: str) -> list[Any]:
    found = []
    for file in sorted(folder.glob(pattern)):
        data = file.read_bytes()
        found += [json.loads(line) for line in (gzip.decompress(data) if file.suffix == ".gz" else data).splitlines()]
    return found


def same(one: object, other: object) -> bool:
    """NaN is NaN, and numbers are equal where float32 holds them so."""
    if isinstance(one, float) and isinstance(other, float | int):
        return bool(np.array_equal(np.float32(one), np.float32(other), equal_nan=True))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def test_neuron_records_come_out_as_they_went_in(tmp_path: Path) -> None:
    given = files.write_neuron_records(tmp_path / "in")
    import_files(tmp_path / "store", [str(given)], "openai", naming=Naming(set="demo"))
    out = tmp_path / "out"
    count = export_import(ImportedFeatures(tmp_path / "store", None), out, "neuron-records", Chosen(), model=None)
    assert count == 6
    for file in given.rglob("*.json"):
        again = json.loads((out / "demo" / file.relative_to(given)).read_text())
        assert same(json.loads(file.read_text()), again)


def test_openais_explanations_come_out_as_they_went_in(tmp_path: Path) -> None:
    lines = [files.explanation_line(2, index, f"words about {index}", index / 8) for index in (5, 3)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    import_files(tmp_path / "store", [str(tmp_path / "in.jsonl")], "words")
    out = tmp_path / "out"
    export_import(ImportedFeatures(tmp_path / "store", "words"), out, "neuron-records", Chosen(), model=None)
    assert lines_of(out, "explanations.jsonl") == lines[::-1]  # by index


def test_neuronpedias_batches_come_out_as_they_went_in(tmp_path: Path) -> None:
    given = files.write_neuronpedia(tmp_path / "in")
    import_files(tmp_path / "store", [str(given)], "neuronpedia")
    out = tmp_path / "out"
    export_import(ImportedFeatures(tmp_path / "store", None), out, "neuronpedia", Chosen(), model=None)
    place = "v1/gpt2-small/0-demo"
    for name in ("model", "release", "sourceset", "source"):
        assert lines_of(given, f"{place}/{name}.jsonl") == lines_of(out, f"{place}/{name}.jsonl")
    for kind in ("features", "activations", "explanations"):
        one = lines_of(given, f"{place}/{kind}/batch-*.jsonl.gz")
        other = lines_of(out, f"{place}/{kind}/batch-*.jsonl.gz")
        one.sort(key=lambda line: int(line["index"]))
        assert same(one, other), kind


def test_batches_hold_1024_features(tmp_path: Path) -> None:
    files.write_neuronpedia(tmp_path / "in", indices=range(1030))
    import_files(tmp_path / "store", [str(tmp_path / "in")], "many")
    export_import(ImportedFeatures(tmp_path / "store", None), tmp_path / "out", "neuronpedia", Chosen(), model="gpt2")
    folder = tmp_path / "out" / "v1" / "gpt2" / "0-demo" / "features"
    assert [len(lines_of(folder, f"batch-{number}.jsonl.gz")) for number in (0, 1)] == [1024, 6]


def test_one_format_goes_out_in_another(tmp_path: Path) -> None:
    files.write_neuron_records(tmp_path / "in", layers=[0], indices=[3])
    import_files(tmp_path / "store", [str(tmp_path / "in")], "openai", naming=Naming(set="demo"))
    found = ImportedFeatures(tmp_path / "store", None)
    export_import(found, tmp_path / "out", "neuronpedia", Chosen(), model="gpt2-small")
    import_files(tmp_path / "again", [str(tmp_path / "out")], "again")
    again = next(iter(ImportedFeatures(tmp_path / "again", None).features(Chosen())))
    before = next(iter(found.features(Chosen())))
    assert (again.source, again.index, again.maximum) == ("0-demo", 3, 5.5)
    assert [list(record.tokens) for record in again.records] == [list(record.tokens) for record in before.records]
    lost = json.loads((tmp_path / "out" / "not_held.json").read_text())["not_held"]
    assert lost == ["fields of neuron-records that neuronpedia has no place for"]


def test_parquet_has_a_row_for_each_feature_record_and_explanation(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import_files(tmp_path / "store", [str(files.write_neuronpedia(tmp_path / "in"))], "n")
    export_import(ImportedFeatures(tmp_path / "store", None), tmp_path / "out", "parquet", Chosen(), model=None)
    tables = {name: parquet.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist() for name in TABLES}
    assert [row["index"] for row in tables["features"]] == [2, 7, 1500]
    assert tables["features"][1]["density"] == 1 / 4096
    records = [row for row in tables["records"] if row["index"] == 7]
    assert [row["tokens"] for row in records] == [["<|endoftext|>", *files.RED], files.CUT]
    assert [row["max_activation"] for row in records] == [3.5, 4.25]
    assert tables["explanations"][1]["text"] == "the colour red, number 0"


TABLES = ("features", "records", "explanations")


def test_an_export_goes_to_a_new_place_and_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    import_files(tmp_path / "store", [str(files.write_neuronpedia(tmp_path / "in"))], "n")
    found = ImportedFeatures(tmp_path / "store", None)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(ConfigError, match="is there already"):
        export_import(found, tmp_path / "taken", "parquet", Chosen(), model=None)
    with pytest.raises(ConfigError, match="nothing to export"):
        export_import(found, tmp_path / "out", "neuronpedia", Chosen(indices=(9, 10)), model=None)
    with pytest.raises(ConfigError, match="--source 1-demo: not there; there are 0-demo"):
        export_import(found, tmp_path / "out", "neuronpedia", Chosen(("1-demo",)), model=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "store", "taken"]
