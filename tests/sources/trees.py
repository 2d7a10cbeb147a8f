"""Tiny SAEs as they are published: their weight files, and repositories as downloads or in the hub's cache."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tests.sources.formats import random_weights

D_IN, D_SAE = 12, 120
"""Sizes of all of them: more latents than the largest k that a repository's name says."""
WEIGHTS = {
    **random_weights(D_IN, D_SAE, seed=5, bias=-0.1),
    "r_mag": torch.full((D_SAE,), 0.1),
    "b_mag": torch.full((D_SAE,), -0.2),
}
COMMIT = "c0ffee" + "0" * 34
K = 9
"""Of top-k SAEs whose repository does not say it."""


@dataclass(frozen=True)
class Published:
    """One SAE of a release, as SAELens' directory names it."""

    layout: str
    """SAELens' name of the loader; `sae_lens` for its own format."""
    repository: str
    path: str
    model: str
    id: str = ""
    """Its name in the directory: in SAELens' own format the hook point, which stands in the file."""
    factor: float | None = None
    """By which SAELens scales inputs."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What the directory says in place of the files."""

    @property
    def layer(self) -> int:
        """By the name of file, folder or hook point."""
        names = f"{self.id if self.layout == 'sae_lens' else ''}/{self.path}"
        found = re.search(r"blocks\.(\d+)|layers?[_.]?(\d+)|[-/_]L(\d+)[A-Z_]|-SAE-l(\d+)|^/(\d+)$", names)
        return int(next(one for one in found.groups() if one)) if found else 0

    @property
    def place(self) -> str:
        """The file or folder in the repository that a person names."""
        if self.layout == "mntss_clt_layer_transcoder":
            return f"W_enc_{self.path}.safetensors"
        return f"{self.path}.safetensors" if self.layout == "gemma_3" and "clt/" in self.path else self.path


def put(folder: Path, repository: str, held: Mapping[str, bytes], *, cached: bool = False) -> Path:
    """Writes files of a repository below `folder`, as OWNER/NAME/… or as the hub's cache; gives the repository's."""
    if not cached:
        root = folder / repository
        for name, data in held.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root
    base = folder / f"models--{repository.replace('/', '--')}"
    root = base / "snapshots" / COMMIT
    for part in ("refs", "blobs"):
        (base / part).mkdir(parents=True, exist_ok=True)
    (base / "refs" / "main").write_text(COMMIT)
    for name, data in held.items():
        blob = base / "blobs" / _digest(data)
        if not blob.exists():
            blob.write_bytes(data)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(blob)
    return root


@cache
def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def tensors(kind: str, *options: str) -> bytes:
    """A weight file: `npz`, `safetensors` or `pt`, and its tensors as NAME=ROLE; `.t` lies transposed."""
    held: dict[str, Tensor] = {}
    dtype = torch.bfloat16 if "bfloat16" in options else torch.float32
    for option in options:
        name, _, role = option.partition("=")
        if role:
            held[name] = _role(role, dtype)
    stream = io.BytesIO()
    if kind == "npz":
        np.savez(stream, allow_pickle=False, **{name: tensor.numpy() for name, tensor in held.items()})
    elif kind == "pt":
        torch.save(held, stream)
    else:
        return safetensors.torch.save(held)
    return stream.getvalue()


def _role(role: str, dtype: torch.dtype) -> Tensor:
    constants = {
        "k": torch.tensor(K, dtype=torch.int32),
        "one_threshold": torch.tensor(0.2),
        "group_sizes": torch.tensor([D_SAE // 3, 2 * D_SAE // 3]),
        "ones": torch.ones(D_SAE),
        "skip": torch.eye(D_IN),
        "log_threshold": WEIGHTS["threshold"].log(),
        "log10_density": WEIGHTS["density"].log10(),
        "several_decoders": torch.stack([WEIGHTS["decoder"]] * 3, dim=1),
    }
    name = role.removesuffix(".t")
    tensor = constants[name] if name in constants else WEIGHTS[name].to(dtype)
    return (tensor.t() if role != name else tensor).contiguous()
