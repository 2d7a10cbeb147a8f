"""Texts of a column of a Parquet or an Arrow file, some rows at a time.

Takes pyarrow, which the extra `saeserve-server[parquet]` brings.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from saeserve_server.errors import ConfigError

PARQUET: Final = (".parquet",)
ARROW: Final = (".arrow",)
TABLES: Final = (*PARQUET, *ARROW)
ROWS: Final = 256
"""Of a Parquet file read at a time; of an Arrow file as many as were written together."""
_FILE_MAGIC: Final = b"ARROW1"
"""First bytes of an Arrow file of the kind that is not a stream."""


def column(file: Path, field: str) -> Iterator[tuple[list[str], int]]:
    """Some texts of column `field` at a time, and how many of the file's bytes they took.

    Raises ConfigError without pyarrow, for a file or a column that is not of this kind, and naming the row, counted
    from 1, for what is not a text.
    """
    pyarrow = _pyarrow(file)
    try:
        first = 1
        for values, size in _batches(pyarrow, file, field):
            yield _texts(values, file, field, first), size
            first += len(values)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: not a whole {file.suffix[1:].capitalize()} file: {reason}") from error


def _batches(pyarrow: Any, file: Path, field: str) -> Iterator[tuple[Any, int]]:
    size = file.stat().st_size
    if file.suffix.lower() in PARQUET:
        from pyarrow import parquet

        with parquet.ParquetFile(file) as table:
            _check(pyarrow, table.schema_arrow, file, field)
            rows, read, done = table.metadata.num_rows, 0, 0
            for batch in table.iter_batches(ROWS, columns=[field]):
                done += batch.num_rows
                at = size * done // rows
                yield batch.column(field), at - read
                read = at
            if read < size:
                yield pyarrow.array([], pyarrow.string()), size - read
        return
    with pyarrow.memory_map(str(file)) as mapped:
        is_file = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        mapped.seek(0)
        if is_file:
            reader = pyarrow.ipc.open_file(mapped)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = reader = pyarrow.ipc.open_stream(mapped)
        _check(pyarrow, reader.schema, file, field)
        read = 0
        for batch in batches:
            at = mapped.tell()
            yield batch.column(field), max(0, at - read)
            read = max(read, at)
        yield pyarrow.array([], pyarrow.string()), size - read


def _check(pyarrow: Any, schema: Any, file: Path, field: str) -> None:
    if schema.names.count(field) != 1:
        raise ConfigError(
            f"{file}: {'no' if field not in schema.names else 'more than one'} column {field!r}; it has "
            f"{', '.join(schema.names) or 'none'}: choose with --field"
        )
    kind = schema.field(field).type
    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    types = pyarrow.types
    if not (types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)):
        raise ConfigError(f"{file}: column {field!r}: expected strings, got {kind}")


def _texts(values: Any, file: Path, field: str, first: int) -> list[str]:
    """The texts of an array whose rows are numbered from `first` on."""
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise ConfigError(f"{file}: row {first + row}: column {field!r}: expected a string, got null")
    try:
        texts: list[str] = values.to_pylist()
    except UnicodeDecodeError:
        for row, value in enumerate(values):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{file}: row {first + row}: column {field!r}: not UTF-8 text ({error.reason})"
                ) from error
        raise
    return texts


def _pyarrow(file: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise ConfigError(f"{file}: needs pyarrow: pip install 'saeserve-server[parquet]'") from error
    return pyarrow
