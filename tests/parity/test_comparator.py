"""The comparator accepts what it should and finds every kind of corruption."""

import dataclasses

import numpy as np
import pytest

from tests.answers import Differs, Ranked, SourceReference, Tally, compare_activations, compare_ranking, reference_of

ROWS, FEATURES = 5, 40
ORDER = ["0-a", "0", "1-b"]


def make_references(seed: int = 0) -> dict[str, SourceReference]:
    random = np.random.default_rng(seed)
    references = {}
    for source in ORDER:
        relu = np.maximum(random.normal(size=(ROWS, FEATURES)), 0)
        threshold = 0.5
        references[source] = reference_of(np.where(relu > threshold, relu, 0), relu, np.abs(relu - threshold))
    return references


def plain_ranking(references: dict[str, SourceReference], rows: list[int], how: str, limit: int) -> list[Ranked]:
    every = [
        Ranked(source, index, float((np.max if how == "max" else np.sum)(reference.activations[rows, index])))
        for source, reference in references.items()
        for index in range(FEATURES)
    ]
    every.sort(key=lambda one: (-one.value, ORDER.index(one.source), one.index))
    return [one for one in every if one.value > 0][:limit]


def check(answer: list[Ranked], references: dict[str, SourceReference], how: str = "max", limit: int = 10) -> Tally:
    tally = Tally()
    compare_ranking(answer, references, range(ROWS), how, limit, ORDER, "test", tally)
    return tally


@pytest.mark.parametrize("how", ["max", "sum"])
def test_the_plain_answer_is_the_same(how: str) -> None:
    references = make_references()
    answer = plain_ranking(references, list(range(ROWS)), how, 10)
    assert check(answer, references, how).exceptions == []


def test_values_may_move_by_less_than_epsilon() -> None:
    references = make_references()
    answer = [
        dataclasses.replace(one, value=one.value * (1 + 1e-5))
        for one in plain_ranking(references, [0, 1, 2, 3, 4], "max", 10)
    ]
    assert check(answer, references).exceptions == []


def corruptions() -> list[object]:
    def value(answer: list[Ranked]) -> None:
        answer[3] = dataclasses.replace(answer[3], value=answer[3].value + 1e-3)

    def swapped(answer: list[Ranked]) -> None:
        answer[2], answer[5] = answer[5], answer[2]

    def missing(answer: list[Ranked]) -> None:
        del answer[0]

    def replaced(answer: list[Ranked]) -> None:
        answer[4] = dataclasses.replace(answer[4], index=(answer[4].index + 1) % FEATURES)

    def twice(answer: list[Ranked]) -> None:
        answer[1] = answer[0]

    def zero(answer: list[Ranked]) -> None:
        answer[-1] = dataclasses.replace(answer[-1], value=0.0)

    def longer(answer: list[Ranked]) -> None:
        answer.append(dataclasses.replace(answer[-1], index=0))

    def other_source(answer: list[Ranked]) -> None:
        answer[0] = dataclasses.replace(answer[0], source="1-b" if answer[0].source != "1-b" else "0-a")

    return [value, swapped, missing, replaced, twice, zero, longer, other_source]


@pytest.mark.parametrize("corrupt", corruptions(), ids=lambda corrupt: corrupt.__name__)
def test_corrupted_rankings_differ(corrupt: object) -> None:
    references = make_references()
    answer = plain_ranking(references, [0, 1, 2, 3, 4], "max", 10)
    corrupt(answer)  # type: ignore[operator]
    with pytest.raises(Differs):
        check(answer, references)


def test_ties_must_stand_in_the_decided_order() -> None:
    activations = np.ones((1, 4))
    references = {"0-a": reference_of(activations, activations, None)}
    tied = [Ranked("0-a", index, 1.0) for index in range(4)]
    compare_ranking(tied, references, [0], "max", 4, ORDER, "tied", Tally())
    with pytest.raises(Differs, match="order"):
        compare_ranking(tied[::-1], references, [0], "max", 4, ORDER, "tied", Tally())


def test_corrupted_activations_differ() -> None:
    reference = make_references()["0-a"]
    right = reference.activations.astype(np.float32)
    compare_activations(right, reference, "right", Tally())
    for row, feature, change in [(0, int(right[0].argmax()), 1e-3), (2, int(right[2].argmin()), 0.7), (4, 3, -1.0)]:
        wrong = right.copy()
        wrong[row, feature] += change
        with pytest.raises(Differs):
            compare_activations(wrong, reference, "wrong", Tally())
    with pytest.raises(Differs, match="shape"):
        compare_activations(right[:-1], reference, "short", Tally())


def test_a_flip_at_the_threshold_is_an_exception_and_others_are_not() -> None:
    relu = np.array([[0.50001, 0.7, 0.49999, 0.3]])
    reference = reference_of(np.where(relu > 0.5, relu, 0), relu, np.abs(relu - 0.5))
    tally = Tally()
    compare_activations(np.array([[0.0, 0.7, 0.49999, 0.0]]), reference, "flip", tally)
    assert len(tally.exceptions) == 1
    with pytest.raises(Differs):
        compare_activations(np.array([[0.50001, 0.0, 0.0, 0.0]]), reference, "no flip", Tally())


def test_too_many_exceptions_are_refused() -> None:
    Tally(texts=200, exceptions=["a", "b"]).check()
    with pytest.raises(Differs):
        Tally(texts=199, exceptions=["a", "b"]).check()
