"""The loops in Triton's language, which only looks like Python. Imported where Triton is there: see `triton_loops`."""

# Arguments are pointers and constants of a language of its own, which has no types to be named.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction


@triton.jit
def screen(
    X,
    W,
    REACH,
    ERROR_REACH,
    NORM,
    ERROR,
    OFFSET,
    KEYS,
    FOUND,
    rows,
    d_sae,
    d_in,
    size,
    ROWS: tl.constexpr,
    LATENTS: tl.constexpr,
    INPUTS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """A tile of rows × latents: its products, which of them may fire, and their keys appended behind a counter."""
    latent = tl.program_id(0) * LATENTS + tl.arange(0, LATENTS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    of_x = X + row[:, None].to(tl.int64) * d_in
    of_W = W + latent[None, :].to(tl.int64) * d_in
    product = tl.zeros((ROWS, LATENTS), dtype=tl.float32)
    for first in range(0, d_in, INPUTS):
        column = first + tl.arange(0, INPUTS)
        x = tl.load(of_x + column[None, :], mask=(row[:, None] < rows) & (column[None, :] < d_in), other=0.0)
        w = tl.load(of_W + column[:, None], mask=(latent[None, :] < d_sae) & (column[:, None] < d_in), other=0.0)
        if INTERPRETED:
            x, w = x.to(tl.float32), w.to(tl.float32)
        product = tl.dot(x, w, product, out_dtype=tl.float32)
    reach = tl.load(REACH + row, mask=row < rows, other=0.0)[:, None]
    error_reach = tl.load(ERROR_REACH + row, mask=row < rows, other=0.0)[:, None]
    norm = tl.load(NORM + latent, mask=latent < d_sae, other=0.0)[None, :]
    error = tl.load(ERROR + latent, mask=latent < d_sae, other=0.0)[None, :]
    offset = tl.load(OFFSET + latent, mask=latent < d_sae, other=0.0)[None, :]
    upper = product + (reach * norm + error_reach * error)
    may_fire = ((upper > offset) | (upper != upper)) & (row[:, None] < rows) & (latent[None, :] < d_sae)  # NaN too
    chosen = tl.reshape(may_fire.to(tl.int32), (ROWS * LATENTS,))
    total = tl.sum(chosen, 0)
    if total > 0:
        place = tl.atomic_add(FOUND, total.to(tl.int64)) + tl.cumsum(chosen, 0) - chosen
        key = tl.reshape(row[:, None].to(tl.int64) * d_sae + latent[None, :], (ROWS * LATENTS,))
        tl.store(KEYS + place, key, mask=(chosen > 0) & (place < size))


@triton.jit
def rescore(
    W,
    X,
    ROW,
    INDEX,
    COUNT,
    P,
    size,
    d_in,
    CANDIDATES: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """w·x of some candidates in float32: NUMBERS sums side by side, and then of those, for each alike."""
    first = tl.program_id(0) * CANDIDATES
    count = tl.minimum(tl.load(COUNT), size)
    if first < count:
        place = first + tl.arange(0, CANDIDATES)
        is_one = place < count
        of_W = W + tl.load(INDEX + place, mask=is_one, other=0)[:, None] * d_in
        of_x = X + tl.load(ROW + place, mask=is_one, other=0)[:, None] * d_in
        sums = tl.zeros((CANDIDATES, NUMBERS), dtype=tl.float32)
        for start in range(0, d_in, NUMBERS):
            column = start + tl.arange(0, NUMBERS)[None, :]
            is_number = is_one[:, None] & (column < d_in)
            w = tl.load(of_W + column, mask=is_number, other=0.0).to(tl.float32)
            x = tl.load(of_x + column, mask=is_number, other=0.0)
            sums += w * x
        tl.store(P + place, tl.sum(sums, 1), mask=is_one)


INTERPRETED = isinstance(screen, InterpretedFunction)
"""Whether Triton was told to interpret (`TRITON_INTERPRET=1`)."""
