"""Which features: from names, ranges and kinds as people write them to the wire's selectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from saeserve.answers.names import MAX_INDEX, FeatureName
from saeserve.answers.types import Feature, Kind
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire

FeatureLike: TypeAlias = str | FeatureName | Feature
Names: TypeAlias = str | Iterable[str] | None
Kinds: TypeAlias = str | Kind | Iterable[str | Kind] | None
Layers: TypeAlias = int | str | range | Iterable[int | str | range] | None
Features: TypeAlias = FeatureLike | Iterable[FeatureLike] | None

_KINDS = {
    "latent": [wire.FEATURE_KIND_LATENT],
    "neuron": [wire.FEATURE_KIND_NEURON],
    "all": [wire.FEATURE_KIND_LATENT, wire.FEATURE_KIND_NEURON],
}


def feature_name(feature: FeatureLike) -> FeatureName:
    """The name of a feature. Raises ValueError for a text that is none."""
    return feature.name if isinstance(feature, Feature) else FeatureName.of(feature)


def feature_names(features: Features) -> list[FeatureName]:
    """One feature, several or none."""
    if features is None:
        return []
    if isinstance(features, str | FeatureName | Feature):
        return [feature_name(features)]
    return [feature_name(feature) for feature in features]


def feature_id(feature: FeatureLike) -> wire.FeatureId:
    """The wire's name of a feature: the source in lower case."""
    name = feature_name(feature)
    return wire.FeatureId(source=name.source, index=name.index)


def feature_ids(names: Iterable[FeatureName]) -> list[wire.FeatureId]:
    """The wire's names of features."""
    return [feature_id(name) for name in names]


def names(values: Names) -> list[str]:
    """Ids of sources or sets, lower-case as they go over the wire."""
    if values is None:
        return []
    return [value.lower() for value in ([values] if isinstance(values, str) else values)]


def kinds(values: Kinds) -> list[wire.FeatureKind.ValueType]:
    """Raises ValueError for what is none of "latent", "neuron" and "all"."""
    if values is None:
        return []
    chosen: list[wire.FeatureKind.ValueType] = []
    for value in [values] if isinstance(values, str) else values:
        if value.lower() not in _KINDS:
            raise ValueError(f"kind {str(value)!r} is none of {', '.join(_KINDS)}")
        chosen += [kind for kind in _KINDS[value.lower()] if kind not in chosen]
    return chosen


def layers(values: Layers) -> list[service.LayerRange]:
    """Inclusive ranges from 3, range(1, 4), "1-3", "0,2-4" or several of them. Raises ValueError for anything else."""
    if values is None:
        return []
    ranges: list[service.LayerRange] = []
    for value in [values] if isinstance(values, int | str | range) else values:
        if isinstance(value, str):
            ranges += [_written_range(part) for part in value.split(",")]
        elif isinstance(value, range) and len(value) and value.step in (1, -1):
            ranges.append(_range(min(value), max(value)))
        else:
            ranges += [_range(layer, layer) for layer in (value if isinstance(value, range) else [value])]
    return ranges


def _written_range(text: str) -> service.LayerRange:
    first, dash, last = (part.strip() for part in text.partition("-"))
    if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
        raise ValueError(f"{text!r} is no layer and no range of layers: expected '3' or '1-3'")
    return _range(int(first), int(last) if dash else int(first))


def _range(first: int, last: int) -> service.LayerRange:
    if not 0 <= first <= last <= MAX_INDEX:
        raise ValueError(f"layers {first} to {last} are no range: expected numbers from 0, the smaller first")
    return service.LayerRange(first=first, last=last)


def include(
    kinds_: Kinds, sets: Names, sources: Names, layers_: Layers, features: Features
) -> service.FeatureSelector | None:
    """A selector of what takes part, or None where nothing is asked.

    Raises ValueError for an empty list: on the wire it would mean everything, the opposite of what it says.
    """
    chosen = exclude(kinds_, sets, sources, layers_, features)
    asked = {"kinds": kinds_, "sets": sets, "sources": sources, "layers": layers_, "features": features}
    for field, value in asked.items():
        if value is not None and not (chosen and len(getattr(chosen, field))):
            raise ValueError(f"{field} names nothing; leave it out to restrict nothing")
    return chosen


def exclude(
    kinds_: Kinds, sets: Names, sources: Names, layers_: Layers, features: Features
) -> service.FeatureSelector | None:
    """A selector of what is left out, or None where nothing is."""
    chosen = service.FeatureSelector(
        kinds=kinds(kinds_),
        sets=names(sets),
        sources=names(sources),
        layers=layers(layers_),
        features=feature_ids(feature_names(features)),
    )
    return chosen if chosen.ByteSize() else None


def sort_tokens(sort: str | int | Iterable[str | int]) -> list[service.SortToken]:
    """A number is a position, a text a token's text."""
    values = [sort] if isinstance(sort, str | int) else sort
    return [
        service.SortToken(text=value) if isinstance(value, str) else service.SortToken(position=value)
        for value in values
    ]
