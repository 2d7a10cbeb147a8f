"""The floor: what the products of a batch take by themselves on this machine. No server can be quicker than that.

It is the products of the encoders, by the quickest of three kernels, and those of the model's linear layers up to the
deepest hook point, in float32 packed once: no attention, no selecting, rescoring or ranking. What is multiplied decides
nothing about the time, so encoders have random weights, a few copies for each shape that are used in turn: their pages
would otherwise stay in the processor's cache, where those of a dozen SAEs do not.

- `plain`: `F.linear`, whose library packs the weights anew at every call.
- `packed`: oneDNN, packed once.
- `int8`: FBGEMM as an exact product of integers, 7 bits by 8. Its result is a new array each time, so rows are given to
  it in blocks.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from transformers.pytorch_utils import Conv1D

from saeserve_server.config import load_config
from saeserve_server.engine.worker import NICENESS
from saeserve_server.kernels.products import Fbgemm
from saeserve_server.models.load import load_model

COPIES = 3
BLOCK = 48
"""Rows that the int8 kernel is given at a time."""
LEAST_SECONDS, LEAST_RUNS = 0.2, COPIES
"""How long a kernel is measured at least."""
LEVELS, LARGEST = 64, 63
"""Of 7 bits: kernels that add two products of 8 bits in 16 would saturate."""

Kernel: TypeAlias = Callable[[Tensor], object]
"""Multiplies rows [rows, d_in] by the weights that it was made of."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What something takes once, in seconds."""

    wall: float
    cpu: float

    def times(self, count: int) -> Cost:
        """So many of it."""
        return Cost(count * self.wall, count * self.cpu)


@dataclass(frozen=True, slots=True)
class Floored:
    """What the products of a batch take."""

    model: Cost
    encoders: Mapping[str, Cost]
    """All of them, by each kernel."""


def beside() -> ThreadPoolExecutor:
    """A thread in which to make and measure a floor: it, and those that torch starts from it, give way to others as the
    worker does. On Linux a niceness is a thread's own."""
    return ThreadPoolExecutor(1, initializer=os.nice, initargs=(NICENESS,))


class Floor:
    """The products of a model and its sources, ready to be run."""

    def __init__(self, model: str, sources: Sequence[tuple[str, int, int]]) -> None:
        """`sources` are hook point, d_in and number of features of each."""
        self._linears = [(packed(weight, bias), weight.shape[1]) for weight, bias in linears(model, sources)]
        self._shapes = Counter((d_in, features) for _, d_in, features in sources)
        self._encoders = {
            (d_in, features): {
                name: [make(torch.randn(features, d_in)) for _ in range(COPIES)] for name, make in KERNELS.items()
            }
            for d_in, features in self._shapes
        }

    @torch.inference_mode()
    def measure(self, model_rows: int, encoder_rows: int) -> Floored:
        """A batch that runs so many rows through the model, and encodes so many by every source."""
        inputs = {width: torch.randn(model_rows, width) for width in {width for _, width in self._linears}}

        def forward(_: int) -> None:
            for kernel, width in self._linears:
                kernel(inputs[width])

        encoders: dict[str, list[Cost]] = {name: [] for name in KERNELS}
        for shape, count in self._shapes.items():
            x = torch.randint(-LARGEST, LARGEST + 1, (encoder_rows, shape[0])).float()
            for name, copies in self._encoders[shape].items():
                encoders[name].append(_time(partial(_one_of, copies, x)).times(count))
        return Floored(_time(forward), {name: _sum(costs) for name, costs in encoders.items()})


def linears(model: str, sources: Iterable[tuple[str, int, int]]) -> list[tuple[Tensor, Tensor | None]]:
    """Weights [d_out, d_in] and biases of the linear layers that a pass to the deepest source runs."""
    loaded = load_model(load_config(None, {"model": model, "index": "none"}), torch.device("cpu"))
    hooks = list(dict.fromkeys(hook for hook, _, _ in sources))
    loaded.prepare(hooks)
    found: list[tuple[Tensor, Tensor | None]] = []

    def note(module: nn.Module, *_: object) -> None:
        if isinstance(module, nn.Linear):
            found.append((module.weight.detach(), module.bias))
        elif isinstance(module, Conv1D):
            found.append((module.weight.detach().t(), module.bias))

    handle = register_module_forward_hook(note)
    try:
        loaded.forward.run([[0, 1]], {hook: loaded.place(hook) for hook in hooks})
    finally:
        handle.remove()
    return found


def plain(weight: Tensor) -> Kernel:
    """By `F.linear`."""
    return lambda x: F.linear(x, weight)


def packed(weight: Tensor, bias: Tensor | None = None) -> Kernel:
    """By oneDNN, packed once."""
    ours: Any = torch.ops.mkldnn
    stored = ours._reorder_linear_weight(weight.contiguous())
    return lambda x: ours._linear_pointwise(x, stored, bias, "none", [], "")


def int8(weight: Tensor) -> Kernel:
    """By FBGEMM, of rows of whole numbers from -63 to 63: the exact products with the weights' nearest integers."""
    nearest = (weight * (127 / weight.abs().amax(1, keepdim=True))).round().to(torch.int8)
    product = Fbgemm(nearest.numpy(), LEVELS)
    return lambda x: [torch.from_numpy(product(block.numpy())) for block in x.to(torch.int8).split(BLOCK)]


KERNELS: Mapping[str, Callable[[Tensor], Kernel]] = {"plain": plain, "packed": packed, "int8": int8}


def _one_of(copies: Sequence[Kernel], x: Tensor, turn: int) -> object:
    return copies[turn % COPIES](x)


def _time(run: Callable[[int], object]) -> Cost:
    """The median of some runs, after one that does not count."""
    run(0)
    walls: list[float] = []
    cpus: list[float] = []
    begin = time.perf_counter()
    while len(walls) < LEAST_RUNS or time.perf_counter() - begin < LEAST_SECONDS:
        wall, cpu = time.perf_counter(), time.process_time()
        run(len(walls) + 1)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Cost(statistics.median(walls), statistics.median(cpus))


def _sum(costs: Iterable[Cost]) -> Cost:
    costs = list(costs)
    return Cost(sum(one.wall for one in costs), sum(one.cpu for one in costs))
