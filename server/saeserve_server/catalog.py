"""What is served, as plain data: the model, its sources, their facts. No torch, no protobuf: both processes read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

DEAD_DENSITY = 1e-8
"""A latent that fires on a smaller share of tokens is dead: the bound OpenAI's files use for activation frequencies."""

NEURON_SET = "neurons"


class Kind(IntEnum):
    """What a source's features are. The order is the order of ties: latents before neurons."""

    LATENT = 0
    NEURON = 1


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The served model."""

    name: str
    n_layers: int
    d_model: int
    context_tokens: int
    """Longest sequence it reads, BOS included."""
    vocabulary: int
    bos_id: int | None
    """None for a model without BOS: nothing is prepended. As a part of a text this id is no text token: it never ranks
    and counts in no statistics, whatever the source."""
    tokenizer_json: str
    """The tokenizer as `tokenizers.Tokenizer.to_str` writes it."""
    revision: str
    device: str
    dtype: str
    """Type in which the model runs; its activations are handed on in float32."""
    warnings: tuple[str, ...] = ()

    @property
    def kernel_class(self) -> str:
        """The kind of device and the type in which the model runs: `cpu float32`. Answers computed in different classes
        are the same to the user and differ in last bits, so caches and the revisions of indexes tell them apart."""
        return f"{self.device.partition(':')[0]} {self.dtype}"


@dataclass(frozen=True, slots=True, eq=False)
class SourceInfo:
    """One source of features: an SAE, or the MLP neurons of a layer."""

    id: str
    """Canonical, lower-case: `0-mlp-oai`; `2` for the neurons of layer 2."""
    set: str
    """The id without its layer; `neurons` for MLP neurons."""
    layer: int
    kind: Kind
    hook_name: str
    """TransformerLens name of the hook point: `blocks.0.mlp.hook_post`."""
    architecture: str
    """The family of the encoder as SAELens names it, `neurons` for neurons."""
    d_in: int
    n_features: int
    normalization: str = "none"
    fold_decoder_norm: bool = False
    memory_bytes: int = 0
    revision: str = ""
    bos_id: int | None = None
    """Id that stands before every text that this source reads; None: texts are read without one. Most sources follow
    the model's rule (`ModelInfo.bos_id`); one whose configuration says otherwise gets a forward pass of its own."""
    aliases: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    file_density: FloatArray | None = field(default=None, repr=False)
    """[n_features] share of tokens on which each latent fires, as its file says; None where it does not say."""
    decoder_norm: FloatArray | None = field(default=None, repr=False)
    """[n_features] norm of each latent's decoder row; None for neurons."""

    @property
    def name(self) -> str:
        """The id as people write it: `0-MLP-OAI`."""
        return self.id.upper()

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts sources as ties are broken: layer, latents before neurons, id."""
        return (self.layer, int(self.kind), self.id)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that is served. `sources` are in the order of ties; a source's rank is its place here."""

    model: ModelInfo
    sources: tuple[SourceInfo, ...]

    @property
    def text_tokens(self) -> int:
        """The longest text that fits into the context behind the BOS of the model and of every source."""
        rules = {self.model.bos_id, *(source.bos_id for source in self.sources)}
        return self.model.context_tokens - (rules != {None})
