"""The directions of one feature as its weights have them: what it reads and what it writes, each at its own hook point.

Nothing is brought to the residual stream here, as it is where features are compared (`sources/directions.py`): a latent
of `mlp.hook_post` writes there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve_server.models.loaded import LoadedModel
from saeserve_server.ranking.similar import Direction, Side, VectorsDone, VectorsWork
from saeserve_server.sources.directions import CROSSING, NO_DECODER, NO_INPUT, NO_OUTPUT
from saeserve_server.sources.source import SaeSource, Source


def vectors_of(model: LoadedModel, source: Source, work: VectorsWork) -> VectorsDone:
    """The directions that are asked for. Raises ConfigError where a decoder's file cannot be read any more."""
    find = _latent if isinstance(source, SaeSource) else _neuron
    return VectorsDone(tuple(find(model, source, work.index, side) for side in work.sides))


def _latent(model: LoadedModel, source: Source, index: int, side: Side) -> Direction | str:
    """A column of the encoder as it is applied, or a row of the decoder as its file has it."""
    info = source.info
    if not isinstance(source, SaeSource):
        raise TypeError(f"{info.id} has no latents")
    if side is Side.ENCODER:
        sae = source.sae
        norm = sae.decoder_norm[index] if sae.rescale and sae.decoder_norm is not None else 1
        return _direction(info.hook_name, sae.W_enc[index] * norm)
    if "cross_layer" in info.architecture:
        return CROSSING
    if source.decoder is None:
        return NO_DECODER
    hook_name = f"blocks.{info.layer}.hook_mlp_out" if "transcoder" in info.architecture else info.hook_name
    return _direction(hook_name, source.decoder()[index])


def _neuron(model: LoadedModel, source: Source, index: int, side: Side) -> Direction | str:
    """A column of W_in, or a row of W_out."""
    info = source.info
    if side is Side.ENCODER:
        weights, missing = model.neurons_read(info.hook_name, info.n_features), NO_INPUT
        hook_name = f"blocks.{info.layer}.mlp.hook_in"
    else:
        weights, missing = model.neurons_write(info.hook_name, info.n_features), NO_OUTPUT
        hook_name = f"blocks.{info.layer}.mlp.hook_out"  # before a norm that may follow the MLP
    return missing if weights is None else _direction(hook_name, weights.take(torch.tensor([index]))[0])


def _direction(hook_name: str, values: Tensor) -> Direction:
    return Direction(hook_name, values.detach().float().cpu().contiguous().numpy().copy())
