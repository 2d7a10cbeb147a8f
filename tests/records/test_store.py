"""An index that is damaged, foreign or of another format is refused with a message that says so."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saeserve_server.catalog import Catalog
from saeserve_server.errors import ConfigError
from saeserve_server.records import layout
from saeserve_server.records.builder import build_index
from saeserve_server.records.store import RecordStore, StoreError
from tests.records.reference import FakeReader, source, tokenise

TEXTS = ["bcdefghbcd", "hgfedcb", "", "bbcc" * 8]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("store") / "index"
    build_index(FakeReader(), tokenise, TEXTS, path)
    return path


@pytest.fixture
def index(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "index"))


def rewrite(index: Path, **changes: object) -> None:
    """Change the manifest as somebody would who knows the format: with a digest that fits."""
    path = index / layout.MANIFEST
    content = {**json.loads(path.read_text()), **changes}
    body = {key: value for key, value in content.items() if key != "digest"}
    plain = json.dumps(body, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**body, "digest": hashlib.sha256(plain.encode()).hexdigest()}))


def test_an_index_says_what_it_is(built):
    store = RecordStore.open(built, verify=True)
    assert (store.model_name, store.model_revision, store.texts, store.tokens) == ("fake", "model-1", 4, 49)
    assert (store.context, store.records_per_feature) == (11, 64)
    assert [(one.id, one.revision, one.n_features) for one in store.sources] == [("0-fake", "r1", 5), ("1", "r1", 5)]
    again = RecordStore.open(str(built))
    assert (store.revision, store.content) == (again.revision, again.content)
    assert store.covers("1")
    assert not store.covers("2")


def test_pages_of_records_join_to_all_of_them(built):
    store = RecordStore.open(built)
    everything = store.records("1", 2, 0, 100)
    assert len(everything) == store.record_count("1", 2) > 2
    pages = [record for offset in range(0, 8, 2) for record in store.records("1", 2, offset, 2)]
    assert [(one.text_index, one.text_position) for one in pages] == [
        (one.text_index, one.text_position) for one in everything
    ]
    assert store.records("1", 2, 1000, 5) == store.records("1", 2, 0, 0) == []


def test_a_feature_that_never_fired_has_no_records(built):
    store = RecordStore.open(built)
    statistics = store.statistics("0-fake", 0)
    assert (statistics.fires, statistics.density, statistics.mean, statistics.maximum) == (0, 0.0, 0.0, 0.0)
    assert len(statistics.histogram_edges) == len(statistics.histogram_counts) == len(statistics.top_tokens.ids) == 0
    assert store.records("0-fake", 0) == []
    assert len(store.usual_tokens("0-fake", 0).ids) == 0


def test_usual_tokens_are_the_first_top_tokens(built):
    store = RecordStore.open(built)
    top = store.statistics("1", 3).top_tokens
    assert store.usual_tokens("1", 3, 2).ids.tolist() == top.ids[:2].tolist()
    assert len(store.usual_tokens("1", 3).ids) <= 5


@pytest.mark.parametrize("feature", [-1, 5])
def test_an_index_out_of_range_is_an_index_error(built, feature):
    store = RecordStore.open(built)
    for read in (store.statistics, store.records, store.usual_tokens, store.record_count):
        with pytest.raises(IndexError, match="features 0 to 4"):
            read("1", feature)


def test_an_index_in_which_nothing_fires_can_be_read(tmp_path):
    class Silent(FakeReader):
        def value(self, rank: int, token: int, place: int, feature: int) -> float:
            return 0.0

    store = build_index(Silent(), tokenise, ["bcd"], tmp_path / "index")
    assert store.records("0-fake", 1) == []
    assert not store.maximum("0-fake").any()


# What is no index


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(StoreError, match="nothing: not an index: no such folder"):
        RecordStore.open(tmp_path / "nothing")


def test_a_folder_without_manifest_and_a_file_are_no_index(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match=r"not an index: it has no index\.json"):
            RecordStore.open(path)


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"magic": "other", "version": 1}'])
def test_another_json_file_is_no_manifest(tmp_path, content):
    (tmp_path / layout.MANIFEST).write_text(content)
    with pytest.raises(StoreError, match="not the manifest of an index"):
        RecordStore.open(tmp_path)


def test_another_format_version_says_which_is_read(index):
    rewrite(index, version=7)
    with pytest.raises(StoreError, match="index format 7, but this version of the server reads 3: build"):
        RecordStore.open(index)


# What is damaged


def test_every_flipped_byte_of_the_manifest_is_found_or_changes_nothing(index, built):
    path = index / layout.MANIFEST
    content = path.read_bytes()
    wanted = RecordStore.open(built).revision
    refused = 0
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            assert RecordStore.open(index).revision == wanted  # white space between the values
        except StoreError:
            refused += 1
    assert refused > len(content) / 7 / 2


def test_a_flipped_byte_in_any_file_is_found_by_verify(index):
    files = list(index.rglob("*.npy"))
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[-1] ^= 1  # of an empty array the end of its header
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=f"{path.relative_to(index).as_posix()}: (not what was|corrupted)"):
            RecordStore.open(index, verify=True)
        path.write_bytes(content)
    RecordStore.open(index, verify=True)


def test_a_file_of_another_size_is_found_at_opening(index):
    for path in index.rglob("*.npy"):
        content = path.read_bytes()
        path.write_bytes(content + b"\0")
        with pytest.raises(StoreError, match=f"{path.name}: corrupted: {len(content) + 1} bytes"):
            RecordStore.open(index)
        if content:
            path.write_bytes(content[:-1])
            with pytest.raises(StoreError, match=f"{path.name}: truncated"):
                RecordStore.open(index)
        path.unlink()
        with pytest.raises(StoreError, match=rf"{path.name}: missing"):
            RecordStore.open(index)
        path.write_bytes(content)
    RecordStore.open(index)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"sources": [["9-other", "r1", 5]]},
        {"sources": [["../../etc", "r1", 5]]},
        {"texts": 5},
        {"sources": 3},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(index, changes):
    if "sources" in changes:
        made_of = json.loads((index / layout.MANIFEST).read_text())["made_of"]
        changes = {"made_of": {**made_of, **changes}}
    rewrite(index, **changes)
    with pytest.raises(StoreError, match="not a manifest of index format 3"):
        RecordStore.open(index)


# What belongs to others


def test_the_model_and_sources_it_was_built_with_pass(built):
    RecordStore.open(built).check(FakeReader().catalog)


def test_another_model_revision_is_refused(built):
    catalog = FakeReader().catalog
    other = Catalog(replace(catalog.model, revision="model-2"), catalog.sources)
    with pytest.raises(StoreError, match="revision model-1, but fake of revision model-2 is served: build the index"):
        RecordStore.open(built).check(other)


@pytest.mark.parametrize("other", [source("1", 5, revision="r2"), source("1", 6)])
def test_other_weights_of_a_source_are_refused_by_name(built, other):
    catalog = FakeReader().catalog
    with pytest.raises(ConfigError, match=r"built with other weights or options of 1 \(index r1, served r"):
        RecordStore.open(built).check(Catalog(catalog.model, (catalog.sources[0], other)))


def test_sources_on_one_side_only_are_fine(built):
    catalog = FakeReader().catalog
    RecordStore.open(built).check(Catalog(catalog.model, (catalog.sources[0], source("3-more", 7))))


def test_the_histogram_agrees_with_fires(built):
    store = RecordStore.open(built)
    for one in store.sources:
        for feature in range(one.n_features):
            statistics = store.statistics(one.id, feature)
            assert np.sum(statistics.histogram_counts) == statistics.fires == store.fires(one.id)[feature]
