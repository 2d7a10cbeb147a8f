"""What is kept of the chunks of a corpus: of each source sums and unions, of the corpus its tokens' sampled places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.records.bins import BINS, GROUPS, POWERS
from saeserve_server.records.building.best import Best, in_order
from saeserve_server.records.building.peak_tables import PeakTable
from saeserve_server.records.made_of import Keeping

SKETCH: Final = 128
"""Firing positions kept of a feature: those of smallest hash."""

CANDIDATE: Final = np.dtype([("key", "<u8"), ("content", "<u4"), ("text", "<u4"), ("position", "<u4")])
"""A block that may become a record: `key` is the feature, then the activation falling; `position` that of the peak."""
STRATUM: Final = np.dtype([("key", "<u8"), ("text", "<u4"), ("position", "<u4"), ("value", "<f4")])
"""A block in the sample of its power of two: `key` is feature and power, then a hash."""
PLACE: Final = np.dtype([("key", "<u8")])
"""A firing position: feature, then hash."""
SAMPLED: Final = np.dtype([("key", "<u8"), ("text", "<u4"), ("position", "<u4"), ("number", "<u4")])
"""A sampled position of the corpus by its hash; `number` is that of its rows in this process."""

_ALL: Final = np.uint64(0xFFFFFFFF)


class SourceState:
    """What is kept of one source."""

    def __init__(self, n_features: int, keeping: Keeping) -> None:
        self.n_features = n_features
        self.histogram = np.zeros((n_features, BINS), np.uint32)  # tokens
        self.sums = np.zeros((n_features, GROUPS), np.int64)  # of activations (bins.exact_parts)
        self.block_peaks = np.zeros((n_features, POWERS), np.uint32)  # blocks, by the largest activation
        self.text_peaks = np.zeros((n_features, POWERS), np.uint32)  # texts
        self.maxima = np.zeros(n_features, np.float32)
        self.candidates = Best(CANDIDATE, n_features, keeping.records, shift=32)
        self.strata = Best(STRATUM, n_features * POWERS, keeping.per_power)
        self.places = Best(PLACE, n_features, SKETCH)
        self.peaks = PeakTable()
        self.open_maxima: FloatArray = np.zeros(n_features, np.float32)
        self.open_text: int | None = None
        """The text that the last batch ended in, and its maxima: it may go on in the next."""

    SUMS = ("histogram", "sums", "block_peaks", "text_peaks")
    UNIONS = ("candidates", "strata", "places")

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of it but the peak table's runs, by name."""
        kept = {name: getattr(self, name) for name in (*self.SUMS, "maxima", "open_maxima")}
        return kept | {name: getattr(self, name).cut() for name in self.UNIONS} | {"peaks": self.peaks.settle()}

    def release(self) -> None:
        """Lets go of all arrays: what they say has been written."""
        for name in (*self.SUMS, *self.UNIONS, "maxima", "open_maxima", "peaks"):
            delattr(self, name)

    def take_in(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Adds the arrays of another state, of other chunks."""
        for name in self.SUMS:
            getattr(self, name)[:] += arrays[name]
        np.maximum(self.maxima, arrays["maxima"], out=self.maxima)
        np.maximum(self.open_maxima, arrays["open_maxima"], out=self.open_maxima)
        for name in self.UNIONS:
            getattr(self, name).add(np.asarray(arrays[name]))
        self.peaks.join(np.asarray(arrays["peaks"]))


def candidate_values(keys: npt.NDArray[np.uint64]) -> FloatArray:
    """[n] activations of candidates, by their keys."""
    return (_ALL - (keys & _ALL)).astype(np.uint32).view(np.float32)


def candidate_keys(feature: npt.NDArray[Any], value: FloatArray) -> npt.NDArray[np.uint64]:
    """[n] keys of candidates: the order of activations > 0 is that of their bits."""
    return (feature.astype(np.uint64) << np.uint64(32)) | (_ALL - value.view(np.uint32).astype(np.uint64))


class Sample:
    """All that fires on the positions of smallest hash, the same for all sources: rows, packed into bits for neurons.

    A position's rows are collected while its batch is folded. What has dropped out is cleared away now and then.
    """

    def __init__(self, sources: int, size: int) -> None:
        self.size = size
        self.rows: npt.NDArray[Any] = np.zeros(0, SAMPLED)
        self._waiting = np.zeros(0, SAMPLED)
        self._next = self.first = 0
        self.last = _HIGHEST
        self.firing: list[dict[int, npt.NDArray[Any]]] = [{} for _ in range(sources)]
        """Of each source, by a position's number, the features that fire: their numbers, of neurons a bit for each."""

    def choose(
        self, hashes: npt.NDArray[np.uint64], text: npt.NDArray[Any], position: npt.NDArray[Any]
    ) -> npt.NDArray[np.int64]:
        """Takes in positions, and gives the places of those that are in the sample now, whose rows are to be `put`
        under the numbers from `first` on."""
        found = np.flatnonzero(hashes <= self.last)
        self.first = self._next
        rows = np.empty(len(found), SAMPLED)
        rows["key"], rows["text"], rows["position"] = hashes[found], text[found], position[found]
        rows["number"] = self._next + np.arange(len(found))
        self._next += len(found)
        self._waiting = np.concatenate([self._waiting, rows])
        return found

    def put(self, rank: int, number: int, features: npt.NDArray[Any]) -> None:
        """What fires of a source on the position of that number."""
        self.firing[rank][number] = features

    def cut(self) -> npt.NDArray[Any]:
        """Leaves the positions of smallest hash, in the order of their hashes."""
        if len(self._waiting):
            rows = np.concatenate([self.rows, self._waiting])
            self._waiting = self._waiting[:0]
            rows = rows[in_order(rows)]
            for number in rows["number"][self.size :].tolist():
                for firing in self.firing:
                    firing.pop(number, None)
            self.rows = rows[: self.size]
            if len(self.rows) == self.size:
                self.last = self.rows["key"][-1]
        return self.rows

    def is_full(self) -> bool:
        """Whether it is time to cut."""
        return len(self._waiting) > max(1 << 12, self.size // 2)

    def of(self, rank: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """Of a source, position after position: where each begins, and what fires. Call `cut` first."""
        found = [self.firing[rank][number] for number in self.rows["number"].tolist()]
        offsets = np.cumsum([0, *map(len, found)])
        return offsets, np.concatenate(found) if found else np.zeros(0, np.uint32)

    def take_in(self, rows: npt.NDArray[Any], firing: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]) -> None:
        """Adds the sample of other chunks."""
        mine = rows.copy()
        mine["number"] = self._next + np.arange(len(rows))
        self._next += len(rows)
        self._waiting = np.concatenate([self._waiting, mine])
        for rank, (offsets, features) in enumerate(firing):
            for place, number in enumerate(mine["number"].tolist()):
                self.firing[rank][number] = np.array(features[offsets[place] : offsets[place + 1]])
        self.cut()


_HIGHEST: Final = np.uint64(0xFFFFFFFFFFFFFFFF)


def run_path(folder: Path, source: int, number: int) -> Path:
    """File of a peak table's run."""
    return folder / f"peaks-{source}-{number}.npy"
