"""A process of a distributed build: it holds model, sources and a part of the index, into which it folds chunks.

The part is saved between chunks only, so that whoever goes on with it may take chunks in any order.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from saeserve_server.config import Config
from saeserve_server.engine.build import build_runner, pin_kernels
from saeserve_server.engine.folder_lock import lock_folder
from saeserve_server.errors import ConfigError
from saeserve_server.records.builder import CHECKPOINT_SHARE, Folding, open_part
from saeserve_server.records.building.chunks import make_chunk
from saeserve_server.records.made_of import MadeOf
from saeserve_server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Orders:
    """What all workers of a build compute alike, and how."""

    config: Config
    """With the threads of all workers."""
    made_of: MadeOf
    rows_bytes: int
    """Disk for the rows of one worker."""
    checkpoint: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Folded:
    """What a chunk came to."""

    number: int
    texts: int
    blocks: int
    tokens: int


class FoldingWorker:
    """Folds chunks into the part in a folder; one call at a time. Nothing heavy happens before `begin`."""

    def __init__(self, orders: Orders, folder: Path) -> None:
        self._orders = orders
        self._folder = folder

    def begin(self) -> set[int]:
        """Loads model, sources and what the part's last checkpoint holds; returns the chunks in it.

        Raises ConfigError where another build works in the folder, or something else would be computed here than is
        wanted: another kernel, another processor, other files."""
        orders = self._orders
        self._lock = lock_folder(self._folder)
        self._runner, _ = build_runner(orders.config, with_index=False)
        pin_kernels(orders.config, self._runner)
        catalog, made_of = self._runner.catalog, orders.made_of
        here = MadeOf.of(catalog, made_of.cut, made_of.keeping, self._runner.computed)
        if found := made_of.differs(here):
            raise ConfigError(
                f"{socket.gethostname()}: computes otherwise than the process that began the build "
                f"(its value, then the value here): {'; '.join(found)}"
            )
        self._tokenise = Tokenizer(catalog.model.tokenizer_json, catalog.model.bos_id).ids
        self._part = open_part(made_of, self._folder)
        if self._part.batches:
            raise ConfigError(f"{self._folder}: holds half a chunk, which another kind of build left: remove it")
        self._folding = Folding(self._runner, self._part, orders.rows_bytes, checkpoint=None)
        self._saved, self._cost, self._waiting = time.monotonic(), 0.0, False
        return set(self._part.chunks)

    def fold(self, number: int, texts: list[str]) -> Folded:
        """Folds the texts of a chunk, and saves the part where it is time. Raises as `build_index` does."""
        chunk = make_chunk(number, texts, self._tokenise, self._runner.catalog.model)
        self._folding.fold(chunk)
        self._waiting = True
        if time.monotonic() - self._saved > max(self._orders.checkpoint, CHECKPOINT_SHARE * self._cost):
            self._save()
        context = self._part.made_of.cut.context
        lengths = [len(ids) for ids in chunk.texts]
        return Folded(number, len(lengths), sum(-(-length // context) for length in lengths), sum(lengths))

    def end(self, corpus_texts: int) -> None:
        """Saves the part, of a corpus of so many texts, unless it was saved as one of another."""
        if self._part.corpus_texts is None:
            self._part.corpus_texts, self._waiting = corpus_texts, True
        if self._waiting:
            self._save()

    def _save(self) -> None:
        began = time.monotonic()
        self._part.save()
        self._saved, self._waiting = time.monotonic(), False
        self._cost = self._saved - began
