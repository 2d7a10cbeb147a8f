"""Imports: what is tolerated, what is refused by file and line; a store is changed as a whole or not at all."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve_server.catalog import Catalog, Kind, SourceInfo
from saeserve_server.errors import InvalidArgument
from saeserve_server.records.imported import schema
from saeserve_server.records.imported.contents import read_contents
from saeserve_server.records.imported.importer import import_files
from saeserve_server.records.imported.items import Naming
from saeserve_server.records.imported.query import match_expression
from saeserve_server.records.imported.schema import ImportedError
from saeserve_server.records.imported.store import ImportedStore, open_imported
from tests.records.imports import files


def catalog(n_features: int = 2048, revision: str = "aaaaaaaa") -> Catalog:
    """Latents of layers 0 and 1, which are called by another name too, and the neurons of layer 0."""
    sources = [
        SourceInfo(f"{layer}-demo", "demo", layer, Kind.LATENT, "hook", "standard", 8, n_features, revision=revision)
        for layer in (0, 1)
    ]
    neurons = SourceInfo("0", "neurons", 0, Kind.NEURON, "hook", "neurons", 8, 64, aliases=("0-mlp",))
    return Catalog(None, (sources[0], neurons, sources[1]))  # type: ignore[arg-type]


def opened(folder: Path, of: Catalog | None = None) -> ImportedStore:
    found = open_imported(folder, of or catalog())
    assert found is not None
    return found


def lines(path: Path, *values: Any) -> str:
    path.write_text("".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values))
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_records_fall_by_activation_and_keep_the_files_tokens(tmp_path: Path, store: Path) -> None:
    import_files(store, [str(files.write_neuron_records(tmp_path / "in"))], "openai", naming=Naming(set="demo"))
    found = opened(store)
    records = found.records("0-demo", 3)
    assert [record.max_activation for record in records] == [5.5, 5.5, 4.5]
    assert records[2].pieces == tuple(token.encode() for token in files.CUT)
    assert [record.max_position for record in records] == [1, 1, 1]
    assert [record.import_name for record in records] == ["openai"] * 3
    assert found.records("0-demo", 3, 1, 1)[0].activations.tolist() == [0.0, 5.5, 0.0]
    assert found.record_count("0-demo", 3) == 3
    assert found.record_count("0-demo", 3, schema.RANDOM) == 1
    assert found.record_count("0-demo", 3, None) == 1
    assert [(one.piece, one.count, one.maximum) for one in found.usual_tokens("0-demo", 3)] == [
        (b" red", 2, 5.5),
        ("\ufffd".encode(), 1, 4.5),
    ]
    assert found.covers("0-demo")
    assert not found.covers("0")


def test_without_a_set_a_layer_is_its_neurons_and_aliases_are_known(tmp_path: Path, store: Path) -> None:
    import_files(store, [str(files.write_neuron_records(tmp_path / "in", layers=[0]))], "plain")
    other = files.neuronpedia_activation("0-MLP", 5, 0, files.RED, [0.0, 9.0, 0.0])
    import_files(store, [lines(tmp_path / "alias.jsonl", other)], "alias")
    found = opened(store)
    assert found.record_count("0", 3) == 3
    assert [record.import_name for record in found.records("0", 5)] == ["alias"]


def test_statistics_are_known_where_somebody_said_them(tmp_path: Path, store: Path) -> None:
    import_files(store, [str(files.write_neuronpedia(tmp_path / "in"))], "n")
    import_files(
        store, [str(files.write_neuron_records(tmp_path / "o", layers=[0]))], "o", naming=Naming(source="0-demo")
    )
    found = opened(store)
    density, maximum = found.density("0-demo"), found.maximum("0-demo")
    assert density is not None
    assert maximum is not None
    assert np.flatnonzero(~np.isnan(density)).tolist() == [2, 7, 1500]
    assert {i: float(maximum[i]) for i in np.flatnonzero(~np.isnan(maximum))} == {
        0: 4.5, 2: 6.0, 3: 5.5, 7: 5.0, 12: 14.5, 1500: 7.0,
    }  # fmt: skip
    assert found.density("1-demo") is None
    assert found.maximum("0") is None


def test_a_bos_in_front_is_no_peak(tmp_path: Path, store: Path) -> None:
    import_files(store, [str(files.write_neuronpedia(tmp_path / "in"))], "n")
    record = opened(store).records("0-demo", 7, 1, 1)[0]
    assert (record.max_activation, record.max_position, record.pieces[0]) == (3.5, 2, b"<|endoftext|>")


def test_a_window_is_16_tokens_either_side_of_the_peak(tmp_path: Path, store: Path) -> None:
    tokens = [f" {n}" for n in range(100)]
    values = [float(n == 50) for n in range(100)]
    line = files.neuronpedia_activation("0-demo", 1, 0, tokens, values)
    import_files(store, [lines(tmp_path / "a.jsonl", line)], "n")
    record = opened(store).records("0-demo", 1)[0]
    assert record.pieces == tuple(token.encode() for token in tokens[34:67])
    assert (record.position, record.max_position) == (34, 16)


LENIENT = {
    "without class names": {**files.neuron_record(1, 4), "dataclass_name": None, "neuron_id": {"layer": "1", "idx": 4}},
    "ids of its own": {"layer": 1, "idx": "4", "most_positive_activation_records": []},
    "the path": {"most_positive_activation_records": None},
}


@pytest.mark.parametrize("line", LENIENT.values(), ids=LENIENT)
def test_ids_are_found_wherever_files_have_them(tmp_path: Path, store: Path, line: Any) -> None:
    file = tmp_path / "1" / "4.json"
    file.parent.mkdir()
    import_files(store, [lines(file, line)], "n", naming=Naming(set="demo"))
    (part,) = read_contents(store).parts
    assert (part.source, part.largest) == ("1-demo", 4)


GOOD = files.neuronpedia_activation("0-demo", 1, 0, [" a"], [1.0])
BAD = {
    "{": "not JSON: Expecting property name",
    "[1]": r"expected a JSON object, got \[1\]",
    "{}": "layer: missing",
    json.dumps({**GOOD, "values": [1.0, 2.0]}): "1 tokens and 2 values",
    json.dumps({**GOOD, "values": [None]}): "values: expected numbers, got None",
    json.dumps({**GOOD, "values": [True]}): "values: expected numbers, got True",
    json.dumps({**GOOD, "values": [1e300]}): "finite numbers that float32 holds",
    json.dumps({**GOOD, "values": [float("nan")]}): "finite numbers",
    json.dumps({**GOOD, "tokens": [5]}): "tokens: expected a list of texts",
    json.dumps({**GOOD, "index": "-1"}): "index: expected a feature's index",
    json.dumps({**GOOD, "index": 2**32}): "index: expected a feature's index",
    json.dumps({**GOOD, "layer": "0 demo"}): "layer: expected a source's id",
    json.dumps({**files.neuronpedia_feature("0-demo", 1, 1.5, 1.0)}): "frac_nonzero: expected a share",
    "[" * 100_000: "not JSON that can be read",
}


@pytest.mark.parametrize(("line", "told"), BAD.items(), ids=range(len(BAD)))
def test_a_bad_line_is_told_by_file_and_line_and_changes_nothing(
    tmp_path: Path, store: Path, line: str, told: str
) -> None:
    import_files(store, [lines(tmp_path / "good.jsonl", GOOD)], "good")
    before = (store / schema.FILE).read_bytes()
    file = lines(tmp_path / "bad.jsonl", GOOD, line)
    with pytest.raises(ImportedError, match=f"bad.jsonl:2: .*{told}"):
        import_files(store, [file], "good", form="neuronpedia")
    assert (store / schema.FILE).read_bytes() == before
    assert sorted(path.name for path in store.iterdir()) == [schema.FILE]


def test_bad_lines_are_skipped_and_counted_if_asked_for(tmp_path: Path, store: Path) -> None:
    facts = files.neuronpedia_feature("9-new", 1, 0.5, 1.0)
    given = lines(tmp_path / "a.jsonl", GOOD, *BAD, facts, facts, {**GOOD, "index": 2})
    told: list[str] = []
    done = import_files(store, [given], "n", form="neuronpedia", skip=True, complain=told.append)
    assert (done.lines, done.skipped) == (3, len(BAD) + 1)
    assert told[-1].endswith(f"a.jsonl:{len(BAD) + 3}: 9-new:1 comes twice in this import")
    assert [(one.lines, one.skipped, one.records) for one in read_contents(store).imports] == [(3, len(BAD) + 1, 2)]


def test_a_damaged_gzip_file_is_told_by_the_line(tmp_path: Path, store: Path) -> None:
    given = files.write_neuronpedia(tmp_path / "in", indices=range(50))
    file = next(given.rglob("activations/*.gz"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ImportedError, match=r"batch-0.jsonl.gz:\d+: cannot be read on"):
        import_files(store, [str(given)], "n")
    assert not store.exists()


def test_standard_input_gives_lines_gzipped_or_not(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    data = json.dumps(GOOD).encode() + b"\n"
    for name, sent in (("plain", data), ("packed", gzip.compress(data))):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(sent)))
        import_files(store, ["-"], name)
    assert [record.import_name for record in opened(store).records("0-demo", 1)] == ["plain", "packed"]


def test_an_import_of_the_same_name_is_replaced_and_the_same_files_make_the_same_revision(
    tmp_path: Path, store: Path
) -> None:
    given = str(files.write_neuronpedia(tmp_path / "in"))
    import_files(store, [given], "n")
    first = read_contents(store)
    old = opened(store)
    import_files(store, [lines(tmp_path / "a.jsonl", GOOD)], "n")
    assert read_contents(store).revision != first.revision
    assert opened(store).record_count("0-demo", 7) == 0
    assert old.record_count("0-demo", 7) == 2  # who has it open goes on reading what it was
    assert old.explanation(int(old.find('"red"').rows[0])).text.startswith("the colour red")
    import_files(store, [given], "n")
    assert read_contents(store).revision == first.revision


def test_what_belongs_to_other_weights_is_not_shown_and_said_so(tmp_path: Path, store: Path) -> None:
    given = str(files.write_neuronpedia(tmp_path / "in"))
    import_files(store, [given], "n", revisions=lambda sources: dict.fromkeys(sources, "aaaaaaaa"))
    assert opened(store).covers("0-demo")
    other = opened(store, catalog(revision="bbbbbbbb"))
    assert not other.covers("0-demo")
    assert other.explanations("0-demo", 7) == []
    assert len(other.find('"red"').rows) == 0
    assert other.warnings["0-demo"] == [
        "import 'n' is not shown: it was made for revision aaaaaaaa, and bbbbbbbb is served"
    ]
    smaller = opened(store, catalog(n_features=100))
    assert not smaller.covers("0-demo")
    assert "it has a feature 1500" in smaller.warnings["0-demo"][0]


def test_a_killed_import_leaves_the_store_as_it_was(tmp_path: Path, store: Path) -> None:
    import_files(store, [lines(tmp_path / "a.jsonl", GOOD)], "n")
    before = (store / schema.FILE).read_bytes()
    code = "import sys; from saeserve_server.commands.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "records", "import", str(store), "-", "--name", "n"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(GOOD).encode() + b"\n")
        process.stdin.flush()
        while not list(store.glob(".records.sqlite.building-*/records.sqlite")):
            assert process.poll() is None
            time.sleep(0.02)
        with pytest.raises(ImportedError, match="another import into it runs"):
            import_files(store, [str(tmp_path / "a.jsonl")], "n")
        os.kill(process.pid, signal.SIGKILL)
    assert (store / schema.FILE).read_bytes() == before
    import_files(store, [str(tmp_path / "a.jsonl")], "m")
    assert sorted(path.name for path in store.iterdir()) == [schema.FILE]


def test_other_folders_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    file = lines(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(ImportedError, match="holds other files"):
        import_files(tmp_path / "mine", [file], "n")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / schema.FILE).write_text("no database")
    with pytest.raises(ImportedError, match="not a store of imported records"):
        import_files(tmp_path / "fake", [file], "n")
    with pytest.raises(ImportedError, match=r"it has no records\.sqlite"):
        read_contents(tmp_path / "mine")


def test_explanations_are_found_by_their_words(tmp_path: Path, store: Path) -> None:
    texts = ["Running dogs", "a dog that runs", "red cars", "cars, red or blue", "CAFÉ au lait"]
    given = [files.explanation_line(0, place, text, 0.5) for place, text in enumerate(texts)]
    import_files(store, [lines(tmp_path / "a.jsonl", *given)], "n", naming=Naming(set="demo"))
    found = opened(store)

    def ask(query: str) -> list[int]:
        return sorted(found.find(match_expression(query)).indices.tolist())

    assert ask("dog run") == [0, 1]
    assert ask("RED car") == [2, 3]
    assert ask('"red cars"') == [2]
    assert ask("cafe") == [4]
    assert ask("red dog") == []
    assert found.explanations("0-demo", 2)[0].score == 0.5


@given(st.text(max_size=40))
def test_no_query_reaches_sqlites_own_language(query: str) -> None:
    found = _searched()
    try:
        expression = match_expression(query)
    except InvalidArgument:
        return
    found.find(expression)  # raises nothing


_kept: list[ImportedStore] = []


def _searched() -> ImportedStore:
    if not _kept:
        import tempfile

        folder = Path(tempfile.mkdtemp())
        import_files(folder / "s", [lines(folder / "a.jsonl", files.explanation_line(0, 1, "red", 0.5))], "n")
        _kept.append(opened(folder / "s"))
    return _kept[0]
