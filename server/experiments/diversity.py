"""How many of a feature's modes do 20 records show? On planted features, whose modes are known.

    python server/experiments/diversity.py [--features 200] [--seed 0]

A planted feature fires on several modes, of skewed frequency and strength. What makes a mode differs:

    words        each mode has its own word, written with and without capital and space
    contexts     one word for all; each mode has its own phrase round it, of which a third of the tokens vary
    boilerplate  each mode has its own word, and all its blocks are copies of two texts, a twentieth of the tokens
                 changed

Beside each mode's own, 4 of the 16 latents at a peak are drawn from all. Of 2,000 blocks an index keeps the strongest
64, and a sample of 4 in each power of two. The table gives the mean share of the modes among the first 20 records of
each way to choose them, of 4 / 8 / 16 modes; `kept` is what all 64 kept records hold, more than which no choice among
them can show.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final

import numpy as np
import numpy.typing as npt

from saeserve_server.records.diversity import DEFAULT_THRESHOLD, Level, diverse
from saeserve_server.records.groups import Group, grouped
from saeserve_server.records.likeness import Folding
from saeserve_server.records.store import FeatureStatistics, PeakCounts, Record

SHOWN: Final = 20
KEPT: Final = 64
PER_POWER: Final = 4
BLOCKS: Final = 2000
SPAN: Final = 33
PEAK: Final = 16
WORDS: Final = 5000
LATENTS: Final = 2048
KINDS: Final = ("words", "contexts", "boilerplate")
MODES: Final = (4, 8, 16)

IdArray = npt.NDArray[np.uint32]
Draw = np.random.Generator


@dataclass(frozen=True)
class Planted:
    """What an index keeps of one feature, and which mode each of its blocks is of; a block is a text."""

    records_per_feature: int
    kept: list[Record]
    sampled: list[Record]
    modes: list[int]
    """By text."""

    def records(self, source_id: str, index: int, offset: int = 0, count: int = 10) -> list[Record]:
        return self.kept[offset : offset + count]

    def sample(self, source_id: str, index: int) -> list[Record]:
        return self.sampled

    def near_misses(self, source_id: str, index: int) -> list[Record]:
        return []

    def maximum(self, source_id: str) -> npt.NDArray[np.float32]:
        return np.array([self.kept[0].max_activation], np.float32)

    def statistics(self, source_id: str, index: int) -> FeatureStatistics:
        return SimpleNamespace(blocks=BLOCKS)  # type: ignore[return-value]

    def peak_counts(self, source_id: str, index: int) -> PeakCounts:
        """Not what is measured: only which records are shown is."""
        ids = np.unique([record.token_ids[PEAK] for record in self.kept]).astype(np.uint32)
        ones, zeros = np.ones(len(ids), np.int64), np.zeros(len(ids), np.float32)
        return PeakCounts(ids, ones, zeros, zeros, ones, zeros, zeros)

    def text_ids(self, text: int) -> IdArray:
        return next(record.token_ids for record in self.kept if record.text_index == text)


def piece(token_id: int) -> bytes:
    """Four ways to write each word."""
    word, way = divmod(token_id, 4)
    return (b" w%d", b"w%d", b" W%d", b"W%d")[way] % word


def plant(kind: str, modes: int, draw: Draw) -> Planted:
    """A feature with so many modes."""
    strengths = np.linspace(1.0, 0.5, modes)
    frequencies = draw.permutation(1 / np.arange(1, modes + 1))
    words = draw.choice(WORDS, modes, replace=False)
    phrases = draw.integers(0, WORDS, (modes, 7))
    templates = draw.integers(0, WORDS, (modes, 2, SPAN))
    own = np.array([draw.choice(LATENTS, 12, replace=False) for _ in range(modes)])
    mode_of = draw.choice(modes, BLOCKS, p=frequencies / frequencies.sum())
    values = 8 * strengths[mode_of] * np.exp(draw.normal(0, 0.2, BLOCKS))

    def record(text: int, weight: float = 1.0) -> Record:
        mode = int(mode_of[text])
        ids = draw.integers(0, WORDS, SPAN)
        if kind == "boilerplate":
            same = draw.random(SPAN) >= 0.05
            ids[same] = templates[mode, draw.integers(2)][same]
        if kind == "contexts":
            same = draw.random(7) >= 1 / 3
            ids[PEAK - 3 : PEAK + 4][same] = phrases[mode][same]
        ids = ids * 4
        ids[PEAK] = 4 * words[0 if kind == "contexts" else mode] + draw.integers(4)
        active = np.unique(np.concatenate([own[mode], draw.integers(0, LATENTS, 4)])).astype(np.uint32)
        none = np.zeros(SPAN, np.float32)
        return Record(ids.astype(np.uint32), none, float(values[text]), PEAK, text, 0, None, active, weight)

    kept = [record(text) for text in np.argsort(-values)[:KEPT].tolist()]
    sampled = []
    powers = np.frexp(values)[1]
    for power in np.unique(powers)[::-1]:
        # The number of a text has nothing to do with what it holds: the first are some at random.
        among = np.flatnonzero(powers == power)
        picked = among[:PER_POWER]
        picked = picked[np.argsort(-values[picked])]
        sampled += [record(text, len(among) / len(picked)) for text in picked.tolist()]
    return Planted(KEPT, kept, sampled, mode_of.tolist())


def ways() -> dict[str, Callable[[Planted], list[Record]]]:
    """How records are chosen, by name."""

    def at(level: Level, threshold: float = DEFAULT_THRESHOLD) -> Callable[[Planted], list[Record]]:
        def choose(planted: Planted) -> list[Record]:
            shown, _ = diverse(planted, "planted", 0, level, threshold, 0, SHOWN, Folding(piece))
            return [one.record for one in shown]

        return choose

    def of(group: Group) -> Callable[[Planted], list[Record]]:
        return lambda planted: [one.record for one in grouped(planted, "planted", 0, group)[:SHOWN]]

    named = {"top 20": at(Level.NONE)}
    named |= {f"diversity {level.value}": at(level) for level in Level if level is not Level.NONE}
    named |= {f"diversity {level.value} from 0.2": at(level, 0.2) for level in (Level.PHRASE, Level.SENTENCE)}
    named |= {"group quantiles": of(Group.QUANTILES), "group random": of(Group.RANDOM)}
    return named | {f"kept ({KEPT})": lambda planted: planted.kept}


def measure(features: int, seed: int) -> dict[str, list[float]]:
    """For each way the mean share of modes shown, by kind, then by number of modes."""
    table: dict[str, list[float]] = {name: [] for name in ways()}
    for kind in KINDS:
        for modes in MODES:
            draw = np.random.default_rng([seed, KINDS.index(kind), modes])
            shares: dict[str, list[float]] = {name: [] for name in table}
            for _ in range(features):
                planted = plant(kind, modes, draw)
                for name, choose in ways().items():
                    found = {planted.modes[record.text_index] for record in choose(planted)}
                    shares[name].append(len(found) / modes)
            for name, found_shares in shares.items():
                table[name].append(float(np.mean(found_shares)))
    return table


def main() -> None:
    """Prints the table, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=200, help="planted features of each kind and number of modes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"| % of modes in {SHOWN} records | " + " | ".join(KINDS) + " |")
    print("|---|" + "---:|" * len(KINDS))
    for name, shares in measure(arguments.features, arguments.seed).items():
        cells = [f"{100 * share:.0f}" for share in shares]
        groups = [" / ".join(cells[first : first + len(MODES)]) for first in range(0, len(cells), len(MODES))]
        print(f"| {name} | " + " | ".join(groups) + " |")


if __name__ == "__main__":
    main()
