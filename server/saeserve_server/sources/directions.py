"""Directions in the residual stream: what each feature of a source writes there, or reads from it.

| features | written | read |
|---|---|---|
| latents at hook_resid_*, hook_attn_out, hook_mlp_out, hook_embed | decoder rows | encoder columns |
| latents of transcoders, which write hook_mlp_out | decoder rows | not the stream: their input is normalised |
| latents at mlp.hook_post | decoder rows times W_out | not the stream |
| neurons | rows of W_out | columns of W_in, where there is one: gated MLPs have two |
| all others: attn.hook_z, cross-layer transcoders | nothing that can be compared | nothing |

Biases and input steps (means, norms, scales) are left aside, and so are norms that stand between an MLP and the stream.
Decoders are mapped from their files where these allow it; else they are unpacked when they are first asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from saeserve_server.catalog import SourceInfo
from saeserve_server.rows import IntArray
from saeserve_server.sources.description import Description
from saeserve_server.sources.tensors import naming
from saeserve_server.sources.weights import open_weights

UNIT = 2.0**-24

_STREAM = re.compile(r"blocks\.\d+\.hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)|hook_embed")
_NEURONS = re.compile(r"blocks\.\d+\.mlp\.hook_post")

NO_DECODER = "their files hold no decoder of their own"
CROSSING = "they write to several layers, with a decoder for each that is not read"
ELSEWHERE = "they {} {}, and the residual stream is another space"
NO_OUTPUT = "no one linear layer was found that takes the neurons to what the MLP writes"
NO_INPUT = "no one linear layer was found that takes what the MLP reads to the neurons: a gated MLP has two"
OTHER_WIDTH = "their directions are {} wide, and the residual stream {}"


class Directions(Protocol):
    """The directions of a source, one for each feature, in the residual stream."""

    @property
    def count(self) -> int:
        """Number of features."""
        ...

    @property
    def error(self) -> float:
        """What a number of `block` may be off by, in shares of `reach`; 0 where it is what it stands for."""
        ...

    def block(self, first: int, end: int) -> Tensor:
        """float32 [end - first, width] on the CPU."""
        ...

    def reach(self, first: int, end: int) -> Tensor:
        """float64 [end - first], to which `error` applies."""
        ...

    def rows(self, index: IntArray) -> Tensor:
        """float64 [k, width] of some features."""
        ...

    def products(self, index: IntArray, x: Tensor) -> Tensor:
        """float64 [k]: their products with x [width], float64."""
        ...


@dataclass(slots=True, eq=False)
class Decoder:
    """The decoder of an SAE: rows [d_sae, d_out], as they are stored."""

    load: Callable[[], Tensor]
    """Reads it, once; no memory is taken for one that is mapped."""
    is_mapped: bool = False
    _rows: Tensor | None = field(default=None, init=False)

    def __call__(self) -> Tensor:
        """The rows. Raises ConfigError where the file cannot be read any more."""
        if self._rows is None:
            self._rows = self.load()
        return self._rows

    @property
    def kept_bytes(self) -> int:
        """Memory that it takes: none while it is mapped, or before it was first asked for."""
        return 0 if self.is_mapped or self._rows is None else self._rows.numel() * self._rows.element_size()


def decoder_of(description: Description) -> Decoder | None:
    """The decoder in an SAE's files; None where they hold none. One that can be mapped is, now: whatever happens to the
    file later, it is the one that was served. Raises ConfigError."""
    part = description.layout.parts.get("W_dec")
    if part is None:
        return None

    def load() -> Tensor:
        with naming(description.weights):
            file = open_weights(description.weights)
            description.layout.fit(file)
            stored = file.read(part.name)
            return stored.t() if part.axes[1:] == ("d_sae",) else stored

    with naming(description.weights):
        is_mapped = open_weights(description.weights).entries[part.name].is_mapped
    decoder = Decoder(load, is_mapped)
    if is_mapped:
        decoder()
    return decoder


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """Directions that lie as they are: rows [count, width], in whatever type and on whatever device."""

    tensor: Tensor
    error = 0.0

    @property
    def count(self) -> int:
        """See Directions."""
        return len(self.tensor)

    def block(self, first: int, end: int) -> Tensor:
        """See Directions."""
        return self.tensor[first:end].float().cpu()

    def reach(self, first: int, end: int) -> Tensor:
        """See Directions."""
        return torch.zeros(end - first, dtype=torch.float64)

    def rows(self, index: IntArray) -> Tensor:
        """See Directions."""
        return self.tensor[torch.from_numpy(index).to(self.tensor.device)].cpu().double()

    def products(self, index: IntArray, x: Tensor) -> Tensor:
        """See Directions."""
        return self.rows(index) @ x


class Weights(Protocol):
    """A direction for each neuron of a layer, somewhere in the model."""

    @property
    def count(self) -> int:
        """Neurons."""
        ...

    def take(self, index: Tensor) -> Tensor:
        """float32 [k, width] on the CPU: those of some neurons."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class OfNeurons:
    """Directions of neurons, taken out of the model's own weights when they are asked for."""

    weights: Weights
    error = 0.0

    @property
    def count(self) -> int:
        """See Directions."""
        return self.weights.count

    def block(self, first: int, end: int) -> Tensor:
        """See Directions."""
        return self.weights.take(torch.arange(first, end))

    def reach(self, first: int, end: int) -> Tensor:
        """See Directions."""
        return torch.zeros(end - first, dtype=torch.float64)

    def rows(self, index: IntArray) -> Tensor:
        """See Directions."""
        return self.weights.take(torch.from_numpy(index)).double()

    def products(self, index: IntArray, x: Tensor) -> Tensor:
        """See Directions."""
        return self.rows(index) @ x


@dataclass(frozen=True, slots=True, eq=False)
class Through:
    """Decoder rows [count, d_mlp] of latents at `mlp.hook_post`, taken to the stream by W_out [d_mlp, width]."""

    tensor: Tensor
    W_out: Tensor
    """float32, on the CPU."""

    @property
    def count(self) -> int:
        """See Directions."""
        return len(self.tensor)

    @property
    def error(self) -> float:
        """Of a float32 product of d_mlp numbers, in whatever order it adds."""
        d_mlp = len(self.W_out)
        return d_mlp * UNIT / (1 - d_mlp * UNIT)

    def block(self, first: int, end: int) -> Tensor:
        """See Directions."""
        found: Tensor = self.tensor[first:end].float().cpu() @ self.W_out
        return found

    def reach(self, first: int, end: int) -> Tensor:
        """|w| |W_out|: at least what the rounding of a product's rows applies to."""
        found: Tensor = self.tensor[first:end].cpu().double().norm(dim=1) * self.W_out.double().norm()
        return found

    def rows(self, index: IntArray) -> Tensor:
        """See Directions."""
        found: Tensor = self._own(index) @ self.W_out.double()
        return found

    def products(self, index: IntArray, x: Tensor) -> Tensor:
        """See Directions. w·(W_out x), which is (w W_out)·x for a fraction of the work."""
        found: Tensor = self._own(index) @ (self.W_out.double() @ x)
        return found

    def _own(self, index: IntArray) -> Tensor:
        found: Tensor = self.tensor[torch.from_numpy(index).to(self.tensor.device)].cpu().double()
        return found


def is_at_neurons(info: SourceInfo) -> bool:
    """Whether the source reads, or is, the neurons of an MLP."""
    return _NEURONS.fullmatch(info.hook_name) is not None


def written(info: SourceInfo, decoder: Decoder | None, W_out: Tensor | None, d_model: int) -> Directions | str:
    """What the latents of an SAE write; in words why there is nothing to compare. Raises ConfigError for files that
    cannot be read any more. `W_out` [d_mlp, d_model] is that of its layer, None where it was not found."""
    if "cross_layer" in info.architecture:
        return CROSSING
    if decoder is None:
        return NO_DECODER
    if "transcoder" in info.architecture or _STREAM.fullmatch(info.hook_name):
        return _of_width(Plain(decoder()), d_model)
    if not is_at_neurons(info):
        return ELSEWHERE.format("write to", _short(info.hook_name))
    if W_out is None:
        return NO_OUTPUT
    rows = decoder()
    if rows.shape[1] != len(W_out):
        return OTHER_WIDTH.format(rows.shape[1], len(W_out))
    return Through(rows, W_out)


def read(info: SourceInfo, W_enc: Tensor, d_model: int) -> Directions | str:
    """What the latents of an SAE read; in words why there is nothing to compare."""
    if "transcoder" in info.architecture or not _STREAM.fullmatch(info.hook_name):
        return ELSEWHERE.format("read", _short(info.hook_name))
    return _of_width(Plain(W_enc), d_model)


def of_neurons(weights: Weights | None, missing: str) -> Directions | str:
    """What neurons write or read; `missing` where the model has no such weights."""
    return missing if weights is None else OfNeurons(weights)


def _of_width(directions: Plain, d_model: int) -> Directions | str:
    width = int(directions.tensor.shape[1])
    return directions if width == d_model else OTHER_WIDTH.format(width, d_model)


def _short(hook_name: str) -> str:
    return re.sub(r"^blocks\.\d+\.", "", hook_name)
