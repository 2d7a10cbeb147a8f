"""Texts to ask about, made of common words by a seeded generator: popular ones that come again, or never the same."""

from __future__ import annotations

import itertools
from random import Random
from typing import Protocol

from loadtests.words import OPENERS, WORDS

TYPICAL_WORDS = 10
SHORTEST, LONGEST = 6, 100
"""Words of a text. Fewer than six, and texts that are meant to differ would meet; more than the longest do not fit into
the demo's context together with a word that is more than one token elsewhere."""
LONG_SHARE = 0.03
"""Of the texts have up to the longest."""


class Texts(Protocol):
    """Where callers take their texts from."""

    def pick(self, chance: Random) -> str:
        """A text, by the caller's own generator."""
        ...


def compose(chance: Random, words: int) -> str:
    """A text of so many words, which are as many tokens of the demo's tokenizer."""
    return " ".join([chance.choice(OPENERS), *chance.choices(WORDS, k=words - 1)])


def some_length(chance: Random) -> int:
    """Words of a text: around ten, some many more."""
    if chance.random() < LONG_SHARE:
        return chance.randint(4 * TYPICAL_WORDS, LONGEST)
    return min(max(SHORTEST, round(chance.lognormvariate(2.3, 0.35))), LONGEST)


class Popular:
    """So many texts; the text of rank r is asked for in proportion to 1 / r ** exponent, as Zipf found of words."""

    def __init__(self, count: int = 2000, exponent: float = 1.0, seed: int = 0) -> None:
        chance = Random(f"texts {seed}")  # noqa: S311  load, not secrets
        self.texts = [compose(chance, some_length(chance)) for _ in range(count)]
        self._weights = list(itertools.accumulate((rank + 1) ** -exponent for rank in range(count)))

    def pick(self, chance: Random) -> str:
        """One of the texts, popular ones more often."""
        return chance.choices(self.texts, cum_weights=self._weights)[0]


class Distinct:
    """A new text each time, so that no cache can help: of so many words, or around ten."""

    def __init__(self, words: int | None = None) -> None:
        self._words = words

    def pick(self, chance: Random) -> str:
        """A text; two that are equal are as good as impossible with six words of three hundred."""
        return compose(chance, self._words or some_length(chance))


def caller(seed: int, number: int) -> Random:
    """The generator of one caller among many: the same in each run, another than every other caller's."""
    return Random(f"caller {seed} {number}")  # noqa: S311  load, not secrets
