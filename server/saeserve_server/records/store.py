"""Reads an index of top activations: memory-mapped, so that opening costs milliseconds and a look-up a few pages."""

from __future__ import annotations

import hashlib
import mmap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import Catalog, FloatArray
from saeserve_server.records import layout
from saeserve_server.records.layout import IndexedSource, Manifest, StoreError
from saeserve_server.records.mapping import map_file

__all__ = ["FeatureStatistics", "IndexedSource", "PeakTokens", "Record", "RecordStore", "StoreError"]

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.uint32]

USUAL_TOKENS: Final = 5
"""How many of a feature's top tokens a search shows and matches against."""

_EDGES: Final[DoubleArray] = np.concatenate(
    ([0.0], np.exp2(np.arange(layout.LOWEST_EXPONENT, layout.HIGHEST_EXPONENT + 1)), [np.inf])
)
_HASH_BYTES: Final = 1 << 20

_SCATTERED: Final = frozenset(["tokens", "histogram", "records", "windows", "top_tokens"])
"""Large files of which a look-up reads a few pages: the system must not read ahead of those (it made first look-ups
cost 30 ms instead of 2). The others are small, and are read ahead at opening."""

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
    """[bins + 1] powers of two; the first may be 0 and the last infinity. Empty if the feature never fires."""
    histogram_counts: IntArray
    """[bins] activations > 0 with lower edge ≤ activation < upper edge; neither the first nor the last is 0."""
    top_tokens: PeakTokens
    """At most 20."""


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


class RecordStore:
    """An open index. Immutable and safe to read from many threads; a rebuilt index is a new folder, opened anew."""

    def __init__(self, path: Path, manifest: Manifest, files: Mapping[str, npt.NDArray[Any]]) -> None:
        self.path = path
        self.revision = manifest.revision[:32]
        """Digest of what it was made of: alike for all builds of the same."""
        self.content = manifest.digest[:32]
        """Digest of every byte: of this very build."""
        self.model_name = manifest.model_name
        self.model_revision = manifest.model_revision
        self.context = manifest.context
        """Tokens of each block that was run, BOS left out."""
        self.records_per_feature = manifest.records_per_feature
        self.texts = manifest.texts
        self.tokens = manifest.tokens
        self.sources = manifest.sources
        self.bytes = sum(file.nbytes for file in files.values())
        """Size of the index's arrays."""
        self._manifest = manifest
        self._tokens: IdArray = files[layout.TOKENS]
        self._text_offsets: IntArray = files[layout.TEXT_OFFSETS]
        self._densities: dict[str, DoubleArray] = {}
        self._arrays = {
            source.id: {name: files[layout.source_file(source.id, name)] for name in layout.SOURCE_FILES}
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
        counts: IntArray = arrays["histogram"][index]
        filled = np.flatnonzero(counts)
        first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
        return FeatureStatistics(
            tokens=self.tokens,
            fires=fires,
            density=fires / self.tokens,
            mean=float(arrays["sums"][index]) / fires if fires else 0.0,
            maximum=float(arrays["maxima"][index]),
            histogram_edges=_EDGES[first : last + 1].copy() if fires else np.zeros(0),
            histogram_counts=counts[first:last].copy(),
            top_tokens=self.usual_tokens(source_id, index, layout.TOP_TOKENS),
        )

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
        """At most `count` records of the feature from the `offset`-th on, by maximum falling, then text, then block."""
        arrays = self._feature(source_id, index)
        begin, end = arrays["record_offsets"][index : index + 2].tolist()
        first = min(begin + max(offset, 0), end)
        rows = slice(first, min(first + max(count, 0), end))
        found = []
        for row, window in zip(arrays["records"][rows].tolist(), arrays["windows"][rows], strict=True):
            text, position, maximum, length, peak = row
            start = int(self._text_offsets[text]) + position
            found.append(
                Record(
                    token_ids=self._tokens[start : start + length].copy(),
                    activations=window[:length].copy(),
                    max_activation=maximum,
                    max_position=peak,
                    text_index=text,
                    text_position=position,
                    id_before=int(self._tokens[start - 1]) if position else None,
                )
            )
        return found

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
    expected = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size != expected:
                what = "truncated" if size < expected else "corrupted"
                raise StoreError(f"{path}: {what}: {size} bytes instead of {expected}; build the index again")
            if not expected:  # an empty file cannot be mapped
                return np.zeros(shape, dtype)
            # The plain array, not np.memmap: slicing a subclass costs microseconds, and a search slices thousands.
            advice = mmap.MADV_RANDOM if path.stem in _SCATTERED else mmap.MADV_WILLNEED
            return np.frombuffer(map_file(file, size, advice), dtype).reshape(shape)
    except FileNotFoundError:
        raise StoreError(f"{path}: missing, though {layout.MANIFEST} lists it; build the index again") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
