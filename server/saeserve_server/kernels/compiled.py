"""Loops that Numba compiles once for this machine and keeps: quantising, screening and the product that decides.

Compiled code lies beside this file, or in the user's cache folder where this one cannot be written to; where neither
can, each process compiles for itself, which takes seconds and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.rows import IntArray

CHUNK = 64
"""Latents that a thread computes for all rows before it goes on."""
SLACK = np.float32(2.0**-20)
"""More than float32 loses where a bias and a decoder norm are brought into a bound."""
SMALLEST_BAR = np.float32(2.0**-100)
"""Bars under it are 0: so near the end of its range float32 has no room for slack."""

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.uint32]
Products = npt.NDArray[np.float32] | npt.NDArray[np.int32]

P = ParamSpec("P")
R = TypeVar("R")


class Latents(NamedTuple):
    """What the bound needs of an SAE's weights."""

    scale: FloatArray  # [d_sae], as the others
    norm: FloatArray
    error: FloatArray
    offset: FloatArray
    """A latent is out where its bound is at most bar + offset."""


class Rows(NamedTuple):
    """What the bound needs of inputs."""

    scale: FloatArray  # [rows], as the others
    reach: FloatArray
    error_reach: FloatArray


def compiled(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compiles a function at its first call and runs it without the GIL."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        try:
            made = numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # no folder for compiled code can be written to
            made = numba.njit(nogil=True, **options)(function)
        return cast(Callable[P, R], made)

    return decorate


def use_threads(count: int) -> None:
    """On how many the calling thread's loops run, as far as there are cores."""
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


@compiled(fastmath={"reassoc", "contract"})
def dot(w: FloatArray, x: FloatArray) -> np.float32:
    """w·x in float32, added in an order that follows from the length alone: the product that decides."""
    total = np.float32(0)
    for i in range(len(w)):
        total += w[i] * x[i]
    return total


@compiled(parallel=True)
def quantise(
    vectors: FloatArray,
    columns: Doubles,
    factors: Doubles,
    levels: float,
    floor: float,
    ceiling: float,
    q: Integers,
    scale: FloatArray,
    norm: Doubles,
    error: Doubles,
) -> None:
    """Quantises the vectors [n, d] times columns [d] and factors [n] to whole numbers from −levels to levels.

    Writes q [n, d] and scale [n], and norm and error [n]: how long the vector is, and what q leaves of it.
    """
    for row in numba.prange(len(vectors)):
        largest = 0.0
        squares = 0.0
        for i in range(len(columns)):
            value = vectors[row, i] * columns[i] * factors[row]
            largest = max(largest, abs(value))
            squares += value * value
        length = np.sqrt(squares)
        scale[row] = 0
        q[row] = 0
        if not length <= ceiling:  # NaN too
            norm[row] = np.inf
            error[row] = np.inf
        elif length < floor:
            norm[row] = floor if largest > 0 else 0
            error[row] = norm[row]
        else:
            step = np.float32(largest / levels)
            lost = 0.0
            for i in range(len(columns)):
                value = vectors[row, i] * columns[i] * factors[row]
                whole = np.rint(value / step)
                lost += (value - whole * step) ** 2
                q[row, i] = whole
            scale[row] = step
            norm[row] = length
            error[row] = np.sqrt(lost)


@compiled()
def replace_least(heap: FloatArray, value: float) -> None:
    """Takes the least out of a heap, its first number, and puts `value` in."""
    place = 0
    while 2 * place + 1 < len(heap):
        child = 2 * place + 1
        if child + 1 < len(heap) and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


@compiled()
def least(
    products: Products, latents: Latents, scale: np.float32, reach: np.float32, error_reach: np.float32, out: FloatArray
) -> None:
    """Writes the least that each value [latents] of a row can be, bias included."""
    scales, norm, error, offset = latents
    for j in range(len(products)):
        bound = scales[j] * (scale * np.float32(products[j])) - norm[j] * reach - error[j] * error_reach
        out[j] = bound - (offset[j] + abs(offset[j]) * SLACK)


@compiled(parallel=True)
def kth_best(products: Products, latents: Latents, rows: Rows, k: int, bars: FloatArray) -> None:
    """For each row and segment of latents, what its k-th largest value is at least, 0 or more: `bars` [rows, segments].

    `products` [rows, latents] are those of the integers.
    """
    width = products.shape[1] // bars.shape[1]
    for row in numba.prange(len(products)):
        bounds = np.empty(products.shape[1], dtype=np.float32)
        least(products[row], latents, rows.scale[row], rows.reach[row], rows.error_reach[row], bounds)
        best = np.empty(k, dtype=np.float32)  # a heap, the least on top
        for segment in range(bars.shape[1]):
            best[:] = 0
            for bound in bounds[segment * width : (segment + 1) * width]:
                if bound > best[0]:
                    replace_least(best, bound)
            bars[row, segment] = best[0] * (1 - SLACK) if best[0] > SMALLEST_BAR else 0


@compiled()
def mark(
    products: Products,
    latents: Latents,
    first: int,
    scale: np.float32,
    reach: np.float32,
    error_reach: np.float32,
    bar: np.float32,
    marks: Bytes,
) -> None:
    """Writes for the latents from `first` on, of which these are a row's products, whether they may be over the bar."""
    scales, norm, error, offset = latents
    scales, norm, error, offset = scales[first:], norm[first:], error[first:], offset[first:]
    for j in range(len(products)):
        bound = scales[j] * (scale * np.float32(products[j])) + norm[j] * reach + error[j] * error_reach
        marks[j] = not bound <= bar + offset[j]  # NaN too


@compiled(parallel=True)
def screen(
    products: Products, latents: Latents, rows: Rows, bars: FloatArray, found: Indices, counts: IntArray
) -> None:
    """Finds the latents that the bound does not leave out, `bars` [rows, segments] held against it.

    They stand, ascending, in the first places of `found` [rows, latents]; `counts` [rows, chunks] are how many of each
    chunk they are.
    """
    width = products.shape[1] // bars.shape[1]
    for row in numba.prange(len(products)):
        words = np.zeros(-(-products.shape[1] // 8), dtype=np.uint64)
        marks = words.view(np.uint8)
        for segment in range(bars.shape[1]):
            first = segment * width
            some, bar = products[row, first : first + width], bars[row, segment]
            mark(some, latents, first, rows.scale[row], rows.reach[row], rows.error_reach[row], bar, marks[first:])
        counts[row] = 0
        place = 0
        for word in range(len(words)):
            if words[word]:  # one of eight
                for j in range(8 * word, 8 * word + 8):
                    if marks[j]:
                        found[row, place] = j
                        counts[row, j // CHUNK] += 1
                        place += 1


@compiled(parallel=True)
def rescore(
    W_enc: FloatArray,
    x: FloatArray,
    found: Indices,
    counts: IntArray,
    starts: IntArray,
    indices: Indices,
    values: FloatArray,
) -> None:
    """Writes the latents found on inputs x, row after row, and their w·x.

    `starts` [rows, chunks] is where those of a row and chunk begin. Chunk by chunk for all rows: so weights are read
    from memory once.
    """
    for chunk in numba.prange(counts.shape[1]):
        for row in range(len(x)):
            start = starts[row, chunk]
            before = start - starts[row, 0]
            for place in range(counts[row, chunk]):
                j = found[row, before + place]
                indices[start + place] = j
                values[start + place] = dot(W_enc[j], x[row])
