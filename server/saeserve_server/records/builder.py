"""Builds an index of top activations: texts in chunks through model and sources, folded, finished in a second pass.

`build_part` folds the chunks of a shard into a folder of its own, in which it goes on after having been killed;
`merge_parts` makes an index of the parts of all shards; `build_index` does both in one go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from saeserve_server.catalog import Catalog, SourceInfo
from saeserve_server.errors import ConfigError
from saeserve_server.records.building.chunks import Batch, Chunk, Tokenise, chunks
from saeserve_server.records.building.corpus_map import CorpusMap
from saeserve_server.records.building.finish import finish
from saeserve_server.records.building.fold import close_text, fold, sample
from saeserve_server.records.building.folding import Folds
from saeserve_server.records.building.part import Part, is_part
from saeserve_server.records.building.spill import KeptRows
from saeserve_server.records.layout import source_file
from saeserve_server.records.made_of import Cut, Keeping, MadeOf
from saeserve_server.records.store import RecordStore
from saeserve_server.records.writer import StoreWriter, naming_errors
from saeserve_server.rows import Csr, SourceRows, height, width

MAX_RECORDS: Final = 1000
"""Most records that can be kept for a feature."""
DEFAULT_CONTEXT: Final = 128
DEFAULT_ROWS_BYTES: Final = 8 * 2**30
"""Disk for the rows that the second pass reads instead of computing them."""
CHECKPOINT_SECONDS: Final = 60.0
CHECKPOINT_SHARE: Final = 20
"""A checkpoint is due after so many seconds, and so many times the time that the last one took, whichever is more."""


class ActivationReader(Protocol):
    """Model and sources, as the builder needs them."""

    @property
    def catalog(self) -> Catalog:
        """What is indexed."""

    @property
    def computed(self) -> Mapping[str, str]:
        """All that moves activations in their last bits: kernels, threads, the processor's abilities, versions."""

    def encode_blocks(self, blocks: Sequence[Sequence[int]]) -> Iterator[tuple[int, SourceRows]]:
        """Run blocks of token ids, each with the source's BOS, which the reader prepends (whatever its first id is).

        Yields once for every source its rank in `catalog.sources` and its rows on the tokens of all blocks, block after
        block, without the BOS rows. Raises FloatingPointError where latents are NaN.
        """


@dataclass(frozen=True, slots=True)
class Settings:
    """What an index is made with. Another value of any of the first four is another index."""

    context: int | None = None
    """Tokens of a block, BOS left out: by default 128, or what the model's context holds if that is less."""
    keeping: Keeping = field(default_factory=Keeping)
    batch_tokens: int = 2048
    batch_blocks: int = 64
    """A batch ends at so many blocks, or when so many tokens are reached."""
    rows_bytes: int = DEFAULT_ROWS_BYTES
    """Disk for rows that the second pass reads; beyond it computes them again."""

    def made_of(self, reader: ActivationReader) -> MadeOf:
        """What the index will be made of. Raises ConfigError where the settings do not fit the model."""
        room = reader.catalog.text_tokens
        context = min(DEFAULT_CONTEXT, room) if self.context is None else self.context
        if not 1 <= context <= room:
            raise ConfigError(f"context: expected 1 to {room} tokens, BOS left out, got {context}")
        if not 1 <= self.keeping.records <= MAX_RECORDS:
            raise ConfigError(f"records_per_feature: expected 1 to {MAX_RECORDS}, got {self.keeping.records}")
        if min(self.batch_tokens, self.batch_blocks) < 1:
            raise ConfigError("batch_tokens and batch_blocks: expected at least 1")
        for source in reader.catalog.sources:
            source_file(source.id, "fires")  # an id that cannot be stored: now, not after hours
        cut = Cut(context, self.batch_tokens, self.batch_blocks)
        return MadeOf.of(reader.catalog, cut, self.keeping, reader.computed)


@dataclass(frozen=True, slots=True)
class Progress:
    """How much has been indexed."""

    texts: int
    blocks: int
    tokens: int
    second_pass: float | None = None
    """Share of the second pass that is done; None before it."""


Told = Callable[[Progress], None]


def build_index(
    reader: ActivationReader,
    tokenise: Tokenise,
    texts: Iterable[str],
    out: Path,
    *,
    piece: Callable[[int], bytes] | None = None,
    settings: Settings | None = None,
    context: int | None = None,
    records_per_feature: int | None = None,
    batch_tokens: int | None = None,
    batch_blocks: int | None = None,
    work: Path | None = None,
    checkpoint: float = CHECKPOINT_SECONDS,
    progress: Told | None = None,
) -> RecordStore:
    """Index `texts` and put the index at `out`, replacing an older index there; on any error `out` is left as it was.

    `piece` gives what a token id stands for (by default nothing: then no token folds with another). The four arguments
    after `settings` stand for those of theirs. With `work` the folder is where it is built, and goes on if a part is
    there already; by default a folder that passes. `progress` is called after each batch.

    Memory, besides the reader's: about 6.6 kB a feature at the defaults, and the rows of one batch.

    Raises ConfigError if `out` is something else than an index, the settings do not fit the model, a text cannot be
    read or holds a token that the model has no embedding for, no text has a token, or an activation is not finite.
    """
    chosen = settings or Settings()
    given = {"context": context, "batch_tokens": batch_tokens, "batch_blocks": batch_blocks}
    chosen = replace(chosen, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if records_per_feature is not None:
        chosen = replace(chosen, keeping=replace(chosen.keeping, records=records_per_feature))
    made_of = chosen.made_of(reader)
    with StoreWriter(out) as writer, naming_errors(out):
        part = open_part(made_of, work or writer.passing())
        every = None if work is None else checkpoint
        build_part(reader, tokenise, texts, part, chosen.rows_bytes, progress=progress, checkpoint=every)
        _finish(reader, [part], part, piece, KeptRows([part.rows_folder], chosen.rows_bytes), writer, progress)
    return RecordStore.open(out)


def open_part(made_of: MadeOf, folder: Path) -> Part:
    """The part in a folder as it was saved last, or a new one where none was.

    Raises ConfigError for a part that was begun otherwise, and for a folder that holds something else.
    """
    if is_part(folder):
        part = Part.open(folder)
        if found := part.made_of.differs(made_of):
            raise ConfigError(f"{folder}: was begun in another way: {'; '.join(found)}: remove it to begin anew")
        return part
    Part.clear(folder)  # of one that was not saved yet
    return Part(made_of, folder).begin()


def build_part(
    reader: ActivationReader,
    tokenise: Tokenise,
    texts: Iterable[str],
    part: Part,
    rows_bytes: int,
    *,
    wanted: Callable[[int], bool] = lambda chunk: True,
    progress: Told | None = None,
    checkpoint: float | None = CHECKPOINT_SECONDS,
) -> None:
    """Folds the `wanted` chunks of a corpus that are not in the part yet, with a checkpoint every so many seconds and
    at the end, or none. Raises as `build_index` does."""
    folding = Folding(reader, part, rows_bytes, progress, checkpoint)

    def end(total: int) -> None:
        if part.corpus_texts not in (None, total):
            raise ConfigError(
                f"{part.folder}: was begun over {part.corpus_texts} texts, and now there are {total}: "
                "give the same, or remove it to begin anew"
            )
        part.corpus_texts = total

    for chunk in chunks(
        texts, tokenise, reader.catalog.model, lambda number: number not in part.chunks and wanted(number), end
    ):
        folding.fold(chunk)
    if checkpoint is not None:
        part.save()


class Folding:
    """Folds chunks into a part, one after another."""

    def __init__(
        self,
        reader: ActivationReader,
        part: Part,
        rows_bytes: int,
        progress: Told | None = None,
        checkpoint: float | None = CHECKPOINT_SECONDS,
    ) -> None:
        """Raises ConfigError for a part that was computed otherwise than `reader` does."""
        expected = MadeOf.of(reader.catalog, part.made_of.cut, part.made_of.keeping, reader.computed)
        if found := part.made_of.differs(expected):
            raise ConfigError(f"{part.folder}: was begun in another way: {'; '.join(found)}")
        self._reader = reader
        self._part = part
        self._kept = KeptRows([part.rows_folder], rows_bytes)
        self._progress = progress
        self._checkpoint = checkpoint
        self._saved, self._cost, self._blocks = time.monotonic(), 0.0, 0
        self._tokens = sum(part.lengths)

    def fold(self, chunk: Chunk) -> None:
        """Folds a chunk, from where the part's last checkpoint left it, and saves the part where it is time."""
        part = self._part
        part.add_texts(chunk)
        for batch in chunk.batches(part.made_of.cut):
            if batch.number < part.batches:
                continue
            _fold_batch(self._reader, part, batch, self._kept)
            part.batches = batch.number + 1
            self._blocks += len(batch.blocks)
            self._tokens += len(batch.ids)
            if self._progress is not None:
                self._progress(Progress(len(part.texts), self._blocks, self._tokens))
            passed = time.monotonic() - self._saved
            if self._checkpoint is not None and passed > max(self._checkpoint, CHECKPOINT_SHARE * self._cost):
                began = time.monotonic()
                part.save()
                self._saved = time.monotonic()
                self._cost = self._saved - began
        for state in part.sources:
            close_text(state)
        part.end_chunk(chunk.number)
        part.spill()


def merge_parts(
    reader: ActivationReader,
    parts: Sequence[Part],
    out: Path,
    *,
    piece: Callable[[int], bytes] | None = None,
    rows_bytes: int = DEFAULT_ROWS_BYTES,
    progress: Told | None = None,
) -> RecordStore:
    """The index of the parts of all shards, in whatever order; put at `out` as by `build_index`.

    `rows_bytes` is what rows may take beside `out` that the parts do not hold.

    Raises ConfigError for parts made of different things, a chunk that comes twice or is missing.
    """
    where: dict[int, Path] = {}
    for part in parts:
        if twice := part.chunks & where.keys():
            raise ConfigError(
                f"{part.folder}: chunk {min(twice)} is in {where[min(twice)]} too ({len(twice)} in all): "
                "give each shard once"
            )
        where |= dict.fromkeys(part.chunks, part.folder)
    expected = MadeOf.of(reader.catalog, parts[0].made_of.cut, parts[0].made_of.keeping, reader.computed)
    if found := expected.differs(parts[0].made_of):
        raise ConfigError(f"{parts[0].folder}: was made of something else than what is configured: {'; '.join(found)}")
    with StoreWriter(out) as writer, naming_errors(out):
        whole = parts[0] if len(parts) == 1 else Part(parts[0].made_of, writer.passing())  # one need not be copied
        for part in parts:
            if found := parts[0].made_of.differs(part.made_of):
                raise ConfigError(
                    f"{part.folder}: was made of something else than {parts[0].folder}: {'; '.join(found)}"
                )
            if part is not whole:
                whole.take_in(part)
        rows = writer.passing() / "rows"
        rows.mkdir(parents=True)
        kept = KeptRows([rows, *(one.rows_folder for one in parts)], rows_bytes)
        _finish(reader, parts, whole, piece, kept, writer, progress)
    return RecordStore.open(out)


def _finish(
    reader: ActivationReader,
    parts: Sequence[Part],
    whole: Part,
    piece: Callable[[int], bytes] | None,
    kept: KeptRows,
    writer: StoreWriter,
    progress: Told | None,
) -> None:
    model = reader.catalog.model
    totals = {part.corpus_texts for part in parts}
    if None in totals or len(totals) != 1:
        raise ConfigError(f"{parts[0].folder}: a part is not whole, or of another corpus: build it to its end first")
    if not whole.tokens:
        raise ConfigError("nothing to index: the texts have no token")
    corpus = CorpusMap.of(parts, int(totals.pop() or 0))
    pieces = [piece(token) if piece is not None else b"" for token in range(model.vocabulary)]
    texts, tokens = len(corpus.offsets) - 1, len(corpus.ids)

    def tell(done: int, of: int) -> None:
        if progress is not None:
            progress(Progress(texts, len(corpus.batches), tokens, done / of))

    finish(
        whole,
        corpus,
        kept,
        lambda batch: dict(_checked(reader, batch)),
        [source.kind for source in reader.catalog.sources],
        model.vocabulary,
        model.bos_id,
        Folds(pieces),
        writer,
        tell,
    )


def _fold_batch(reader: ActivationReader, part: Part, batch: Batch, kept: KeptRows) -> None:
    # For every source alike, whatever it reads before a text: there is one count of text tokens.
    bos_id = reader.catalog.model.bos_id
    counts = np.ones(len(batch.ids), np.bool_) if bos_id is None else batch.ids != bos_id
    rows_that_count = np.flatnonzero(counts)
    chosen = part.sample.choose(
        batch.place_hash[rows_that_count], batch.row_text[rows_that_count], batch.position[rows_that_count]
    )
    rows_of = dict[int, SourceRows]()
    for rank, rows in _checked(reader, batch):
        fold(part.sources[rank], rows, batch, counts)
        sample(part.sample, rank, reader.catalog.sources[rank].kind, rows, rows_that_count[chosen])
        rows_of[rank] = rows
    kept.put(batch.chunk, batch.number, rows_of)
    if part.sample.is_full():
        part.sample.cut()
    part.tokens += int(counts.sum())


def _checked(reader: ActivationReader, batch: Batch) -> Iterator[tuple[int, SourceRows]]:
    """The rows of every source, once each."""
    ranks = set(range(len(reader.catalog.sources)))
    try:
        for rank, rows in reader.encode_blocks(batch.blocks):
            ranks.remove(rank)
            _check(reader.catalog.sources[rank], rows, len(batch.ids))
            yield rank, rows
    except FloatingPointError as error:
        raise ConfigError(f"{error}: the weights of a source do not suit this model") from error
    if ranks:
        raise ValueError(f"no activations of sources {sorted(ranks)}")


def _check(source: SourceInfo, rows: SourceRows, tokens: int) -> None:
    values = rows.data if isinstance(rows, Csr) else rows
    if (height(rows), width(rows)) != (tokens, source.n_features) or values.dtype != np.float32:
        raise ValueError(f"source {source.id}: rows of {values.dtype} [{height(rows)}, {width(rows)}]")
    if not np.isfinite(values).all():
        raise ConfigError(f"source {source.id}: an activation is not finite: its weights do not suit this model")
