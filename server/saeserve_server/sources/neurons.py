"""The MLP neurons of a layer: features that need no file, since the hook point's activations are theirs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from saeserve_server.catalog import NEURON_SET, FloatArray, Kind, SourceInfo
from saeserve_server.sources.revision import text_hash


@dataclass(frozen=True, slots=True, eq=False)
class NeuronSource:
    """Neuron i is column i of `blocks.L.mlp.hook_post`, negative values kept."""

    info: SourceInfo

    def rows(self, x: Tensor) -> FloatArray:
        """x [rows, d_mlp]: the very array where it is on the CPU already, so the caller must not change it."""
        found: FloatArray = x.float().cpu().numpy()
        return found


def neuron_source(layer: int, hook_name: str, width: int, bos_id: int | None) -> NeuronSource:
    """The neurons of a layer as source `L`, also called `L-neurons`; `bos_id` is the model's."""
    return NeuronSource(
        SourceInfo(
            id=str(layer),
            set=NEURON_SET,
            layer=layer,
            kind=Kind.NEURON,
            hook_name=hook_name,
            architecture=NEURON_SET,
            d_in=width,
            n_features=width,
            revision=text_hash(NEURON_SET, hook_name, str(width)),
            bos_id=bos_id,
            aliases=(f"{layer}-{NEURON_SET}",),
        )
    )
