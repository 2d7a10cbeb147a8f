"""How long the kernels take, side by side in one run: `kernel_times.py [--rows 1,10,40,320] [--repeats 9]`.

On a synthetic SAE of 768 → 32,768, 50 latents of which fire on a row, with Gaussian inputs and with ones whose columns
differ by factors of exp(N(0, 1)); and on the demo's SAEs on the demo's passages. Kernels take turns; the median counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

sys.path.pop(0)  # this folder: Numba looks for the package called coverage

from saeserve_server.kernels.packed import PackedKernel
from saeserve_server.kernels.screened import ScreenedKernel
from saeserve_server.sources.plain import PlainKernel
from saeserve_server.sources.sae import Sae
from saeserve_server.sources.synthetic import synthetic_sae
from saeserve_server.tables import SyntheticSettings

D_IN, LATENTS, L0 = 768, 32768, 50


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1,10,40,320")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    counts = [int(count) for count in options.rows.split(",")]
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(max(256, *counts), D_IN, generator=generator)
    spread = torch.randn(D_IN, generator=generator).exp()
    print("| inputs | rows | kernel | ms | to plain | candidates a row | fire |\n|---|---|---|---|---|---|---|")
    for name, inputs in (("Gaussian", sample), ("columns exp(N(0, 1))", sample * spread)):
        settings = SyntheticSettings(layers=1, d_model=D_IN, heads=12, latents=LATENTS, l0=L0)
        table(name, synthetic_sae(settings, 0, inputs), inputs, counts, options.repeats)


def table(name: str, sae: Sae, inputs: Tensor, counts: Sequence[int], repeats: int) -> None:
    """Print the lines of one SAE."""
    screened = ScreenedKernel(sae, sample=inputs[:64])
    kernels = [PlainKernel(sae), PackedKernel(sae), screened]
    for count in counts:
        x = inputs[:count]
        taken: list[list[float]] = [[] for _ in kernels]
        for kernel in kernels:
            kernel.rows(x)
        before = screened.seen.candidates, screened.seen.entries
        for _ in range(repeats):
            for kernel, seconds in zip(kernels, taken, strict=True):
                started = time.perf_counter()
                kernel.rows(x)
                seconds.append(time.perf_counter() - started)
        medians = [statistics.median(seconds) for seconds in taken]
        for kernel, median in zip(kernels, medians, strict=True):
            line = f"| {name} | {count} | {kernel.name} | {median * 1e3:.1f} | {median / medians[0]:.2f} |"
            if kernel is screened:
                seen = screened.seen
                shares = [
                    (now - old) / repeats / count
                    for now, old in zip((seen.candidates, seen.entries), before, strict=True)
                ]
                line += " {:.0f} | {:.0f} |".format(*shares)
            else:
                line += " | |"
            print(line, flush=True)


if __name__ == "__main__":
    main()
