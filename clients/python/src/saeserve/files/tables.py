"""Activations as an Arrow table, which is what a Parquet file holds: a row for each token.

| column | type | what |
|---|---|---|
| `text` | int64 | which text of the input, from 0 |
| `id` | string | its id; only where ids were asked for |
| `position` | int32 | which of the text's rows, from 0, a BOS among them |
| `is_bos` | bool | whether it is one; only where BOS was asked for |
| `token_id`, `token` | uint32, string | the token, made printable |
| `start`, `end` | int32 | where it stands in its text, in bytes of UTF-8 |
| `0-DEMO:indices`, `0-DEMO:values` | list of uint32, of float | of each SAE: which latents fire, and how strongly |
| `2:values` | float [neurons] | of each layer of neurons: all of them |
| `0-DEMO:1633`, … | float | instead of these: each feature chosen |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from saeserve.answers.activations import Csr, Integers
from saeserve.arguments.extras import load
from saeserve.files.activations import Activations
from saeserve.files.blocks import beside, columns, of_dense
from saeserve.files.settings import About, Settings
from saeserve.files.strings import Strings

if TYPE_CHECKING:
    import pyarrow as pa


def schema(settings: Settings) -> pa.Schema:
    pa = _pyarrow()
    fields = [("text", pa.int64()), *([("id", pa.string())] if settings.has_ids else [])]
    fields += [("position", pa.int32()), *([("is_bos", pa.bool_())] if settings.include_bos else [])]
    fields += [("token_id", pa.uint32()), ("token", pa.string())]
    fields += [("start", pa.int32()), ("end", pa.int32())]
    fields += [(name, pa.float32()) for name in settings.features]
    for block, _, _ in settings.places():
        if block.kind == "neuron":
            fields.append((f"{block.name}:values", pa.list_(pa.float32(), block.features)))
        else:
            fields.append((f"{block.name}:indices", pa.list_(pa.uint32())))
            fields.append((f"{block.name}:values", pa.list_(pa.float32())))
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])


def table(given: Activations, schema: pa.Schema) -> pa.Table:
    pa = _pyarrow()
    settings, rows, texts = given.about.settings, len(given.csr), given.text_of_row
    made: dict[str, Any] = {
        "text": given.text_numbers[texts],
        "position": given.positions,
        "token_id": given.token_ids,
        "token": _strings(given.tokens),
        "start": given.starts,
        "end": given.ends,
    }
    if settings.include_bos:
        made["is_bos"] = given.is_bos
    if given.ids is not None:
        made["id"] = _strings(given.ids).take(pa.array(texts))
    if settings.features:
        dense = given.csr.toarray()
        made |= {name: np.ascontiguousarray(dense[:, place]) for place, name in enumerate(settings.features)}
    for block, start, stop in settings.places():
        own = columns(given.csr, start, stop)
        if block.kind == "neuron":
            flat = pa.array(own.toarray().ravel())
            made[f"{block.name}:values"] = pa.FixedSizeListArray.from_arrays(flat, block.features)
            continue
        if own.nnz > np.iinfo(np.int32).max:
            raise ValueError(f"{own.nnz:,} values of {block.name} in one row group of {rows:,} tokens")
        offsets = pa.array(own.indptr.astype(np.int32))
        for name, values in (("indices", own.indices), ("values", own.data)):
            made[f"{block.name}:{name}"] = pa.ListArray.from_arrays(offsets, pa.array(values))
    ordered = [pa.array(made[name]) if isinstance(made[name], np.ndarray) else made[name] for name in schema.names]
    return pa.Table.from_arrays(ordered, schema=schema)


def _strings(given: Strings) -> Any:
    """An Arrow array over the same bytes."""
    pa = _pyarrow()
    offsets = pa.py_buffer(given.offsets.astype(np.int64))
    buffer = pa.py_buffer(np.ascontiguousarray(given.buffer))
    return pa.LargeStringArray.from_buffers(len(given), offsets, buffer).cast(pa.string())


def activations(about: About, table: pa.Table) -> Activations:
    settings, rows = about.settings, len(table)
    numbers: Integers = _numpy(table, "text")
    first = np.flatnonzero(np.diff(numbers, prepend=-1)) if rows else np.zeros(0, np.int64)
    ids = Strings.of(table["id"].take(first).to_pylist()) if settings.has_ids else None
    if settings.features:
        blocks = [of_dense(np.stack([_numpy(table, name) for name in settings.features], axis=1))]
    else:
        blocks = [_block(table, block.name, block.kind, block.features) for block, _, _ in settings.places()]
    return Activations(
        about=about,
        csr=beside(blocks, rows),
        text_numbers=numbers[first],
        text_offsets=np.append(first, rows).astype(np.int64),
        ids=ids,
        tokens=_texts(table["token"]),
        token_ids=_numpy(table, "token_id"),
        positions=_numpy(table, "position"),
        is_bos=_numpy(table, "is_bos") if settings.include_bos else np.zeros(rows, np.bool_),
        starts=_numpy(table, "start"),
        ends=_numpy(table, "end"),
    )


def _numpy(table: pa.Table, name: str) -> Any:
    return np.ascontiguousarray(table[name].to_numpy())


def _texts(column: Any) -> Strings:
    whole = column.cast(_pyarrow().large_string()).combine_chunks()
    if not len(whole):
        return Strings.of([])
    _, offsets, buffer = whole.buffers()
    ends = np.frombuffer(offsets, np.int64)[whole.offset :][: len(whole) + 1]
    bytes_ = np.frombuffer(buffer, np.uint8) if buffer is not None else np.zeros(0, np.uint8)
    return Strings(bytes_[ends[0] : ends[-1]], ends - ends[0])


def _block(table: pa.Table, name: str, kind: str, features: int) -> Csr:
    values = table[f"{name}:values"].combine_chunks()
    if kind == "neuron":
        return of_dense(values.flatten().to_numpy().reshape(-1, features))
    lists = table[f"{name}:indices"].combine_chunks()
    indptr = lists.offsets.to_numpy().astype(np.int64)
    return Csr((len(lists), features), indptr - indptr[0], lists.flatten().to_numpy(), values.flatten().to_numpy())


def _pyarrow() -> Any:
    return load("pyarrow", "a Parquet file", "pyarrow", "arrow")
