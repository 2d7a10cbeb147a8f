"""Cosines of many directions with a few, screened: what each is at least and at most.

Directions are made of length 1 and kept as small integers, a byte a number. Their product with another direction, made
into integers too, says the cosine up to a proven bound (`bounds`); whoever wants to know exactly looks at the
directions themselves, but only at those that the bound leaves in.

What they are compared with is taken in two parts, x = x̂ + (x − x̂), each made into integers by itself: the second is so
short that next to nothing of x is lost. A product with two rows takes no longer than one with one, since it waits for
the directions to come from memory; and of 400,000 some dozen stay in instead of hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saeserve_server.catalog import FloatArray
from saeserve_server.errors import ConfigError
from saeserve_server.kernels.bounds import INFLATION, Scaling, quantised, quantised_rows
from saeserve_server.kernels.compiled import Doubles, Integers, Rows, use_threads
from saeserve_server.kernels.products import ExactProduct, Fbgemm, OnnxRuntime, exact_levels
from saeserve_server.kernels.screening import LARGEST_D_IN

PRODUCTS: tuple[type[ExactProduct], ...] = (Fbgemm, OnnxRuntime)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Directions that others are compared with, as integers: first the first parts of all, then the second."""

    q: Integers  # [2 · points, width]
    rows: Rows


def points_of(x: FloatArray, product: type[ExactProduct]) -> Points:
    """Directions x [points, width], of length 1."""
    scaling = _scaling(x.shape[1], product)
    q, rows = quantised_rows(x, scaling)
    first = q.astype(np.float32) * rows.scale[:, None]
    return Points(*quantised_rows(np.concatenate([first, x - first]), scaling))


def _scaling(width: int, product: type[ExactProduct]) -> Scaling:
    return Scaling(np.ones(width), *exact_levels(product)[0])


class Cosines:
    """The directions of a source as integers, filled in part after part."""

    def __init__(self, count: int, width: int, product: type[ExactProduct]) -> None:
        self._scaling = _scaling(width, product)
        self._q: Integers = np.empty((count, width), dtype=np.int8)
        self._scale = np.empty(count, dtype=np.float32)
        self._norm, self._error = (np.empty(count, dtype=np.float32) for _ in range(2))
        self._product: ExactProduct | None = None
        self._made_by = product
        self.nbytes = kept_bytes(count, width)

    def add(self, first: int, directions: FloatArray, norms: Doubles, uncertain: Doubles) -> None:
        """Takes in directions [k, width] from the `first` on, of lengths `norms`, each of which may be off by a vector
        of length `uncertain`."""
        use_threads(torch.get_num_threads())
        here = slice(first, first + len(directions))
        length = np.where(norms > 0, norms, 1.0)
        q, scale, norm, error = quantised(directions, self._scaling.columns, 1 / length, self._scaling.weight_levels)
        self._q[here], self._scale[here] = q, scale
        off = uncertain / length
        self._norm[here] = np.nextafter((norm + off).astype(np.float32), np.float32(np.inf))
        self._error[here] = np.nextafter((error + off).astype(np.float32), np.float32(np.inf))

    def finish(self) -> None:
        """All are in: they are packed for products, which takes the place of what was filled in."""
        self._product = self._made_by(self._q, self._scaling.row_levels)
        self._q = np.empty((0, 0), dtype=np.int8)

    def screen(self, points: Points) -> tuple[FloatArray, FloatArray]:
        """Cosines with the points [points, count], and by how much they may be off. Raises RuntimeError before
        `finish`."""
        if self._product is None:
            raise RuntimeError("the directions are not all in")
        rows, count = points.rows, len(points.q) // 2
        products = self._product(points.q).astype(np.float32, copy=False)
        products *= rows.scale[:, None]
        about = (products[:count] + products[count:]) * self._scale
        reach = (rows.reach[:count] + rows.reach[count:]) * np.float32(INFLATION)
        error_reach = (rows.error_reach[:count] + rows.error_reach[count:]) * np.float32(INFLATION)
        off = reach[:, None] * self._norm + error_reach[:, None] * self._error
        return about, off * np.float32(INFLATION)


def kept_bytes(count: int, width: int) -> int:
    """Memory that so many directions take as integers, with their bounds."""
    return count * (width + 3 * 4)


def product_for(width: int) -> type[ExactProduct] | None:
    """A product of integers that is exact on this machine; None where there is none."""
    if width > LARGEST_D_IN:
        return None
    for product in PRODUCTS:
        try:
            exact_levels(product)
        except (ConfigError, ImportError, RuntimeError):
            continue
        return product
    return None


def exact_cosines(products: Tensor, norms: Doubles) -> Doubles:
    """[k] cosines from products [k], float64, of directions of such lengths with one of length 1; 0 for none."""
    found: Doubles = products.numpy() / np.where(norms > 0, norms, 1.0)
    return found
