"""What computes here: the processor and its abilities. Activations move in their last bits with them."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import torch


def processor() -> str:
    """The processor by name, and the instructions that torch takes of it."""
    return f"{_name()}, {torch.backends.cpu.get_cpu_capability()}"


def _name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
