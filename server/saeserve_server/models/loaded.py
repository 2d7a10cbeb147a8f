"""A loaded model: its hook points, each compared with TransformerLens on a probe before it is served."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saeserve_server.catalog import ModelInfo
from saeserve_server.errors import ConfigError
from saeserve_server.models.forward import MAX_PADDING, HookedForward
from saeserve_server.models.hooks import HookNames, HookPlace
from saeserve_server.models.neurons import NeuronWeights, reading, writing
from saeserve_server.models.packed import pack_linears, unpack_linears

log = logging.getLogger(__name__)

PROBE_TOKENS = 48
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 6e-2}
"""Largest difference between plain modules and bridge, relative to the largest activation of the row. In bfloat16,
which keeps 8 bits, it is measured with the bridge's own attention kernel on both sides: then most architectures differ
by nothing, and OLMo 2, whose norms the bridge computes in another order, by 2.4e-2."""
KERNEL_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25}
"""The same between two ways to compute one thing: other attention kernels, other shapes of a batch. In bfloat16 they
part by a rounding in every layer; a kernel that leaves something out, or a model that looks ahead, is off by about 1.
"""


class LoadedModel:
    """A model ready to run, and the hook points it offers."""

    def __init__(self, bridge: Any, plain: Any, info: ModelInfo, device: torch.device) -> None:
        self.info = info
        self.device = device
        self.forward = HookedForward(plain, device, info.context_tokens)
        self._bridge = bridge
        self._plain = plain
        self._names = HookNames(bridge, plain)
        self._places: dict[str, HookPlace] = {}
        self._samples: dict[str, Tensor] = {}

    def seal(self) -> None:
        """Drops the bridge, the probes and what is never run: from here on only hook points already asked for can be
        read. On a CPU linear layers are packed, if all that was asked for is then as it was."""
        self._bridge = self._names = None  # type: ignore[assignment]
        base: nn.Module = self._plain.base_model
        for name, child in list(self._plain.named_children()):
            if base is not self._plain and child is not base:  # the unembedding
                delattr(self._plain, name)
        if self._places and (count := pack_linears(base)):
            changed = self._changed()
            if changed is None:
                log.info("model %s: %d linear layers are packed by oneDNN", self.info.name, count)
            else:
                unpack_linears(base)
                log.warning("model %s: linear layers stay plain, which is slower: %s", self.info.name, changed)
        self._samples.clear()

    def _changed(self) -> str | None:
        """What is wrong with the hook points asked for, as they are read now; None if all are as they were."""
        try:
            [read] = self.forward.run([self._probe_ids()], self._places)
        except Exception as error:  # noqa: BLE001 - as of a layer that wants to see the weight of another
            return f"packed they cannot be run: {type(error).__name__}: {error}"
        for name, activations in read.items():
            if not _close(activations[1:], self._samples[name], KERNEL_TOLERANCE[torch.float32]):
                return f"packed they change {name}"
        return None

    def place(self, hook_name: str) -> HookPlace:
        """Where a hook point that a source asked for while loading lies."""
        return self._places[hook_name]

    def neurons_write(self, hook_name: str, d_mlp: int) -> NeuronWeights | None:
        """W_out of the MLP whose neurons a hook point is, which a source asked for while loading; None if not found."""
        return writing(self._plain, self._places[hook_name], d_mlp, self.info.d_model)

    def neurons_read(self, hook_name: str, d_mlp: int) -> NeuronWeights | None:
        """W_in of the same MLP; None where there is no one such, as in a gated MLP."""
        return reading(self._plain, self._places[hook_name], d_mlp, self.info.d_model)

    def known(self) -> list[str]:
        """Names of all hook points that can be read."""
        return self._names.all()

    def resolve(self, name: str) -> str | None:
        """TransformerLens' name of a hook point given by any of its names, Hugging Face's included.

        None if the model has no hook point of that name.
        """
        return self._names.resolve(name)

    def is_layer_normed(self) -> bool:
        """Whether its norms subtract the mean: LayerNorm, not RMSNorm."""
        return str(self._bridge.cfg.normalization_type).startswith("LN")

    def prepare(self, names: Sequence[str]) -> None:
        """Probes all these hook points at once, in a few passes for all of them; those that the model lacks are left.

        Raises ConfigError if the plain modules do not give what TransformerLens gives there.
        """
        known = {name: resolved for name in names if (resolved := self.resolve(name)) is not None}
        places = {name: self._names.place(name) for name in dict.fromkeys(known.values()) if name not in self._places}
        wanted = {name: place for name, place in places.items() if place is not None}
        if wanted:
            self._samples.update(self._probe(wanted))
            self._places.update(wanted)
        for name, resolved in known.items():
            self._samples[name], self._places[name] = self._samples[resolved], self._places[resolved]

    def neuron_hook(self, layer: int) -> str | None:
        """The hook point of a layer's MLP neurons, after their activation function; None for a layer without any.

        For a mixture of experts the bridge gives the MLP's output by that name: no neurons.
        """
        name = f"blocks.{layer}.mlp.hook_post"
        place = self._names.place(name)
        outputs = [self._names.place(f"blocks.{layer}.{end}") for end in ("mlp.hook_out", "hook_mlp_out")]
        return None if place is None or place in outputs else name

    def width(self, hook_name: str) -> int | None:
        """Width of the activations at a hook point; None if the model has no such hook.

        Raises ConfigError if the plain modules do not give what TransformerLens gives there.
        """
        self.prepare([hook_name])
        return int(self._samples[hook_name].shape[-1]) if hook_name in self._samples else None

    def sample(self, hook_name: str) -> Tensor:
        """Activations [rows, width] at a hook point on random tokens, BOS left out. Call `width` or `prepare` first."""
        return self._samples[hook_name]

    def _probe(self, places: Mapping[str, HookPlace]) -> dict[str, Tensor]:
        """Activations at hook points on random tokens, after two checks.

        They are what TransformerLens gives there, and a text in a padded batch has those that it has alone.
        """
        ids = self._probe_ids()
        count = len(ids)
        shorter = ids[: math.ceil(count * (1 - MAX_PADDING))]  # near enough to share a batch
        dtype = getattr(torch, self.info.dtype)
        try:
            [ours] = self.forward.run([ids], places)
            [alone] = self.forward.run([shorter], places)
            padded = self.forward.run([ids, shorter], places)[1]
            alike = ours
            if dtype is not torch.float32:
                with _attention(self._plain, "eager"):
                    [alike] = self.forward.run([ids], places)
            with torch.inference_mode():
                _, cache = self._bridge.run_with_cache(
                    torch.tensor([ids], device=self.device), names_filter=list(places), prepend_bos=False
                )
            theirs = {name: cache[name].float().reshape(count, -1) for name in places}
        except Exception as error:
            if len(places) > 1:
                for name, place in places.items():  # which of them it is
                    self._probe({name: place})
            raise ConfigError(
                f"model {self.info.name}: {', '.join(places)} cannot be read: {type(error).__name__}: {error}"
            ) from error
        for name in places:
            if not (
                _close(alike[name], theirs[name], TOLERANCE[dtype])
                and _close(ours[name], alike[name], KERNEL_TOLERANCE[dtype])
            ):
                raise ConfigError(
                    f"model {self.info.name}: {name} of this architecture cannot be served: read from the plain model "
                    f"it differs from TransformerLens'"
                )
            if not _close(padded[name], alone[name], KERNEL_TOLERANCE[dtype]):
                raise ConfigError(
                    f"model {self.info.name}: tokens see what stands after them; only causal models can be served"
                )
        return {name: activations[1:] for name, activations in ours.items()}

    def _probe_ids(self) -> list[int]:
        """Random tokens, the same at every call, behind the BOS."""
        generator = torch.Generator().manual_seed(0)
        count = min(PROBE_TOKENS, self.info.context_tokens)
        ids: list[int] = torch.randint(self.info.vocabulary, (count,), generator=generator).tolist()
        if self.info.bos_id is not None:
            ids[0] = self.info.bos_id
        return ids


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two readings [rows, width] agree; never where either holds NaN.

    A difference is measured by its row's largest activation, or by the usual row's where that is larger: a first token
    with activations in the thousands, which many models have, says nothing about the others.
    """
    if one.shape != other.shape:
        return False
    largest = other.abs().amax(-1)
    scale = largest.clamp(min=float(largest.median()))
    return bool(((one - other).abs().amax(-1) <= tolerance * scale).all())


@contextmanager
def _attention(model: Any, kernel: str) -> Iterator[None]:
    """The model computes its attention with that kernel meanwhile."""
    usual = model.config._attn_implementation
    model.set_attn_implementation(kernel)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
