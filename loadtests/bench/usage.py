"""What a server takes of the machine, all its processes together: CPU time, private memory, mapped files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
"""A second of CPU time, as the kernel counts it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that processes hold."""

    private: int
    """Nobody else's, and in no file: what the machine loses to them."""
    mapped: int
    """Pages of files, which the kernel can drop and others share."""


def processes(pid: int) -> list[int]:
    """A process and all that it started, and these in turn."""
    parents: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        if (fields := _fields(int(folder.name))) is not None:
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for one in found:  # grows meanwhile
        found += parents.get(one, ())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that processes have taken so far, their own code's and the kernel's for them; of one that ended none."""
    taken = [(int(fields[11]) + int(fields[12])) for pid in pids if (fields := _fields(pid)) is not None]
    return sum(taken) / TICKS


def memory(pids: Iterable[int]) -> Memory:
    """What processes hold now. A clean private page is a file's: only what was written to is nobody else's."""
    private = mapped = 0
    for pid in pids:
        page = (PROC / str(pid) / "smaps_rollup").read_text()
        size = {name: 1024 * int(kilobytes) for name, kilobytes in re.findall(r"(\w+): +(\d+) kB", page)}
        private += size["Private_Dirty"] + size["Private_Hugetlb"]
        mapped += size["Private_Clean"] + size["Shared_Clean"] + size["Shared_Dirty"]
    return Memory(private, mapped)


def _fields(pid: int) -> list[str] | None:
    """The fields of a process from its state on (`man proc_pid_stat`); None if it has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
