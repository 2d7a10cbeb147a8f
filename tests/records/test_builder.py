"""What an index says is what a plain computation over the same activations says."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from saeserve_server.errors import ConfigError
from saeserve_server.records.builder import Progress, Settings, build_index
from saeserve_server.records.building.hashing import place_hash
from saeserve_server.records.layout import read_manifest
from saeserve_server.records.made_of import Keeping
from saeserve_server.records.store import Record, RecordStore
from tests.records.reference import BOS as BOS_ID
from tests.records.reference import MODEL, Expected, ExpectedRecord, FakeReader, expected, tokenise, with_context

LETTERS = "abcdefgh"


KEEPING = Keeping(records=4, per_power=2, near_misses=3, positions=30)


def told(store: RecordStore, source_id: str, feature: int) -> Expected:
    statistics = store.statistics(source_id, feature)
    top, peaks = statistics.top_tokens, store.peak_counts(source_id, feature)
    offsets, hashes = store.sketch(source_id)
    assert statistics.density == statistics.fires / store.tokens
    return Expected(
        tokens=statistics.tokens,
        fires=statistics.fires,
        blocks=statistics.blocks,
        texts=statistics.texts,
        mean=statistics.mean,
        maximum=statistics.maximum,
        histogram=dict(
            zip(map(tuple, statistics.histogram_edges.tolist()), statistics.histogram_counts.tolist(), strict=True)
        ),
        top_tokens=list(zip(top.ids.tolist(), top.counts.tolist(), top.maxima.tolist(), strict=True)),
        peak_counts=dict(
            zip(
                peaks.ids.tolist(),
                zip(*(getattr(peaks, name).tolist() for name in PEAK_FIELDS), strict=True),
                strict=True,
            )
        ),
        records=[record_of(record) for record in store.records(source_id, feature, 0, 1000)],
        sample=[record_of(record) for record in store.sample(source_id, feature)],
        near_misses=[record_of(record) for record in store.near_misses(source_id, feature)],
        sketch=[key >> 16 for key in hashes[offsets[feature] : offsets[feature + 1]].tolist()],
    )


PEAK_FIELDS = ("blocks", "least", "most", "folded_blocks", "folded_least", "folded_most")


def record_of(record: Record) -> ExpectedRecord:
    return ExpectedRecord(
        token_ids=record.token_ids.tolist(),
        activations=record.activations.tolist(),
        max_activation=record.max_activation,
        max_position=record.max_position,
        text_index=record.text_index,
        text_position=record.text_position,
        active=record.active.tolist(),
        weight=record.weight,
    )


def fold(token: int) -> int:
    """As if `d` were a large `c`."""
    return 2 if token == 3 else token


def piece(token: int) -> bytes:
    return b" C" if token == 3 else bytes([ord("a") + token])


def rounded(one: Expected) -> Expected:
    """Of a sketch 16 bits are left out, in which its feature is; weights are float32."""
    sample = [replace(record, weight=float(np.float32(record.weight))) for record in one.sample]
    return replace(one, sketch=[key >> 16 for key in one.sketch], sample=sample)


def assert_tells(
    store: RecordStore, reader: FakeReader, texts: list[str], context: int, keeping: Keeping = KEEPING
) -> None:
    for rank, source in enumerate(reader.catalog.sources):
        features = range(source.n_features)
        wanted = [rounded(expected(reader, rank, one, texts, context, keeping, fold)) for one in features]
        assert [told(store, source.id, feature) for feature in features] == wanted
        assert store.fires(source.id).tolist() == [one.fires for one in wanted]
        assert store.maximum(source.id).tolist() == [one.maximum for one in wanted]
        assert store.density(source.id).tolist() == [one.fires / one.tokens for one in wanted]
    assert_tells_what_fires(store, reader, texts, context, keeping)


def assert_tells_what_fires(
    store: RecordStore, reader: FakeReader, texts: list[str], context: int, keeping: Keeping
) -> None:
    """On the positions of smallest hash, of every source."""
    places = [(text, at) for text, ids in enumerate(tokenise(texts)) for at, token in enumerate(ids) if token != BOS_ID]
    if reader.catalog.model.bos_id is None:
        places = [(text, at) for text, ids in enumerate(tokenise(texts)) for at in range(len(ids))]
    key = place_hash(*(np.array(one) for one in zip(*places, strict=True)))
    chosen = [places[place] for place in np.argsort(key)[: keeping.positions]]
    assert [divmod(int(one), 2**32) for one in store.sampled] == chosen
    ids = tokenise(texts)
    for rank, source in enumerate(reader.catalog.sources):
        rows = store.sampled_rows(source.id)
        for place, (text, at) in enumerate(chosen):
            fires = [
                one for one in range(source.n_features) if reader.value(rank, ids[text][at], at % context, one) > 0
            ]
            assert rows.indices[rows.indptr[place] : rows.indptr[place + 1]].tolist() == fires


@settings(max_examples=25)
@given(
    texts=st.lists(st.text(LETTERS, max_size=40), min_size=1, max_size=10).filter(
        lambda texts: any(text.strip("a") for text in texts)
    ),
    context=st.integers(1, 11),
    records=st.integers(1, 4),
    batch_tokens=st.integers(1, 60),
    batch_blocks=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_index_equals_the_plain_computation(texts, context, records, batch_tokens, batch_blocks, seed):
    reader, keeping = FakeReader(seed=seed), replace(KEEPING, records=records)
    with tempfile.TemporaryDirectory() as folder:
        store = build_index(
            reader,
            tokenise,
            texts,
            Path(folder, "index"),
            piece=piece,
            settings=Settings(context, keeping, batch_tokens, batch_blocks),
        )
        assert_tells(store, reader, texts, context, keeping)


def test_long_blocks_are_trimmed_to_windows(tmp_path):
    reader = FakeReader(n_features=8, model=with_context(200))
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list(LETTERS), size)) for size in generator.integers(0, 400, 40)]
    keeping = Keeping(records=25, positions=100)
    settings = Settings(keeping=keeping, batch_tokens=300)
    store = build_index(reader, tokenise, texts, tmp_path / "index", piece=piece, settings=settings)
    assert store.context == 128
    assert_tells(store, reader, texts, 128, keeping)
    lengths = {len(record.token_ids) for record in store.records("0-fake", 1, 0, 100)}
    assert max(lengths) == 33
    assert min(lengths) < 33


def test_default_context_is_what_the_model_holds_beside_its_bos(tmp_path):
    assert build_index(FakeReader(), tokenise, ["bcd"], tmp_path / "index").context == MODEL.context_tokens - 1


def test_a_model_without_bos_counts_every_token(tmp_path):
    reader = FakeReader(model=replace(MODEL, bos_id=None))
    settings = Settings(keeping=KEEPING)
    store = build_index(reader, tokenise, ["abca", "aab"], tmp_path / "index", piece=piece, settings=settings)
    assert store.context == MODEL.context_tokens
    assert store.tokens == 7
    assert_tells(store, reader, ["abca", "aab"], store.context)


def test_index_does_not_depend_on_batches_even_where_values_tie(tmp_path):
    reader = FakeReader(steps=1)
    generator = np.random.default_rng(1)
    texts = ["".join(generator.choice(list(LETTERS), 30)) for _ in range(60)]
    files = {
        json.dumps(
            {
                name: entry.sha256
                for name, entry in read_manifest(
                    build_index(
                        reader,
                        tokenise,
                        texts,
                        tmp_path / "index",
                        batch_tokens=tokens,
                        batch_blocks=blocks,
                        records_per_feature=7,
                    ).path
                ).files.items()
            }
        )
        for tokens, blocks in [(1, 1), (25, 3), (100, 64), (10_000, 1000)]
    }
    assert len(files) == 1


def test_work_cut_into_pieces_gives_the_same_index(tmp_path, monkeypatch):
    texts = ["bcdefgh" * 5, "hgfedcb" * 5, "bbbb"]
    whole = build_index(FakeReader(), tokenise, texts, tmp_path / "whole")
    monkeypatch.setattr("saeserve_server.records.building.fold._ENTRIES", 70)
    assert build_index(FakeReader(), tokenise, texts, tmp_path / "pieces").content == whole.content


def test_magnitudes_outside_the_histogram_count_in_its_end_bins(tmp_path):
    class Extremes(FakeReader):
        def value(self, rank: int, token: int, place: int, feature: int) -> float:
            return [1e-30, 2.0**-20, 1.0, 2.0**20 - 1, 2.0**20, 1e30][place % 6]

    store = build_index(Extremes(), tokenise, ["bcdefg"], tmp_path / "index")
    statistics = store.statistics("0-fake", 1)
    edges, counts = statistics.histogram_edges, statistics.histogram_counts
    assert edges.tolist() == [[0, 2**-20 * 9 / 8], [1, 9 / 8], [2**19 * 15 / 8, 2**20], [2**20, 2**20 * 9 / 8], LAST]
    assert counts.tolist() == [2, 1, 1, 1, 1]
    total = sum(Fraction(float(np.float32(Extremes().value(0, 0, place, 1)))) for place in range(6))
    assert statistics.mean == float(total / 6)


LAST = [2**20 * 15 / 8, np.inf]


def test_quantiles_are_known_within_a_bin(tmp_path):
    class Spread(FakeReader):
        def value(self, rank: int, token: int, place: int, feature: int) -> float:
            return float(np.float32((token * 7919 + place * 104729 + feature * 31) % 1009 / 37 + 0.01))

    texts = ["bcdefgh" * 9, "hgfedcb" * 4, "efgefgh"]
    store = build_index(Spread(), tokenise, texts, tmp_path / "index", context=7)
    values = [Spread().value(0, token, at % 7, 1) for ids in tokenise(texts) for at, token in enumerate(ids)]
    statistics = store.statistics("0-fake", 1)
    reached = np.cumsum(statistics.histogram_counts) / statistics.fires
    for share in np.linspace(0.001, 1, 97):
        lower, upper = statistics.histogram_edges[np.searchsorted(reached, share - 1e-12)]
        assert lower <= np.quantile(values, share, method="inverted_cdf") < upper


def test_progress_is_told_after_each_batch(tmp_path):
    seen: list[Progress] = []
    build_index(FakeReader(), tokenise, ["bcd"] * 5, tmp_path / "index", batch_blocks=2, progress=seen.append)
    first = [one for one in seen if one.second_pass is None]
    assert [one.blocks for one in first] == [2, 4, 5]
    assert first[-1] == Progress(texts=5, blocks=5, tokens=15)
    assert [one.second_pass for one in seen[3:]] == [1 / 3, 2 / 3, 1]


def test_an_older_index_is_replaced_and_stays_readable_where_it_is_open(tmp_path):
    old = build_index(FakeReader(), tokenise, ["bcd"], tmp_path / "index")
    new = build_index(FakeReader(), tokenise, ["efgh"], tmp_path / "index")
    assert RecordStore.open(tmp_path / "index").revision == new.revision != old.revision
    assert old.records("1", 1)[0].token_ids.tolist() == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_anything_else_in_its_place_is_refused_before_any_work(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("notes", "file"):
        with pytest.raises(ConfigError, match=f"{name}: exists and is not an index"):
            build_index(FakeReader(), tokenise, never(), tmp_path / name)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "notes"]


def test_an_empty_folder_in_its_place_is_fine(tmp_path):
    (tmp_path / "index").mkdir()
    assert build_index(FakeReader(), tokenise, ["bcd"], tmp_path / "index").tokens == 3


def never() -> Iterator[str]:
    raise AssertionError("read")
    yield


def breaks_off() -> Iterator[str]:
    yield from ["bcdef"] * 300
    raise KeyboardInterrupt


@pytest.mark.parametrize("before", [None, "bcd"])
def test_an_interrupted_build_leaves_what_was_there(tmp_path, before):
    if before:
        revision = build_index(FakeReader(), tokenise, [before], tmp_path / "index").revision
    with pytest.raises(KeyboardInterrupt):
        build_index(FakeReader(), tokenise, breaks_off(), tmp_path / "index", batch_blocks=1)
    if before:
        assert RecordStore.open(tmp_path / "index", verify=True).revision == revision
    assert [path.name for path in tmp_path.iterdir()] == (["index"] if before else [])


def test_a_failing_swap_puts_the_old_index_back(tmp_path, monkeypatch):
    revision = build_index(FakeReader(), tokenise, ["bcd"], tmp_path / "index").revision
    rename = Path.rename

    def fails_for_the_new_one(path, target):
        if "building" in path.name:
            raise OSError(5, "the disk is gone")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(ConfigError, match="index: the disk is gone"):
        build_index(FakeReader(), tokenise, ["efg"], tmp_path / "index")
    assert RecordStore.open(tmp_path / "index", verify=True).revision == revision
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_builds_that_end_at_the_same_place_at_once_leave_one_whole_index(tmp_path):
    letters = "bcdefgh"
    with ThreadPoolExecutor(len(letters)) as pool:
        builds = [pool.submit(build_index, FakeReader(), tokenise, [letter], tmp_path / "index") for letter in letters]
    assert all(build.result().revision for build in builds)
    assert RecordStore.open(tmp_path / "index", verify=True).tokens == 1
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("texts", [[], [""], ["", "aa"]])
def test_texts_without_a_token_are_refused(tmp_path, texts):
    with pytest.raises(ConfigError, match="no token"):
        build_index(FakeReader(), tokenise, texts, tmp_path / "index")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 0}, "context: expected 1 to 11"),
        ({"context": 12}, "context: expected 1 to 11"),
        ({"records_per_feature": 0}, "records_per_feature: expected 1 to 1000"),
        ({"records_per_feature": 1001}, "records_per_feature: expected 1 to 1000"),
        ({"batch_blocks": 0}, "batch_blocks"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        build_index(FakeReader(), tokenise, never(), tmp_path / "index", **settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_activation_that_is_not_finite_is_refused(tmp_path, value):
    class Broken(FakeReader):
        def value(self, rank: int, token: int, place: int, feature: int) -> float:
            return value if (rank, place, feature) == (1, 2, 3) else 1.0

    with pytest.raises(ConfigError, match="source 1: an activation is not finite"):
        build_index(Broken(), tokenise, ["bcdef"], tmp_path / "index")
    assert not list(tmp_path.iterdir())


def test_a_latent_that_is_not_finite_is_refused(tmp_path):
    class Broken(FakeReader):
        def value(self, rank: int, token: int, place: int, feature: int) -> float:
            return float("inf") if (rank, place, feature) == (0, 2, 3) else 1.0

    with pytest.raises(ConfigError, match="source 0-fake: an activation is not finite"):
        build_index(Broken(), tokenise, ["bcdef"], tmp_path / "index")
    assert not list(tmp_path.iterdir())


def test_latents_that_the_reader_finds_to_be_nan_are_refused(tmp_path):
    class Broken(FakeReader):
        def encode_blocks(self, blocks):
            yield from itertools.islice(super().encode_blocks(blocks), 1)
            raise FloatingPointError("the activations hold NaN")

    with pytest.raises(ConfigError, match="the activations hold NaN: the weights of a source do not suit this model"):
        build_index(Broken(), tokenise, ["bcdef"], tmp_path / "index")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [np.zeros((4, 5), np.float32), np.zeros((5, 4), np.float32), np.zeros((5, 5))])
def test_rows_of_another_shape_or_type_are_found_at_once(tmp_path, rows):
    reader = FakeReader()
    reader.encode_blocks = lambda blocks: iter([(0, rows)])
    with pytest.raises(ValueError, match="source 0-fake: rows of float"):
        build_index(reader, tokenise, ["bcdef"], tmp_path / "index")


def test_a_text_with_a_token_beyond_the_embedding_is_refused_before_it_is_read(tmp_path):
    vocabulary = {letter: place for place, letter in enumerate("abcdefgh")}
    words = Tokenizer(WordLevel(vocabulary, unk_token="a")).to_str()
    reader = FakeReader(model=replace(MODEL, vocabulary=6, tokenizer_json=words))
    reader.encode_blocks = lambda blocks: pytest.fail("it was run")
    with pytest.raises(ConfigError, match=r"text 2 \(of all.*holds the token 'g' \(id 6\).*ids 0 to 5 only"):
        build_index(reader, tokenise, ["bcdef", "bgh", "b"], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_reader_that_leaves_a_source_out_is_found_at_once(tmp_path):
    class Lazy(FakeReader):
        def encode_blocks(self, blocks):
            yield from itertools.islice(super().encode_blocks(blocks), 1)

    with pytest.raises(ValueError, match="no activations of sources"):
        build_index(Lazy(), tokenise, ["bcdef"], tmp_path / "index")


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_rows_may_be_sparse_or_dense_in_any_memory_order(tmp_path, layout):
    class Dense(FakeReader):
        def encode_blocks(self, blocks):
            yield from ((rank, layout(self.dense(rank, blocks))) for rank in range(2))

    texts = ["bcdefgh" * 3, "hgab", "abacad" * 9]
    sparse = build_index(FakeReader(), tokenise, texts, tmp_path / "sparse")
    assert build_index(Dense(), tokenise, texts, tmp_path / "dense").content == sparse.content


class Shaken(FakeReader):
    """Another machine: what fires moves in the last bits."""

    def value(self, rank: int, token: int, place: int, feature: int) -> float:
        return super().value(rank, token, place, feature) * (1 + 1e-6)


def test_builds_of_the_same_have_one_revision_whatever_the_last_bits(tmp_path):
    texts = ["bcdefgh", "hgfedcb"]
    one = build_index(FakeReader(), tokenise, texts, tmp_path / "one")
    other = build_index(Shaken(), tokenise, texts, tmp_path / "other", batch_blocks=1)
    assert one.revision == other.revision
    assert one.content != other.content


def test_the_revision_is_of_all_that_went_in(tmp_path):
    texts = ["bcdefgh", "hgfedcb"]
    on_gpu, in_half = (replace(MODEL, **change) for change in ({"device": "cuda:0"}, {"dtype": "bfloat16"}))
    built = {
        "as it is": (FakeReader(), texts, {}),
        "other texts": (FakeReader(), ["bcdefgh", "hgfedcc"], {}),
        "texts in another order": (FakeReader(), texts[::-1], {}),
        "texts cut elsewhere": (FakeReader(), ["bcdefghh", "gfedcb"], {}),
        "an empty text more": (FakeReader(), [*texts, ""], {}),
        "shorter blocks": (FakeReader(), texts, {"context": 3}),
        "fewer records": (FakeReader(), texts, {"records_per_feature": 3}),
        "another model": (FakeReader(model=replace(MODEL, revision="model-2")), texts, {}),
        "another kind of device": (FakeReader(model=on_gpu), texts, {}),
        "another type": (FakeReader(model=in_half), texts, {}),
        "wider sources": (FakeReader(n_features=6), texts, {}),
    }
    revisions = {
        name: build_index(reader, tokenise, given, tmp_path / "index", **settings).revision
        for name, (reader, given, settings) in built.items()
    }
    assert len(set(revisions.values())) == len(built), revisions


@pytest.mark.parametrize("change", [{"device": "cuda:1"}, {"name": "mine"}])
def test_the_device_s_number_and_the_model_s_name_are_no_part_of_the_revision(tmp_path, change):
    model = replace(MODEL, device="cuda:0")
    one, other = (
        build_index(FakeReader(model=one), tokenise, ["bcd"], tmp_path / "index").revision
        for one in (model, replace(model, **change))
    )
    assert one == other
