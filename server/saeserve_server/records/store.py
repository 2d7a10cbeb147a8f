"""Reads an index of top activations: memory-mapped, so that opening costs milliseconds and a look-up a few pages."""

from __future__ import annotations

import hashlib
import math
import mmap
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import Catalog, FloatArray
from saeserve_server.records import layout
from saeserve_server.records.bins import edges
from saeserve_server.records.layout import IndexedSource, Manifest, StoreError
from saeserve_server.records.mapping import map_file
from saeserve_server.records.surprisal import Surprisal
from saeserve_server.rows import Csr

__all__ = ["FeatureStatistics", "IndexedSource", "PeakTokens", "Record", "RecordStore", "StoreError"]

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.uint32]

USUAL_TOKENS: Final = 5
"""How many of a feature's top tokens a search shows and matches against."""

_HASH_BYTES: Final = 1 << 20

_READ_AHEAD: Final = frozenset(["fires", "maxima", "record_offsets", "top_offsets", "text_offsets"])
"""Files that every search or look-up reads. Of the others a look-up reads a few pages: the system must not read ahead
of those (it made first look-ups cost 30 ms instead of 2)."""

_ATTEMPTS: Final = 10
"""An index may be replaced while it is opened: then what was opened is of two indexes, and opening begins anew."""
_GAP_SECONDS: Final = 0.05
"""Far longer than the moment between two renames in which a replaced index is not there."""


@dataclass(frozen=True, slots=True, eq=False)
class PeakTokens:
    """Tokens on which a feature peaks in its records: by count, then by maximum, then by id."""

    ids: IdArray
    counts: IdArray
    """In how many of the kept records the feature peaks on each."""
    maxima: FloatArray
    """The largest of those peaks."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureStatistics:
    """What the index knows of one feature. Positions whose id is BOS count nowhere."""

    tokens: int
    """Tokens over which the index was built."""
    fires: int
    """Those on which the feature fires (activation > 0)."""
    density: float
    """`fires / tokens`."""
    mean: float
    """Mean activation over the tokens on which it fires; 0 if it never does."""
    maximum: float
    """Largest activation; 0 if it never fires."""
    histogram_edges: DoubleArray
    """[bins, 2] lower and upper edge of the bins that hold any: an eighth of a power of two each, see bins.py."""
    histogram_counts: IntArray
    """[bins] tokens with lower edge ≤ activation < upper edge."""
    top_tokens: PeakTokens
    """At most 20."""
    blocks: int
    """Blocks in which it fires."""
    texts: int
    """Texts in which it fires."""


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A stretch of indexed text on which a feature fires strongly."""

    token_ids: IdArray
    """[length] at most 16 tokens before the peak, the peak, at most 16 after, within the block that was run."""
    activations: FloatArray
    """[length] the feature's activations, as the model gave them (at a BOS id inside a text too)."""
    max_activation: float
    """The largest activation of the block, BOS ids left out."""
    max_position: int
    """Which token of the window has it; the earliest if several of the block have."""
    text_index: int
    text_position: int
    """Where the window begins in the text, in tokens."""
    id_before: int | None
    """The text's token before the window; None where the window begins the text."""
    active: IdArray = field(default_factory=lambda: np.zeros(0, np.uint32))
    """The latents of the same source that fire most at the peak, the strongest first; at most 16. None of neurons."""
    weight: float = 1.0
    """Of a sample: for how many blocks it stands."""


@dataclass(frozen=True, slots=True, eq=False)
class PeakCounts:
    """Over all blocks of the index, on which tokens a feature peaks: those of its records, and at most 20 more."""

    ids: IdArray
    blocks: IntArray
    """Blocks with their peak on each."""
    least: FloatArray
    """The smallest of those peaks."""
    most: FloatArray
    folded_blocks: IntArray
    """Blocks with their peak on any token that is the same but for case and the space around it."""
    folded_least: FloatArray
    folded_most: FloatArray


class RecordStore:
    """An open index. Immutable and safe to read from many threads; a rebuilt index is a new folder, opened anew."""

    def __init__(self, path: Path, manifest: Manifest, files: Mapping[str, npt.NDArray[Any]]) -> None:
        self.path = path
        self.revision = manifest.revision[:32]
        """Digest of what it was made of: alike for all builds of the same."""
        self.content = manifest.digest[:32]
        """Digest of every byte: of this very build."""
        self.made_of = manifest.made_of
        self.model_name = manifest.made_of.model
        self.model_revision = manifest.made_of.model_revision
        self.context = manifest.made_of.cut.context
        """Tokens of each block that was run, BOS left out."""
        self.records_per_feature = manifest.made_of.keeping.records
        self.texts = manifest.texts
        self.tokens = manifest.tokens
        self.sources = manifest.sources
        self.bytes = sum(file.nbytes for file in files.values())
        """Size of the index's arrays."""
        self._manifest = manifest
        self._tokens: IdArray = files[f"{layout.TOKENS}.npy"]
        self._text_offsets: IntArray = files[f"{layout.TEXT_OFFSETS}.npy"]
        self.sampled: npt.NDArray[np.uint64] = files[f"{layout.SAMPLED}.npy"]
        """Sampled positions of the corpus: text · 2^32 + position."""
        self._densities: dict[str, DoubleArray] = {}
        self._surprisals: dict[str, Surprisal] = {}
        self._arrays = {
            source.id: {
                name: files[file]
                for name in layout.SOURCE_FILES
                if (file := layout.source_file(source.id, name)) in files
            }
            for source in manifest.sources
        }

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = False) -> RecordStore:
        """Open the index in folder `path`, which is checked for completeness; `verify` also reads it all (`verify()`).

        Raises StoreError, naming the file, for what is not an index, of another format, incomplete or corrupted.
        """
        folder = Path(path)
        for _ in range(_ATTEMPTS):
            place = _place(folder)
            try:
                store = cls._open(folder)
            except StoreError:
                if _place(folder) is None:
                    time.sleep(_GAP_SECONDS)
                if _place(folder) == place:
                    raise
            else:
                if _place(folder) == place:
                    break
        else:
            raise StoreError(f"{folder}: was replaced again and again while it was being opened")
        if verify:
            store.verify()
        return store

    @classmethod
    def _open(cls, folder: Path) -> RecordStore:
        manifest = layout.read_manifest(folder)
        files = {
            name: _map(folder / name, layout.dtype_of(name), entry.shape) for name, entry in manifest.files.items()
        }
        return cls(folder, manifest, files)

    def verify(self) -> None:
        """Read every file and compare it with its SHA-256. Raises StoreError naming those that differ."""
        damaged = []
        for name, entry in self._manifest.files.items():
            digest = hashlib.sha256()
            with (self.path / name).open("rb") as file:
                while block := file.read(_HASH_BYTES):
                    digest.update(block)
            if digest.hexdigest() != entry.sha256:
                damaged.append(name)
        if damaged:
            raise StoreError(
                f"{self.path}: corrupted: {', '.join(damaged)}: not what was written; build the index again"
            )

    def check(self, catalog: Catalog) -> None:
        """Raise StoreError if the index was built with another model or other weights of a source that is served.

        A source that the index does not cover is fine, and so is one in the index that is not served.
        """
        if self.model_revision != catalog.model.revision:
            raise StoreError(
                f"{self.path}: built with model {self.model_name} of revision {self.model_revision}, but "
                f"{catalog.model.name} of revision {catalog.model.revision} is served: build the index again"
            )
        served = {source.id: source for source in catalog.sources}
        other = [
            f"{source.id} (index {source.revision}, served {served[source.id].revision})"
            for source in self.sources
            if source.id in served
            and (source.revision, source.n_features) != (served[source.id].revision, served[source.id].n_features)
        ]
        if other:
            raise StoreError(
                f"{self.path}: built with other weights or options of {', '.join(other)}: build the index again"
            )

    @property
    def kernels(self) -> dict[str, str]:
        """With which kernel each source was computed, by id."""
        prefix = "kernel of "
        computed = self.made_of.computed
        return {key.removeprefix(prefix): name for key, name in computed.items() if key.startswith(prefix)}

    def covers(self, source_id: str) -> bool:
        """Whether the index knows the source; the methods below raise KeyError for one that it does not know."""
        return source_id in self._arrays

    def fires(self, source_id: str) -> IntArray:
        """[n_features] tokens on which each feature fires."""
        return self._arrays[source_id]["fires"]

    def maximum(self, source_id: str) -> FloatArray:
        """[n_features] largest activation of each feature; 0 where it never fires."""
        return self._arrays[source_id]["maxima"]

    def density(self, source_id: str) -> DoubleArray:
        """[n_features] share of tokens on which each feature fires; not to be written to."""
        if source_id not in self._densities:
            density: DoubleArray = self.fires(source_id) / np.float64(self.tokens)
            density.flags.writeable = False
            self._densities[source_id] = density
        return self._densities[source_id]

    def statistics(self, source_id: str, index: int) -> FeatureStatistics:
        """What is known of one feature. Raises IndexError for an index out of range."""
        arrays = self._feature(source_id, index)
        fires = int(arrays["fires"][index])
        begin, end = arrays["histogram_offsets"][index : index + 2].tolist()
        return FeatureStatistics(
            tokens=self.tokens,
            fires=fires,
            density=fires / self.tokens,
            mean=float(arrays["means"][index]),
            maximum=float(arrays["maxima"][index]),
            histogram_edges=edges(arrays["histogram_bins"][begin:end]),
            histogram_counts=arrays["histogram_counts"][begin:end].astype(np.int64),
            top_tokens=self.usual_tokens(source_id, index, layout.TOP_TOKENS),
            blocks=int(arrays["blocks"][index]),
            texts=int(arrays["texts"][index]),
        )

    def surprisal(self, source_id: str) -> Surprisal:
        """What activations of the source's features are worth in bits."""
        if source_id not in self._surprisals:
            arrays = self._arrays[source_id]
            parts = (arrays[f"histogram_{name}"] for name in ("offsets", "bins", "counts"))
            self._surprisals[source_id] = Surprisal(self.tokens, arrays["maxima"], *parts)
        return self._surprisals[source_id]

    def usual_tokens(self, source_id: str, index: int, k: int = USUAL_TOKENS) -> PeakTokens:
        """The first `k` of the feature's top tokens, of which there are at most 20."""
        arrays = self._feature(source_id, index)
        begin, end = arrays["top_offsets"][index : index + 2].tolist()
        top = arrays["top_tokens"][begin : min(end, begin + k)]
        return PeakTokens(ids=top["id"].copy(), counts=top["count"].copy(), maxima=top["maximum"].copy())

    def record_count(self, source_id: str, index: int) -> int:
        """How many records the feature has."""
        begin, end = self._feature(source_id, index)["record_offsets"][index : index + 2].tolist()
        return int(end - begin)

    def records(self, source_id: str, index: int, offset: int = 0, count: int = 10) -> list[Record]:
        """At most `count` records of the feature from the `offset`-th on: by maximum falling, then a hash of the
        block's content, then text and position."""
        begin, end = self._feature(source_id, index)["record_offsets"][index : index + 2].tolist()
        first = min(begin + max(offset, 0), end)
        return self._windows(source_id, index, "records", first, min(first + max(count, 0), end))

    def sample(self, source_id: str, index: int) -> list[Record]:
        """Of each power of two some of the blocks whose maximum lies in it, at random, the strongest first."""
        begin, end = self._feature(source_id, index)["sample_offsets"][index : index + 2].tolist()
        weights = self._arrays[source_id]["sample_weights"][begin:end].tolist()
        records = self._windows(source_id, index, "samples", begin, end)
        return [replace(record, weight=weight) for record, weight in zip(records, weights, strict=True)]

    def near_misses(self, source_id: str, index: int) -> list[Record]:
        """Occurrences of its usual tokens, at random, at which it does not fire: there is `max_position`."""
        begin, end = self._feature(source_id, index)["near_offsets"][index : index + 2].tolist()
        return self._windows(source_id, index, "near", begin, end)

    def peak_counts(self, source_id: str, index: int) -> PeakCounts:
        """On which tokens the feature peaks, over all blocks."""
        arrays = self._feature(source_id, index)
        begin, end = arrays["peak_offsets"][index : index + 2].tolist()
        rows = arrays["peaks"][begin:end]
        return PeakCounts(
            ids=rows["id"].copy(),
            blocks=rows["blocks"].astype(np.int64),
            least=rows["least"].copy(),
            most=rows["most"].copy(),
            folded_blocks=rows["folded_blocks"].astype(np.int64),
            folded_least=rows["folded_least"].copy(),
            folded_most=rows["folded_most"].copy(),
        )

    def text_ids(self, text: int) -> IdArray:
        """Token ids of an indexed text. Raises IndexError."""
        if not 0 <= text < self.texts:
            raise IndexError(f"the index has texts 0 to {self.texts - 1}, not {text}")
        return self._tokens[self._text_offsets[text] : self._text_offsets[text + 1]]

    def sketch(self, source_id: str) -> tuple[IntArray, npt.NDArray[np.uint64]]:
        """Of each feature the smallest hashes of the positions on which it fires, ascending, at most 128: where they
        begin [n_features + 1], and all of them."""
        arrays = self._arrays[source_id]
        return arrays["sketch_offsets"], arrays["sketch"]

    def sampled_rows(self, source_id: str) -> Csr:
        """What fires on the positions `sampled`, a row each; the data are ones. Exact."""
        arrays = self._arrays[source_id]
        columns = len(arrays["fires"])
        if "firing" in arrays:
            indptr, indices = arrays["firing_offsets"], arrays["firing"]
        else:
            bits = np.unpackbits(arrays["firing_bits"], axis=1, count=columns, bitorder="little")
            indptr = np.cumsum([0, *bits.sum(1, dtype=np.int64).tolist()])
            indices = np.nonzero(bits)[1].astype(np.uint32)
        return Csr(indptr, indices, np.ones(len(indices), np.float32), columns)

    def sampled_bits(self, source_id: str) -> npt.NDArray[np.uint8] | None:
        """The same as bits, [sampled, n_features / 8 rounded up], the lowest first, where it is kept so: of neurons."""
        return self._arrays[source_id].get("firing_bits")

    def record_blocks(self, source_id: str) -> tuple[IntArray, npt.NDArray[np.uint64]]:
        """In which blocks the records of each feature lie: where they begin [n_features + 1], and all of them, each as
        text · 2^32 + block of it."""
        arrays = self._arrays[source_id]
        records = arrays["records"]
        blocks = records["text"].astype(np.uint64) << np.uint64(32) | records["position"] // np.uint32(self.context)
        return arrays["record_offsets"], blocks

    def _windows(self, source_id: str, index: int, kind: str, begin: int, end: int) -> list[Record]:
        arrays = self._arrays[source_id]
        first = {"records": 0, "samples": len(arrays["records"])}.get(
            kind, len(arrays["records"]) + len(arrays["samples"])
        )
        bounds = arrays["window_offsets"][first + begin : first + end + 1].tolist()
        found = []
        for place, (text, position, value) in enumerate(arrays[kind][begin:end].tolist()):
            in_block = position % self.context
            text_begin, text_end = self._text_offsets[text : text + 2].tolist()
            start = position - min(in_block, layout.WINDOW)
            stop = min(position + layout.WINDOW + 1, position - in_block + self.context, text_end - text_begin)
            entries = slice(bounds[place], bounds[place + 1])
            activations = arrays["window_values"][entries].copy()
            if "window_places" in arrays:
                activations = np.zeros(stop - start, np.float32)
                activations[arrays["window_places"][entries]] = arrays["window_values"][entries]
            found.append(
                Record(
                    token_ids=self._tokens[text_begin + start : text_begin + stop].copy(),
                    activations=activations,
                    max_activation=value,
                    max_position=position - start,
                    text_index=text,
                    text_position=start,
                    id_before=int(self._tokens[text_begin + start - 1]) if start else None,
                    active=self._active(arrays, text << 32 | position),
                )
            )
        return found

    def _active(self, arrays: Mapping[str, npt.NDArray[Any]], key: int) -> IdArray:
        keys = arrays["active_keys"]
        place = int(np.searchsorted(keys, np.uint64(key)))
        if place == len(keys) or int(keys[place]) != key:
            return np.zeros(0, np.uint32)
        begin, end = arrays["active_offsets"][place : place + 2].tolist()
        latents: IdArray = arrays["active"][begin:end].copy()
        return latents

    def _feature(self, source_id: str, index: int) -> Mapping[str, npt.NDArray[Any]]:
        arrays = self._arrays[source_id]
        if not 0 <= index < len(arrays["fires"]):
            raise IndexError(f"{source_id} has features 0 to {len(arrays['fires']) - 1}, not {index}")
        return arrays


def _place(folder: Path) -> tuple[int, int] | None:
    """Tells a folder from another of its name."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            try:
                np.lib.format.read_magic(file)
                found_shape, by_column, found_dtype = np.lib.format.read_array_header_1_0(file)
            except ValueError as error:
                what = "truncated" if "EOF" in str(error) else "corrupted"
                raise StoreError(f"{path}: {what}: {error}; build the index again") from error
            if (found_shape, by_column, found_dtype) != (shape, False, dtype):
                raise StoreError(f"{path}: corrupted: {found_dtype} {found_shape}; build the index again")
            begin = file.tell()
            expected = begin + dtype.itemsize * math.prod(shape)
            if size != expected:
                what = "truncated" if size < expected else "corrupted"
                raise StoreError(f"{path}: {what}: {size} bytes instead of {expected}; build the index again")
            if begin == size:
                return np.zeros(shape, dtype)
            # The plain array, not np.memmap: slicing a subclass costs microseconds, and a search slices thousands.
            advice = mmap.MADV_WILLNEED if path.stem in _READ_AHEAD else mmap.MADV_RANDOM
            return np.frombuffer(map_file(file, size, advice), dtype, offset=begin).reshape(shape)
    except FileNotFoundError:
        raise StoreError(f"{path}: missing, though {layout.MANIFEST} lists it; build the index again") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
