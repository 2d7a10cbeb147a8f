"""The digest of a question: everything that its answer follows from, and nothing else.

Two questions with the same digest have the same answer, in every replica whose model runs on the same kind of device in
the same type: others differ in last bits. So revisions are content hashes, names are resolved to sources, a text to its
ids, and defaults to their values before anything is hashed. Tokens and their offsets are no part of what is cached:
they are made anew for each request.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Mapping, Sequence

from saeserve_server.catalog import Catalog, SourceInfo
from saeserve_server.ranking.work import EncodeWork, SearchWork, SourceFilter

SCHEMA = 3
"""Version of what is cached. To be raised with every change of what an answer says to the same question."""

IN_KEY = {
    "SearchRequest": {
        "input.text": "as ids",
        "input.token_ids.ids": "as ids",
        "filter.include.kinds": "as the sources that take part",
        "filter.include.sets": "as the sources that take part",
        "filter.include.sources": "as the sources that take part",
        "filter.include.layers.first": "as the sources that take part",
        "filter.include.layers.last": "as the sources that take part",
        "filter.include.features.source": "as the sources that take part",
        "filter.include.features.index": "as indices of a source",
        "filter.exclude.kinds": "as the sources that take part",
        "filter.exclude.sets": "as the sources that take part",
        "filter.exclude.sources": "as the sources that take part",
        "filter.exclude.layers.first": "as the sources that take part",
        "filter.exclude.layers.last": "as the sources that take part",
        "filter.exclude.features.source": "as indices of a source",
        "filter.exclude.features.index": "as indices of a source",
        "filter.min_density": "as it is",
        "filter.max_density": "as it is",
        "sort_tokens.position": "as rows",
        "sort_tokens.text": "as rows",
        "sort_tokens.bos": "as rows",
        "ranking": "as it is",
        "min_fires": "as it is, or its default",
        "limit": "as it is, or its default",
        "by_token": "as the kind of ranking",
        "include_bos": "as whether a row for the BOS leads",
        "rank_bos": "as rows, and as whether a feature may be most active on a BOS",
    },
    "EncodeRequest": {
        "inputs.text": "as ids, each text by itself",
        "inputs.token_ids.ids": "as ids, each text by itself",
        "sources": "as ranks",
        "features.source": "as ranks",
        "features.index": "as indices",
        "projections.hook_name": "as it is",
        "projections.vector": "as the digest of its numbers",
        "include_bos": "as whether a row for the BOS leads",
    },
}
"""Fields of the requests that the answer follows from, and how they enter the key."""

NOT_IN_KEY = {
    "SearchRequest": {
        "model": "one model is served; its revision is in the key",
        "truncate": "what is left of the text is in the key; that it was cut is said anew in each answer",
    },
    "EncodeRequest": {
        "model": "one model is served; its revision is in the key",
        "truncate": "what is left of the text is in the key; that it was cut is said anew in each answer",
        "omit_tokens": "tokens are not cached",
    },
}
"""All other fields, and why they may be left out. A test walks the messages: a new field must stand in either."""


KEPT_QUESTIONS = 16
"""Of Encode, whose beginnings are remembered."""
KEPT_FILTERS = 256
"""Of Search, remembered as they enter the key."""


class Keys:
    """Digests of questions to one model with its sources, index and imports; revisions are empty without these."""

    def __init__(
        self, catalog: Catalog, index_revision: str, imports_revision: str = "", *, deterministic: bool = False
    ) -> None:
        self._catalog = catalog
        self._sources = [_source(source, "") for source in catalog.sources]
        self._base = _Encoder()
        self._base.numbers(SCHEMA)
        self._base.strings(catalog.model.revision, catalog.model.kernel_class, index_revision, imports_revision)
        self._base.numbers(deterministic)
        self._asked = functools.lru_cache(maxsize=KEPT_QUESTIONS)(self._begin_encode)
        self._chosen = functools.lru_cache(maxsize=KEPT_FILTERS)(self._filters)

    def computed_by(self, kernels: Mapping[str, str]) -> None:
        """Sources are computed by these kernels, by id, from now on: last bits differ among them."""
        self._sources = [_source(source, kernels.get(source.id, "")) for source in self._catalog.sources]
        self._asked.cache_clear()
        self._chosen.cache_clear()

    def search(self, work: SearchWork, positions: Sequence[int]) -> bytes:
        """32 bytes. `positions` are the rows that the sort tokens named; those of them that are a BOS do not rank."""
        encoder = self._base.copy()
        encoder.strings("search", work.aggregate.value, work.ranking.value)
        encoder.numbers(work.bos_row, work.bos_ranks, work.limit)
        encoder.numbers(*work.ids)
        encoder.numbers(*work.rows)
        encoder.numbers(*positions)
        encoder.more(self._chosen(work.filters))
        return encoder.digest()

    def encode(self, work: EncodeWork) -> bytes:
        """32 bytes."""
        encoder = self._asked(work.sources, work.features).copy()
        encoder.strings(*(part for one in work.projections for part in (one.hook_name, one.digest.hex())))
        encoder.numbers(work.bos_row)
        encoder.numbers(*work.ids)
        return encoder.digest()

    def _begin_encode(self, sources: tuple[int, ...], features: tuple[tuple[int, int], ...]) -> _Encoder:
        """What all texts of a request have in common, which may be a thousand features."""
        encoder = self._base.copy()
        encoder.strings("encode")
        encoder.strings(*(self._sources[rank] for rank in sources))
        encoder.strings(*(self._sources[rank] for rank, _ in features))
        encoder.numbers(*(index for _, index in features))
        return encoder

    def _filters(self, filters: tuple[SourceFilter, ...]) -> bytes:
        """What the sources that take part add to a key."""
        encoder = _Encoder()
        for chosen in filters:
            encoder.strings(self._sources[chosen.source])
            encoder.optional_numbers(chosen.only)
            encoder.numbers(*chosen.without)
            encoder.optional_float(chosen.min_density)
            encoder.optional_float(chosen.max_density)
            encoder.optional_numbers(None if chosen.min_fires is None else (chosen.min_fires,))
        return encoder.written()


class _Encoder:
    """Writes values one after another, each with its kind and length, so that no two sequences run together."""

    def __init__(self, parts: Sequence[bytes] = ()) -> None:
        self._parts = list(parts)

    def copy(self) -> _Encoder:
        """Another that goes on from here."""
        return _Encoder((self.written(),))

    def more(self, written: bytes) -> None:
        """What another encoder has written."""
        self._parts.append(written)

    def strings(self, *values: str) -> None:
        self._head(b"s", len(values))
        for value in values:
            data = value.encode()
            self._head(b"b", len(data))
            self._parts.append(data)

    def numbers(self, *values: int) -> None:
        self._parts.append(b"n" + struct.pack(f"<{1 + len(values)}q", len(values), *values))

    def optional_numbers(self, values: Sequence[int] | None) -> None:
        if values is None:
            self._head(b"-", 0)
        else:
            self.numbers(*values)

    def optional_float(self, value: float | None) -> None:
        if value is None:
            self._head(b"-", 0)
        else:
            self._head(b"f", 1)
            self._parts.append(struct.pack("<d", value))

    def written(self) -> bytes:
        return b"".join(self._parts)

    def digest(self) -> bytes:
        return hashlib.sha256(self.written()).digest()

    def _head(self, kind: bytes, count: int) -> None:
        self._parts.append(kind + struct.pack("<q", count))


def _source(source: SourceInfo, kernel: str) -> str:
    """What is told of a source in answers, and what its activations follow from, to the last bit."""
    encoder = _Encoder()
    encoder.strings(source.id, source.revision, source.hook_name, source.architecture, source.normalization)
    encoder.strings(source.kind.name, kernel)
    encoder.numbers(source.layer, source.d_in, source.n_features, source.fold_decoder_norm)
    encoder.optional_numbers(None if source.bos_id is None else (source.bos_id,))
    return encoder.digest().hex()
