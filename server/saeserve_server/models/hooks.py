"""Hook points, from TransformerLens' names to the modules of the plain Hugging Face model.

A hook point of TransformerLens' bridge is the input or the output of a component, and the bridge's adapter knows which
module of the Hugging Face model that component wraps. Reading the same tensor from the plain module gives the same
activations without the bridge's own overhead (1.7 times the model it wraps). The equality is not taken on trust:
`load.py` compares both on a probe for every hook point before it is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class HookPlace:
    """Where a hook point lies in the plain model: the input or output of a module."""

    module: str
    side: Literal["in", "out"]


def place_of_hook(bridge: Any, hook_name: str) -> HookPlace | None:
    """The place of a TransformerLens hook point; None if the model has no such hook or it is no module's boundary."""
    hook = bridge.hook_dict.get(hook_name)
    if hook is None:
        return None
    component, _, end = hook.name.rpartition(".")
    if end not in ("hook_in", "hook_out"):
        return None
    try:
        module = bridge.adapter.translate_transformer_lens_path(component)
    except (ValueError, KeyError, AttributeError):  # a component of the bridge's own, without a module behind it
        return None
    return HookPlace(module, "in" if end == "hook_in" else "out")


def hook_names(bridge: Any) -> list[str]:
    """Every name under which the bridge offers a hook point that can be read."""
    return sorted(name for name in bridge.hook_dict if place_of_hook(bridge, name) is not None)
