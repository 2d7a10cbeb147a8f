"""What was chosen on this machine before, so that it need not be measured at every start.

A choice holds for a machine (its processor and number of threads), versions of what computes, and a shape. The file
lies in the cache folder; where it cannot be read or written every start measures anew.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import tempfile
from pathlib import Path

import torch

from saeserve_server.config import cache_folder
from saeserve_server.kernels.ways import WAYS
from saeserve_server.sources.source import SaeSource

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
        with contextlib.suppress(OSError, RuntimeError):
            target = _path()
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".kernels-", dir=target.parent) as folder:
                fresh = Path(folder) / target.name
                fresh.write_text(json.dumps(self._all, indent=1), encoding="utf-8")
                fresh.replace(target)


def _path() -> Path:
    return cache_folder() / "kernels.json"


def _read() -> dict[str, dict[str, str]]:
    try:
        known = json.loads(_path().read_text(encoding="utf-8"))
        return {
            str(machine): {str(shape): str(name) for shape, name in shapes.items()} for machine, shapes in known.items()
        }
    except (OSError, RuntimeError, ValueError, AttributeError):  # absent, damaged, or no home folder
        return {}


def _machine() -> str:
    """Processor, threads and versions."""
    versions = []
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{library} {importlib.metadata.version(library)}")
    processor = f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return ", ".join([processor, *versions])


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
