"""Activations as Parquet: a row for each token. pyarrow is loaded where a file is written or read.

`tables.py` says which columns there are. The schema's metadata have under `saeserve` what else is known, as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

from saeserve.arguments.extras import load
from saeserve.files import tables
from saeserve.files.activations import Activations
from saeserve.files.arrays import concatenate
from saeserve.files.settings import About

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_BYTES = 2**25
"""A row group is closed once this much of it is in memory."""
GROUP_ROWS = 2**20
"""Or so many rows."""
_ROW_BYTES = 48
"""Of a row in memory, without its activations."""
_KEY = b"saeserve"


def needed(what: str) -> None:
    """Raises ImportError where pyarrow is missing."""
    load("pyarrow.parquet", what, "pyarrow", "arrow")


def write(file: BinaryIO, about: About, parts: Iterable[Activations]) -> None:
    """All parts, several to a row group."""
    parquet = load("pyarrow.parquet", "a Parquet file", "pyarrow", "arrow")
    settings = about.settings
    schema = tables.schema(settings).with_metadata({_KEY: about.as_json().encode()})
    repeated = [name for name in ("text", "id", "token_id", "token") if name in schema.names]
    with parquet.ParquetWriter(
        file, schema, compression="zstd", use_dictionary=repeated, write_statistics=["text", "id", "position"]
    ) as writer:
        held: list[Activations] = []
        for part in parts:
            held.append(part)
            if sum(map(_bytes, held)) >= GROUP_BYTES or sum(len(one.csr) for one in held) >= GROUP_ROWS:
                _write_group(writer, schema, about, held)
                held = []
        if held:
            _write_group(writer, schema, about, held)


def _write_group(writer: Any, schema: pa.Schema, about: About, held: list[Activations]) -> None:
    table = tables.table(concatenate(about, held), schema)
    writer.write_table(table, row_group_size=max(1, len(table)))


def read(path: str) -> Activations:
    """Raises ValueError for a Parquet file that is none of ours, and ImportError where pyarrow is missing."""
    parquet = load("pyarrow.parquet", "a Parquet file", "pyarrow", "arrow")
    pa = load("pyarrow", "a Parquet file", "pyarrow", "arrow")
    try:
        with parquet.ParquetFile(path) as file:
            described = (file.schema_arrow.metadata or {}).get(_KEY)
            if described is None:
                raise ValueError("its metadata have no description by saeserve: it is read by pandas or polars alone")
            about = About.from_json(described)
            groups = [tables.activations(about, file.read_row_group(place)) for place in range(file.num_row_groups)]
            return concatenate(about, groups or [tables.activations(about, file.read())])
    except pa.ArrowException as error:
        raise ValueError(f"no Parquet file, or a damaged one: {error}") from error


def _bytes(part: Activations) -> int:
    """What it takes in memory as a table."""
    dense = len(part.about.settings.features) + sum(
        block.features for block, _, _ in part.about.settings.places() if block.kind == "neuron"
    )
    return len(part.csr) * (_ROW_BYTES + 4 * dense) + 8 * part.csr.nnz
