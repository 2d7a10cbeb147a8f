"""The one maths of encoding: what an SAE's latents are on rows of activations.

For activations x [rows, d_in]:

    x  normalised where the SAE was trained so      layer_norm: z = x − mean(x), z / (std(z) + 1e-5), std unbiased
                                                    constant_norm_rescale: x · sqrt(d_in) / |x|
    x −= b_dec                                      where the SAE subtracts it
    p  = x @ W_encᵀ + b_enc                         the pre-activations [rows, d_sae]
    p *= |W_dec| of each latent                     TopK with rescaling only
    a  = relu(p)                                    ReLU
         relu(p) · (p > threshold)                  JumpReLU
         relu(p) among the k largest p, else 0      TopK

This is the encoder of OpenAI's `sparse_autoencoder` (v1, v4: ReLU; v5: layer_norm and TopK) and of SAELens (standard,
jumprelu, topk). Weights may be kept in half precision; everything is computed in float32. Decoders are not kept, only
the norms of their rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from saeserve_server.catalog import FloatArray
from saeserve_server.errors import ConfigError
from saeserve_server.sources.tensors import is_finite

Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]
Architecture = Literal["standard", "jumprelu", "topk"]

LAYER_NORM_EPSILON = 1e-5
"""Added to the standard deviation, not to the variance."""

LATENTS_AT_ONCE = 8192
"""Latents whose half-precision weights are upcast together."""


@dataclass(frozen=True, slots=True)
class ReLU:
    """a = max(p, 0)."""


@dataclass(frozen=True, slots=True, eq=False)
class JumpReLU:
    """a = relu(p) where p > threshold, else 0."""

    threshold: Tensor  # [d_sae]


@dataclass(frozen=True, slots=True)
class TopK:
    """a = relu(p) for the k largest p of a row, else 0."""

    k: int
    rescale: bool = False
    """Pre-activations are multiplied by the latent's decoder norm before they are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Sae:
    """An SAE's encoder. Tensors are float32 but for `W_enc`, which may be kept in bfloat16 or float16."""

    W_enc: Tensor  # [d_sae, d_in], as F.linear takes it
    b_enc: Tensor  # [d_sae]
    decoder_norm: Tensor  # [d_sae] norm of each latent's decoder row
    b_dec: Tensor | None = None  # [d_in], subtracted from the input; None: nothing is
    activation: ReLU | JumpReLU | TopK = field(default_factory=ReLU)
    normalization: Normalization = "none"
    density: FloatArray | None = None
    """[d_sae] share of tokens on which each latent fires, as its file says."""
    hook_name: str | None = None
    """The hook point that the file names."""
    prepend_bos: bool = True
    """Whether it was trained on texts that begin with BOS."""
    accepts_scaling: bool = False
    """It was trained on inputs scaled by a constant that its file does not hold."""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        d_sae, d_in = self.W_enc.shape
        shapes = {
            "b_enc": (self.b_enc, d_sae),
            "decoder norms": (self.decoder_norm, d_sae),
            "b_dec": (self.b_dec, d_in),
        }
        if isinstance(self.activation, JumpReLU):
            shapes["threshold"] = (self.activation.threshold, d_sae)
        for name, (tensor, size) in shapes.items():
            if tensor is not None and tuple(tensor.shape) != (size,):
                raise ConfigError(f"{name}: expected shape [{size}], got {list(tensor.shape)}")
        if isinstance(self.activation, TopK) and not 1 <= self.activation.k <= d_sae:
            raise ConfigError(f"k: expected 1 to {d_sae}, the number of latents, got {self.activation.k}")
        if self.normalization == "layer_norm" and d_in < 2:
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
    def architecture(self) -> Architecture:
        """SAELens' name of the kind of activation."""
        return {ReLU: "standard", JumpReLU: "jumprelu", TopK: "topk"}[type(self.activation)]  # type: ignore[return-value]

    @property
    def memory_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def encode(self, x: Tensor) -> Tensor:
        """Latents [rows, d_sae], float32, ≥ 0, of activations x [rows, d_in]; `x` is left as it is.

        A row with NaN gives NaN. The only large arrays are the result and, for JumpReLU, a mask of a quarter its size.
        """
        p = self.pre_activations(x)
        match self.activation:
            case ReLU():
                return p.relu_()
            case JumpReLU(threshold):
                return p.masked_fill_(p <= threshold.clamp_min(0), 0.0)
            case TopK(k):
                values, indices = p.topk(k, dim=-1, sorted=False)
                return p.zero_().scatter_(-1, indices, values.relu_())

    def pre_activations(self, x: Tensor) -> Tensor:
        """p [rows, d_sae], float32: what the nonlinearity sees, TopK's rescaling included."""
        x = _normalized(x.float(), self.normalization)
        if self.b_dec is not None:
            x = x - self.b_dec
        p = self._linear(x)
        if isinstance(self.activation, TopK) and self.activation.rescale:
            p.mul_(self.decoder_norm)
        return p

    def margins(self, x: Tensor) -> Tensor:
        """[rows, d_sae] how far each pre-activation is from the value at which the latent goes on or off.

        Positive where it fires. The value is 0 for ReLU, the threshold (at least 0) for JumpReLU; for TopK the best
        pre-activation left out for the latents among the k largest, and the k-th for all others (again at least 0):
        the two at the cut are each as far from it as they are from each other.
        """
        p = self.pre_activations(x)
        match self.activation:
            case ReLU():
                return p
            case JumpReLU(threshold):
                return p.sub_(threshold.clamp_min(0))
            case TopK(k):
                largest, indices = p.topk(min(k + 1, self.d_sae), dim=-1)
                last = largest[:, k - 1 : k].clamp_min(0)
                left_out = largest[:, k : k + 1].clamp_min(0) if k < self.d_sae else torch.zeros_like(last)
                kept = largest[:, :k] - left_out
                return p.sub_(last).scatter_(-1, indices[:, :k], kept)

    def to(self, device: torch.device | str) -> Sae:
        """The same SAE with its tensors on `device`."""
        activation = self.activation
        if isinstance(activation, JumpReLU):
            activation = JumpReLU(activation.threshold.to(device))
        return replace(
            self,
            W_enc=self.W_enc.to(device),
            b_enc=self.b_enc.to(device),
            decoder_norm=self.decoder_norm.to(device),
            b_dec=None if self.b_dec is None else self.b_dec.to(device),
            activation=activation,
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
        yield from (self.W_enc, self.b_enc, self.decoder_norm)
        if self.b_dec is not None:
            yield self.b_dec
        if isinstance(self.activation, JumpReLU):
            yield self.activation.threshold


def fold_decoder_norm(sae: Sae) -> Sae:
    """The SAE whose activations are multiplied by the latents' decoder norms: SAELens' `fold_W_dec_norm`.

    With decoder rows of norm n, activations n·a and rows scaled to norm 1 reconstruct the same. `decoder_norm` stays
    that of the file. TopK with rescaling has these activations already. Raises ConfigError for TopK without
    rescaling, where it would change which latents are the k largest.
    """
    match sae.activation:
        case TopK(rescale=True):
            return sae
        case TopK():
            raise ConfigError("fold_decoder_norm: expected false for TopK that does not rescale by decoder norms")
        case JumpReLU(threshold):
            activation: ReLU | JumpReLU = JumpReLU(threshold * sae.decoder_norm)
        case ReLU():
            activation = sae.activation
    norm = sae.decoder_norm
    return replace(sae, W_enc=sae.W_enc * norm[:, None], b_enc=sae.b_enc * norm, activation=activation)


def fold_scaling_factor(sae: Sae, factor: float) -> Sae:
    """The SAE that reads raw inputs, from one trained on inputs times `factor` (SAELens' expected_average_only_in).

    SAELens' `fold_activation_norm_scaling_factor`: W_enc *= factor, W_dec /= factor, b_dec /= factor.
    """
    return replace(
        sae,
        W_enc=sae.W_enc * factor,
        b_dec=None if sae.b_dec is None else sae.b_dec / factor,
        decoder_norm=sae.decoder_norm / factor,
    )


def _normalized(x: Tensor, normalization: Normalization) -> Tensor:
    """x [rows, d_in], normalised row by row."""
    match normalization:
        case "none":
            return x
        case "layer_norm":
            z = x - x.mean(dim=-1, keepdim=True)
            std: Tensor = z.std(dim=-1, keepdim=True)
            return z.div_(std.add_(LAYER_NORM_EPSILON))
        case "constant_norm_rescale":
            norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            tiny = torch.finfo(x.dtype).tiny  # a row of zeros stays one
            return x.div(norm.clamp_min_(tiny)).mul_(float(x.shape[-1]) ** 0.5)
