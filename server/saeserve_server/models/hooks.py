"""Hook points, from TransformerLens' names and Hugging Face's to places in the plain Hugging Face model.

A hook point of TransformerLens' bridge is the input or the output of a component, and the bridge's adapter knows which
module of the Hugging Face model that component wraps. Reading the same tensor from the plain module gives the same
activations without the bridge's own overhead (1.7 times the model it wraps). The equality is not taken on trust:
`load.py` compares both on a probe for every hook point before it is served.

What a norm gives before its weight (`ln2.hook_normalized`) is no module's boundary: it is computed anew from the norm's
input, since dividing its output by a weight that may be 0 would not give it back.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

PREFERRED = (
    "hook_resid_post",
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_z",
    "mlp.hook_in",
    "mlp.hook_post",
    "hook_embed",
)
"""Names by which a place is known rather than by others, the best first."""

_MLP_INPUT = re.compile(r"^(blocks\.\d+)\.hook_mlp_in$")
_SIDES: dict[str, Literal["in", "out"]] = {"input": "in", "output": "out"}


@dataclass(frozen=True, slots=True)
class Norm:
    """What a LayerNorm (`centred`) or an RMSNorm does before it multiplies by its weight."""

    eps: float
    centred: bool

    def __call__(self, rows: Tensor) -> Tensor:
        """Normalised rows, float32."""
        rows = rows.to(torch.float32)
        if self.centred:
            rows = rows - rows.mean(-1, keepdim=True)
        return rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + self.eps)


@dataclass(frozen=True, slots=True)
class HookPlace:
    """Where a hook point lies in the plain model: the input or output of a module, normalised or as it is."""

    module: str
    side: Literal["in", "out"]
    norm: Norm | None = None


class HookNames:
    """The hook points of a model: which there are, under which names, and where they lie."""

    def __init__(self, bridge: Any, plain: Any) -> None:
        """`bridge` is TransformerLens' and `plain` the Hugging Face model that it was made from."""
        self._bridge = bridge
        self._plain = plain

    def place(self, name: str) -> HookPlace | None:
        """The place of a TransformerLens hook point; None if the model lacks it or it lies at no module's boundary."""
        hook = self._bridge.hook_dict.get(name)
        if hook is None:
            return None
        component, _, end = hook.name.rpartition(".")
        if end not in ("hook_in", "hook_out", "hook_normalized"):
            return None
        try:
            path = self._bridge.adapter.translate_transformer_lens_path(component)
            module = self._plain.get_submodule(path)
        except (ValueError, KeyError, AttributeError):  # a component of the bridge's own, without a module behind it
            return None
        if end != "hook_normalized":
            return HookPlace(path, "in" if end == "hook_in" else "out")
        norm = _norm_of(module)
        return None if norm is None else HookPlace(path, "in", norm)

    def all(self) -> list[str]:
        """Every name of TransformerLens under which a hook point can be read."""
        return sorted(name for name in self._bridge.hook_dict if self.place(name) is not None)

    def resolve(self, name: str) -> str | None:
        """TransformerLens' name of a hook point; None if the model has none of that name.

        `blocks.3.hook_mlp_in` is what the MLP of layer 3 is given, `blocks.3.mlp.hook_in`: so it is called where
        transcoders are published. (TransformerLens' own `hook_mlp_in`, off by default, is `blocks.3.hook_resid_mid`.)
        Hugging Face's names are a module's path with `.input` or `.output` (if neither, the output), with or without
        `language_model.` and the name of the base model: `model.layers.17.output`, `layers.17.mlp`.
        """
        if match := _MLP_INPUT.match(name):
            name = f"{match[1]}.mlp.hook_in"
        if self.place(name) is not None:
            return name
        path, _, end = name.rpartition(".")
        spellings: list[tuple[str, Literal["in", "out"]]] = [(name, "out")]
        if end in _SIDES:
            spellings.append((path, _SIDES[end]))
        for spelling, side in spellings:
            spelling = spelling.replace("language_model.", "")
            for module in (spelling, f"{self._plain.base_model_prefix}.{spelling}"):
                if found := self._by_place.get(HookPlace(module, side)):
                    return found
        return None

    @functools.cached_property
    def _by_place(self) -> dict[HookPlace, str]:
        names: dict[HookPlace, list[str]] = {}
        for name in self._bridge.hook_dict:
            place = self.place(name)
            if place is not None:
                names.setdefault(place, []).append(name)
        return {place: min(known, key=_preference) for place, known in names.items()}


def _preference(name: str) -> tuple[int, int, str]:
    ranks = [rank for rank, end in enumerate(PREFERRED) if name == end or name.endswith(f".{end}")]
    return (min(ranks, default=len(PREFERRED)), name.count("."), name)


def _norm_of(module: nn.Module) -> Norm | None:
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    centred = isinstance(module, nn.LayerNorm)
    if not isinstance(eps, float) or not (centred or "RMSNorm" in type(module).__name__):
        return None
    return Norm(eps, centred)
