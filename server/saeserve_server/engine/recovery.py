"""What stands between a batch that fails and its innocent requests: halving, and smaller parts when memory runs out."""

from __future__ import annotations

import gc
import logging
import traceback
from collections import deque
from collections.abc import Callable, Set

import torch

from saeserve_server.engine.faults import OF_MEMORY, Fault, fault_of
from saeserve_server.engine.memory import device_peak, process_bytes, reset_device_peak
from saeserve_server.engine.runner import BatchRunner, in_groups
from saeserve_server.engine.work import Batch, BatchDone, Done, Failed, Spent, run_tokens, runs
from saeserve_server.rows import KeptRows

log = logging.getLogger(__name__)

CALM_BATCHES = 16
"""After so many batches that fitted, twice as much is tried again."""

Gone = Callable[[], Set[int]]


class GuardedRunner:
    """A runner whose batches are always answered: each item with its answer, or with an error of its own."""

    def __init__(self, runner: BatchRunner) -> None:
        self._runner = runner
        self._most_tokens: int | None = None
        """What is run at a time since memory ran out; None for whole batches."""
        self._too_many = 0
        """Tokens that it ran out with."""
        self._calm = 0

    def run(self, batch: Batch, gone: Gone) -> BatchDone:
        """The answers to a batch, in its order. `gone` gives the places that nobody waits for any more.

        A batch that fails is run again as two halves, until what fails is alone. One that runs out of memory is run
        again in parts of half its tokens, and so are those that follow for a while: nobody is at fault. Raises what
        says that the device is lost.
        """
        done: dict[int, Done] = {}
        kept: dict[int, KeptRows | None] = {}
        spent = Spent()
        reset_device_peak()
        waiting = deque([list(range(len(batch.works)))])
        freed_for: set[int] = set()
        while waiting:
            part, *others = self._parts(batch, waiting.popleft())
            waiting.extendleft(reversed(others))
            answer = self._try(batch, part, gone)
            if isinstance(answer, BatchDone):
                spent.add(answer.spent)
                done.update(zip(part, answer.done, strict=True))
                kept.update(zip(part, answer.kept, strict=True))
            elif fault_of(answer) in OF_MEMORY and freed_for.isdisjoint(part):
                spent.out_of_memory += 1
                self._shrink(batch, part)
                if len(part) == 1:
                    freed_for.update(part)
                waiting.appendleft(part)
            elif len(part) > 1:
                spent.splits += 1
                half = len(part) // 2
                waiting.extendleft([part[half:], part[:half]])
            elif fault_of(answer) is Fault.MEMORY_OR_DEVICE:  # with all that could be freed: it was the device
                raise answer
            else:
                log.error("a request failed", exc_info=answer)
                done[part[0]] = _failed(answer)
        self._relax(spent)
        spent.memory_bytes, spent.mapped_bytes = process_bytes()
        spent.device_bytes, spent.device_reserved_bytes = device_peak()
        places = range(len(batch.works))
        return BatchDone(tuple(done[place] for place in places), spent, tuple(kept.get(place) for place in places))

    def _try(self, batch: Batch, part: list[int], gone: Gone) -> BatchDone | Exception:
        """The answers to a part of a batch, or what went wrong, without the tensors that it held."""
        works = [batch.works[place] for place in part]
        keep = [batch.keep[place] for place in part]
        try:
            return self._runner.run(works, keep, lambda: _local(part, gone()))
        except EOFError:  # the order to stop
            raise
        except Exception as error:
            if fault_of(error) is Fault.DEVICE:
                raise
            traceback.clear_frames(error.__traceback__)
            return error

    def _parts(self, batch: Batch, places: list[int]) -> list[list[int]]:
        """The places in groups of at most `_most_tokens` tokens, at least one place each."""
        if self._most_tokens is None:
            return [places]
        return list(in_groups(places, lambda place: self._tokens(batch, place), self._most_tokens))

    def _tokens(self, batch: Batch, place: int) -> int:
        """Tokens that the model runs on for an item."""
        return sum(map(run_tokens, runs(batch.works[place], self._runner.catalog)))

    def _shrink(self, batch: Batch, part: list[int]) -> None:
        """Halves what is run at a time, and frees what can be freed."""
        tokens = sum(self._tokens(batch, place) for place in part)
        if self._most_tokens is None:
            self._too_many = tokens
        self._most_tokens = max(1, min(tokens // 2, self._most_tokens or tokens))
        self._calm = 0
        log.warning("out of memory with %d tokens; %d at a time from now on", tokens, self._most_tokens)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _relax(self, spent: Spent) -> None:
        """After some batches that fitted, twice as much is tried again."""
        if self._most_tokens is None or spent.out_of_memory:
            return
        self._calm += 1
        if self._calm == CALM_BATCHES:
            self._calm = 0
            self._most_tokens *= 2
            if self._most_tokens >= self._too_many:
                self._most_tokens = None


def _failed(error: Exception) -> Failed:
    return Failed(f"{type(error).__name__}: {error}", "OUT_OF_MEMORY" if fault_of(error) in OF_MEMORY else "INTERNAL")


def _local(part: list[int], gone: Set[int]) -> set[int]:
    """Places in the batch as places in a part of it."""
    return {place for place, own in enumerate(part) if own in gone} if gone else set()
