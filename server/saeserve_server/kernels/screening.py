"""What kernels that screen have in common, whatever product they screen by. Light: nothing is compiled here."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve_server.errors import ConfigError
from saeserve_server.sources.activations import Activation, GroupMax, TopK
from saeserve_server.sources.sae import Sae

LARGEST_D_IN = 2**16
"""Numbers of a vector up to which integer products fit into 32 bits, and the bounds mean something."""


@dataclass(slots=True)
class Seen:
    """What a kernel has been through."""

    values: int = 0
    """Rows times latents."""
    candidates: int = 0
    """Of these, computed exactly."""
    entries: int = 0
    """Of these, fired."""

    @property
    def candidate_share(self) -> float:
        """Of all values the share that had to be computed exactly."""
        return self.candidates / max(1, self.values)

    def add(self, values: int, candidates: int, entries: int) -> None:
        """Counts in."""
        self.values += values
        self.candidates += candidates
        self.entries += entries

    def since(self, last: Seen) -> Seen:
        """What came after it had been through no more than `last`."""
        return Seen(self.values - last.values, self.candidates - last.candidates, self.entries - last.entries)


def kept_of(activation: Activation) -> tuple[int, int]:
    """How many latents of each segment fire at most, and the segments; 0 of one where each has a bar of its own."""
    match activation:
        case TopK(k):
            return k, 1
        case GroupMax(groups):
            return 1, groups
        case _:
            return 0, 1


def check_width(sae: Sae) -> None:
    """Raises ConfigError for an SAE that reads more numbers than bounds hold for."""
    if sae.d_in > LARGEST_D_IN:
        raise ConfigError(f"d_in: expected at most {LARGEST_D_IN}, got {sae.d_in}")
