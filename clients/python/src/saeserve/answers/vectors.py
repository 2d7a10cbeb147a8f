"""A feature's directions, read from the wire."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saeserve.answers import convert
from saeserve.answers.activations import Floats
from saeserve.answers.names import FeatureName
from saeserve.answers.types import CallInfo, Feature
from saeserve.arguments.printable import printable
from saeserve.v1 import feature_service_pb2 as service


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Direction:
    """A direction in the model's activations."""

    hook_name: str
    """Hook point that it lies at, by its TransformerLens name."""
    values: Floats
    """[width of the hook point], float32."""

    def __repr__(self) -> str:
        norm = float(np.linalg.norm(self.values))
        return f"<Direction at {printable(self.hook_name)}: {len(self.values)} numbers, norm {norm:.4g}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Vectors:
    """What a feature reads and writes, as its weights have it."""

    call_info: CallInfo
    feature: Feature
    encoder: Direction | None
    """What it reads: a latent's encoder column as it is applied (with `Source.fold_decoder_norm` times the norm of its
    decoder row), a neuron's column of W_in. None where the decoder alone was asked for."""
    decoder: Direction | None
    """What it writes: a latent's decoder row as its file has it, not scaled in any way; a neuron's row of W_out. None
    where the encoder alone was asked for."""

    @property
    def name(self) -> FeatureName:
        """The feature's name."""
        return self.feature.name

    def __repr__(self) -> str:
        given = {"encoder": self.encoder, "decoder": self.decoder}
        sides = [
            f"{name} at {printable(side.hook_name)} ({len(side.values)})"
            for name, side in given.items()
            if side is not None
        ]
        return f"<Vectors of {self.name}: {', '.join(sides)}>"


def vectors(answer: service.GetVectorsResponse) -> Vectors:
    """The answer."""
    return Vectors(
        call_info=convert.call_info(answer.call_info),
        feature=convert.feature(answer.facts),
        encoder=_direction(answer.encoder) if answer.HasField("encoder") else None,
        decoder=_direction(answer.decoder) if answer.HasField("decoder") else None,
    )


def _direction(message: service.Direction) -> Direction:
    return Direction(message.hook_name, convert.floats(message.values))
