"""How long the kernels take, side by side in one run: `kernel_times.py [--rows 1,10,40,320] [--repeats 9]`.

On a synthetic SAE of 768 → 32,768, 50 latents of which fire on a row, with Gaussian inputs and with ones whose columns
differ by factors of exp(N(0, 1)); and on the demo's SAEs on the demo's passages. Kernels take turns; medians count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

sys.path.pop(0)  # this folder: Numba looks for the package called coverage

from saeserve_server.config import load_config
from saeserve_server.engine.build import Sample, build_runner
from saeserve_server.kernels.screened import ScreenedKernel
from saeserve_server.kernels.ways import WAYS, build
from saeserve_server.sources.sae import Sae
from saeserve_server.sources.source import SaeSource
from saeserve_server.sources.synthetic import synthetic_sae
from saeserve_server.tables import SyntheticSettings

D_IN, LATENTS, L0 = 768, 32768, 50
COLUMNS = ("inputs", "rows", "kernel", "ms", "of plain", "CPU-ms", "of plain", "candidates a row", "fire")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1,10,40,320")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    counts = [int(count) for count in options.rows.split(",")]
    generator = torch.Generator().manual_seed(0)
    gaussian = torch.randn(max(256, *counts), D_IN, generator=generator)
    spread = torch.randn(D_IN, generator=generator).exp()
    print("| " + " | ".join(COLUMNS) + " |\n" + len(COLUMNS) * "|---" + "|")
    for name, inputs in (("Gaussian", gaussian), ("columns by exp(N(0, 1))", gaussian * spread)):
        settings = SyntheticSettings(layers=1, d_model=D_IN, heads=12, latents=LATENTS, l0=L0)
        table(name, synthetic_sae(settings, 0, inputs), inputs, counts, options.repeats)
    runner, _ = build_runner(load_config(None, {"device": "cpu"}, {}), with_index=False)
    read = Sample(runner)
    for source in runner.sources:
        if isinstance(source, SaeSource):
            inputs = read(source.info.hook_name)
            table(f"demo {source.info.id}", source.sae, inputs, [len(inputs)], options.repeats)


def table(name: str, sae: Sae, inputs: Tensor, counts: Sequence[int], repeats: int) -> None:
    """Print the lines of one SAE, fitted on the first inputs."""
    kernels = [kernel for way in WAYS if (kernel := build(way, sae, inputs[:64])) is not None]
    for count in counts:
        x = inputs[:count]
        taken: list[list[tuple[float, float]]] = [[] for _ in kernels]
        for _ in range(repeats + 1):  # the first does not count
            for kernel, times in zip(kernels, taken, strict=True):
                wall, cpu = time.perf_counter(), time.process_time()
                kernel.rows(x)
                times.append((time.perf_counter() - wall, time.process_time() - cpu))
        medians = [[statistics.median(kind) for kind in zip(*times[1:], strict=True)] for times in taken]
        for kernel, median in zip(kernels, medians, strict=True):
            cells = [name, str(count), kernel.name]
            for seconds, plain in zip(median, medians[0], strict=True):
                cells += [f"{seconds * 1e3:.2f}", f"{seconds / plain:.2f}"]
            if isinstance(kernel, ScreenedKernel):
                before = replace(kernel.seen)
                kernel.rows(x)
                seen = kernel.seen.candidates - before.candidates, kernel.seen.entries - before.entries
                cells += [f"{number / count:.0f}" for number in seen]
            print("| " + " | ".join(cells + [""] * (len(COLUMNS) - len(cells))) + " |", flush=True)


if __name__ == "__main__":
    main()
