"""Which features: from names, ranges and kinds as people write them to the wire's selectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from saeserve.answers.names import MAX_INDEX, FeatureLike, FeatureName, is_pair
from saeserve.answers.types import Kind, Source
from saeserve.arguments.numbers import Number, Numbers, is_number, number
from saeserve.arguments.shown import shown
from saeserve.arguments.texts import text
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire

NameLike: TypeAlias = str | Source | Number
Names: TypeAlias = NameLike | Iterable[NameLike] | None
"""Ids of sources or sets, or Sources; a number is the layer of neurons, whose id it is."""
Kinds: TypeAlias = str | Kind | Iterable[str | Kind] | None
Layers: TypeAlias = Number | str | range | Iterable[Number | str | range] | Numbers | None
Features: TypeAlias = FeatureLike | Iterable[FeatureLike] | None
Sort: TypeAlias = str | Number | Iterable[str | Number] | Numbers

KINDS = {
    "latent": [wire.FEATURE_KIND_LATENT],
    "neuron": [wire.FEATURE_KIND_NEURON],
    "all": [wire.FEATURE_KIND_LATENT, wire.FEATURE_KIND_NEURON],
}

# A default is left unset, as a caller in another language would leave it.
GROUPS = {
    "top": wire.RECORD_GROUP_UNSPECIFIED,
    "quantiles": wire.RECORD_GROUP_QUANTILES,
    "random": wire.RECORD_GROUP_RANDOM,
    "near-misses": wire.RECORD_GROUP_NEAR_MISSES,
}
DIVERSITIES = {
    "none": wire.DIVERSITY_UNSPECIFIED,
    "token": wire.DIVERSITY_TOKEN,
    "folded-token": wire.DIVERSITY_FOLDED_TOKEN,
    "phrase": wire.DIVERSITY_PHRASE,
    "sentence": wire.DIVERSITY_SENTENCE,
    "text": wire.DIVERSITY_TEXT,
    "semantic": wire.DIVERSITY_SEMANTIC,
}
ORIGINS = {"index": wire.RECORD_ORIGIN_INDEX, "import": wire.RECORD_ORIGIN_IMPORT}

V = TypeVar("V")


def origin(name: str | None) -> wire.RecordOrigin.ValueType:
    """Where records come from; None leaves it to the server."""
    return wire.RECORD_ORIGIN_UNSPECIFIED if name is None else one_of(ORIGINS, name, "origin")


def one_of(values: Mapping[str, V], name: Any, what: str) -> V:
    """The value of a name. Raises ValueError for one that is none of them, TypeError for what is no text."""
    chosen = text(name, what)
    if chosen not in values:
        raise ValueError(f"{what} {chosen!r} is none of {', '.join(values)}")
    return values[chosen]


def feature_names(features: Features) -> list[FeatureName]:
    """One feature, several or none."""
    if features is None:
        return []
    named = isinstance(getattr(features, "name", features), FeatureName)
    one = named or isinstance(features, str) or is_pair(features)
    return [FeatureName.of(feature) for feature in _several(features, one, "features")]


def feature_id(feature: FeatureLike) -> wire.FeatureId:
    """The wire's name of a feature: the source in lower case."""
    name = FeatureName.of(feature)
    return wire.FeatureId(source=name.source, index=name.index)


def feature_ids(names: Iterable[FeatureName]) -> list[wire.FeatureId]:
    """The wire's names of features."""
    return [feature_id(name) for name in names]


def names(values: Names, what: str = "sources") -> list[str]:
    """Ids of sources or sets, lower-case as they go over the wire."""
    if values is None:
        return []
    one = isinstance(values, str | Source) or is_number(values)
    return [_id(value, f"{what}[{place}]") for place, value in enumerate(_several(values, one, what))]


def _id(value: Any, what: str) -> str:
    if isinstance(value, Source):
        return value.id
    return str(number(value, what)) if is_number(value) else text(value, what).lower()


def _several(values: Any, one: bool, what: str) -> Iterable[Any]:
    """One value or an iterable of them. Raises TypeError for neither, and for what iterates over something else."""
    if one:
        return [values]
    if isinstance(values, bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{what} is {shown(values)}: expected one, or several in a list")
    return values


def kinds(values: Kinds) -> list[wire.FeatureKind.ValueType]:
    """Raises ValueError for what is none of "latent", "neuron" and "all"."""
    if values is None:
        return []
    chosen: list[wire.FeatureKind.ValueType] = []
    for value in _several(values, isinstance(values, str), "kinds"):
        name = text(value, "a kind").lower()
        if name not in KINDS:
            raise ValueError(f"kind {str(value)!r} is none of {', '.join(KINDS)}")
        chosen += [kind for kind in KINDS[name] if kind not in chosen]
    return chosen


def layers(values: Layers) -> list[service.LayerRange]:
    """Inclusive ranges from 3, range(1, 4), "1-3", "0,2-4" or several of them. Raises ValueError for anything else."""
    if values is None:
        return []
    ranges: list[service.LayerRange] = []
    one = isinstance(values, str | range) or is_number(values)
    for value in _several(values, one, "layers"):
        if isinstance(value, str):
            ranges += [_written_range(part) for part in text(value, "layers").split(",")]
        elif isinstance(value, range) and len(value) and value.step in (1, -1):
            ranges.append(_range(min(value), max(value)))
        else:
            layers = list(value) if isinstance(value, range) else [number(value, "a layer", -MAX_INDEX)]
            ranges += [_range(layer, layer) for layer in layers]
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
        sets=names(sets, "sets"),
        sources=names(sources),
        layers=layers(layers_),
        features=feature_ids(feature_names(features)),
    )
    return chosen if chosen.ByteSize() else None


def sort_tokens(sort: Sort) -> list[service.SortToken]:
    """A number is a position, a text a token's text."""
    return [_sort_token(value) for value in _several(sort, isinstance(sort, str) or is_number(sort), "sort")]


def _sort_token(value: Any) -> service.SortToken:
    if is_number(value):
        return service.SortToken(position=number(value, "a position in sort"))
    if isinstance(value, str):
        return service.SortToken(text=text(value, "a text in sort"))
    raise TypeError(f"sort has {shown(value)}: expected a text, or a position")
