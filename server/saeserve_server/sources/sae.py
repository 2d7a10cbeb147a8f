"""The one maths of encoding: what an SAE's latents are on rows of activations.

For activations x [rows, d_in] of a hook point:

    x  through the input steps, in order            `steps.py`: Centre, Scale, LayerNorm, NormRescale, SubtractBias
    p  = x @ W_encᵀ + b_enc                         the pre-activations [rows, d_sae]
    p *= |W_dec| of each latent                     TopK with rescaling only
    a  = activation(p)                              `activations.py`: ReLU, JumpReLU, Gated, TopK, GroupMax

Every family of SAEs is this with other steps and another activation; a transcoder is one without SubtractBias, whose
decoder has another width. Weights may be kept in half precision; everything is computed in float32. Decoders are not
kept, only the norms of their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saeserve_server.catalog import FloatArray
from saeserve_server.errors import ConfigError
from saeserve_server.sources.activations import Activation, JumpReLU, ReLU, check_activation
from saeserve_server.sources.steps import LayerNorm, Step, SubtractBias, map_step, tensor_of
from saeserve_server.sources.tensors import is_finite

LATENTS_AT_ONCE = 8192
"""Latents whose half-precision weights are upcast together."""


@dataclass(frozen=True, slots=True, eq=False)
class Sae:
    """An SAE's encoder. Tensors are float32 but for `W_enc`, which may be kept in bfloat16 or float16."""

    W_enc: Tensor  # [d_sae, d_in], as F.linear takes it
    b_enc: Tensor  # [d_sae]
    decoder_norm: Tensor | None = None
    """[d_sae] norm of each latent's decoder row; None where its files hold no decoder of its own."""
    steps: tuple[Step, ...] = ()
    activation: Activation = field(default_factory=ReLU)
    rescale: bool = False
    """Pre-activations are multiplied by the latent's decoder norm before they are compared (TopK)."""
    density: FloatArray | None = None
    """[d_sae] share of tokens on which each latent fires, as its file says."""

    def __post_init__(self) -> None:
        d_sae, d_in = self.W_enc.shape
        shapes = {"b_enc": (self.b_enc, d_sae), "decoder norms": (self.decoder_norm, d_sae)}
        for step in self.steps:
            if isinstance(step, SubtractBias):
                shapes["b_dec"] = (step.bias, d_in)
        if isinstance(self.activation, JumpReLU):
            shapes["threshold"] = (self.activation.threshold, d_sae)
        for name, (tensor, size) in shapes.items():
            if tensor is not None and tuple(tensor.shape) != (size,):
                raise ConfigError(f"{name}: expected shape [{size}], got {list(tensor.shape)}")
        check_activation(self.activation, d_sae)
        if self.rescale and self.decoder_norm is None:
            raise ConfigError("rescale_acts_by_decoder_norm: expected a decoder, its files hold none")
        if d_in < 2 and any(isinstance(step, LayerNorm) for step in self.steps):
            raise ConfigError(f"layer_norm: expected inputs of at least 2 numbers, got d_in = {d_in}")

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return int(self.W_enc.shape[1])

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return int(self.W_enc.shape[0])

    @property
    def memory_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def encode(self, x: Tensor) -> Tensor:
        """Latents [rows, d_sae], float32, ≥ 0, of activations x [rows, d_in]; `x` is left as it is.

        A row with NaN gives NaN.
        """
        return self.activation.apply(self.pre_activations(x))

    def pre_activations(self, x: Tensor) -> Tensor:
        """p [rows, d_sae], float32: what the activation sees, rescaling included."""
        return self.rescaled(self._linear(self.inputs(x)))

    def inputs(self, x: Tensor) -> Tensor:
        """What the linear map sees [rows, d_in], float32, of activations x: they after the input steps."""
        x = x.float()
        for step in self.steps:
            x = step(x)
        return x

    def rescaled(self, p: Tensor) -> Tensor:
        """What the activation sees of the linear map's p [rows, d_sae], which may be written into."""
        return p.mul_(self.decoder_norm) if self.rescale and self.decoder_norm is not None else p

    def margins(self, x: Tensor) -> Tensor:
        """[rows, d_sae] how far each pre-activation is from the value at which the latent goes on or off.

        Positive where it fires.
        """
        return self.activation.margins(self.pre_activations(x))

    def to(self, device: torch.device | str) -> Sae:
        """The same SAE with its tensors on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device)

        return replace(
            self,
            W_enc=move(self.W_enc),
            b_enc=move(self.b_enc),
            decoder_norm=None if self.decoder_norm is None else move(self.decoder_norm),
            steps=tuple(map_step(step, move) for step in self.steps),
            activation=map_activation(self.activation, move),
        )

    def stored_as(self, dtype: torch.dtype) -> Sae:
        """The same SAE with `W_enc` kept in `dtype`. Raises ConfigError if its values do not fit."""
        if dtype == self.W_enc.dtype:
            return self
        W_enc = self.W_enc.to(dtype)
        if not is_finite(W_enc):
            raise ConfigError(f"encoder weights up to {self.W_enc.abs().max().item():.3g} do not fit into {dtype}")
        return replace(self, W_enc=W_enc)

    def _linear(self, x: Tensor) -> Tensor:
        """x @ W_encᵀ + b_enc in float32."""
        if self.W_enc.dtype == torch.float32:
            return F.linear(x, self.W_enc, self.b_enc)
        p = x.new_empty(x.shape[0], self.d_sae)
        for start in range(0, self.d_sae, LATENTS_AT_ONCE):
            block = slice(start, start + LATENTS_AT_ONCE)
            torch.addmm(self.b_enc[block], x, self.W_enc[block].float().t(), out=p[:, block])
        return p

    def _tensors(self) -> Iterator[Tensor]:
        yield from (self.W_enc, self.b_enc)
        if self.decoder_norm is not None:
            yield self.decoder_norm
        yield from (tensor for tensor in map(tensor_of, self.steps) if tensor is not None)
        yield from tensors_of(self.activation)


def fold_decoder_norm(sae: Sae) -> Sae:
    """The SAE whose activations are multiplied by the latents' decoder norms: SAELens' `fold_W_dec_norm`.

    With decoder rows of norm n, activations n·a and rows scaled to norm 1 reconstruct the same. `decoder_norm` stays
    that of the file. TopK with rescaling has these activations already. Raises ConfigError for TopK without
    rescaling and GroupMax, where it would change which latents fire, and where there is no decoder.
    """
    if sae.rescale:
        return sae
    norm = sae.decoder_norm
    if norm is None:
        raise ConfigError("fold_decoder_norm: expected false, the files hold no decoder of this source's own")
    activation = sae.activation.scaled(norm)
    return replace(sae, W_enc=sae.W_enc * norm[:, None], b_enc=sae.b_enc * norm, activation=activation)


def tensors_of(activation: Activation) -> list[Tensor]:
    """The tensors that an activation holds."""
    values = (getattr(activation, part.name) for part in fields(activation))
    return [value for value in values if isinstance(value, Tensor)]


def map_activation(activation: Activation, change: Callable[[Tensor], Tensor]) -> Activation:
    """The same activation with its tensors changed, for example moved to a device."""
    parts: dict[str, Any] = {part.name: getattr(activation, part.name) for part in fields(activation)}
    for name, value in parts.items():
        parts[name] = change(value) if isinstance(value, Tensor) else value
    return type(activation)(**parts)
