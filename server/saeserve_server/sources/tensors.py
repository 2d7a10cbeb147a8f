"""Small checks that every reader shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from saeserve_server.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


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


def check_kept(name: str, k: int, d_sae: int) -> None:
    """Raises ConfigError for a number of latents (topk) or groups (groupmax) that `d_sae` latents cannot have."""
    if name == "topk" and not 1 <= k <= d_sae:
        raise ConfigError(f"k: expected 1 to {d_sae}, the number of latents, got {k}")
    if name == "groupmax" and (k < 1 or d_sae % k):
        raise ConfigError(f"k: expected a number of groups that divides {d_sae} latents, got {k}")


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; in one pass and without a temporary array."""
    import torch

    least, largest = torch.aminmax(tensor)  # NaN propagates
    return bool(torch.isfinite(least)) and bool(torch.isfinite(largest))
