"""What an exception says of memory and of the device: torch tells the one from the other in words only.

On a GPU nothing succeeds any more in a process whose context is lost (an illegal address, a failed assertion, a card
that is gone), while memory that ran out is had again once less is run at a time. Some messages are said of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import torch

MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""Memory ran out: of the machine, of the device (also `CUDA driver error: out of memory`), or a library's."""
EITHER = ("NVML_SUCCESS == ", "STATUS_NOT_INITIALIZED")
"""The allocator, which has none left, asks NVML who holds it, and that failed; cuBLAS and cuDNN make their handles when
they are first used, and lack the memory for it. Or the device is gone."""
DEVICE = ("CUDA error", "CUDA driver error", "cuDNN error", "CUDNN_STATUS", "device-side assert")
"""The device failed."""
CALL = ("STATUS_INVALID_VALUE", "STATUS_NOT_SUPPORTED", "STATUS_BAD_PARAM", "STATUS_ARCH_MISMATCH")
"""A library refused a call before anything ran: the context is as it was."""


class Fault(Enum):
    """What failed."""

    MEMORY = "memory"
    """Less at a time, or what was freed, may fit."""
    MEMORY_OR_DEVICE = "memory or device"
    """Taken for memory, until it fails again with all that could be freed."""
    DEVICE = "device"
    """Nothing succeeds in this process any more: only another worker helps."""
    WORK = "work"
    """What was asked of it."""


OF_MEMORY = (Fault.MEMORY, Fault.MEMORY_OR_DEVICE)


def fault_of(error: BaseException) -> Fault:
    """What failed, by the first in the chain of causes that tells."""
    found = (_fault_of_one(one) for one in _causes(error))
    return next((fault for fault in found if fault is not Fault.WORK), Fault.WORK)


def _fault_of_one(error: BaseException) -> Fault:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Fault.MEMORY
    if not isinstance(error, RuntimeError):
        return Fault.WORK
    words = str(error)
    for texts, fault in (
        (MEMORY, Fault.MEMORY),
        (EITHER, Fault.MEMORY_OR_DEVICE),
        (CALL, Fault.WORK),
        (DEVICE, Fault.DEVICE),
    ):
        if any(text in words for text in texts):
            return fault
    return Fault.WORK


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from or over, and so on; each once."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
