"""Small checks that every reader shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from saeserve_server.errors import ConfigError


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Prefixes the message of a ConfigError raised in the block with the place (file, key) that it is about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error.__cause__


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; in one pass and without a temporary array."""
    least, largest = torch.aminmax(tensor)  # NaN propagates
    return bool(torch.isfinite(least)) and bool(torch.isfinite(largest))
