"""Look-ups in an index of twelve SAEs of 32,768 latents: the right feature's facts, and what a look-up costs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from saeserve_server.records import layout
from saeserve_server.records.layout import IndexedSource, source_file
from saeserve_server.records.store import RecordStore
from saeserve_server.records.writer import StoreWriter

SOURCES, FEATURES, RECORDS, TEXTS = 12, 32_768, 2, 1000


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[RecordStore]:
    """Feature f of source s has maximum s + f / FEATURES, fires f + 1 times, and peaks on token f."""
    path: Path = tmp_path_factory.mktemp("large") / "index"
    features = np.arange(FEATURES)
    records = np.zeros(FEATURES * RECORDS, layout.RECORD)
    records["text"] = np.repeat(features, RECORDS) % TEXTS
    records["length"], records["peak"] = 33, 16
    top = np.zeros(FEATURES, layout.TOP_TOKEN)
    top["id"], top["count"] = features, RECORDS
    histogram = np.zeros((FEATURES, layout.BINS), np.int64)
    histogram[:, 20] = features + 1
    with StoreWriter(path) as writer:
        writer.write(layout.TOKENS, np.arange(TEXTS * 33, dtype=np.uint32))
        writer.write(layout.TEXT_OFFSETS, np.arange(TEXTS + 1) * 33)
        for rank in range(SOURCES):
            maxima = rank + features / FEATURES
            records["maximum"], top["maximum"] = np.repeat(maxima, RECORDS), maxima
            arrays = {
                "fires": features + 1,
                "sums": 2.0 * (features + 1),
                "maxima": maxima,
                "histogram": histogram,
                "record_offsets": np.arange(FEATURES + 1) * RECORDS,
                "records": records,
                "windows": np.full((len(records), layout.SPAN), rank, np.float32),
                "top_offsets": np.arange(FEATURES + 1),
                "top_tokens": top,
            }
            for name, array in arrays.items():
                writer.write(source_file(f"{rank}-big", name), array)
        writer.commit(
            model_name="big",
            model_revision="r",
            context=128,
            records_per_feature=RECORDS,
            kernel="cpu float32",
            texts=TEXTS,
            tokens=TEXTS * 33,
            sources=tuple(IndexedSource(f"{rank}-big", "r", FEATURES) for rank in range(SOURCES)),
        )
    yield RecordStore.open(path)
    shutil.rmtree(path)


def milliseconds(read: Callable[[str, int], object], places: list[tuple[str, int]]) -> str:
    taken = []
    for source_id, index in places:
        begin = time.perf_counter()
        read(source_id, index)
        taken.append((time.perf_counter() - begin) * 1e3)
    return f"median {np.median(taken):.4f}, 99% {np.quantile(taken, 0.99):.4f}, most {max(taken):.4f} ms"


def test_every_look_up_finds_its_feature(store):
    draw = np.random.default_rng(0)
    for rank, index in zip(draw.integers(0, SOURCES, 200), draw.integers(0, FEATURES, 200), strict=True):
        source_id, index = f"{rank}-big", int(index)
        statistics = store.statistics(source_id, index)
        assert (statistics.fires, statistics.mean) == (index + 1, 2.0)
        assert statistics.maximum == np.float32(rank + index / FEATURES)
        assert store.usual_tokens(source_id, index).ids.tolist() == [index]
        first, second = store.records(source_id, index)
        assert first.text_index == second.text_index == index % TEXTS
        assert first.token_ids[0] == index % TEXTS * 33
        assert set(first.activations.tolist()) == {rank}


def test_what_a_look_up_costs_is_printed(store):
    draw = np.random.default_rng(1)
    places = [(f"{draw.integers(SOURCES)}-big", int(draw.integers(FEATURES))) for _ in range(1000)]
    begin = time.perf_counter()
    RecordStore.open(store.path)
    print(f"\n{SOURCES * FEATURES} features, {store.bytes / 1e6:.0f} MB")
    print(f"open: {(time.perf_counter() - begin) * 1e3:.1f} ms")
    for name in ("statistics", "records", "usual_tokens"):
        print(f"{name}: {milliseconds(getattr(store, name), places)}")
