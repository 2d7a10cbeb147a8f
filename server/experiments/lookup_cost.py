"""What a look-up with diversity costs beside 393,216 features: 12 sources of 32,768, 64 records each.

    python server/experiments/lookup_cost.py FOLDER [--lookups 200]

Writes the arrays of an index of that size into FOLDER (4.6 GB, kept for a second run), of random records over random
texts of 600 tokens, drawn as words are. Then pages of 10, 20 and 100 records of random features are answered as
TopActivations does, messages included: with cold files (the system is told to forget them) and again warm.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve.v1 import types_pb2 as types
from saeserve_server.api.records import Asked, page_of_index
from saeserve_server.records import layout
from saeserve_server.records.diversity import BY_OVERLAP, DEFAULT_THRESHOLD, Level
from saeserve_server.records.groups import Group
from saeserve_server.records.layout import FileEntry, Manifest
from saeserve_server.records.made_of import Cut, Keeping, MadeOf
from saeserve_server.records.store import RecordStore
from saeserve_server.text.tokenizer import Tokenizer

SOURCES: Final = 12
FEATURES: Final = 32_768
RECORDS: Final = 64
SAMPLES: Final = 24
TEXTS: Final = 20_000
TEXT_TOKENS: Final = 600
ENTRIES: Final = 5
ACTIVE: Final = 16
CONTEXT: Final = 128
VOCABULARY: Final = 8192
TOKENIZER: Final = Path(__file__).parent.parent / "saeserve_server/models/demo/model/tokenizer.json"

Array = npt.NDArray[Any]


def write(folder: Path) -> None:
    """The files of the index; those that are there are kept."""
    draw = np.random.default_rng(0)
    if not (folder / "tokens.npy").exists():
        tokens = np.minimum(draw.zipf(1.2, TEXTS * TEXT_TOKENS), VOCABULARY - 1).astype("<u4")
        _save(folder, "text_offsets", np.arange(TEXTS + 1, dtype="<i8") * TEXT_TOKENS)
        _save(folder, "sampled", np.zeros(0, "<u8"))
        _save(folder, "tokens", tokens)
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    for place in range(SOURCES):
        if not (folder / source_id(place) / "active.npy").exists():
            (folder / source_id(place)).mkdir(exist_ok=True)
            for name, array in source(draw, tokens).items():
                _save(folder / source_id(place), name, array)


def source_id(place: int) -> str:
    """The id of a source."""
    return f"{place}-random"


def source(draw: np.random.Generator, tokens: Array) -> dict[str, Array]:
    """The arrays of one source, `active` last."""
    n = FEATURES
    top = _records(draw, n * RECORDS, RECORDS)
    samples = _records(draw, n * SAMPLES, SAMPLES)
    near = np.zeros(0, layout.RECORD)
    windows = len(top) + len(samples)
    peaks = np.zeros(len(top), layout.PEAK_TOKEN)
    peaks["id"] = tokens[top["text"].astype(np.int64) * TEXT_TOKENS + top["position"]]
    for name in ("blocks", "folded_blocks"):
        peaks[name] = 3
    for name in ("least", "most", "folded_least", "folded_most"):
        peaks[name] = top["value"]
    keys = np.unique(np.concatenate([_key(top), _key(samples)]))
    active = np.sort(draw.integers(0, n, (len(keys), ACTIVE), dtype="<u4") % 64)
    return {
        "fires": np.full(n, 5000, "<i8"),
        "blocks": np.full(n, 3000, "<i8"),
        "texts": np.full(n, 2000, "<i8"),
        "means": np.full(n, 1.0, "<f8"),
        "maxima": top["value"][::RECORDS].copy(),
        "histogram_offsets": np.arange(n + 1, dtype="<i8"),
        "histogram_bins": np.full(n, 1016, "<u2"),
        "histogram_counts": np.full(n, 5000, "<u8"),
        "record_offsets": np.arange(n + 1, dtype="<i8") * RECORDS,
        "records": top,
        "sample_offsets": np.arange(n + 1, dtype="<i8") * SAMPLES,
        "samples": samples,
        "sample_weights": np.full(len(samples), 125.0, "<f4"),
        "near_offsets": np.zeros(n + 1, "<i8"),
        "near": near,
        "window_offsets": np.arange(windows + 1, dtype="<i8") * ENTRIES,
        "window_places": draw.integers(0, 17, windows * ENTRIES, dtype="u1"),
        "window_values": draw.random(windows * ENTRIES, dtype="<f4") + np.float32(0.1),
        "peak_offsets": np.arange(n + 1, dtype="<i8") * RECORDS,
        "peaks": peaks,
        "top_offsets": np.arange(n + 1, dtype="<i8"),
        "top_tokens": np.zeros(n, layout.TOP_TOKEN),
        "active_keys": keys,
        "active_offsets": np.arange(len(keys) + 1, dtype="<i8") * ACTIVE,
        "active": active.reshape(-1),
    }


def _records(draw: np.random.Generator, count: int, each: int) -> Array:
    records = np.zeros(count, layout.RECORD)
    records["text"] = draw.integers(0, TEXTS, count)
    records["position"] = draw.integers(0, TEXT_TOKENS, count)
    records["value"] = -np.sort(-draw.random((count // each, each), dtype=np.float32) - 1, axis=1).reshape(-1)
    return records


def _key(records: Array) -> Array:
    keys: Array = records["text"].astype("<u8") << np.uint64(32) | records["position"]
    return keys


def _save(folder: Path, name: str, array: Array) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", array)


def opened(folder: Path) -> RecordStore:
    """The index, its files mapped."""
    sources = tuple((source_id(place), "random", FEATURES) for place in range(SOURCES))
    made_of = MadeOf("random", "random", "cpu", Cut(CONTEXT, 1, 1), Keeping(records=RECORDS), sources, {})
    paths = [*folder.glob("*.npy"), *folder.glob("*/*.npy")]
    files = {path.relative_to(folder).as_posix(): np.load(path, mmap_mode="r").view(np.ndarray) for path in paths}
    entries = {name: FileEntry(array.shape, "") for name, array in files.items()}
    return RecordStore(folder, Manifest(made_of, TEXTS, TEXTS * TEXT_TOKENS, entries), files)


def forget(folder: Path) -> None:
    """Tell the system that the files will not be read again soon."""
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Prints the table, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lookups", type=int, default=200, help="of each level and size of page")
    arguments = parser.parse_args()
    write(arguments.folder)
    tokenizer = Tokenizer(TOKENIZER.read_text(), 0)
    serving: Any = SimpleNamespace(tokenizer=tokenizer)
    draw, count = np.random.default_rng(1), arguments.lookups
    print("| look-up | page | cold, median | warm, median | warm, 99% | warm, of a core |")
    print("|---|---:|---:|---:|---:|---:|")
    asked = [Asked(Group.TOP, level, DEFAULT_THRESHOLD if level in BY_OVERLAP else 0.0, _INDEX) for level in Level]
    asked.append(Asked(Group.QUANTILES, Level.NONE, 0.0, _INDEX))
    for one in asked:
        for size in (10, 20, 100):
            features = [
                (source_id(place), int(index)) for place, index in draw.integers(0, (SOURCES, FEATURES), (count, 2))
            ]
            forget(arguments.folder)
            store = opened(arguments.folder)
            cold, warm = ([_timed(serving, store, feature, one, size) for feature in features] for _ in range(2))
            name = one.level.value if one.group is Group.TOP else one.group.value
            told = [
                *np.median(cold, 0)[:1],
                *np.median(warm, 0)[:1],
                *np.quantile(warm, 0.99, 0)[:1],
                *np.median(warm, 0)[1:],
            ]
            print(
                f"| {name} | {size} | " + " | ".join(f"{1e3 * seconds:.1f} ms" for seconds in told) + " |", flush=True
            )


_INDEX: Final = types.RECORD_ORIGIN_INDEX


def _timed(serving: Any, store: RecordStore, feature: tuple[str, int], asked: Asked, size: int) -> tuple[float, float]:
    """Seconds, and seconds of a core: other programs may have had it meanwhile."""
    began, busy = time.perf_counter(), time.thread_time()
    page_of_index(serving, store, *feature, asked, 0, size)
    return time.perf_counter() - began, time.thread_time() - busy


if __name__ == "__main__":
    main()
