"""Which features take part, from the arguments of a call to the wire's filter."""

from __future__ import annotations

from saeserve.arguments.numbers import share
from saeserve.v1 import feature_service_pb2 as service


def chosen(
    include: service.FeatureSelector | None,
    exclude: service.FeatureSelector | None,
    min_density: float | None,
    max_density: float | None,
) -> service.Filter | None:
    """The filter; None where nothing is restricted, as a caller in another language would leave it."""
    made = service.Filter(
        include=include,
        exclude=exclude,
        min_density=None if min_density is None else share(min_density, "min_density"),
        max_density=None if max_density is None else share(max_density, "max_density"),
    )
    return made if made.ByteSize() else None
