"""However a corpus is shared out, broken off or put together again, the index has the same bytes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeserve_server.errors import ConfigError
from saeserve_server.records.builder import Settings, build_index, build_part, merge_parts
from saeserve_server.records.building.best import Best, in_order
from saeserve_server.records.building.part import Part
from saeserve_server.records.building.peak_tables import PeakTable
from saeserve_server.records.building.state import CANDIDATE, candidate_keys
from saeserve_server.records.made_of import Keeping
from saeserve_server.records.store import RecordStore
from tests.records.reference import FakeReader, tokenise, with_context

READER = FakeReader(n_features=6, model=with_context(30))
SETTINGS = Settings(keeping=Keeping(records=5, per_power=2, near_misses=3, positions=200), batch_blocks=7)


def corpus(texts: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choice("abcdefgh") for _ in range(draw.choice([0, 3, 10, 70]))) for _ in range(texts)]


TEXTS = corpus(430)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RecordStore:
    return build_index(READER, tokenise, TEXTS, tmp_path_factory.mktemp("whole") / "index", settings=SETTINGS)


def shard(folder: Path, wanted, reader: FakeReader = READER, texts: Sequence[str] = TEXTS, rows: int = 2**30) -> Part:
    part = Part(SETTINGS.made_of(reader), folder).begin()
    build_part(reader, tokenise, texts, part, rows, wanted=wanted)
    return Part.open(folder)


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [0, 2**30])
def test_shards_merged_in_any_order_give_the_same_bytes(whole, tmp_path, shards, rows):
    parts = [
        shard(tmp_path / str(number), lambda chunk, number=number: chunk % shards == number, rows=rows)
        for number in range(shards)
    ]
    random.Random(shards).shuffle(parts)
    assert merge_parts(READER, parts, tmp_path / "index").content == whole.content


class KilledError(Exception):
    pass


def broken_off(texts: Sequence[str], after: int) -> Iterator[str]:
    yield from texts[:after]
    raise KilledError


class Failing(FakeReader):
    """Goes no further after so many batches."""

    left = 0

    def encode_blocks(self, blocks):
        self.left -= 1
        if self.left < 0:
            raise KilledError
        return super().encode_blocks(blocks)


@pytest.mark.parametrize("every", [1, 4])
def test_a_build_that_is_killed_again_and_again_goes_on_where_it_was_saved(whole, tmp_path, monkeypatch, every):
    reader = Failing(n_features=6, model=with_context(30))
    monkeypatch.setattr("saeserve_server.records.builder.CHECKPOINT_SHARE", 0)
    work, runs = tmp_path / "work", 0
    for runs in itertools.count(1):
        reader.left = every * 9 + runs
        try:
            store = build_index(reader, tokenise, TEXTS, tmp_path / "index", settings=SETTINGS, work=work, checkpoint=0)
            break
        except KilledError:
            assert not (tmp_path / "index").exists()
    assert runs > 2
    assert store.content == whole.content


def test_a_text_that_runs_over_many_checkpoints_is_one_text(tmp_path, monkeypatch):
    long = ["".join(random.Random(3).choice("bcdefgh") for _ in range(3000)), "bcd"]
    one = build_index(READER, tokenise, long, tmp_path / "one", settings=SETTINGS)
    monkeypatch.setattr("saeserve_server.records.builder.CHECKPOINT_SHARE", 0)
    reader = Failing(n_features=6, model=with_context(30))
    reader.left = 5
    with pytest.raises(KilledError):
        build_index(reader, tokenise, long, tmp_path / "other", settings=SETTINGS, work=tmp_path / "work", checkpoint=0)
    reader.left = 1000
    other = build_index(
        reader, tokenise, long, tmp_path / "other", settings=SETTINGS, work=tmp_path / "work", checkpoint=0
    )
    assert other.content == one.content
    assert max(other.statistics("0-fake", feature).texts for feature in range(6)) == 2


def test_tables_of_peaks_that_went_to_the_disk_count_the_same(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("saeserve_server.records.building.peak_tables.WAITING", 10)
    monkeypatch.setattr("saeserve_server.records.building.peak_tables.HELD", 3)
    monkeypatch.setattr("saeserve_server.records.building.peak_tables._FEATURES_AT_ONCE", 2)
    parts = [shard(tmp_path / str(number), lambda chunk, number=number: chunk % 2 == number) for number in range(2)]
    assert sum(len(source.peaks.runs) for part in parts for source in part.sources) > 4
    assert merge_parts(READER, parts, tmp_path / "index").content == whole.content


@pytest.mark.parametrize("rows", [0, 2**30])
def test_sources_that_are_finished_one_after_another_give_the_same_bytes(whole, tmp_path, monkeypatch, rows):
    monkeypatch.setattr("saeserve_server.records.building.finish.FEATURES_AT_ONCE", 6)
    part = shard(tmp_path / "part", lambda chunk: True, rows=0)
    assert merge_parts(READER, [part], tmp_path / "index", rows_bytes=rows).content == whole.content


def test_a_chunk_that_comes_twice_or_is_missing_is_refused(tmp_path):
    one = shard(tmp_path / "one", lambda chunk: chunk < 4)
    other = shard(tmp_path / "other", lambda chunk: chunk >= 3)
    with pytest.raises(ConfigError, match=r"other: chunk 3 is in .*one too \(1 in all\): give each shard once"):
        merge_parts(READER, [one, other], tmp_path / "index")
    with pytest.raises(ConfigError, match="3 chunks of 64 texts are missing, the first at text 257"):
        merge_parts(READER, [one], tmp_path / "index")
    assert not (tmp_path / "index").exists()


class Elsewhere(FakeReader):
    @property
    def computed(self) -> dict[str, str]:
        return {"threads": "2"}


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (Elsewhere(n_features=6, model=with_context(30)), "computed.threads: 1, 2"),
        (FakeReader(n_features=6, model=replace(with_context(30), revision="m2")), "model_revision: model-1, m2"),
        (FakeReader(n_features=6, model=replace(with_context(30), dtype="bfloat16")), "kernel: cpu float32, cpu bfl"),
    ],
)
def test_parts_that_were_computed_otherwise_are_refused_with_what_differs(tmp_path, reader, message):
    one = shard(tmp_path / "one", lambda chunk: chunk < 4)
    other = shard(tmp_path / "other", lambda chunk: chunk >= 4, reader)
    with pytest.raises(ConfigError, match=message):
        merge_parts(READER, [one, other], tmp_path / "index")
    with pytest.raises(ConfigError, match="was begun in another way: " + message.partition(":")[0]):
        build_part(reader, tokenise, TEXTS, one, 0)


def test_parts_of_another_corpus_are_refused(tmp_path):
    one = shard(tmp_path / "one", lambda chunk: chunk < 4)
    other = shard(tmp_path / "other", lambda chunk: chunk >= 4, texts=[*TEXTS, "bcd"])
    with pytest.raises(ConfigError, match="not whole, or of another corpus"):
        merge_parts(READER, [one, other], tmp_path / "index")


def test_rows_that_are_damaged_are_computed_again(whole, tmp_path):
    part = shard(tmp_path / "part", lambda chunk: True)
    for path in list(part.rows_folder.iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:200])
    assert merge_parts(READER, [part], tmp_path / "index").content == whole.content


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 2), st.integers(0, 50)), max_size=60, unique=True
    ),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    k=st.integers(1, 5),
)
@settings(max_examples=60)
def test_the_first_of_each_owner_are_a_union_in_any_grouping(rows, cuts, k):
    every = np.empty(len(rows), CANDIDATE)
    for place, (owner, value, content, text) in enumerate(rows):
        key = candidate_keys(np.array([owner]), np.array([value], np.float32))[0]
        every[place] = (key, content, text, 0)
    best = Best(CANDIDATE, 4, k, shift=32)
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for begin, end in itertools.pairwise(bounds):
        piece = every[begin:end]
        best.add(piece[best.wants(piece["key"])])
        best.cut()
    wanted = sorted(rows, key=lambda row: (row[0], -row[1], row[2], row[3]))
    first = [row for owner in range(4) for row in [one for one in wanted if one[0] == owner][:k]]
    kept = [
        (int(owner), int(row["content"]), int(row["text"])) for owner, row in zip(best.owner(), best.rows, strict=True)
    ]
    assert kept == [(owner, content, text) for owner, _, content, text in first]
    assert in_order(every).tolist() == [rows.index(row) for row in wanted]


def test_a_table_of_peaks_counts_blocks_whatever_the_pieces():
    draw = np.random.default_rng(0)
    feature, token = draw.integers(0, 5, 200), draw.integers(0, 6, 200)
    peak = draw.random(200, dtype=np.float32)
    table = PeakTable()
    for piece in np.array_split(np.arange(200), 7):
        table.add(feature[piece], token[piece], peak[piece])
        table.settle()
    for row in table.settle():
        own = peak[(feature == int(row["key"]) >> 32) & (token == int(row["key"]) & 0xFFFFFFFF)]
        assert (row["blocks"], row["least"], row["most"]) == (len(own), own.min(), own.max())
