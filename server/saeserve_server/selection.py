"""From names and filters, as callers write them, to the sources and features that take part. No torch, no protobuf."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from saeserve_server.catalog import Catalog, Kind, SourceInfo
from saeserve_server.errors import InvalidArgument, NotFound, nearest
from saeserve_server.ranking.work import SourceFilter

NamedFeature = tuple[str, int]
"""A source's id or alias, and an index."""


@dataclass(frozen=True, slots=True)
class Selector:
    """A set of features: every field that is not empty narrows it."""

    kinds: tuple[Kind, ...] = ()
    sets: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    layers: tuple[tuple[int, int], ...] = ()
    """Inclusive ranges."""
    features: tuple[NamedFeature, ...] = ()


@dataclass(frozen=True, slots=True)
class FeatureFilter:
    """Which features take part: includes intersect, exclusion wins."""

    include: Selector = Selector()
    exclude: Selector = Selector()
    min_density: float | None = None
    max_density: float | None = None


class Directory:
    """The catalog by name."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._by_name: dict[str, int] = {}
        for rank, source in enumerate(catalog.sources):
            for name in (source.id, *source.aliases):
                self._by_name[name.casefold()] = rank
        self._sets = {source.set for source in catalog.sources}
        self._has_latents = any(source.kind is Kind.LATENT for source in catalog.sources)

    def source(self, name: str) -> int:
        """Rank of the source of that id or alias. Raises NotFound with the nearest known ones."""
        rank = self._by_name.get(name.casefold())
        if rank is None:
            known = [source.id for source in self._catalog.sources]
            raise NotFound(
                f"source {name[:80]!r} is not served{nearest(name[:80].casefold(), known)}", reason="SOURCE_NOT_FOUND"
            )
        return rank

    def sources(self, names: Sequence[str], field: str) -> list[int]:
        """Ranks of several sources, each named once. Raises NotFound or InvalidArgument."""
        ranks = [self.source(name) for name in names]
        _refuse_repeats(ranks, names, field)
        return ranks

    def feature(self, name: NamedFeature) -> tuple[int, int]:
        """Rank and index of a feature. Raises NotFound, also for an index out of range."""
        rank, index = self.source(name[0]), name[1]
        info = self._catalog.sources[rank]
        if index >= info.n_features:
            raise NotFound(
                f"feature {info.name}:{index} does not exist: indices of {info.name} are 0 to {info.n_features - 1}",
                reason="FEATURE_NOT_FOUND",
            )
        return rank, index

    def features(self, names: Sequence[NamedFeature], field: str) -> list[tuple[int, int]]:
        """Ranks and indices of several features, each named once. Raises NotFound or InvalidArgument."""
        found = [self.feature(name) for name in names]
        _refuse_repeats(found, [f"{source}:{index}" for source, index in names], field)
        return found

    def info(self, rank: int) -> SourceInfo:
        """The source of that rank."""
        return self._catalog.sources[rank]

    def select(self, chosen: FeatureFilter, min_fires: int | None = None) -> tuple[SourceFilter, ...]:
        """The sources that take part, by rank, and which of their features; empty if the filter leaves none.

        Every name is looked up, in exclusions too, before anything is left out. Raises NotFound or InvalidArgument.
        """
        include, exclude = chosen.include, chosen.exclude
        keep = self._ranks(include, "filter.include")
        drop = self._ranks(exclude, "filter.exclude")
        if not (include.kinds or include.sets or include.sources or include.features):
            default = Kind.LATENT if self._has_latents else Kind.NEURON
            keep = {rank for rank in keep if self._catalog.sources[rank].kind is default}
        only = _by_source(self.features(include.features, "filter.include.features"))
        without = _by_source(self.features(exclude.features, "filter.exclude.features"))
        if include.features:
            keep &= only.keys()
        if any((exclude.kinds, exclude.sets, exclude.sources, exclude.layers)):
            keep -= drop
        return tuple(
            SourceFilter(
                source=rank,
                only=tuple(sorted(only[rank])) if include.features else None,
                without=tuple(sorted(without.get(rank, ()))),
                min_density=chosen.min_density,
                max_density=chosen.max_density,
                min_fires=min_fires,
            )
            for rank in sorted(keep)
        )

    def _ranks(self, selector: Selector, field: str) -> set[int]:
        """Sources that a selector's sources, sets, layers and kinds name: in all of `include`, in any of `exclude`."""
        everything = set(range(len(self._catalog.sources)))
        named: list[set[int]] = []
        if selector.kinds:
            named.append({rank for rank in everything if self.info(rank).kind in selector.kinds})
        if selector.sets:
            sets = {self._set(name) for name in selector.sets}
            named.append({rank for rank in everything if self.info(rank).set in sets})
        if selector.sources:
            named.append(set(self.sources(selector.sources, f"{field}.sources")))
        if selector.layers:
            for first, last in selector.layers:
                self._check_layers(first, last, f"{field}.layers")
            named.append(
                {
                    rank
                    for rank in everything
                    if any(first <= self.info(rank).layer <= last for first, last in selector.layers)
                }
            )
        if field.endswith("exclude"):
            return set().union(*named)
        return everything.intersection(*named)

    def _set(self, name: str) -> str:
        if name.casefold() not in self._sets:
            raise NotFound(
                f"set {name[:80]!r} is not served{nearest(name[:80].casefold(), sorted(self._sets))}",
                reason="SET_NOT_FOUND",
            )
        return name.casefold()

    def _check_layers(self, first: int, last: int, field: str) -> None:
        if last < first:
            raise InvalidArgument.field(field, f"range {first} to {last}: the last layer is below the first")
        if last >= self._catalog.model.n_layers:
            raise NotFound(
                f"layer {last} does not exist: layers are 0 to {self._catalog.model.n_layers - 1}",
                reason="LAYER_NOT_FOUND",
            )


def _by_source(features: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = defaultdict(list)
    for rank, index in features:
        grouped[rank].append(index)
    return dict(grouped)


def _refuse_repeats(found: Sequence[object], names: Sequence[str], field: str) -> None:
    seen: set[object] = set()
    for one, name in zip(found, names, strict=True):
        if one in seen:
            raise InvalidArgument.field(field, f"{name[:80]!r} is named twice", reason="DUPLICATE")
        seen.add(one)
