"""The same columns as a pandas or Polars DataFrame, or an Arrow table. Each library is loaded where it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saeserve.arguments import extras
from saeserve.tables.columns import Column, Holds, columns

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

_PANDAS = {
    Holds.TEXT: "string",
    Holds.INTEGER: "int64",
    Holds.MAYBE: "Int64",
    Holds.FLOAT: "float64",
    Holds.FLOAT32: "float32",
    Holds.FLAG: "bool",
    Holds.TEXTS: "object",
    Holds.FLOATS: "object",
}


def to_pandas(answer: Any) -> pandas.DataFrame:
    """A DataFrame; lists are Python lists in it."""
    library = extras.load("pandas", "to_pandas()", "pandas", "pandas")
    series = {
        name: library.Series(column.values, dtype=_PANDAS[column.holds]) for name, column in columns(answer).items()
    }
    return library.DataFrame(series)


def to_polars(answer: Any) -> polars.DataFrame:
    """A DataFrame; what is not known is null."""
    library = extras.load("polars", "to_polars()", "Polars", "polars")
    kinds = {
        Holds.TEXT: library.String,
        Holds.INTEGER: library.Int64,
        Holds.MAYBE: library.Int64,
        Holds.FLOAT: library.Float64,
        Holds.FLOAT32: library.Float32,
        Holds.FLAG: library.Boolean,
        Holds.TEXTS: library.List(library.String),
        Holds.FLOATS: library.List(library.Float32),
    }
    series = [
        library.Series(name, _plain(column), dtype=kinds[column.holds]) for name, column in columns(answer).items()
    ]
    frame: polars.DataFrame = library.DataFrame(series)
    return frame


def to_arrow(answer: Any) -> pyarrow.Table:
    """A table; what is not known is null."""
    library = extras.load("pyarrow", "to_arrow()", "pyarrow", "arrow")
    kinds = {
        Holds.TEXT: library.string(),
        Holds.INTEGER: library.int64(),
        Holds.MAYBE: library.int64(),
        Holds.FLOAT: library.float64(),
        Holds.FLOAT32: library.float32(),
        Holds.FLAG: library.bool_(),
        Holds.TEXTS: library.list_(library.string()),
        Holds.FLOATS: library.list_(library.float32()),
    }
    arrays = {name: library.array(column.values, kinds[column.holds]) for name, column in columns(answer).items()}
    return library.table(arrays)


def _plain(column: Column) -> Any:
    """An array of texts as a list: Polars takes arrays of numbers."""
    return (
        column.values.tolist() if column.holds is Holds.TEXT and not isinstance(column.values, list) else column.values
    )
