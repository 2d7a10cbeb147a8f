"""Folds the rows of a batch into the state: counted, summed, and what may be among the first of its kind kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray, Kind
from saeserve_server.records.bins import BINS, GROUPS, POWERS, bin_of, exact_parts
from saeserve_server.records.building.chunks import Batch
from saeserve_server.records.building.hashing import feature_hash
from saeserve_server.records.building.state import CANDIDATE, PLACE, STRATUM, Sample, SourceState, candidate_keys
from saeserve_server.rows import Csr, IntArray, SourceRows, as_csr, cut, height

_ENTRIES: Final = 1 << 22
"""Activations that are worked on at once, as far as blocks allow."""
_PER_POWER: Final = BINS // POWERS


@dataclass(frozen=True, slots=True, eq=False)
class _Peaks:
    """The largest activation of every feature in every block in which it fires, by feature, then block."""

    feature: IntArray
    block: IntArray
    row: IntArray
    value: FloatArray


def fold(state: SourceState, rows: SourceRows, batch: Batch, counts: npt.NDArray[np.bool_]) -> None:
    """Folds a source's rows; of activations > 0 those on rows where `counts` is true count."""
    entries = len(rows.data) if isinstance(rows, Csr) else rows.size
    step = max(1, len(batch.blocks) * _ENTRIES // max(1, entries))
    for first in range(0, len(batch.blocks), step):
        begins = batch.begins[first : first + step + 1]
        piece = slice(int(begins[0]), int(begins[-1]))
        own = cut(rows, piece.start, piece.stop)
        feature, value, place = _count(state, own, counts[piece])
        key = state.places.key(feature, batch.place_hash[piece][place])
        wanted = state.places.wants(key)
        found = np.empty(int(wanted.sum()), PLACE)
        found["key"] = key[wanted]
        state.places.add(found)
        if isinstance(own, Csr):
            peaks = _sparse_peaks(feature, value, place, begins - begins[0])
        else:
            peaks = _dense_peaks(own, counts[piece], begins - begins[0])
        _keep(state, peaks, batch, slice(first, first + len(begins) - 1), piece.start)


def _count(
    state: SourceState, rows: SourceRows, counts: npt.NDArray[np.bool_]
) -> tuple[IntArray, FloatArray, IntArray]:
    """Counts and sums what fires; gives feature, activation and row of each."""
    firing = as_csr(rows)
    row = np.repeat(np.arange(height(rows)), np.diff(firing.indptr))
    counted = counts[row]
    row, feature, value = row[counted], firing.indices[counted].astype(np.int64), firing.data[counted]
    np.add.at(state.histogram.reshape(-1), feature * BINS + bin_of(value), np.uint32(1))
    group, part = exact_parts(value)
    np.add.at(state.sums.reshape(-1), feature * GROUPS + group, part)
    return feature, value, row


def _sparse_peaks(feature: IntArray, value: FloatArray, row: IntArray, begins: IntArray) -> _Peaks:
    blocks = len(begins) - 1
    cell = feature * blocks + np.searchsorted(begins, row, side="right") - 1
    order = np.argsort(cell, kind="stable")  # rows ascend within a cell
    cell, row, value = cell[order], row[order], value[order]
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    if not len(starts):
        return _Peaks(cell, cell, row, value)
    most = np.maximum.reduceat(value, starts)
    at = np.flatnonzero(value == np.repeat(most, np.diff(starts, append=len(cell))))
    earliest = at[np.flatnonzero(np.diff(cell[at], prepend=-1))]
    return _Peaks(cell[starts] // blocks, cell[starts] % blocks, row[earliest], most)


def _dense_peaks(rows: FloatArray, counts: npt.NDArray[np.bool_], begins: IntArray) -> _Peaks:
    values = np.where(counts[:, None], rows, np.float32(0))
    row = np.empty((len(begins) - 1, rows.shape[1]), np.int64)
    for block, begin in enumerate(begins[:-1].tolist()):
        row[block] = begin + values[begin : begins[block + 1]].argmax(0)
    most = np.take_along_axis(values, row, 0)
    features, blocks = np.nonzero(most.T > 0)
    return _Peaks(features, blocks, row[blocks, features], most[blocks, features])


def _keep(state: SourceState, peaks: _Peaks, batch: Batch, blocks: slice, first_row: int) -> None:
    feature, value = peaks.feature, peaks.value
    block, row = peaks.block + blocks.start, peaks.row + first_row
    power = bin_of(value) // _PER_POWER
    np.add.at(state.block_peaks.reshape(-1), feature * POWERS + power, np.uint32(1))
    _keep_texts(state, feature, batch.text[block], value, batch.text[blocks])
    state.peaks.add(feature, batch.ids[row], value)

    key = candidate_keys(feature, value)
    wanted = np.flatnonzero(state.candidates.wants(key))
    found = np.empty(len(wanted), CANDIDATE)
    found["key"], found["content"] = key[wanted], batch.content[block[wanted]]
    found["text"], found["position"] = batch.text[block[wanted]], batch.position[row[wanted]]
    state.candidates.add(found)

    key = state.strata.key(feature * POWERS + power, feature_hash(feature, batch.text[block], batch.start[block]))
    wanted = np.flatnonzero(state.strata.wants(key))
    found = np.empty(len(wanted), STRATUM)
    found["key"], found["value"] = key[wanted], value[wanted]
    found["text"], found["position"] = batch.text[block[wanted]], batch.position[row[wanted]]
    state.strata.add(found)


def _keep_texts(state: SourceState, feature: IntArray, text: IntArray, value: FloatArray, texts: IntArray) -> None:
    """Counts `texts` [blocks] by the largest activation of each feature. The last of them stays open."""
    starts = np.flatnonzero((np.diff(feature, prepend=-1) != 0) | (np.diff(text, prepend=-1) != 0))
    most = np.maximum.reduceat(value, starts) if len(starts) else value
    feature, text = feature[starts], text[starts]
    np.maximum.at(state.maxima, feature, most)
    if state.open_text is not None:
        if state.open_text == texts[0]:
            goes_on = text == state.open_text
            np.maximum.at(state.open_maxima, feature[goes_on], most[goes_on])
            feature, text, most = feature[~goes_on], text[~goes_on], most[~goes_on]
        if state.open_text != texts[-1]:
            close_text(state)
    if state.open_text is None:
        state.open_text = int(texts[-1])
        last = text == state.open_text
        state.open_maxima[feature[last]] = most[last]
        feature, most = feature[~last], most[~last]
    np.add.at(state.text_peaks.reshape(-1), feature * POWERS + bin_of(most) // _PER_POWER, np.uint32(1))


def close_text(state: SourceState) -> None:
    """The text that the last batch ended in goes on no further."""
    if state.open_text is not None:
        feature = np.flatnonzero(state.open_maxima)
        power = bin_of(state.open_maxima[feature]) // _PER_POWER
        state.text_peaks[feature, power] += np.uint32(1)
        state.open_maxima[:] = 0
        state.open_text = None


def sample(into: Sample, rank: int, kind: Kind, rows: SourceRows, places: IntArray) -> None:
    """Puts what fires on the rows `places`, which `into` has just chosen."""
    for number, place in enumerate(places.tolist(), into.first):
        row: Any
        if isinstance(rows, Csr):
            row = rows.indices[rows.indptr[place] : rows.indptr[place + 1]]
        else:
            row = np.flatnonzero(rows[place] > 0).astype(np.uint32)
        if kind is Kind.NEURON:
            bits = np.zeros(rows.columns if isinstance(rows, Csr) else rows.shape[1], np.bool_)
            bits[row] = True
            row = np.packbits(bits, bitorder="little")
        into.put(rank, number, np.array(row))
