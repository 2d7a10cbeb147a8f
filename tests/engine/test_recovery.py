"""Halves and parts: who is at fault fails alone, and where memory runs out nobody is at fault."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence, Set

import pytest
import torch

from saeserve_server.engine.recovery import CALM_BATCHES, GuardedRunner
from saeserve_server.engine.work import Abandoned, Batch, BatchDone, Done, Failed, Spent
from saeserve_server.ranking.work import EncodeDone, EncodeWork, Work
from tests.scheduler.stage import CATALOG


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> Iterator[None]:
    """Memory is freed often here, and to look through all that torch has made takes half a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def work(number: int, tokens: int = 10) -> EncodeWork:
    return EncodeWork((number, *range(tokens - 2)), False, (0,))  # and the BOS


def batch_of(*works: Work) -> Batch:
    return Batch(0, works, (False, True) * (len(works) // 2) + (True,) * (len(works) % 2))


class FakeRunner:
    """Answers each text with its number; fails where it is told to. Notes what it is given."""

    catalog = CATALOG

    def __init__(
        self, *bad: int, holds: int | None = None, memory_error: Callable[[], Exception] = MemoryError
    ) -> None:
        self.ran: list[list[int]] = []
        self.gone: list[set[int]] = []
        self.holds = holds
        """Tokens that fit; None for any number."""
        self._bad = bad
        self._memory_error = memory_error

    def run(self, works: Sequence[Work], keep: Sequence[bool], gone: Callable[[], Set[int]]) -> BatchDone:
        numbers = [one.ids[0] for one in works]
        self.ran.append(numbers)
        self.gone.append(set(gone()))
        if self.holds is not None and sum(len(one.ids) + 1 for one in works) > self.holds:
            raise self._memory_error()
        if set(numbers) & set(self._bad):
            raise RuntimeError("a fault")
        done: tuple[Done, ...] = tuple(
            Abandoned("forward") if place in self.gone[-1] else EncodeDone(number, (), None)
            for place, number in enumerate(numbers)
        )
        kept = tuple({number: None} if wanted else None for number, wanted in zip(numbers, keep, strict=True))
        return BatchDone(done, Spent(1.0, 2.0, len(works), 10, 20, 30), kept)  # type: ignore[arg-type]


def nobody() -> set[int]:
    return set()


def outcomes(answer: BatchDone) -> list[int | str]:
    """The number that a text was answered with, the reason of its failure, or where it was dropped."""
    return [
        one.reason if isinstance(one, Failed) else one.stage if isinstance(one, Abandoned) else one.rows
        for one in answer.done
    ]


@pytest.mark.parametrize("bad", [(), (1,), (5,), (8,), (1, 8), (4, 5), (1, 2), tuple(range(1, 9))], ids=str)
def test_halving_finds_who_is_at_fault_and_answers_the_others_in_order(bad: tuple[int, ...]) -> None:
    runner = FakeRunner(*bad)
    answer = GuardedRunner(runner).run(batch_of(*(work(number) for number in range(1, 9))), nobody)
    assert outcomes(answer) == ["INTERNAL" if number in bad else number for number in range(1, 9)]
    assert [kept and list(kept) for kept in answer.kept] == [
        [number] if number % 2 == 0 and number not in bad else None for number in range(1, 9)
    ]
    # Each batch that failed and held more than one was split: that is one fewer than what they were split into.
    assert answer.spent.splits == sum(len(numbers) > 1 and bool(set(numbers) & set(bad)) for numbers in runner.ran)
    assert len(runner.ran) == 1 + 2 * answer.spent.splits
    assert answer.spent.out_of_memory == 0
    assert answer.spent.memory_bytes > 10**6
    assert answer.spent.mapped_bytes > 10**6


@pytest.mark.parametrize("bad", range(1, 8))
def test_one_bad_request_of_an_odd_number_costs_few_runs(bad: int) -> None:
    runner = FakeRunner(bad)
    answer = GuardedRunner(runner).run(batch_of(*(work(number) for number in range(1, 8))), nobody)
    assert outcomes(answer) == ["INTERNAL" if number == bad else number for number in range(1, 8)]
    assert answer.spent.splits <= 3


def test_what_the_parts_took_is_added_up() -> None:
    answer = GuardedRunner(FakeRunner(3)).run(batch_of(*(work(number) for number in range(1, 5))), nobody)
    spent = answer.spent
    assert (spent.forward_seconds, spent.encode_seconds) == (2.0, 4.0)
    assert (spent.forward_passes, spent.forward_tokens, spent.encodes, spent.encode_tokens) == (3, 20, 40, 60)
    assert spent.splits == 2


def test_a_fault_names_itself_to_the_log_only_and_the_next_batch_is_whole() -> None:
    runner = FakeRunner(1)
    guarded = GuardedRunner(runner)
    (failed,) = guarded.run(batch_of(work(1)), nobody).done
    assert failed == Failed("RuntimeError: a fault", "INTERNAL")
    guarded.run(batch_of(work(2), work(3)), nobody)
    assert runner.ran[-1] == [2, 3]


# Out of memory

OUT_OF_MEMORY = [
    MemoryError,
    lambda: torch.OutOfMemoryError("CUDA out of memory"),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("memory_error", OUT_OF_MEMORY, ids=["machine", "device", "torch on a CPU"])
def test_a_batch_that_does_not_fit_is_run_in_parts_of_half_its_tokens(memory_error: Callable[[], Exception]) -> None:
    runner = FakeRunner(holds=40, memory_error=memory_error)
    answer = GuardedRunner(runner).run(batch_of(*(work(number) for number in range(1, 9))), nobody)
    assert outcomes(answer) == list(range(1, 9))
    assert runner.ran == [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert (answer.spent.out_of_memory, answer.spent.splits) == (1, 0)
    assert [kept and list(kept) for kept in answer.kept] == [None, [2], None, [4], None, [6], None, [8]]


def test_texts_of_many_lengths_are_packed_into_parts_and_a_long_one_has_its_own() -> None:
    runner = FakeRunner(holds=30)
    works = [work(1, 5), work(2, 30), work(3, 5), work(4, 5), work(5, 15)]
    answer = GuardedRunner(runner).run(batch_of(*works), nobody)
    assert outcomes(answer) == [1, 2, 3, 4, 5]
    assert runner.ran[1:] == [[1], [2], [3, 4, 5]]


def test_parts_stay_small_for_a_while_and_then_grow_again() -> None:
    runner = FakeRunner(holds=20)
    guarded = GuardedRunner(runner)
    works = [work(number) for number in range(1, 9)]
    guarded.run(batch_of(*works), nobody)
    assert max(map(len, runner.ran[-2:])) == 2
    runner.holds = None  # whoever else was on the device has left
    sizes = []
    for _ in range(4 * CALM_BATCHES):
        runner.ran.clear()
        answer = guarded.run(batch_of(*works), nobody)
        assert outcomes(answer) == list(range(1, 9))
        sizes.append(max(map(len, runner.ran)))
    assert sorted(sizes) == sizes
    assert sizes.count(2) in (CALM_BATCHES - 1, CALM_BATCHES)  # the batch that ran out of memory fitted in the end
    assert sizes.count(4) == CALM_BATCHES
    assert sizes[-1] == 8


def test_memory_that_runs_out_again_while_parts_grow_halves_them_again() -> None:
    runner = FakeRunner(holds=20)
    guarded = GuardedRunner(runner)
    works = [work(number) for number in range(1, 9)]
    ran_out = []
    for _ in range(3 * CALM_BATCHES):
        answer = guarded.run(batch_of(*works), nobody)
        assert outcomes(answer) == list(range(1, 9))
        ran_out.append(answer.spent.out_of_memory > 0)
    assert 2 <= ran_out.count(True) <= 3


def test_what_waits_is_cut_to_the_size_that_fits_before_it_is_tried() -> None:
    runner = FakeRunner(holds=20)
    GuardedRunner(runner).run(batch_of(*(work(number) for number in range(1, 9))), nobody)
    assert list(map(len, runner.ran)) == [8, 4, 2, 2, 2, 2]


def test_the_size_of_parts_never_grows_when_memory_runs_out() -> None:
    runner = FakeRunner(holds=10)
    guarded = GuardedRunner(runner)
    # Of the second half one text is so long that its part does not fit, and no other part is that large.
    guarded.run(batch_of(*(work(number) for number in range(1, 5)), work(5, 39), work(6, 1)), nobody)
    runner.ran.clear()
    guarded.run(batch_of(work(7), work(8)), nobody)
    assert runner.ran == [[7], [8]]


def test_a_text_that_does_not_fit_alone_is_tried_once_more_and_fails_while_others_are_answered() -> None:
    runner = FakeRunner(holds=30)
    answer = GuardedRunner(runner).run(batch_of(work(1), work(2, 31), work(3)), nobody)
    assert outcomes(answer) == [1, "OUT_OF_MEMORY", 3]
    assert runner.ran.count([2]) == 2

    runner = FakeRunner(holds=30)
    guarded = GuardedRunner(runner)
    answer = guarded.run(batch_of(work(2, 31)), nobody)
    assert outcomes(answer) == ["OUT_OF_MEMORY"]
    assert runner.ran == [[2], [2]]
    assert answer.spent.out_of_memory == 1
    assert outcomes(guarded.run(batch_of(work(1), work(2, 31), work(3)), nobody)) == [1, "OUT_OF_MEMORY", 3]


def test_a_text_that_fits_once_memory_is_freed_is_answered() -> None:
    class Recovering(FakeRunner):
        def run(self, works: Sequence[Work], keep: Sequence[bool], gone: Callable[[], Set[int]]) -> BatchDone:
            try:
                return super().run(works, keep, gone)
            except MemoryError:
                self.holds = None
                raise

    runner = Recovering(holds=5)
    assert outcomes(GuardedRunner(runner).run(batch_of(work(1)), nobody)) == [1]
    assert runner.ran == [[1], [1]]


def test_a_fault_among_texts_that_do_not_fit_together_is_found_too() -> None:
    runner = FakeRunner(6, holds=40)
    answer = GuardedRunner(runner).run(batch_of(*(work(number) for number in range(1, 9))), nobody)
    assert outcomes(answer) == [1, 2, 3, 4, 5, "INTERNAL", 7, 8]
    assert answer.spent.out_of_memory == 1
    assert answer.spent.splits == 2


def test_what_a_failed_attempt_held_is_let_go_before_the_next() -> None:
    class Tensors:
        """Stands for what a forward pass has allocated."""

    held: list[weakref.ref[Tensors]] = []

    class Hoarding(FakeRunner):
        def run(self, works: Sequence[Work], keep: Sequence[bool], gone: Callable[[], Set[int]]) -> BatchDone:
            assert all(one() is None for one in held)
            tensors = Tensors()
            held.append(weakref.ref(tensors))
            return super().run(works, keep, gone)

    answer = GuardedRunner(Hoarding(holds=10)).run(batch_of(*(work(number) for number in range(1, 5))), nobody)
    assert outcomes(answer) == [1, 2, 3, 4]
    assert len(held) > 5


def test_what_a_failed_attempt_held_is_let_go_before_memory_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensors:
        """Stands for what a forward pass has allocated."""

    held: list[weakref.ref[Tensors]] = []
    alive: list[bool] = []

    class Hoarding(FakeRunner):
        def run(self, works: Sequence[Work], keep: Sequence[bool], gone: Callable[[], Set[int]]) -> BatchDone:
            tensors = Tensors()
            held.append(weakref.ref(tensors))
            return super().run(works, keep, gone)

    monkeypatch.setattr("saeserve_server.engine.recovery.gc.collect", lambda: alive.append(held[-1]() is not None))
    GuardedRunner(Hoarding(holds=20)).run(batch_of(work(1), work(2), work(3)), nobody)
    assert alive == [False]


# A device that is lost


def failing_with(message: str) -> FakeRunner:
    return FakeRunner(holds=0, memory_error=lambda: RuntimeError(message))


def test_a_lost_device_ends_the_worker_and_nobody_is_tried_alone() -> None:
    runner = failing_with("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError, match="device-side assert"):
        GuardedRunner(runner).run(batch_of(work(1), work(2)), nobody)
    assert runner.ran == [[1, 2]]


def test_what_may_be_memory_is_taken_for_it_until_nothing_is_left_to_free() -> None:
    runner = failing_with('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp"')
    with pytest.raises(RuntimeError, match="NVML"):
        GuardedRunner(runner).run(batch_of(work(1), work(2)), nobody)
    assert runner.ran == [[1, 2], [1], [1]]


# The order to stop, and places


@pytest.mark.parametrize("bad", [(), (2,)])
def test_the_order_to_stop_is_no_fault_of_a_request(bad: tuple[int, ...]) -> None:
    def stop() -> set[int]:
        if len(runner.ran) > len(bad):
            raise EOFError
        return set()

    runner = FakeRunner(*bad)
    with pytest.raises(EOFError):
        GuardedRunner(runner).run(batch_of(work(1), work(2)), stop)
    assert len(runner.ran) == 1 + len(bad)


def test_places_that_nobody_waits_for_are_those_of_the_part() -> None:
    left: set[int] = set()

    class Watching(FakeRunner):
        def run(self, works: Sequence[Work], keep: Sequence[bool], gone: Callable[[], Set[int]]) -> BatchDone:
            answer = super().run(works, keep, gone)
            left.update({5, 6})  # they leave once a part has been answered
            return answer

    runner = Watching(4)
    answer = GuardedRunner(runner).run(batch_of(*(work(number) for number in range(8))), lambda: left)
    assert runner.ran == [[*range(8)], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]
    assert runner.gone == [set(), set(), {1, 2}, {1}, set(), {0}, {0}]
    assert outcomes(answer) == [0, 1, 2, 3, "INTERNAL", "forward", "forward", 7]


def test_places_within_parts_that_fit_are_mapped_too() -> None:
    runner = FakeRunner(holds=20)
    answer = GuardedRunner(runner).run(batch_of(*(work(number) for number in range(5))), lambda: {0, 3})
    assert runner.ran == [[0, 1, 2, 3, 4], [0, 1], [2, 3], [4]]
    assert runner.gone == [{0, 3}, {0}, {1}, set()]
    assert outcomes(answer) == ["forward", 1, 2, "forward", 4]
