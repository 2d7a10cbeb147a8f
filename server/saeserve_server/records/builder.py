"""Builds an index of top activations: one pass of texts through model and sources.

Texts are cut into consecutive blocks, each run with a BOS of its own, or once for each BOS where sources differ in it.
For every feature the pass keeps the K blocks with the largest activations, as windows of ±16 tokens round the earliest
maximum, and sums over all tokens (`tally.py`). What is kept depends on the activations alone and not on how blocks were
batched: blocks come in the order of (text, block), and of equal maxima the earlier stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from saeserve_server.catalog import Catalog, SourceInfo
from saeserve_server.errors import ConfigError
from saeserve_server.records.blocks import BlockCutter, Tokenise, batches
from saeserve_server.records.layout import IndexedSource, source_file
from saeserve_server.records.store import RecordStore
from saeserve_server.records.tally import Tally
from saeserve_server.records.writer import StoreWriter
from saeserve_server.rows import Csr, SourceRows, height, width

MAX_RECORDS: Final = 1000
"""Most records that can be kept for a feature."""

_DEFAULT_CONTEXT: Final = 128


class ActivationReader(Protocol):
    """Model and sources, as the builder needs them."""

    @property
    def catalog(self) -> Catalog:
        """What is indexed."""

    def encode_blocks(self, blocks: Sequence[Sequence[int]]) -> Iterator[tuple[int, SourceRows]]:
        """Run blocks of token ids, each with the source's BOS, which the reader prepends (whatever its first id is).

        Yields once for every source its rank in `catalog.sources` and its rows on the tokens of all blocks, block after
        block, without the BOS rows. Raises FloatingPointError where latents are NaN.
        """


@dataclass(frozen=True, slots=True)
class Progress:
    """How much has been indexed."""

    texts: int
    blocks: int
    tokens: int


def build_index(
    reader: ActivationReader,
    tokenise: Tokenise,
    texts: Iterable[str],
    out: Path,
    *,
    context: int | None = None,
    records_per_feature: int = 20,
    batch_tokens: int = 2048,
    batch_blocks: int = 64,
    progress: Callable[[Progress], None] | None = None,
) -> RecordStore:
    """Index `texts` and put the index at `out`, replacing an older index there; on any error `out` is left as it was.

    `context` is the length of a block in tokens, BOS left out: by default 128, or what the model's context holds if
    that is less. A batch ends at `batch_blocks` blocks or when `batch_tokens` tokens are reached; it changes speed and
    memory only. `progress` is called after each batch.

    Memory, besides the reader's: for every feature 152 bytes a record, a quarter more for what waits to be cut, and
    348. That is at most 4.1 kB for 20 records: 0.14 GB for 32,768 latents, 1.6 GB for twelve such sources, less where
    features fire in fewer blocks; while the records of one source are cut, as much as they take again. Besides, the
    rows of one source and batch, and up to 80 bytes for each entry that is worked on, 4 million at once (a block at
    least). Texts and tokens are streamed to the disk.

    Raises ConfigError if `out` is something else than an index, the settings do not fit the model, a text cannot be
    read or holds a token that the model has no embedding for, no text has a token, or an activation is not finite.
    """
    model = reader.catalog.model
    room = reader.catalog.text_tokens
    if context is None:
        context = min(_DEFAULT_CONTEXT, room)
    if not 1 <= context <= room:
        raise ConfigError(f"context: expected 1 to {room} tokens, BOS left out, got {context}")
    if not 1 <= records_per_feature <= MAX_RECORDS:
        raise ConfigError(f"records_per_feature: expected 1 to {MAX_RECORDS}, got {records_per_feature}")
    if min(batch_tokens, batch_blocks) < 1:
        raise ConfigError("batch_tokens and batch_blocks: expected at least 1")
    for source in reader.catalog.sources:
        source_file(source.id, "fires")  # an id that cannot be stored: now, not after hours

    with StoreWriter(out) as writer:
        corpus = BlockCutter(writer, context, model)
        tallies = {
            rank: Tally(source.n_features, records_per_feature) for rank, source in enumerate(reader.catalog.sources)
        }
        counted = 0
        for batch in batches(corpus.blocks(tokenise, texts), batch_tokens, batch_blocks):
            # For every source alike, whatever it reads before a text: there is one count of text tokens.
            counts = np.array([token != model.bos_id for block in batch.blocks for token in block])
            ranks = []
            for rank, rows in _encoded(reader, batch.blocks):
                _check(reader.catalog.sources[rank], rows, len(counts))
                tallies[rank].add(rows, batch, counts)
                ranks.append(rank)
            if sorted(ranks) != list(range(len(reader.catalog.sources))):
                raise ValueError(f"activations of sources {ranks}, expected each of {len(reader.catalog.sources)} once")
            counted += int(counts.sum())
            if progress is not None:
                progress(Progress(texts=corpus.texts, blocks=batch.first + len(batch.blocks), tokens=corpus.tokens))
        if not counted:
            raise ConfigError("nothing to index: the texts have no token")
        places = corpus.finish()
        for rank, source in enumerate(reader.catalog.sources):
            tallies.pop(rank).write(writer, source.id, places)
        writer.commit(
            model_name=model.name,
            model_revision=model.revision,
            context=context,
            records_per_feature=records_per_feature,
            kernel=model.kernel_class,
            texts=corpus.texts,
            tokens=counted,
            sources=tuple(IndexedSource(s.id, s.revision, s.n_features) for s in reader.catalog.sources),
        )
    return RecordStore.open(out)


def _encoded(reader: ActivationReader, blocks: Sequence[Sequence[int]]) -> Iterator[tuple[int, SourceRows]]:
    try:
        yield from reader.encode_blocks(blocks)
    except FloatingPointError as error:
        raise ConfigError(f"{error}: the weights of a source do not suit this model") from error


def _check(source: SourceInfo, rows: SourceRows, tokens: int) -> None:
    values = rows.data if isinstance(rows, Csr) else rows
    if (height(rows), width(rows)) != (tokens, source.n_features) or values.dtype != np.float32:
        raise ValueError(f"source {source.id}: rows of {values.dtype} [{height(rows)}, {width(rows)}]")
    if not np.isfinite(values).all():
        raise ConfigError(f"source {source.id}: an activation is not finite: its weights do not suit this model")
