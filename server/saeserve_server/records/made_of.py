"""What an index was made of, and a part of one: what its revision is the digest of, and what parts must share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from saeserve_server.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Cut:
    """How texts are cut into what is run: part of what an index was made of."""

    context: int
    """Most tokens of a block, BOS left out."""
    batch_tokens: int
    batch_blocks: int
    """A batch ends at so many blocks, or when so many tokens are reached."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How much is kept of each feature: part of what an index was made of."""

    records: int = 64
    """Blocks with the largest activations."""
    per_power: int = 4
    """Sampled blocks of each power of two of their activation."""
    near_misses: int = 8
    positions: int = 1 << 16
    """Positions of the corpus of which all that fires is kept."""


@dataclass(frozen=True, slots=True)
class MadeOf:
    """What an index, or a part of one, was made of. Parts are merged if all of it is the same."""

    model: str
    model_revision: str
    kernel: str
    """Kind of device and type in which the model ran."""
    cut: Cut
    keeping: Keeping
    sources: tuple[tuple[str, str, int], ...]
    """Id, revision and number of features of each."""
    computed: Mapping[str, str]
    """All else that moves activations in their last bits: kernels, threads, the processor's abilities, versions."""

    @classmethod
    def of(cls, catalog: Catalog, cut: Cut, keeping: Keeping, computed: Mapping[str, str]) -> MadeOf:
        """Of a catalog."""
        sources = tuple((source.id, source.revision, source.n_features) for source in catalog.sources)
        model = catalog.model
        return cls(model.name, model.revision, model.kernel_class, cut, keeping, sources, dict(computed))

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> MadeOf:
        """From JSON. Raises KeyError or TypeError for what is none."""
        return cls(
            **{key: told[key] for key in ("model", "model_revision", "kernel", "computed")},
            cut=Cut(**told["cut"]),
            keeping=Keeping(**told["keeping"]),
            sources=tuple((str(one[0]), str(one[1]), int(one[2])) for one in told["sources"]),
        )

    def flat(self) -> dict[str, Any]:
        """As JSON, without nesting: `cut.context`."""
        return _flat(self.told())

    def differs(self, other: MadeOf) -> list[str]:
        """What is not the same, each as `what: ours, theirs`."""
        mine, theirs = self.flat(), other.flat()
        return [
            f"{key}: {mine.get(key, 'none')}, {theirs.get(key, 'none')}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]


def _flat(told: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in told.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key == "sources":
            flat |= {f"source {one[0]}": f"revision {one[1]}, {one[2]} features" for one in value}
        else:
            flat[prefix + key] = value
    return flat
