"""Gives each SAE the kernel that is fastest for its shape on this machine, without keeping anybody waiting.

A worker that starts for the first time serves the plain way. Whenever it has nothing to compute, and now and then if it
always has, it takes a step: loops are compiled, kernels are timed on real activations of the hook point, the fastest
takes the plain one's place. What was chosen is remembered (`choices.py`), so the next start has it from the
beginning.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.kernels.choices import Choices, shape_of
from saeserve_server.kernels.screening import Seen
from saeserve_server.kernels.ways import COPIES, SCREENING, WAYS, build
from saeserve_server.sources.activations import TopK
from saeserve_server.sources.plain import PlainKernel
from saeserve_server.sources.sae import Sae
from saeserve_server.sources.source import Kernel, SaeSource

log = logging.getLogger(__name__)

ROW_COUNTS = (1, 12, 48)
"""Rows on which kernels are timed: a token, a short text, a batch."""
REPEATS = 3
MOST_CANDIDATES = 1 / 12
"""Share of the latents that screening may leave: with more, to compute them all is faster."""
JUDGED_VALUES = 2**22
"""Values after which it is judged."""

SMALL = 2**20
"""Weights of an SAE up to which the plain way is left alone: what it takes is lost in what a batch takes besides."""
AUTO = "auto"

Sample = Callable[[str], Tensor]
"""Activations [rows, d_in] at a hook point, of some text."""


class Chooser:
    """The kernels of some sources. One caller at a time, which is the sources' own."""

    def __init__(
        self,
        sources: Sequence[SaeSource],
        sample: Sample,
        wanted: str = AUTO,
        otherwise: Callable[[Sae], Kernel] = PlainKernel,
        has_room: Callable[[int], bool] = lambda size: True,
    ) -> None:
        """`wanted` is the kernel of all of them, or `auto`; `otherwise` is what those get that it does not suit.
        `has_room` tells whether so many bytes of memory can be taken."""
        self._sources = sources
        self._sample = sample
        self._wanted = wanted
        self._otherwise = otherwise
        self._has_room = has_room
        self._choices = Choices()
        self._judged: dict[int, Seen] = {}  # what kernels that screen had been through then
        self._fallbacks: set[int] = set()
        self._steps = self._choose()

    def begin(self) -> None:
        """Takes what is wanted, or was chosen before: some tenths of a second a source. Raises ConfigError for a kernel
        that is wanted and suits no source."""
        if self._wanted != AUTO:
            for source in self._sources:
                self._use(source, self._wanted)
            if self._otherwise is PlainKernel and self._sources and self._wanted not in self.names.values():
                raise ConfigError(f"kernel: {self._wanted} suits none of the SAEs on this machine, expected auto")
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
        """Does a little of what is left to do: for GPT-2 small's shape less than a second. Whether there is more."""
        try:
            return next(self._steps, False)
        except Exception:  # a worker that serves must not end of it
            log.exception("kernels cannot be measured: what is not chosen yet stays plain")
            return False

    def judge(self) -> None:
        """Gives sources whose candidates have grown beyond what pays another kernel, where none was asked for."""
        if self._wanted != AUTO:
            return
        for place, source in enumerate(self._sources):
            seen: Seen | None = getattr(source.kernel, "seen", None)
            if seen is None:
                continue
            lately = seen.since(self._judged.get(place, Seen()))
            if lately.values >= JUDGED_VALUES:
                self._judged[place] = replace(seen)
                if (share := lately.candidate_share) > MOST_CANDIDATES:
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
        if all(source.kernel.name == PlainKernel.name for source in self._sources):  # else they are compiled already
            compiling = threading.Thread(target=_compile, name="compile-kernels", daemon=True)
            compiling.start()
            while compiling.is_alive():
                yield True
        for shape, alike in unknown.items():
            kernels: dict[str, Kernel] = {}
            for name in WAYS:
                kernel = self._fit(alike[0], name, len(alike))
                if kernel is not None:
                    kernels[name] = kernel
                yield True
            times: dict[str, list[float]] = {name: [] for name in kernels}
            x = self._sample(alike[0].info.hook_name)
            for rows in ROW_COUNTS:
                some = x[torch.arange(rows) % len(x)]
                best = dict.fromkeys(kernels, float("inf"))
                for _ in range(REPEATS):
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
            alike[0].kernel = kernels[chosen]
            kernels.clear()
            for source in alike:
                self._use(source, chosen)
                yield True

    def _use(self, source: SaeSource, name: str) -> None:
        """Gives a source the kernel of that name, or another where it cannot be had."""
        if source.kernel.name != name:
            kernel = self._fit(source, name)
            source.kernel = kernel or self._otherwise(source.sae)
            if kernel is None:
                log.warning("%s: no kernel %s can be had for it, but %s", source.info.name, name, source.kernel.name)

    def _fit(self, source: SaeSource, name: str, alike: int = 1) -> Kernel | None:
        """A kernel for a source; None where it cannot be had, or where there is no memory for the copies that it makes
        of the weights of so many sources."""
        W_enc = source.sae.W_enc
        if name in COPIES and not self._has_room(alike * W_enc.numel() * W_enc.element_size()):
            return None
        return build(name, source.sae, self._sample(source.info.hook_name))

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
    """Has the loops compiled, or read from where they were kept: for both products, and for what they end in."""
    generator = torch.Generator().manual_seed(0)
    W_enc, x = torch.randn(64, 8, generator=generator), torch.randn(3, 8, generator=generator)
    plain = Sae(W_enc=W_enc, b_enc=torch.zeros(64))
    for name, sae in itertools.product(SCREENING, (plain, replace(plain, activation=TopK(2)))):
        build(name, sae, x)  # which tries it


def _told(times: dict[str, list[float]]) -> str:
    return (
        ", ".join(f"{name} {' / '.join(f'{1000 * one:.2f}' for one in seconds)} ms" for name, seconds in times.items())
        + f" for {' / '.join(map(str, ROW_COUNTS))} rows"
    )
