"""Builds an index of top activations: one pass of texts through model and sources. The only file here with torch.

Texts are cut into consecutive blocks, each run with a BOS of its own, or once for each BOS where sources differ in it.
For every feature the pass keeps the K blocks with the largest activations, as windows of ±16 tokens round the earliest
maximum, and sums over all tokens. What is kept depends on the activations alone and not on how blocks were batched:
blocks come in the order of (text, block), and of equal maxima the earlier stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from saeserve_server.catalog import Catalog, SourceInfo
from saeserve_server.errors import ConfigError
from saeserve_server.ranking.rows import SourceRows, columns, width
from saeserve_server.records import layout
from saeserve_server.records.blocks import Batch, BlockCutter, Places, Tokenise, batches
from saeserve_server.records.layout import SPAN, WINDOW, IndexedSource, source_file
from saeserve_server.records.peaks import count_peaks
from saeserve_server.records.store import RecordStore
from saeserve_server.records.writer import StoreWriter

MAX_RECORDS: Final = 1000
"""Most records that can be kept for a feature."""

_DEFAULT_CONTEXT: Final = 128
_CELLS: Final = 1 << 24
"""Entries of temporary arrays: work on more is cut into pieces."""


class ActivationReader(Protocol):
    """Model and sources, as the builder needs them."""

    @property
    def catalog(self) -> Catalog:
        """What is indexed."""

    def encode_blocks(self, blocks: Sequence[Sequence[int]]) -> Iterator[tuple[int, SourceRows]]:
        """Run blocks of token ids, each with the source's BOS, which the reader prepends (whatever its first id is).

        Yields once for every source its rank in `catalog.sources` and its activations
        [sum of the blocks' lengths, n_features] in float32: rows in the order of the blocks, without the BOS rows.
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

    Memory, besides the reader's: 149 · K + 344 bytes a feature, on the activations' device. That is 3.3 kB for 20
    records: 0.11 GB for 32,768 latents, 1.3 GB for twelve such sources. Besides, the activations of one source and
    batch (0.27 GB at 2,048 tokens × 32,768 latents) and less than as much in temporary arrays, unless most features
    fire on most tokens. Texts and tokens are streamed to the disk.

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

    with StoreWriter(out) as writer, torch.inference_mode():
        corpus = BlockCutter(writer, context, model)
        states: dict[int, _SourceState] = {}
        counted = 0
        for batch in batches(corpus.blocks(tokenise, texts), batch_tokens, batch_blocks):
            # For every source alike, whatever it reads before a text: there is one count of text tokens.
            is_bos = torch.tensor([token == model.bos_id for block in batch.blocks for token in block])
            ranks = []
            for rank, rows in reader.encode_blocks(batch.blocks):
                ranks.append(rank)
                source = reader.catalog.sources[rank]
                activations = _dense(rows)
                _check(source, activations, len(is_bos))
                if rank not in states:
                    states[rank] = _SourceState(source.n_features, records_per_feature, activations.device)
                states[rank].add(activations, batch, is_bos)
            if sorted(ranks) != list(range(len(reader.catalog.sources))):
                raise ValueError(f"activations of sources {ranks}, expected each of {len(reader.catalog.sources)} once")
            counted += int((~is_bos).sum())
            if progress is not None:
                progress(Progress(texts=corpus.texts, blocks=batch.first + len(batch.blocks), tokens=corpus.tokens))
        if not counted:
            raise ConfigError("nothing to index: the texts have no token")
        places = corpus.finish()
        for rank, source in enumerate(reader.catalog.sources):
            states[rank].write(writer, source.id, places)
            del states[rank]
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


def _dense(rows: SourceRows) -> Tensor:
    return torch.from_numpy(columns(rows, np.arange(width(rows))))


def _check(source: SourceInfo, activations: Tensor, tokens: int) -> None:
    if activations.shape != (tokens, source.n_features) or activations.dtype != torch.float32:
        raise ValueError(f"source {source.id}: activations {activations.dtype} {tuple(activations.shape)}")
    lowest, highest = torch.aminmax(activations)  # NaN passes through both
    if not (torch.isfinite(lowest) & torch.isfinite(highest)):
        raise ConfigError(f"source {source.id}: an activation is not finite: its weights do not suit this model")


class _SourceState:
    """What the pass keeps of one source.

    Ranks and slots: `values[f]` falls by rank; the record of rank r lies in slot `slots[f, r]` of the other arrays, so
    that a new record moves no window but the one that it overwrites.
    """

    def __init__(self, n_features: int, k: int, device: torch.device) -> None:
        self.k = k
        self.values = torch.zeros(n_features, k, device=device)  # 0: no record
        self.slots = torch.arange(k, dtype=torch.int16, device=device).repeat(n_features, 1)
        self.blocks = torch.zeros(n_features, k, dtype=torch.int64, device=device)
        self.peaks = torch.zeros(n_features, k, dtype=torch.int32, device=device)
        self.windows = torch.zeros(n_features, k, SPAN, device=device)
        self.sums = torch.zeros(n_features, dtype=torch.float64, device=device)
        self.histogram = torch.zeros(n_features, layout.BINS, dtype=torch.int64, device=device)

    def add(self, activations: Tensor, batch: Batch, is_bos: Tensor) -> None:
        """Take in the activations [tokens, n_features] of a batch; rows where `is_bos` count as 0."""
        device, n_features = activations.device, activations.shape[1]
        counting = activations
        if is_bos.any():
            counting = activations.masked_fill(is_bos.to(device)[:, None], 0.0)
        bounds = batch.bounds
        lengths = torch.tensor([len(block) for block in batch.blocks], device=device)
        begins = torch.tensor(bounds, device=device)
        block_of = torch.arange(len(lengths), device=device).repeat_interleave(lengths)  # [tokens]
        place_of = torch.arange(len(block_of), device=device) - begins[block_of]
        maxima = torch.zeros(len(lengths), n_features, device=device)
        peaks = torch.full(maxima.shape, int(lengths.max()), device=device)
        step = max(1, _CELLS // (int(lengths.max()) * n_features))
        for first in range(0, len(batch.blocks), step):
            # Few features fire on a token: whatever comes after this line costs little.
            offset = bounds[first]
            rows = counting[offset : bounds[min(first + step, len(batch.blocks))]]
            row, feature = (rows > 0).nonzero(as_tuple=True)
            values = rows[row, feature]
            row = row + offset
            self._count(feature, values)
            cells = block_of[row] * n_features + feature
            maxima.view(-1).scatter_reduce_(0, cells, values, "amax")
            highest = values == maxima.view(-1)[cells]
            peaks.view(-1).scatter_reduce_(0, cells[highest], place_of[row[highest]], "amin")
        self._keep(activations, maxima, peaks, begins, batch.first)

    def _count(self, features: Tensor, values: Tensor) -> None:
        # value = mantissa · 2^exponent, 0.5 ≤ mantissa < 1
        bins = (torch.frexp(values).exponent - layout.LOWEST_EXPONENT).clamp(0, layout.BINS - 1)
        cells = features * layout.BINS + bins
        self.histogram.view(-1).index_add_(0, cells, torch.ones_like(cells))
        self.sums.index_add_(0, features, values.double())

    def _keep(self, activations: Tensor, maxima: Tensor, peaks: Tensor, begins: Tensor, first_block: int) -> None:
        """Keep the best of the batch: `maxima` and the places in the block that have them, both [blocks, n_features].

        `begins` [blocks + 1]: the rows of `activations` at which blocks begin.
        """
        better = maxima > self.values[:, -1]
        features = better.any(0).nonzero().squeeze(1)
        # The sort is stable and kept records stand first: of equal maxima the earlier stays. So the kept ones that
        # remain are those of the first ranks, and the slots of the last ranks are free for the new ones.
        offered = torch.where(better, maxima, -1.0)[:, features].T
        values, origin = torch.cat((self.values[features], offered), 1).sort(stable=True, dim=1, descending=True)
        values, origin = values[:, : self.k], origin[:, : self.k]
        is_new = origin >= self.k
        n_kept = self.k - is_new.sum(1, keepdim=True)
        slots = self.slots[features].gather(1, torch.where(is_new, n_kept + is_new.cumsum(1) - 1, origin))
        self.values[features] = values
        self.slots[features] = slots

        row, rank = is_new.nonzero(as_tuple=True)
        step = _CELLS // SPAN
        for first in range(0, len(row), step):
            new = row[first : first + step], rank[first : first + step]
            feature, slot, block = features[new[0]], slots[new].long(), origin[new] - self.k
            peak = peaks[block, feature]
            start = (begins[block] + (peak - WINDOW).clamp(min=0))[:, None]
            stop = torch.minimum(begins[block] + peak + WINDOW + 1, begins[block + 1])[:, None]
            at = start + torch.arange(SPAN, device=activations.device)
            window = activations[at.clamp(max=len(activations) - 1), feature[:, None]]
            self.blocks[feature, slot] = first_block + block
            self.peaks[feature, slot] = peak.to(torch.int32)
            self.windows[feature, slot] = torch.where(at < stop, window, 0.0)

    def write(self, writer: StoreWriter, source_id: str, places: Places) -> None:
        """Write the source's files."""
        n_features = len(self.values)
        histogram = self.histogram.cpu().numpy()
        writer.write(source_file(source_id, "fires"), histogram.sum(1))
        writer.write(source_file(source_id, "sums"), self.sums.cpu().numpy())
        writer.write(source_file(source_id, "maxima"), self.values[:, 0].cpu().numpy())
        writer.write(source_file(source_id, "histogram"), histogram)

        features, ranks = (self.values > 0).nonzero(as_tuple=True)
        slots = self.slots[features, ranks].long()
        owners = features.cpu().numpy()
        maxima = self.values[features, ranks].cpu().numpy()
        peaks = self.peaks[features, slots].cpu().numpy().astype(np.int64)
        texts, begins, lengths = places.find(self.blocks[features, slots].cpu().numpy())
        starts = np.maximum(peaks - WINDOW, 0)
        records = np.zeros(len(owners), layout.RECORD)
        records["text"] = texts
        records["position"] = begins + starts
        records["maximum"] = maxima
        records["length"] = np.minimum(peaks + WINDOW + 1, lengths) - starts
        records["peak"] = peaks - starts
        offsets = np.zeros(n_features + 1, np.int64)
        np.cumsum(np.bincount(owners, minlength=n_features), out=offsets[1:])
        writer.write(source_file(source_id, "record_offsets"), offsets)
        writer.write(source_file(source_id, "records"), records)

        windows = writer.file(source_file(source_id, "windows"))
        windows.append(np.zeros((0, SPAN), np.float32))
        step = _CELLS // SPAN
        for first in range(0, len(slots), step):
            part = features[first : first + step], slots[first : first + step]
            windows.append(self.windows[part].cpu().numpy())

        top_offsets, top_tokens = count_peaks(owners, places.tokens(texts, begins + peaks), maxima, n_features)
        writer.write(source_file(source_id, "top_offsets"), top_offsets)
        writer.write(source_file(source_id, "top_tokens"), top_tokens)
