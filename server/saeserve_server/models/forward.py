"""The forward pass: token ids in, activations at hook points out, and nothing computed beyond the deepest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saeserve_server.models.hooks import HookPlace

MAX_PADDING = 0.25
"""Share of a group's tokens that may be padding before a text goes into the next group."""
ATTENTION_BYTES = 2**29
"""Most that one layer's scores [texts, heads, length, length] may take in float32, where a text has company. Kernels
that never write them down exist for most shapes, but on CUDA for none that is in float32 and has fewer heads of keys
than of queries (Llama, Gemma, Qwen): torch then holds two or three such arrays. Long texts gain nothing from company.
"""


class _AllSeen(Exception):
    """Ends a forward pass once every hook point asked for has been read."""


class HookedForward:
    """A decoder without its unembedding, read at hook points. One caller at a time."""

    def __init__(self, model: nn.Module, device: torch.device, context_tokens: int | None = None) -> None:
        """`model` is a Hugging Face causal language model; only its base model is ever run."""
        self._model = model
        self._base: nn.Module = model.base_model  # type: ignore[assignment]
        self._device = device
        self._vocabulary: int = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        self._context = context_tokens
        self.alone = False
        """Whether each sequence is run by itself, so that no other has a bearing on its last bits."""
        settings: Any = model.config
        heads = int(getattr(settings.get_text_config(), "num_attention_heads", 1))  # a model may have no attention
        self._most_scores = ATTENTION_BYTES // (4 * heads)

    @torch.inference_mode()
    def run(self, sequences: Sequence[Sequence[int]], places: Mapping[str, HookPlace]) -> list[dict[str, Tensor]]:
        """Activations [tokens, width] float32 at each place, for each sequence of ids.

        Sequences are run in groups of like length, padded on the right. In a causal model no token sees what stands
        after it, so the padding needs no mask; its rows are cut off.

        Raises IndexError for an id without an embedding, and for more tokens than the context holds, before anything
        runs: found on a GPU either would end the process.
        """
        for ids in sequences:
            self._check(ids)
        results: list[dict[str, Tensor]] = [{} for _ in sequences]
        for group in group_by_length([len(ids) for ids in sequences], 0 if self.alone else self._most_scores):
            width = max(len(sequences[place]) for place in group)
            padded = [[*sequences[place], *[0] * (width - len(sequences[place]))] for place in group]
            seen = self._read(torch.tensor(padded, device=self._device), places)
            for name, activations in seen.items():  # [group, width, d]
                for row, place in enumerate(group):
                    results[place][name] = activations[row, : len(sequences[place])]
        return results

    def _check(self, ids: Sequence[int]) -> None:
        for one in (min(ids), max(ids)) if ids else ():
            if not 0 <= one < self._vocabulary:
                raise IndexError(f"token id {one}: the embedding holds ids 0 to {self._vocabulary - 1}")
        if self._context is not None and len(ids) > self._context:
            raise IndexError(f"{len(ids)} tokens: the context holds {self._context}")

    def _read(self, ids: Tensor, places: Mapping[str, HookPlace]) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        handles = []

        def keep(name: str, value: Any) -> None:
            tensor: Tensor = value[0] if isinstance(value, tuple) else value
            norm = places[name].norm
            # some models go on to write into their own
            seen[name] = tensor.to(torch.float32, copy=True) if norm is None else norm(tensor)
            if len(seen) == len(places):
                raise _AllSeen

        for name, place in places.items():
            module = self._model.get_submodule(place.module)
            if place.side == "in":

                def before(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                    keep(name, args[0] if args else next(iter(kwargs.values())))

                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            else:

                def after(_: nn.Module, args: Any, output: Any, name: str = name) -> None:
                    keep(name, output)

                handles.append(module.register_forward_hook(after))
        try:
            self._base(input_ids=ids, use_cache=False)
        except _AllSeen:
            # [group, width, d]; heads are laid side by side, and some models lay all tokens end to end
            return {name: activations.reshape(*ids.shape, -1) for name, activations in seen.items()}
        finally:
            for handle in handles:
                handle.remove()
        missing = ", ".join(sorted(places.keys() - seen.keys()))
        raise RuntimeError(f"the forward pass never reached {missing}")


def group_by_length(lengths: Sequence[int], most_scores: int) -> list[list[int]]:
    """Places of `lengths` in groups of like length: no more than MAX_PADDING of a group is padding, and a group of
    several has no more than `most_scores` pairs of tokens, its padding included."""
    groups: list[list[int]] = []
    tokens = 0
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        length = lengths[place]
        count = len(groups[-1]) + 1 if groups else 0
        if groups and tokens + length >= (1 - MAX_PADDING) * length * count and length**2 * count <= most_scores:
            groups[-1].append(place)
            tokens += length
        else:
            groups.append([place])
            tokens = length
    return groups
