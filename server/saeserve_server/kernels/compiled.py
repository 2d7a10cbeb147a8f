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
from saeserve_server.ranking.rows import IntArray

CHUNK = 64
"""Latents that a thread screens at a time for all rows, so that their weights are read from memory once."""
LANES = 16
"""Latents that are compared together."""
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


@compiled(parallel=True)
def kth_best(products: Products, latents: Latents, rows: Rows, k: int, bars: FloatArray) -> None:
    """For each row and segment of latents, what its k-th largest value is at least, 0 or more: `bars` [rows, segments].

    `products` [rows, latents] are those of the integers.
    """
    segment = products.shape[1] // bars.shape[1]
    scale, norm, error, offset = latents.scale, latents.norm, latents.error, latents.offset
    for row in numba.prange(len(products)):
        s, a, b = rows.scale[row], rows.reach[row], rows.error_reach[row]
        best = np.zeros(k, dtype=np.float32)  # a heap, the least on top
        for part in range(bars.shape[1]):
            best[:] = 0
            last = (part + 1) * segment
            for start in range(part * segment, last, LANES):
                end = min(start + LANES, last)
                over = 0
                for j in range(start, end):
                    lower = scale[j] * (s * np.float32(products[row, j])) - norm[j] * a - error[j] * b
                    over += lower - (offset[j] + abs(offset[j]) * SLACK) > best[0]
                if over:
                    for j in range(start, end):
                        lower = scale[j] * (s * np.float32(products[row, j])) - norm[j] * a - error[j] * b
                        lower -= offset[j] + abs(offset[j]) * SLACK
                        if lower > best[0]:
                            replace_least(best, lower)
            bars[row, part] = best[0] * (1 - SLACK) if best[0] > SMALLEST_BAR else 0


@compiled(parallel=True)
def screen(
    products: Products, latents: Latents, rows: Rows, bars: FloatArray, lowest: FloatArray, lanes: Bytes, counts: Bytes
) -> None:
    """Finds the latents that the bound does not leave out.

    Of each row and chunk, `counts` [rows, chunks] says how many they are, and the first places of the chunk in `lanes`
    [rows, latents] which. `bars` [rows, segments] are held against them; `lowest` [rows] is the least bar of a row.
    """
    segment = products.shape[1] // bars.shape[1]
    scale, norm, error, offset = latents.scale, latents.norm, latents.error, latents.offset
    for chunk in numba.prange(counts.shape[1]):
        first = chunk * CHUNK
        last = min(first + CHUNK, products.shape[1])
        for row in range(len(products)):
            s, a, b = rows.scale[row], rows.reach[row], rows.error_reach[row]
            bar = lowest[row]
            found = 0
            for start in range(first, last, LANES):
                end = min(start + LANES, last)
                over = 0
                for j in range(start, end):
                    upper = scale[j] * (s * np.float32(products[row, j])) + norm[j] * a + error[j] * b
                    over += not upper <= bar + offset[j]  # NaN too
                if over:
                    for j in range(start, end):
                        upper = scale[j] * (s * np.float32(products[row, j])) + norm[j] * a + error[j] * b
                        if not upper <= bars[row, j // segment] + offset[j]:
                            lanes[row, first + found] = j - first
                            found += 1
            counts[row, chunk] = found


@compiled(parallel=True)
def rescore(
    W_enc: FloatArray,
    x: FloatArray,
    counts: Bytes,
    lanes: Bytes,
    starts: IntArray,
    indices: Indices,
    values: FloatArray,
) -> None:
    """Writes the latents found, ascending for each row, and their w·x: those of a row and chunk from `starts` on."""
    for chunk in numba.prange(counts.shape[1]):
        first = chunk * CHUNK
        for row in range(len(x)):
            start = starts[row, chunk]
            for place in range(counts[row, chunk]):
                j = first + lanes[row, first + place]
                indices[start + place] = j
                values[start + place] = dot(W_enc[j], x[row])
