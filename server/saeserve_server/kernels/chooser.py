"""Gives each SAE the kernel that is fastest for its shape on this machine, without keeping anybody waiting.

A worker that starts for the first time serves the plain way. Whenever it has nothing to compute, and once after each
batch, it takes a step: loops are compiled, kernels are timed on real activations of the hook point, the fastest takes
the plain one's place. What was chosen is remembered (`choices.py`), so the next start has it from the beginning.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve_server.kernels.choices import Choices, shape_of
from saeserve_server.kernels.ways import WAYS, build
from saeserve_server.sources.activations import ReLU, TopK
from saeserve_server.sources.plain import PlainKernel
from saeserve_server.sources.sae import Sae
from saeserve_server.sources.source import Kernel, SaeSource

log = logging.getLogger(__name__)

ROW_COUNTS = (1, 12, 48)
"""Rows on which kernels are timed: a token, a short text, a batch."""
REPEATS = 3
COMPILE_PATIENCE = 0.05
"""Seconds of a step that waits for loops to be compiled."""
MOST_CANDIDATES = 1 / 12
"""Share of the latents that screening may leave: with more, to compute them all is faster."""
JUDGED_VALUES = 2**22
"""Values after which it is judged."""

SMALL = 2**20
"""Weights of an SAE up to which the plain way is left alone: what it takes is lost in what a batch takes besides."""
AUTO = "auto"

Sample = Callable[[str], Tensor]
"""Activations [rows, d_in] at a hook point, of some text."""


@dataclass(slots=True)
class _Watch:
    """What a kernel that screens had been through when it was last judged."""

    values: int = 0
    candidates: int = 0


class Chooser:
    """The kernels of some sources. One caller at a time, which is the sources' own."""

    def __init__(
        self,
        sources: Sequence[SaeSource],
        sample: Sample,
        wanted: str = AUTO,
        otherwise: Callable[[Sae], Kernel] = PlainKernel,
    ) -> None:
        """`wanted` is the kernel of all of them, or `auto`; `otherwise` is what those get that it does not suit."""
        self._sources = sources
        self._sample = sample
        self._wanted = wanted
        self._otherwise = otherwise
        self._choices = Choices()
        self._watched: dict[int, _Watch] = {}
        self._fallbacks: set[int] = set()
        self._steps = self._choose()

    def begin(self) -> None:
        """Takes what is wanted, or was chosen before: some tenths of a second a source."""
        if self._wanted != AUTO:
            for source in self._sources:
                self._use(source, self._wanted)
            return
        for shape, alike in self._by_shape().items():
            name = self._choices.get(shape)
            for source in alike if name is not None else ():
                self._use(source, str(name))

    @property
    def names(self) -> dict[str, str]:
        """The kernel of each source, by id."""
        return {source.info.id: source.kernel.name for source in self._sources}

    def finish(self) -> None:
        """Takes all steps: for work that is long enough to wait for it."""
        while self.step():
            pass

    def step(self) -> bool:
        """Does a little of what is left to do: at most some tenths of a second. Whether there is more."""
        return next(self._steps, False)

    def judge(self) -> None:
        """Gives sources whose candidates have grown beyond what pays another kernel, where none was asked for."""
        if self._wanted != AUTO:
            return
        for place, source in enumerate(self._sources):
            seen = getattr(source.kernel, "seen", None)
            if seen is None:
                continue
            last = self._watched.setdefault(place, _Watch())
            values, candidates = seen.values - last.values, seen.candidates - last.candidates
            if values >= JUDGED_VALUES:
                self._watched[place] = _Watch(seen.values, seen.candidates)
                if candidates > MOST_CANDIDATES * values:
                    share = candidates / values
                    log.warning("%s: screening leaves %.0f%% of the latents: given up", source.info.name, 100 * share)
                    self._fallbacks.add(place)
                    self._use(source, "onednn")

    @property
    def fallbacks(self) -> int:
        """Sources for which screening was given up."""
        return len(self._fallbacks)

    def _choose(self) -> Iterator[bool]:
        unknown = {shape: alike for shape, alike in self._by_shape().items() if self._choices.get(shape) is None}
        if self._wanted != AUTO or not unknown:
            return
        compiling = threading.Thread(target=_compile, name="compile-kernels", daemon=True)
        compiling.start()
        while compiling.is_alive():
            compiling.join(COMPILE_PATIENCE)
            yield True
        for shape, alike in unknown.items():
            first = alike[0]
            x = self._sample(first.info.hook_name)
            kernels: dict[str, Kernel] = {}
            for name in WAYS:
                kernel = build(name, first.sae, x)
                if kernel is not None:
                    kernels[name] = kernel
                yield True
            times: dict[str, list[float]] = {name: [] for name in kernels}
            for rows in ROW_COUNTS:
                some = x[torch.arange(rows) % len(x)]
                best = dict.fromkeys(kernels, float("inf"))
                for _ in range(1 + REPEATS):  # the first warms up
                    for name, kernel in kernels.items():
                        began = time.perf_counter()
                        kernel.rows(some)
                        best[name] = min(best[name], time.perf_counter() - began)
                    yield True
                for name, seconds in best.items():
                    times[name].append(seconds)
            chosen = fastest(times)
            self._choices.put(shape, chosen)
            log.info("%s: %s, of %s", shape, chosen, _told(times))
            kernels.clear()
            for source in alike:
                self._use(source, chosen)
                yield True

    def _use(self, source: SaeSource, name: str) -> None:
        """Gives a source the kernel of that name, or the plain one where it cannot be had."""
        if source.kernel.name != name:
            kernel = build(name, source.sae, self._sample(source.info.hook_name))
            source.kernel = kernel or self._otherwise(source.sae)
            if kernel is None:
                log.warning(
                    "%s: kernel %s cannot be had for it, %s is used", source.info.name, name, source.kernel.name
                )

    def _by_shape(self) -> dict[str, list[SaeSource]]:
        """The sources of which it pays to choose."""
        alike: dict[str, list[SaeSource]] = {}
        for source in self._sources:
            if source.sae.W_enc.numel() > SMALL:
                alike.setdefault(shape_of(source), []).append(source)
        return alike


def fastest(times: Mapping[str, Sequence[float]]) -> str:
    """The kernel whose times, each as a multiple of the least for that many rows, are least in sum."""
    least = [min(one) for one in zip(*times.values(), strict=True)]
    return min(times, key=lambda name: sum(one / best for one, best in zip(times[name], least, strict=True)))


def _compile() -> None:
    """Has the loops compiled, or read from where they were kept."""
    generator = torch.Generator().manual_seed(0)
    # As large as what is fitted on a part of the SAE and of the sample: it is compiled for other strides.
    W_enc, x = torch.randn(2048, 8, generator=generator), torch.randn(200, 8, generator=generator)
    for activation in (ReLU(), TopK(2)):
        kernel = build("fbgemm-int8", Sae(W_enc=W_enc, b_enc=torch.zeros(2048), activation=activation), x)
        if kernel is not None:
            kernel.rows(x)


def _told(times: dict[str, list[float]]) -> str:
    return (
        ", ".join(f"{name} {' / '.join(f'{1000 * one:.2f}' for one in seconds)} ms" for name, seconds in times.items())
        + f" for {' / '.join(map(str, ROW_COUNTS))} rows"
    )
