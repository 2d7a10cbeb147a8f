"""Activations of many texts in memory: what a part holds, and what `read_activations` gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sys import intern
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from saeserve.answers.activations import Csr, Floats, Integers
from saeserve.answers.names import FeatureLike, FeatureName
from saeserve.arguments.extras import load
from saeserve.files.settings import About
from saeserve.files.strings import Strings

if TYPE_CHECKING:
    from saeserve.tables.matrix import FeatureMatrix

Places: TypeAlias = npt.NDArray[np.int32]


class FeatureNames(Sequence[FeatureName]):
    """The columns' names, in order; `str()` of one is `0-DEMO:1633`. Each is made when it is asked for."""

    def __init__(self, about: About) -> None:
        self._settings = about.settings

    def __len__(self) -> int:
        return self._settings.columns

    @overload
    def __getitem__(self, place: SupportsIndex) -> FeatureName: ...
    @overload
    def __getitem__(self, place: slice) -> list[FeatureName]: ...
    def __getitem__(self, place: SupportsIndex | slice) -> FeatureName | list[FeatureName]:
        if isinstance(place, slice):
            return [self._settings.name(column) for column in range(len(self))[place]]
        return self._settings.name(place.__index__())

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The column of a feature, however it is written. Raises ValueError if it has none."""
        column = self._settings.column(FeatureName.of(value))
        if column is None or column not in range(len(self))[start:stop]:
            raise ValueError(f"{FeatureName.of(value)} is not among the {len(self):,} features")
        return column

    def __contains__(self, value: object) -> bool:
        try:
            self.index(value)
        except (ValueError, TypeError):
            return False
        return True

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self[:3]))
        return f"[{shown}{', …' if len(self) > 3 else ''}] ({len(self):,} features)"


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """Activations of many texts: a row for each token, a column for each feature. `len()` is the number of texts.

    `acts[3]` is one text and `acts[:10]` are ten, each again Activations.
    """

    about: About
    """Which model, sources and settings."""
    csr: Csr
    """[tokens of all texts, features]; values that are 0 are not stored."""
    text_numbers: Integers
    """[texts]; which text of the input, from 0. Those that were skipped are missing."""
    text_offsets: Integers
    """[texts + 1]; text i has the rows from text_offsets[i] to text_offsets[i + 1]."""
    ids: Strings | None
    """[texts]; their ids in the input; None where none were asked for."""
    tokens: Strings
    """[tokens]; each made printable, as `Token.display`."""
    token_ids: npt.NDArray[np.uint32]
    """[tokens]; in the model's vocabulary."""
    positions: Places
    """[tokens]; which of its text's rows each is, from 0, a BOS among them."""
    is_bos: npt.NDArray[np.bool_]
    """[tokens]; whether it is a BOS, where those were asked for."""
    starts: Places
    """[tokens]; where each begins in its text, in bytes of UTF-8."""
    ends: Places
    """[tokens]; where it ends, exclusive."""

    @property
    def feature_names(self) -> FeatureNames:
        """The columns."""
        return FeatureNames(self.about)

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens, features)."""
        return self.csr.shape

    @property
    def text_of_row(self) -> Integers:
        """[tokens]; the place of each row's text, an index into `ids` and `text_numbers`."""
        return np.repeat(np.arange(len(self)), np.diff(self.text_offsets))

    def __len__(self) -> int:
        return len(self.text_numbers)

    def __iter__(self) -> Iterator[Activations]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: SupportsIndex | slice) -> Activations:
        """A text by its place, or a slice of step 1."""
        if not isinstance(place, slice):
            at = range(len(self))[place.__index__()]
            place = slice(at, at + 1)
        start, stop, step = place.indices(len(self))
        if step != 1:
            raise ValueError("texts can be cut only with step 1")
        stop = max(start, stop)
        offsets = self.text_offsets[start : stop + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        return Activations(
            about=self.about,
            csr=self.csr[rows],
            text_numbers=self.text_numbers[start:stop],
            text_offsets=offsets - offsets[0],
            ids=None if self.ids is None else self.ids[start:stop],
            tokens=self.tokens[rows],
            token_ids=self.token_ids[rows],
            positions=self.positions[rows],
            is_bos=self.is_bos[rows],
            starts=self.starts[rows],
            ends=self.ends[rows],
        )

    def column(self, feature: FeatureLike) -> Floats:
        """[tokens]; one feature. Raises KeyError if it is not among the columns."""
        name = FeatureName.of(feature)
        if name not in self.feature_names:
            raise KeyError(str(name))
        return self.csr.column(self.feature_names.index(name))

    def toarray(self) -> Floats:
        """[tokens, features]; dense. May be large: 4 bytes a cell."""
        return self.csr.toarray()

    def to_scipy(self) -> FeatureMatrix:
        """All texts as one SciPy matrix with the names of its rows and columns, as `EncodeResult.to_scipy` gives it.

        Its `by_text("max")` has a row for each text. Raises ImportError where SciPy is missing.
        """
        sparse = load("scipy.sparse", "to_scipy()", "SciPy", "scipy")
        from saeserve.tables.matrix import FeatureMatrix

        settings, csr = self.about.settings, self.csr
        tokens = [intern(token) for token in self.tokens]
        return FeatureMatrix(
            csr=sparse.csr_array((csr.data, csr.indices.view(np.int32), csr.indptr), shape=csr.shape),
            text=self.text_numbers[self.text_of_row],
            position=self.positions.astype(np.int64),
            token=np.array([*tokens, None], object)[:-1],  # whatever the tokens, an array of them and of nothing else
            is_bos=self.is_bos,
            blocks=tuple((block.id, block.features) for block, _, _ in settings.places()),
            chosen=tuple(map(FeatureName.parse, settings.features)),
        )

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"<Activations: {len(self):,} texts, {rows:,} tokens × {columns:,} features, {self.csr.nnz:,} values>"
