"""Will it fit? What model and SAEs take against what the device has free, said and judged before anything is loaded."""

from __future__ import annotations

import ctypes
import logging
import resource
from dataclasses import dataclass
from pathlib import Path

import torch

from saeserve_server.errors import ConfigError
from saeserve_server.units import readable_bytes

log = logging.getLogger(__name__)

WORKING_BYTES = 2**30
"""What a batch and the libraries take besides the weights, roughly: with less to spare the plan warns."""

PAGE_BYTES = resource.getpagesize()

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of weights, and what there is for them."""

    model_bytes: int
    source_bytes: int
    """What the SAEs take for themselves, copies made to compute with them included."""
    mapped_bytes: int
    """What they read where it lies in their files. The system keeps it in memory where there is room."""
    free_bytes: int | None
    """None where it cannot be found out."""
    device: str

    @property
    def needed_bytes(self) -> int:
        """All weights but those that are mapped."""
        return self.model_bytes + self.source_bytes

    def __str__(self) -> str:
        free = "an unknown amount" if self.free_bytes is None else readable_bytes(self.free_bytes)
        mapped = f" and {readable_bytes(self.mapped_bytes)} mapped from files" if self.mapped_bytes else ""
        return (
            f"memory on {self.device}: model {readable_bytes(self.model_bytes)} + SAEs "
            f"{readable_bytes(self.source_bytes)} = {readable_bytes(self.needed_bytes)} of weights{mapped}, {free} free"
        )

    def check(self, origin: str) -> None:
        """Raises ConfigError if the weights cannot fit; warns if they leave next to nothing to work in, or if what is
        mapped would be read from the disk again and again."""
        if self.free_bytes is None:
            return
        if self.needed_bytes > self.free_bytes:
            raise ConfigError(
                f"{origin}: does not fit: {self}; what would help: "
                'model_dtype = "bfloat16", dtype = "bfloat16" for the SAEs, fewer layers or sets, another device'
            )
        if self.free_bytes - self.needed_bytes - self.mapped_bytes < WORKING_BYTES:
            log.warning("%s; about %s are wanted besides, to compute in", self, readable_bytes(WORKING_BYTES))


def memory_plan(model_bytes: int, source_bytes: int, mapped_bytes: int, device: torch.device) -> MemoryPlan:
    """The plan for weights of so many bytes on a device, with what it has free now."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_host_bytes()
    return MemoryPlan(model_bytes, source_bytes, mapped_bytes, free, str(device))


def process_bytes() -> tuple[int, int]:
    """Memory of this process: what it has for itself, and what is mapped from files, which it may share with others.

    Zeros where the system does not tell. Read at every batch, so from counters: adding up pages takes milliseconds.
    """
    counts = _lines(_ROOT / "proc/self/statm")
    if not counts:
        return 0, 0
    resident, mapped = map(int, counts[0].split()[1:3])
    return (resident - mapped) * PAGE_BYTES, mapped * PAGE_BYTES


def reset_device_peak() -> None:
    """Begins to look for the peak anew, where this process computes on CUDA."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def device_peak() -> tuple[int, int]:
    """Bytes of CUDA memory that tensors took at most since it was last reset, and that torch holds now; (0, 0) where
    this process does not compute on CUDA."""
    if not torch.cuda.is_initialized():
        return 0, 0
    return torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()


def return_freed() -> None:
    """Gives the system what was freed on the heap and lies between what was not, where the C library (glibc) can.

    Loading and packing weights leave 100 MiB and more of it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def free_host_bytes(root: Path = _ROOT) -> int | None:
    """Memory that this process may still take: what the machine has available, within the limits of its cgroups.

    None where neither is told (not Linux). `root` is where `proc` and `sys` are.
    """
    found = [_available(root / "proc/meminfo"), *map(_left_of_v2, _groups(root)), _left_of_v1(root)]
    known = [one for one in found if one is not None]
    return max(0, min(known)) if known else None


def _available(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _groups(root: Path) -> list[Path]:
    """Folders of the process's cgroup (version 2) and of all groups that it is in, as far as they can be seen."""
    top = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        if line.startswith("0::/"):
            group = top / line.removeprefix("0::/")
            return [one for one in (group, *group.parents) if one == top or top in one.parents]
    return [top]


def _left_of_v2(group: Path) -> int | None:
    return _left(group / "memory.max", group / "memory.current", group / "memory.stat", "inactive_file")


def _left_of_v1(root: Path) -> int | None:
    group = root / "sys/fs/cgroup/memory"
    files = (group / "memory.limit_in_bytes", group / "memory.usage_in_bytes", group / "memory.stat")
    return _left(*files, "total_inactive_file")


def _left(limit: Path, usage: Path, stat: Path, cache: str) -> int | None:
    """A group's limit less its usage; what it caches of files is given back when it is needed."""
    most, used = _lines(limit), _lines(usage)
    if not most or not used or most[0] == "max":
        return None
    cached = next((int(line.split()[1]) for line in _lines(stat) if line.startswith(f"{cache} ")), 0)
    return int(most[0]) - int(used[0]) + cached


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
