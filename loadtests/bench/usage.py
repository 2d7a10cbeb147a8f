"""What a server takes of the machine, all its processes together: CPU time, private memory, mapped files."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
"""A second of CPU time, as the kernel counts it."""
WATCHED = 2.0
"""Seconds for which a server is watched that should be at rest."""
AT_REST = 0.05
"""Of a core: the most that it may take then."""


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
    """What processes hold now. They share no memory but files': a page is of one of these, or its process' own."""
    private = mapped = 0
    for pid in pids:
        page = (PROC / str(pid) / "smaps_rollup").read_text()
        size = {name: 1024 * int(kilobytes) for name, kilobytes in re.findall(r"(\w+): +(\d+) kB", page)}
        private += size["Anonymous"] + size["Private_Hugetlb"]
        mapped += size["Rss"] - size["Anonymous"]
    return Memory(private, mapped)


def come_to_rest(pid: int, patience: float) -> None:
    """Waits until a process and all that it started take next to nothing for a while: kernels that a server compiles,
    times and chooses after its start are chosen then. Raises TimeoutError."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        pids = processes(pid)
        before = cpu_seconds(pids)
        time.sleep(WATCHED)
        if cpu_seconds(pids) - before <= AT_REST * WATCHED:
            return
    raise TimeoutError(f"process {pid} still computes after {patience:g} s though nobody asks it for anything")


def _fields(pid: int) -> list[str] | None:
    """The fields of a process from its state on (`man proc_pid_stat`); None if it has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
