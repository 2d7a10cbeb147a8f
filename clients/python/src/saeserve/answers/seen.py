"""How every answer is looked at: in a line, in a notebook, as a table. What draws it is loaded when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow
    from matplotlib.axes import Axes


class Brief:
    """Has a `repr` of one short line."""

    __slots__ = ()

    def __repr__(self) -> str:
        from saeserve.notebook.brief import brief

        return brief(self)


class Shown(Brief):
    """Is also drawn in a notebook, where it is the last line of a cell."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """HTML without a script, everything of the answer escaped; what is long is cut, and says so."""
        from saeserve.notebook.show import html

        return html(self)


class Tabular(Shown):
    """Is also a table. `saeserve.tables.columns` says for each answer which row stands for what."""

    __slots__ = ()

    def to_pandas(self) -> pandas.DataFrame:
        """As a pandas DataFrame. Raises ImportError without pandas: pip install "saeserve[pandas]"."""
        from saeserve.tables.libraries import to_pandas

        return to_pandas(self)

    def to_polars(self) -> polars.DataFrame:
        """As a Polars DataFrame. Raises ImportError without Polars: pip install "saeserve[polars]"."""
        from saeserve.tables.libraries import to_polars

        return to_polars(self)

    def to_arrow(self) -> pyarrow.Table:
        """As an Arrow table. Raises ImportError without pyarrow: pip install "saeserve[arrow]"."""
        from saeserve.tables.libraries import to_arrow

        return to_arrow(self)


class HeatMap:
    """Is also drawn as a heat map."""

    __slots__ = ()

    def plot(self, *, limit: int = 25, ax: Axes | None = None) -> Axes:
        """Draw features × tokens, activation as colour, into `ax` or new Axes, and return them.

        Of a search by token the colour is the value by which it ranked. A BOS is drawn, and takes no part in the choice
        of features and in the scale.

        limit: at most so many features: the first, and of whole sources those with the largest activations.

        Raises ImportError without matplotlib: pip install "saeserve[plot]"; ValueError where there is nothing to draw.
        """
        from saeserve.plots.heat import heat_map

        return heat_map(self, limit, ax)


class Histogram:
    """Is also drawn as a histogram."""

    __slots__ = ()

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw on how many tokens of the index the feature fires how strongly, into `ax` or new Axes; return them.

        Raises ImportError without matplotlib: pip install "saeserve[plot]"; ValueError where there is nothing to draw.
        """
        from saeserve.plots.histogram import histogram

        return histogram(self, ax)
