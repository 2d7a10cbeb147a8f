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

BOS = 0
MOST_KNOWN = 32
"""Texts whose activations are kept: many checks ask for the same."""

Given = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Activations, activations without the jump, distance to the jump (None where nothing jumps), all [rows, n]."""
Formula = Callable[[np.ndarray], Given]
"""Of rows [rows, d_in]."""


@dataclass
class Reference:
    """A bridge of its own, and the plain formula of every source, by source id."""

    bridge: Any
    tokenizer: Tokenizer
    formulas: dict[str, tuple[str, Formula]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    bos: dict[str, int | None] = field(default_factory=dict)
    """What stands before a text, for sources that do not follow the model; None for nothing."""
    _known: dict[tuple[int, ...], dict[str, Given]] = field(default_factory=dict)

    @classmethod
    def of_demo(cls) -> Reference:
        bridge = TransformerBridge.boot_transformers(str(MODEL), device="cpu")
        return cls(bridge, Tokenizer.from_file(str(MODEL / "tokenizer.json")))

    def ids(self, text: str) -> list[int]:
        """Ids without BOS."""
        return self.tokenizer.encode(text).ids

    def on(self, text: str | list[int], bos_row: bool = False) -> dict[str, SourceReference]:
        """Every source's activations on the text's tokens, led by those on its BOS if asked: 0 without one."""
        ids = tuple(self.ids(text) if isinstance(text, str) else text)
        if ids not in self._known:
            if len(self._known) == MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[ids] = self._compute(ids)
        given, first = self._known[ids], 0 if bos_row else 1
        return {
            source: reference_of(*(None if one is None else one[first:] for one in given[source]))
            for source in self.formulas
        }

    def _compute(self, ids: tuple[int, ...]) -> dict[str, Given]:
        """What the formulas give, with a row for the BOS."""
        found: dict[str, Given] = {}
        for bos in {self.bos.get(source, BOS) for source in self.formulas}:
            formulas = {one: formula for one, formula in self.formulas.items() if self.bos.get(one, BOS) == bos}
            run = torch.tensor([ids if bos is None else (bos, *ids)])
            with torch.inference_mode():
                hooks = sorted({hook for hook, _ in formulas.values()})
                _, cache = self.bridge.run_with_cache(run, names_filter=hooks, prepend_bos=False)
            for source, (hook, formula) in formulas.items():
                given = formula(cache[hook][0].flatten(1).double().numpy())
                if bos is None:
                    given = tuple(one if one is None else np.pad(one, ((1, 0), (0, 0))) for one in given)
                found[source] = given
        return found


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
