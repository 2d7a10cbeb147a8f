"""Chunks that have been folded, in memory and in a folder: a checkpoint, a shard, what a task gives back.

A part's folder:

    part.json               what it was made of, which chunks are in it, which state is the last
    texts.bin               token ids of its texts, one after another
    state-N/                the arrays of the state (state.py), .npy
    runs/                   sorted runs of the tables of peaks
    rows/CHUNK-BATCH.npz    the rows of all sources on a batch, as far as there was room: the second pass reads them

Whoever is killed leaves `part.json` as it was at the last checkpoint; what he wrote later is written again.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.errors import ConfigError
from saeserve_server.records.building.chunks import CHUNK_TEXTS, Chunk
from saeserve_server.records.building.peak_tables import PeakTable
from saeserve_server.records.building.state import Sample, SourceState, run_path
from saeserve_server.records.made_of import MadeOf
from saeserve_server.records.syncing import sync

MAGIC: Final = "saeserve-index-part"
VERSION: Final = 1
PART: Final = "part.json"
_TEXTS: Final = "texts.bin"


class Part:
    """Folded chunks. One caller at a time."""

    def __init__(self, made_of: MadeOf, folder: Path) -> None:
        self.made_of = made_of
        self.folder = folder
        self.sources = [SourceState(n_features, made_of.keeping) for _, _, n_features in made_of.sources]
        self.sample = Sample(len(self.sources), made_of.keeping.positions)
        self.chunks: set[int] = set()
        """The whole chunks in it."""
        self.batches = 0
        """Of the chunk that is not whole yet, the batches in it."""
        self.corpus_texts: int | None = None
        """Texts of the whole corpus, once it has been read to its end."""
        self.tokens = 0
        """Tokens that count: all but those whose id is BOS."""
        self.texts = array("q")
        self.lengths = array("q")
        """Number and tokens of each text in it, in the order of `texts.bin`."""
        self._state = 0

    @staticmethod
    def clear(folder: Path) -> None:
        """Removes a part that was killed before it was saved. Raises ConfigError for a folder that holds else."""
        if folder.exists():
            if {path.name for path in folder.iterdir()} - {"rows", "runs", _TEXTS}:
                raise ConfigError(
                    f"{folder}: exists and is not a part of an index: choose another place, or move it away"
                )
            shutil.rmtree(folder)

    @property
    def rows_folder(self) -> Path:
        """Where rows are kept."""
        return self.folder / "rows"

    def begin(self) -> Part:
        """Makes the folder, which must be new or empty."""
        self.rows_folder.mkdir(parents=True)
        (self.folder / "runs").mkdir()
        (self.folder / _TEXTS).touch()
        return self

    def add_texts(self, chunk: Chunk) -> None:
        """Writes the tokens of a chunk, before its first batch is folded."""
        if self.batches:  # they are there
            return
        with (self.folder / _TEXTS).open("ab") as file:
            for place, ids in enumerate(chunk.texts):
                file.write(np.array(ids, "<u4").tobytes())
                self.texts.append(chunk.first_text + place)
                self.lengths.append(len(ids))

    def end_chunk(self, number: int) -> None:
        """Its last batch has been folded."""
        self.chunks.add(number)
        self.batches = 0

    def spill(self) -> None:
        """Puts tables of peaks that have grown large on the disk."""
        for rank, state in enumerate(self.sources):
            state.peaks.spill(run_path(self.folder / "runs", rank, len(state.peaks.runs)))

    def save(self) -> None:
        """Writes a checkpoint: whoever opens the folder from now on finds all that was folded until now."""
        old, self._state = self.folder / f"state-{self._state}", self._state + 1
        new = self.folder / f"state-{self._state}"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for rank, state in enumerate(self.sources):
            for name, values in state.arrays().items():
                np.save(new / f"{rank}-{name}.npy", values)
            offsets, firing = self._sampled(rank)
            np.save(new / f"{rank}-sample_offsets.npy", offsets)
            np.save(new / f"{rank}-sample.npy", firing)
        np.save(new / "sample.npy", self.sample.rows)
        np.save(new / "texts.npy", np.array([self.texts, self.lengths], np.int64))
        told = {
            "magic": MAGIC,
            "version": VERSION,
            "made_of": self.made_of.told(),
            "state": self._state,
            "chunks": _ranges(self.chunks),
            "batches": self.batches,
            "open_text": self.sources[0].open_text if self.sources else None,
            "corpus_texts": self.corpus_texts,
            "tokens": self.tokens,
            "runs": [len(state.peaks.runs) for state in self.sources],
        }
        for path in (*new.iterdir(), new, self.folder / _TEXTS):
            sync(path)
        waiting = self.folder / (PART + ".new")
        waiting.write_text(json.dumps(told, indent=1) + "\n")
        sync(waiting)
        waiting.rename(self.folder / PART)
        sync(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def open(cls, folder: Path) -> Part:
        """A part as its last checkpoint has it. Raises ConfigError for what is none."""
        told = _read(folder)
        try:
            part = cls(MadeOf.read(told["made_of"]), folder)
            part._state = told["state"]
            state = folder / f"state-{part._state}"
            for rank, source in enumerate(part.sources):
                names = (*SourceState.SUMS, *SourceState.UNIONS, "maxima", "open_maxima", "peaks")
                source.take_in({name: np.load(state / f"{rank}-{name}.npy", mmap_mode="r") for name in names})
                source.open_text = told["open_text"]
                runs = [run_path(folder / "runs", rank, number) for number in range(told["runs"][rank])]
                source.peaks = PeakTable(runs, source.peaks.settle())
            part.sample.take_in(
                np.load(state / "sample.npy"),
                [
                    (np.load(state / f"{rank}-sample_offsets.npy"), np.load(state / f"{rank}-sample.npy"))
                    for rank in range(len(part.sources))
                ],
            )
            texts, lengths = np.load(state / "texts.npy")
            part.texts, part.lengths = array("q", texts.tolist()), array("q", lengths.tolist())
            part.chunks = {number for first, end in told["chunks"] for number in range(first, end)}
            part.batches, part.tokens, part.corpus_texts = told["batches"], told["tokens"], told["corpus_texts"]
            os.truncate(folder / _TEXTS, 4 * sum(part.lengths))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ConfigError(f"{folder}: a damaged part of an index ({error}): build it again") from error
        return part

    def ids(self) -> npt.NDArray[np.uint32]:
        """Token ids of all its texts, mapped."""
        path = self.folder / _TEXTS
        return np.memmap(path, "<u4", "r") if path.stat().st_size else np.zeros(0, np.uint32)

    def take_in(self, other: Part) -> None:
        """Adds a part of other chunks, made of the same; its peak tables' runs stay where they are."""
        for mine, theirs in zip(self.sources, other.sources, strict=True):
            mine.take_in(theirs.arrays())
            mine.peaks.runs += theirs.peaks.runs
        other.sample.cut()
        self.sample.take_in(other.sample.rows, [other.sample.of(rank) for rank in range(len(self.sources))])
        self.chunks |= other.chunks
        self.tokens += other.tokens

    def _sampled(self, rank: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        self.sample.cut()
        return self.sample.of(rank)


def is_part(folder: Path) -> bool:
    """Whether the folder holds a part of an index of any version."""
    try:
        _read(folder)
    except ConfigError:
        return False
    return True


def part_folders(work: Path) -> list[Path]:
    """The folders of parts in a folder: of a build that several workers share."""
    return sorted(folder for folder in work.glob("part-*") if is_part(folder))


def saved_chunks(folder: Path) -> tuple[set[int], int]:
    """The chunks of the part in a folder and how many tokens they have, as saved last; its arrays are not read.

    Raises ConfigError for what is no part."""
    told = _read(folder)
    try:
        return {number for first, end in told["chunks"] for number in range(first, end)}, int(told["tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder}: a damaged part of an index ({error}): build it again") from error


def _read(folder: Path) -> dict[str, Any]:
    path = folder / PART
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{folder}: not a part of an index: it has no {PART}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(told, dict) or told.get("magic") != MAGIC:
        raise ConfigError(f"{path}: not that of a part of an index")
    if told.get("version") != VERSION:
        raise ConfigError(
            f"{folder}: part format {told.get('version')!r}, but this version reads {VERSION}: build it again"
        )
    return told


def missing_chunks(chunks: set[int], corpus_texts: int) -> list[int]:
    """Chunks of a corpus of so many texts that are not there."""
    return [number for number in range(-(-corpus_texts // CHUNK_TEXTS)) if number not in chunks]


def _ranges(numbers: set[int]) -> list[list[int]]:
    """As first and end of runs."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number:
            runs[-1][1] += 1
        else:
            runs.append([number, number + 1])
    return runs
