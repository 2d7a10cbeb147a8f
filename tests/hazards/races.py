"""Measures the two silent races: each on the naive way and on ours, with the same texts from as many threads.

What is right is computed first, by one thread, each text alone. A race then counts the answers that differ from it.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import tokenizers
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

import saeserve
from saeserve_server.text.tokenizer import Tokenizer
from tests.reference import MODEL

T = TypeVar("T")

BOS = 0
TOLERANCE = 1e-3
"""Largest difference from the text alone, relative to the largest activation. Batching moves values by about 1e-5."""

THREADS = 4

BRIDGE_TEXTS = 16
BRIDGE_ROUNDS = 4
TOKENS = 24
"""Tokens of each text: all alike, so that no shape gives a wrong activation tensor away."""
HOOKS = {str(layer): f"blocks.{layer}.mlp.hook_post" for layer in range(4)}
"""By the name that saeserve gives to the neurons of the layer."""

TOKENIZER_TEXTS = 16
TOKENIZER_ROUNDS = 50
CUT = 4
PADDED = 128


@dataclass
class Count:
    """What became of the answers of a race."""

    answers: int = 0
    wrong: int = 0
    foreign: int = 0
    """Of the wrong ones, those that are the answer to another text."""
    exceptions: Counter[str] = field(default_factory=Counter)
    together: int = 0
    """Ours only: most requests that the engine computed in one batch."""

    @property
    def failed(self) -> int:
        return self.wrong + self.exceptions.total()

    def __str__(self) -> str:
        raised = ", ".join(f"{count} × {name}" for name, count in self.exceptions.items()) or "no exception"
        return f"{self.wrong:4} of {self.answers} wrong, {raised}"


def in_threads(work: Callable[[int], T]) -> list[T]:
    """`work(0)` to `work(THREADS - 1)`, all at once, each in a thread of its own."""
    barrier = threading.Barrier(THREADS)
    results: dict[int, T] = {}

    def run(place: int) -> None:
        barrier.wait()
        results[place] = work(place)

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[place] for place in range(THREADS)]


def passages() -> list[str]:
    return [json.loads(line)["text"] for line in (MODEL.parent / "passages.jsonl").read_text().splitlines()]


# One TransformerBridge, many threads ---------------------------------------------------------------------------------

Activations = Mapping[str, np.ndarray]
"""Layer → [tokens, neurons]."""


class BridgeRace:
    """Texts, their activations computed alone, and the one bridge."""

    def __init__(self) -> None:
        transformers_logging.disable_progress_bar()
        self._bridge: Any = TransformerBridge.boot_transformers(str(MODEL), device="cpu")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        begun = (passage[: self._tokenizer.encode(passage).offsets[TOKENS - 1][1]] for passage in passages())
        whole = (text for text in begun if len(self._tokenizer.encode(text).ids) == TOKENS)
        self.texts = list(itertools.islice(whole, BRIDGE_TEXTS))
        self._alone = [self._on_bridge(text) for text in self.texts]

    def naive(self) -> Count:
        """Every thread calls the bridge."""
        return self._race(self._on_bridge)

    def ours(self, client: saeserve.Client) -> Count:
        """Every thread calls the server, whose engine alone owns the model."""
        batches: list[int] = []

        def ask(text: str) -> Activations:
            (item,) = client.encode_stream([text], sources=list(HOOKS))
            batches.append(item.call_info.batch_size if item.call_info else 0)
            return item.unwrap().neurons

        count = self._race(ask)
        count.together = max(batches)
        return count

    def _on_bridge(self, text: str) -> Activations:
        ids = torch.tensor([[BOS, *self._tokenizer.encode(text).ids]])
        with torch.inference_mode():
            _, cache = self._bridge.run_with_cache(ids, names_filter=list(HOOKS.values()), prepend_bos=False)
        return {layer: cache[hook][0, 1:].numpy() for layer, hook in HOOKS.items()}

    def _race(self, ask: Callable[[str], Activations]) -> Count:
        count = Count()
        queue = iter(list(range(len(self.texts))) * BRIDGE_ROUNDS)
        lock = threading.Lock()

        def work(_: int) -> list[tuple[int, Activations | Exception]]:
            done: list[tuple[int, Activations | Exception]] = []
            while True:
                with lock:
                    place = next(queue, None)
                if place is None:
                    return done
                try:
                    done.append((place, ask(self.texts[place])))
                except Exception as error:  # noqa: BLE001 (it is counted)
                    done.append((place, error))

        for place, answer in itertools.chain.from_iterable(in_threads(work)):
            if isinstance(answer, Exception):
                count.exceptions[type(answer).__name__] += 1
                continue
            for layer in HOOKS:
                count.answers += 1
                if not _agree(answer[layer], self._alone[place][layer]):
                    count.wrong += 1
                    count.foreign += any(_agree(answer[layer], other[layer]) for other in self._alone)
        return count


def _agree(found: np.ndarray, alone: np.ndarray) -> bool:
    return found.shape == alone.shape and float(np.abs(found - alone).max()) <= TOLERANCE * float(np.abs(alone).max())


# One fast tokenizer, many threads ------------------------------------------------------------------------------------


class Wish(Enum):
    """What a caller wants of an encoding."""

    WHOLE = "whole"
    CUT = "cut"
    PADDED = "padded"


Encode = Callable[[str, Wish], Sequence[int]]


class TokenizerRace:
    """Texts and their ids computed alone. One thread wants them cut, then padded, in turns; the others whole."""

    def __init__(self) -> None:
        self._description = (MODEL / "tokenizer.json").read_text()
        own = tokenizers.Tokenizer.from_str(self._description)
        self.texts = passages()[:TOKENIZER_TEXTS]
        self._alone = [own.encode(text).ids for text in self.texts]

    def transformers(self) -> Count:
        """The naive way on a tokenizer of `transformers`: each call says whether to cut or to pad."""
        shared: Any = AutoTokenizer.from_pretrained(MODEL, local_files_only=True)
        shared.pad_token = shared.eos_token
        settings: dict[Wish, dict[str, Any]] = {
            Wish.WHOLE: {},
            Wish.CUT: {"truncation": True, "max_length": CUT},
            Wish.PADDED: {"padding": "max_length", "max_length": PADDED},
        }
        return self._race(lambda text, wish: shared(text, **settings[wish])["input_ids"])

    def raw_set_each_time(self) -> Count:
        """The naive way on a `tokenizers.Tokenizer`: every call sets what it needs, then encodes."""
        shared = tokenizers.Tokenizer.from_str(self._description)

        def encode(text: str, wish: Wish) -> list[int]:
            _set(shared, wish)
            return shared.encode_batch([text])[0].ids

        return self._race(encode)

    def raw_set_by_one(self) -> Count:
        """The same, where the threads that want no settings just encode; the one that does takes them back."""
        shared = tokenizers.Tokenizer.from_str(self._description)

        def encode(text: str, wish: Wish) -> list[int]:
            if wish is Wish.WHOLE:
                return shared.encode(text).ids
            _set(shared, wish)
            try:
                return shared.encode(text).ids
            finally:
                _set(shared, Wish.WHOLE)

        return self._race(encode)

    def ours(self) -> Count:
        """saeserve's tokenizer: never reconfigured; cutting and padding happen to its answer."""
        shared = Tokenizer(self._description, BOS)

        def encode(text: str, wish: Wish) -> list[int]:
            found = shared.tokenize(text, CUT if wish is Wish.CUT else None)
            return _as_wished(list(found.ids), wish)

        return self._race(encode)

    def _race(self, encode: Encode) -> Count:
        def work(thread: int) -> Count:
            count = Count()
            for turn in range(TOKENIZER_ROUNDS * len(self.texts)):
                place = (turn + thread) % len(self.texts)
                wish = Wish.WHOLE if thread else (Wish.CUT, Wish.PADDED)[turn % 2]
                try:
                    ids = list(encode(self.texts[place], wish))
                except Exception as error:  # noqa: BLE001 (it is counted)
                    count.exceptions[f"{type(error).__name__}: {error}"] += 1
                    continue
                count.answers += 1
                count.wrong += ids != _as_wished(self._alone[place], wish)
            return count

        total = Count()
        for count in in_threads(work):
            total.answers += count.answers
            total.wrong += count.wrong
            total.exceptions += count.exceptions
        return total


def _set(tokenizer: tokenizers.Tokenizer, wish: Wish) -> None:
    if wish is Wish.CUT:
        tokenizer.enable_truncation(CUT)
    else:
        tokenizer.no_truncation()
    if wish is Wish.PADDED:
        tokenizer.enable_padding(length=PADDED, pad_id=BOS)
    else:
        tokenizer.no_padding()


def _as_wished(ids: list[int], wish: Wish) -> list[int]:
    if wish is Wish.CUT:
        return ids[:CUT]
    return ids + [BOS] * (PADDED - len(ids)) if wish is Wish.PADDED else ids
