"""Small checks that every reader shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from saeserve_server.errors import ConfigError


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Prefixes the message of a ConfigError raised in the block with the place (file, key) that it is about.

    What the operating system refuses becomes one.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error.__cause__
    except OSError as error:
        file = "" if error.filename is None or str(error.filename) == str(place) else f"{error.filename}: "
        raise ConfigError(f"{place}: {file}cannot be read: {error.strerror or error}") from error


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; in one pass and without a temporary array."""
    least, largest = torch.aminmax(tensor)  # NaN propagates
    return bool(torch.isfinite(least)) and bool(torch.isfinite(largest))
