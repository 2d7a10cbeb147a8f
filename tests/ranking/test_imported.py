"""Densities and maxima that were imported, in the place of an index that does not cover a source."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from saeserve_server.catalog import Kind, SourceInfo
from saeserve_server.ranking.answer import answer_from
from saeserve_server.ranking.filters import Filters
from saeserve_server.ranking.work import Aggregate, Ranking, SearchDone, SearchWork, SourceFilter
from saeserve_server.records.density import Origin, density_of, maximum_of, maximum_origin_of, origin_of

NAN = math.nan
SOURCE = SourceInfo("0-x", "x", 0, Kind.LATENT, "hook", "standard", 8, 4)


class Imported:
    """What was imported of one source: some of its features."""

    revision = "r"

    def density(self, source_id: str) -> np.ndarray | None:
        return np.array([0.1, NAN, 0.001, 0.2]) if source_id == SOURCE.id else None

    def maximum(self, source_id: str) -> np.ndarray | None:
        return np.array([4, 2, NAN, 0], np.float32) if source_id == SOURCE.id else None


class Index:
    """An index of the same source, and of no other."""

    def covers(self, source: str) -> bool:
        return source == SOURCE.id

    def density(self, source: str) -> np.ndarray:
        return np.full(4, 0.5)

    def maximum(self, source: str) -> np.ndarray:
        return np.array([1, 1, 1, 0], np.float32)

    def fires(self, source: str) -> np.ndarray:
        return np.array([20, 20, 5, 0])


def search(filters: Filters, chosen: SourceFilter, ranking: Ranking) -> list[tuple[int, float]]:
    """Index and value of what is found where every feature's activation is 1."""
    work = SearchWork((5,), False, (chosen,), Aggregate.MAX, (0,), 10, ranking)
    done = answer_from(work, {0: np.ones((1, 4), np.float32)}, filters)
    assert isinstance(done, SearchDone)
    if not done.ranked:
        return []
    return list(zip(done.ranked[0].index.tolist(), done.ranked[0].value.tolist(), strict=True))


def test_they_are_asked_after_the_index_and_after_the_file() -> None:
    index, imported = Index(), Imported()
    told = replace(SOURCE, file_density=np.full(4, 0.25))
    other = replace(SOURCE, id="1-x")
    for source, known, origin, density, maximum in (
        (SOURCE, index, Origin.INDEX, 0.5, Origin.INDEX),
        (told, index, Origin.INDEX, 0.5, Origin.INDEX),
        (told, None, Origin.FILE, 0.25, Origin.IMPORT),
        (SOURCE, None, Origin.IMPORT, 0.1, Origin.IMPORT),
        (other, index, None, None, None),
    ):
        assert origin_of(source, known, imported) is origin  # type: ignore[arg-type]
        assert maximum_origin_of(source, known, imported) is maximum  # type: ignore[arg-type]
        found = density_of(source, known, imported)  # type: ignore[arg-type]
        assert (None if found is None else found[0]) == density
        assert (maximum_of(source, known, imported) is None) == (maximum is None)  # type: ignore[arg-type]
    assert origin_of(SOURCE, None) is maximum_origin_of(SOURCE, None) is None


def test_an_unknown_density_fails_either_bound() -> None:
    filters = Filters([SOURCE], None, Imported())
    for bounds, left in (({"min_density": 0.0}, [0, 2, 3]), ({"max_density": 1.0}, [0, 2, 3]), ({}, [0, 1, 2, 3])):
        assert [index for index, _ in search(filters, SourceFilter(0, **bounds), Ranking.RAW)] == left
    assert filters.count(SourceFilter(0, min_density=0.01, max_density=0.15)) == 1


def test_relative_to_an_imported_maximum_no_count_of_firings_applies_and_unknown_ones_do_not_rank() -> None:
    chosen = SourceFilter(0, min_fires=10)
    assert search(Filters([SOURCE], None, Imported()), chosen, Ranking.RELATIVE) == [(1, 0.5), (0, 0.25)]
    with_index = Filters([SOURCE], Index(), Imported())  # type: ignore[arg-type]
    assert search(with_index, chosen, Ranking.RELATIVE) == [(0, 1.0), (1, 1.0)]


def test_what_nobody_knows_is_no_ranking() -> None:
    filters = Filters([replace(SOURCE, id="1-x")], Index(), Imported())  # type: ignore[arg-type]
    for ranking in (Ranking.RELATIVE, Ranking.SURPRISAL):
        with pytest.raises(RuntimeError, match="1-x"):
            search(filters, SourceFilter(0, min_fires=10), ranking)
    with pytest.raises(RuntimeError, match="surprisal without an index"):
        Filters([SOURCE], None, Imported()).surprisal(0)
