"""What the scripts in this folder share: inputs, seeded numbers, and the list of what was made (`siblings.json`)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1]
LIST = GOLDEN / "siblings.json"
D_IN, D_SAE, LAYER = 64, 96, 2


def inputs(hook: str) -> Tensor:
    """[121, d_in] float32 activations of the golden model at a hook point: `hook_resid_post`."""
    return torch.from_numpy(np.load(GOLDEN / "inputs.npz")[hook])


class Random:
    """Random numbers that only the name of what they are for decides."""

    def __init__(self, name: str) -> None:
        self._generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self._generator) * std + mean

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator) * (high - low) + low

    def encoder(self, *shape: int) -> Tensor:
        """Weights that give pre-activations of about ±1 on the inputs."""
        return self.normal(*shape, std=D_IN**-0.5)

    def decoder(self, *shape: int) -> Tensor:
        """Weights whose latents' norms are about 0.5 to 2."""
        return self.encoder(*shape) * self.between(0.5, 2.0, *[size if size == D_SAE else 1 for size in shape])

    def b_enc(self) -> Tensor:
        return self.normal(D_SAE, mean=-0.3, std=0.3)

    def b_dec(self, d: int = D_IN) -> Tensor:
        return self.normal(d, std=0.3)

    def threshold(self, *shape: int) -> Tensor:
        return self.between(0.05, 0.6, *shape)


def record(name: str, path: Path, hook: str, acts: Tensor, note: str, **facts: Any) -> None:
    """Keeps what a family's own code gives for the SAE at `path`, and lists it with `facts` as `enter` does."""
    values = acts.detach().float().numpy()
    assert values.shape == (121, D_SAE)
    fires = (values > 0).mean(axis=0)
    assert ((fires > 0) & (fires < 1)).sum() >= 5, f"{name}: too few latents that fire on some tokens and not on others"
    expected = GOLDEN / "expected" / f"{name}.npz"
    np.savez_compressed(expected, acts=values)
    print(f"{name}: L0 {(values > 0).sum(axis=1).mean():.1f}")
    enter(name, path, hook, expected, note, **facts)


def enter(
    name: str, path: Path, hook: str, expected: Path, note: str, *, equal: tuple[int, ...] = (), **settings: Any
) -> None:
    """Lists an SAE and what is expected of it.

    `settings` are those of the configuration under which saeserve has to give the same. `equal` are latents whose
    values before TopK are always equal: torch.topk leaves open which of them it keeps.
    """
    entry: dict[str, Any] = {"name": name, "path": str(path.relative_to(GOLDEN)), "hook": f"blocks.{LAYER}.{hook}"}
    entry |= {"expected": str(expected.relative_to(GOLDEN)), "settings": settings, "equal": equal, "note": note}
    entries = json.loads(LIST.read_text()) if LIST.exists() else []
    entries = sorted([one for one in entries if one["name"] != name] + [entry], key=lambda one: str(one["name"]))
    LIST.write_text(json.dumps(entries, indent=1) + "\n")
