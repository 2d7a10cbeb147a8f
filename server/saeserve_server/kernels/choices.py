"""What was chosen on this machine before, so that it need not be measured at every start.

A choice holds for a machine (its processor and number of threads), versions of what computes, and a shape. The file
lies in the cache folder; where it cannot be read or written every start measures anew.
"""

from __future__ import annotations

import contextlib
import importlib.metadata

import torch

from saeserve_server.kernels.processor import processor
from saeserve_server.kernels.ways import WAYS
from saeserve_server.notes import note, recall
from saeserve_server.sources.source import SaeSource

NAME = "kernels.json"
LIBRARIES = ("torch", "numba", "onnxruntime")


def shape_of(source: SaeSource) -> str:
    """What sources have in common that one choice serves: sizes, activation, storage, and the kind of hook point."""
    sae, hook = source.sae, source.info.hook_name.rpartition(".")[2]
    where = f" on {torch.cuda.get_device_name(sae.W_enc.device)}" if sae.W_enc.is_cuda else ""
    return f"{sae.d_in} to {sae.d_sae} {sae.activation.name} {sae.W_enc.dtype} {hook}{where}".replace("torch.", "")


class Choices:
    """Names of kernels by shape, remembered for this machine."""

    def __init__(self) -> None:
        self._machine = _machine()
        self._all = _read()

    def get(self, shape: str) -> str | None:
        """What was chosen for a shape; None if nothing that still can be."""
        name = self._all.get(self._machine, {}).get(shape)
        return name if name in WAYS else None

    def put(self, shape: str, name: str) -> None:
        """Remembers a choice, if the cache folder can be written to."""
        self._all = _read()  # another server may have added to it
        self._all.setdefault(self._machine, {})[shape] = name
        note(NAME, self._all)


def _read() -> dict[str, dict[str, str]]:
    try:
        return {
            str(machine): {str(shape): str(name) for shape, name in shapes.items()}
            for machine, shapes in recall(NAME).items()
        }
    except AttributeError:  # none, or damaged
        return {}


def _machine() -> str:
    """Processor, threads and versions."""
    versions = []
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{library} {importlib.metadata.version(library)}")
    return ", ".join([processor(), f"{torch.get_num_threads()} threads", *versions])
