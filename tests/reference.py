"""The plain computation: TransformerLens' `run_with_cache` and the formulas of the formats, one text at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformer_lens.model_bridge import TransformerBridge

from tests.answers import SourceReference, reference_of
from tests.sources import plain

MODEL = Path(__file__).parent.parent / "server/saeserve_server/models/demo/model"

Formula = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray | None]]
"""[rows, d_in] → activations, activations without the jump, distance to the jump (None where nothing jumps)."""


@dataclass
class Reference:
    """A bridge of its own, and the plain formula of every source, by source id."""

    bridge: Any
    tokenizer: Tokenizer
    formulas: dict[str, tuple[str, Formula]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    @classmethod
    def of_demo(cls) -> Reference:
        bridge = TransformerBridge.boot_transformers(str(MODEL), device="cpu")
        return cls(bridge, Tokenizer.from_file(str(MODEL / "tokenizer.json")))

    def ids(self, text: str) -> list[int]:
        """Ids without BOS."""
        return self.tokenizer.encode(text).ids

    def on(self, text: str | list[int]) -> dict[str, SourceReference]:
        """Every source's activations on the text's tokens, BOS left out."""
        ids = self.ids(text) if isinstance(text, str) else text
        hooks = sorted({hook for hook, _ in self.formulas.values()})
        with torch.inference_mode():
            _, cache = self.bridge.run_with_cache(torch.tensor([[0, *ids]]), names_filter=hooks, prepend_bos=False)
        read = {hook: cache[hook][0, 1:].flatten(1).double().numpy() for hook in hooks}
        return {source: reference_of(*formula(read[hook])) for source, (hook, formula) in self.formulas.items()}


def neurons(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
    return x, x, None


def openai_formula(state: dict[str, Any]) -> Formula:
    def formula(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        p, a = plain.openai(state, x)
        k = state.get("activation_state_dict", {}).get("k")
        return a, np.maximum(p, 0), None if k is None else _distance_to_kth(p, k)

    return formula


def saelens_formula(cfg: dict[str, Any], weights: dict[str, Any], **options: Any) -> Formula:
    def formula(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        p, a = plain.saelens(cfg, weights, x, **options)
        k = cfg.get("k") or cfg.get("activation_fn_kwargs", {}).get("k")
        if k is not None:
            return a, np.maximum(p, 0), _distance_to_kth(p, k)
        if cfg.get("architecture") != "jumprelu":
            return a, a, None
        threshold = plain.f64(weights["threshold"])
        if options.get("fold"):
            threshold = threshold * np.linalg.norm(plain.f64(weights["W_dec"]), axis=1)
        return a, np.maximum(p, 0), np.abs(p - threshold)

    return formula


def _distance_to_kth(p: np.ndarray, k: int) -> np.ndarray:
    """Half the room between what is kept and what is not: a latent flips only with another, across that gap."""
    ordered = -np.sort(-p, axis=1)
    kth = ordered[:, k - 1 : k]
    following = ordered[:, k : k + 1] if p.shape[1] > k else kth - np.inf
    return np.where(p >= kth, np.abs(p - following), np.abs(p - kth))
