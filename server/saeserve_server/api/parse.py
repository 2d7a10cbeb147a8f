"""Requests into plain queries: every field checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.api.texts import Shown, show_text
from saeserve_server.catalog import Kind
from saeserve_server.errors import InvalidArgument
from saeserve_server.selection import FeatureFilter, NamedFeature, Selector
from saeserve_server.serving.limits import Limits
from saeserve_server.serving.serving import Serving

_KINDS = {types.FEATURE_KIND_LATENT: Kind.LATENT, types.FEATURE_KIND_NEURON: Kind.NEURON}


async def parse_input(
    serving: Serving, given: types.Input, truncate: bool, field: str = "input", *, remember: bool = True
) -> tuple[Shown, bool]:
    """The tokens of an input, and whether they were cut to the limit. Raises InvalidArgument."""
    text = await show_text(serving, given, field, serving.limits.max_tokens, remember=remember)
    return text, serving.texts.fit(text.count, truncate, field)


def parse_filter(given: service.Filter, limits: Limits) -> FeatureFilter:
    """A filter. Raises InvalidArgument; names are looked up later."""
    lowest = _parse_share(given, "min_density")
    highest = _parse_share(given, "max_density")
    if lowest is not None and highest is not None and lowest > highest:
        raise InvalidArgument.field("filter.min_density", f"{lowest:g} is above max_density, {highest:g}")
    return FeatureFilter(
        include=_parse_selector(given.include, "filter.include", limits),
        exclude=_parse_selector(given.exclude, "filter.exclude", limits),
        min_density=lowest,
        max_density=highest,
    )


def parse_features(given: Sequence[types.FeatureId], field: str, limits: Limits) -> tuple[NamedFeature, ...]:
    """Named features. Raises InvalidArgument for too many, or one without a source."""
    check_count(given, field, limits.max_features, "features")
    return tuple(parse_feature(feature, f"{field}[{place}]") for place, feature in enumerate(given))


def check_count(given: Sized, field: str, most: int, what: str = "entries") -> None:
    """Raises InvalidArgument for a repeated field of more than `most` entries. To be asked before they are walked."""
    if len(given) > most:
        raise InvalidArgument.field(field, f"{len(given)} {what}; at most {most} are taken")


def parse_feature(given: types.FeatureId, field: str = "feature") -> NamedFeature:
    """A named feature. Raises InvalidArgument without a source."""
    if not given.source:
        raise InvalidArgument.field(f"{field}.source", "missing; a source's id is expected")
    return given.source, given.index


def parse_count(value: int | None, default: int, most: int, field: str) -> int:
    """A count from 1 to `most`, `default` where unset. Raises InvalidArgument."""
    if value is None:
        return default
    if not 1 <= value <= most:
        raise InvalidArgument.field(field, f"{value}; 1 to {most} is expected")
    return value


def _parse_share(given: service.Filter, name: str) -> float | None:
    if not given.HasField(name):  # type: ignore[arg-type]
        return None
    value: float = getattr(given, name)
    if math.isnan(value) or not 0 <= value <= 1:
        raise InvalidArgument.field(f"filter.{name}", f"{value:g}; 0 to 1 is expected")
    return value


def _parse_selector(given: service.FeatureSelector, field: str, limits: Limits) -> Selector:
    for name in ("kinds", "sets", "sources", "layers"):
        check_count(getattr(given, name), f"{field}.{name}", limits.max_names)
    return Selector(
        kinds=_parse_kinds(given.kinds, f"{field}.kinds"),
        sets=tuple(given.sets),
        sources=tuple(given.sources),
        layers=tuple((layers.first, layers.last) for layers in given.layers),
        features=parse_features(given.features, f"{field}.features", limits),
    )


def _parse_kinds(given: Sequence[int], field: str) -> tuple[Kind, ...]:
    for place, kind in enumerate(given):
        if kind not in _KINDS:
            raise InvalidArgument.field(
                f"{field}[{place}]", f"{kind}; FEATURE_KIND_LATENT or FEATURE_KIND_NEURON is expected"
            )
    return tuple(dict.fromkeys(_KINDS[kind] for kind in given))  # type: ignore[index]
