"""Look-ups in an index of twelve SAEs of 32,768 latents: the right feature's facts, and what a look-up costs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from saeserve_server.records import layout
from saeserve_server.records.layout import source_file
from saeserve_server.records.made_of import Cut, Keeping, MadeOf
from saeserve_server.records.store import RecordStore
from saeserve_server.records.writer import StoreWriter

SOURCES, FEATURES, RECORDS, TEXTS = 12, 32_768, 16, 1000


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[RecordStore]:
    """Feature f of source s has maximum s + f / FEATURES, fires f + 1 times, and has records that peak on token f and
    that next to it in turn, in windows in which it is s throughout."""
    path: Path = tmp_path_factory.mktemp("large") / "index"
    features = np.arange(FEATURES)
    count = FEATURES * RECORDS
    records = np.zeros(count, layout.RECORD)
    records["text"] = np.repeat(features, RECORDS) % TEXTS
    records["position"] = 16 + np.arange(count) % 2
    top = np.zeros(FEATURES, layout.TOP_TOKEN)
    top["id"], top["count"] = features, RECORDS
    coarse = np.zeros(FEATURES, layout.COARSE)
    peaks = np.zeros(FEATURES, layout.PEAK_TOKEN)
    peaks["id"], peaks["blocks"], peaks["folded_blocks"] = features, RECORDS, RECORDS
    none, each = np.zeros(FEATURES + 1, np.int64), np.arange(FEATURES + 1)
    with StoreWriter(path) as writer:
        writer.write(f"{layout.TOKENS}.npy", np.arange(TEXTS * 33, dtype=np.uint32))
        writer.write(f"{layout.TEXT_OFFSETS}.npy", np.arange(TEXTS + 1) * 33)
        writer.write(f"{layout.SAMPLED}.npy", np.zeros(0))
        for rank in range(SOURCES):
            maxima = rank + features / FEATURES
            records["value"], top["maximum"] = np.repeat(maxima, RECORDS), maxima
            arrays = {
                "fires": features + 1,
                "blocks": np.full(FEATURES, RECORDS),
                "texts": np.ones(FEATURES),
                "means": np.full(FEATURES, 2.0),
                "maxima": maxima,
                "histogram_offsets": each,
                "histogram_bins": np.full(FEATURES, 1024),
                "histogram_counts": features + 1,
                "coarse_offsets": each,
                "coarse": coarse,
                "record_offsets": each * RECORDS,
                "records": records,
                "window_offsets": np.arange(count + 1) * 3,
                "window_places": np.tile(np.array([0, 15, 16]), count),
                "window_values": np.full(count * 3, rank, np.float32),
                "peak_offsets": each,
                "peaks": peaks,
                "top_offsets": each,
                "top_tokens": top,
                "active_keys": np.arange(TEXTS) << 32 | 16,
                "active_offsets": np.arange(TEXTS + 1) * 16,
                "active": np.arange(TEXTS * 16),
                "firing_offsets": np.zeros(1),
            }
            for name in layout.SOURCE_FILES:
                if name != "firing_bits":
                    empty = none if name.endswith("_offsets") else np.zeros(0, layout.SOURCE_FILES[name])
                    writer.write(source_file(f"{rank}-big", name), arrays.get(name, empty))
        sources = tuple((f"{rank}-big", "r", FEATURES) for rank in range(SOURCES))
        cut, keeping = Cut(128, 2048, 64), Keeping(records=RECORDS)
        writer.commit(MadeOf("big", "r", "cpu float32", cut, keeping, sources, {}), TEXTS, TEXTS * 33)
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
        first, second = store.records(source_id, index, 0, 2)
        assert first.text_index == second.text_index == index % TEXTS
        assert first.token_ids[0] == index % TEXTS * 33
        assert first.activations[[0, 15, 16]].tolist() == [rank] * 3
        assert first.active.tolist() == list(range(index % TEXTS * 16, index % TEXTS * 16 + 16))


def test_what_a_look_up_costs_is_printed(store):
    draw = np.random.default_rng(1)
    places = [(f"{draw.integers(SOURCES)}-big", int(draw.integers(FEATURES))) for _ in range(1000)]
    begin = time.perf_counter()
    RecordStore.open(store.path)
    print(f"\n{SOURCES * FEATURES} features, {store.bytes / 1e6:.0f} MB")
    print(f"open: {(time.perf_counter() - begin) * 1e3:.1f} ms")
    for name in ("statistics", "records", "usual_tokens"):
        print(f"{name}: {milliseconds(getattr(store, name), places)}")
