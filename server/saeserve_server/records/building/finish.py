"""From folded chunks to an index: what depends on the whole, a second pass over the corpus, the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import Kind
from saeserve_server.records import layout
from saeserve_server.records.bins import FIRST_CODE, LOWEST_POWER, POWERS, exact_means
from saeserve_server.records.building.best import Best
from saeserve_server.records.building.chunks import Batch
from saeserve_server.records.building.corpus_map import CorpusMap
from saeserve_server.records.building.folding import Folds, fold_counts
from saeserve_server.records.building.hashing import place_key
from saeserve_server.records.building.part import Part
from saeserve_server.records.building.second import Wants
from saeserve_server.records.building.spill import KeptRows
from saeserve_server.records.building.state import SourceState, candidate_values
from saeserve_server.records.layout import source_file
from saeserve_server.records.peaks import count_peaks
from saeserve_server.records.store import USUAL_TOKENS
from saeserve_server.records.writer import StoreWriter
from saeserve_server.rows import IntArray, SourceRows

FEATURES_AT_ONCE: Final = 1 << 17

Compute = Callable[[Batch], Mapping[int, SourceRows]]
"""The rows of all sources on a batch."""


@dataclass(slots=True, eq=False)
class _Chosen:
    """Places of one source that are shown, by feature."""

    records: npt.NDArray[Any]  # of RECORD
    record_feature: IntArray
    samples: npt.NDArray[Any]
    sample_feature: IntArray
    weights: npt.NDArray[np.float64]
    """[samples] for how many blocks each stands."""
    near: npt.NDArray[Any]  # that may be near misses
    near_feature: IntArray
    top: tuple[IntArray, npt.NDArray[Any]]
    wants: Wants


def finish(
    part: Part,
    corpus: CorpusMap,
    kept: KeptRows,
    compute: Compute,
    kinds: Sequence[Kind],
    vocabulary: int,
    bos_id: int | None,
    folds: Folds,
    writer: StoreWriter,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Writes the index of a part that holds the whole corpus. `progress` is told of the second pass: batches done, of
    how many."""
    writer.write(f"{layout.TOKENS}.npy", corpus.ids)
    writer.write(f"{layout.TEXT_OFFSETS}.npy", corpus.offsets)
    sampled = part.sample.cut()
    writer.write(f"{layout.SAMPLED}.npy", place_key(sampled["text"], sampled["position"]))
    occurrences = corpus.occurrences(vocabulary, bos_id)
    groups = _groups([n_features for _, _, n_features in part.made_of.sources])
    for number, ranks in enumerate(groups):
        chosen = {rank: _choose(part.sources[rank], corpus, occurrences, kinds[rank]) for rank in ranks}
        _write_first(part, chosen, corpus, kinds, folds, writer)
        wanted = [at for at in range(len(corpus.batches)) if any(one.wants.is_wanted(at) for one in chosen.values())]
        for done, place in enumerate(wanted, 1):
            chunk, batch = corpus.batches[place]
            rows = kept.get(chunk, batch, ranks)
            if rows is None:
                computed = compute(corpus.batch(place))
                kept.put(chunk, batch, computed)  # for the next group
                rows = {rank: computed[rank] for rank in ranks}
            for rank, one in chosen.items():
                if one.wants.is_wanted(place):
                    one.wants.answer(place, rows[rank])
            progress(number * len(wanted) + done, len(groups) * len(wanted))
        for rank, one in chosen.items():
            source_id, _, n_features = part.made_of.sources[rank]
            _write_places(_Source(writer, source_id), one, n_features, part.made_of.keeping.near_misses)
    writer.commit(part.made_of, len(corpus.offsets) - 1, part.tokens)


def _groups(features: Sequence[int]) -> list[list[int]]:
    """Sources whose places are looked up together: what is found of a feature takes up to 14 kB meanwhile."""
    groups: list[list[int]] = [[]]
    for rank, count in enumerate(features):
        if groups[-1] and sum(features[one] for one in groups[-1]) + count > FEATURES_AT_ONCE:
            groups.append([])
        groups[-1].append(rank)
    return groups


def _write_first(
    part: Part,
    chosen: Mapping[int, _Chosen],
    corpus: CorpusMap,
    kinds: Sequence[Kind],
    folds: Folds,
    writer: StoreWriter,
) -> None:
    """What the second pass adds nothing to; then the states of these sources are let go."""
    for rank, one in chosen.items():
        state = part.sources[rank]
        source = _Source(writer, part.made_of.sources[rank][0])
        _write_statistics(source, state)
        _write_peaks(source, state, one, corpus, folds)
        _write_sketch(source, state)
        offsets, firing = part.sample.of(rank)
        if kinds[rank] is Kind.NEURON:
            source.write("firing_bits", firing.reshape(len(part.sample.rows), -1))
        else:
            source.write("firing_offsets", offsets)
            source.write("firing", firing)
        state.release()


def _distinct(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Ascending, each once. By sorting: NumPy's `unique` hashes, which takes several times as long for millions."""
    keys = np.sort(keys)
    is_first = np.concatenate([np.ones(min(1, len(keys)), np.bool_), keys[1:] != keys[:-1]])
    distinct: npt.NDArray[np.uint64] = keys[is_first]
    return distinct


class _Source:
    """The files of one source."""

    def __init__(self, writer: StoreWriter, source_id: str) -> None:
        self._writer = writer
        self._id = source_id

    def write(self, name: str, values: npt.NDArray[Any]) -> None:
        self._writer.write(source_file(self._id, name), values)

    def write_by_feature(self, names: tuple[str, str], owner: IntArray, values: npt.NDArray[Any], n: int) -> None:
        """Values that are sorted by their owners, and where each owner's begin."""
        self.write(names[0], np.searchsorted(owner, np.arange(n + 1)))
        self.write(names[1], values)


def _choose(state: SourceState, corpus: CorpusMap, occurrences: Best, kind: Kind) -> _Chosen:
    rows = state.candidates.cut()
    records = np.empty(len(rows), layout.RECORD)
    records["text"], records["position"], records["value"] = (
        rows["text"],
        rows["position"],
        candidate_values(rows["key"]),
    )
    feature = state.candidates.owner()
    top = count_peaks(feature, corpus.token(rows["text"], rows["position"]), records["value"], state.n_features)

    strata = state.strata.cut()
    stratum = state.strata.owner()
    sample_feature = stratum // POWERS
    weights = (
        state.block_peaks.reshape(-1)[stratum] / np.bincount(stratum, minlength=state.n_features * POWERS)[stratum]
    )
    order = np.lexsort((strata["position"], strata["text"], -strata["value"], sample_feature))
    samples = np.empty(len(strata), layout.RECORD)
    samples["text"], samples["position"], samples["value"] = strata["text"], strata["position"], strata["value"]
    near, near_feature = _near(top, occurrences)
    wants = Wants(
        np.concatenate([feature, sample_feature[order], near_feature]).astype(np.int32),
        np.concatenate([records["text"], samples["text"][order], near["text"]]),
        np.concatenate([records["position"], samples["position"][order], near["position"]]),
        of_latents=kind is Kind.LATENT,
        misses=len(feature) + len(sample_feature),
    )
    wants.locate(corpus)
    return _Chosen(
        records, feature, samples[order], sample_feature[order], weights[order], near, near_feature, top, wants
    )


def _near(top: tuple[IntArray, npt.NDArray[Any]], occurrences: Best) -> tuple[npt.NDArray[Any], IntArray]:
    """Of every feature the sampled occurrences of its usual tokens, by hash: it is not known yet whether it fires."""
    offsets, tokens = top
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    usual = np.arange(len(tokens)) - offsets[owner] < USUAL_TOKENS
    owner, ids = owner[usual], tokens["id"][usual].astype(np.int64)
    bounds = np.searchsorted(occurrences.owner(), np.arange(occurrences.owners + 1))
    counts = bounds[ids + 1] - bounds[ids]
    feature = np.repeat(owner, counts)
    place = np.arange(len(feature)) + np.repeat(bounds[ids] - (np.cumsum(counts) - counts), counts)
    found = occurrences.rows[place]
    hashed = found["key"] << np.uint64(64 - occurrences.shift) >> np.uint64(24)
    order = np.argsort((feature.astype(np.uint64) << np.uint64(40)) | hashed)
    near = np.zeros(len(found), layout.RECORD)
    near["text"], near["position"] = found["text"][order], found["position"][order]
    return near, feature[order]


def _write_statistics(source: _Source, state: SourceState) -> None:
    n = state.n_features
    fires = state.histogram.sum(1, dtype=np.int64)
    source.write("fires", fires)
    source.write("blocks", state.block_peaks.sum(1, dtype=np.int64))
    source.write("texts", state.text_peaks.sum(1, dtype=np.int64))
    source.write("means", exact_means(state.sums, fires))
    source.write("maxima", state.maxima)
    feature, code = np.nonzero(state.histogram)
    source.write_by_feature(("histogram_offsets", "histogram_bins"), feature, code + FIRST_CODE, n)
    source.write("histogram_counts", state.histogram[feature, code])
    feature, power = np.nonzero(state.block_peaks)
    coarse = np.empty(len(feature), layout.COARSE)
    coarse["power"] = power + LOWEST_POWER
    coarse["blocks"], coarse["texts"] = state.block_peaks[feature, power], state.text_peaks[feature, power]
    source.write_by_feature(("coarse_offsets", "coarse"), feature, coarse, n)


def _write_peaks(source: _Source, state: SourceState, chosen: _Chosen, corpus: CorpusMap, folds: Folds) -> None:
    offsets, tokens = chosen.top
    source.write("top_offsets", offsets)
    source.write("top_tokens", tokens)
    ids = corpus.token(chosen.records["text"], chosen.records["position"])
    wanted = _distinct((chosen.record_feature.astype(np.uint64) << np.uint64(32)) | ids)
    owner, rows = list[IntArray](), list[npt.NDArray[Any]]()
    for stretch in state.peaks.stretches(state.n_features):
        own, counted = fold_counts(stretch, wanted, folds, layout.TOP_TOKENS)
        owner.append(own)
        rows.append(counted)
    source.write_by_feature(
        ("peak_offsets", "peaks"),
        np.concatenate([np.zeros(0, np.int64), *owner]),
        np.concatenate([np.zeros(0, layout.PEAK_TOKEN), *rows]),
        state.n_features,
    )


def _write_sketch(source: _Source, state: SourceState) -> None:
    keys = state.places.cut()["key"]
    above = np.uint64(64 - state.places.shift)
    source.write_by_feature(("sketch_offsets", "sketch"), state.places.owner(), keys << above, state.n_features)


def _write_places(source: _Source, chosen: _Chosen, n_features: int, most_near: int) -> None:
    windows = chosen.wants.windows()
    first = len(chosen.records) + len(chosen.samples)
    misses = np.flatnonzero(windows.at[first:] <= 0)
    owner = chosen.near_feature[misses]
    begins = np.searchsorted(owner, np.arange(n_features + 1))
    misses = misses[np.arange(len(misses)) - begins[owner] < most_near]
    near, near_feature = chosen.near[misses], chosen.near_feature[misses]
    near["value"] = windows.most[first + misses]
    source.write_by_feature(("record_offsets", "records"), chosen.record_feature, chosen.records, n_features)
    source.write_by_feature(("sample_offsets", "samples"), chosen.sample_feature, chosen.samples, n_features)
    source.write("sample_weights", chosen.weights)
    source.write_by_feature(("near_offsets", "near"), near_feature, near, n_features)

    kept = np.concatenate([np.arange(first), first + misses])
    counts = np.diff(windows.offsets)[kept]
    entry = np.arange(counts.sum()) + np.repeat(windows.offsets[kept] - (np.cumsum(counts) - counts), counts)
    source.write("window_offsets", np.cumsum([0, *counts.tolist()]))
    if chosen.wants.of_latents:
        source.write("window_places", windows.place[entry])
    source.write("window_values", windows.value[entry])

    shown = np.concatenate([chosen.records, chosen.samples, near])
    keys = _distinct(place_key(shown["text"], shown["position"])) if chosen.wants.of_latents else np.zeros(0, np.uint64)
    offsets, latents = chosen.wants.active(keys)
    source.write("active_keys", keys)
    source.write("active_offsets", offsets)
    source.write("active", latents)
