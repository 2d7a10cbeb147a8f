"""Which features point most nearly where one points: exact cosines of directions in the residual stream.

A product of small integers bounds every cosine (`kernels/cosines.py`); those that may be among the best are computed in
float64 from the weights as they are served, and rounded to float32 once, before they are ranked. The integers, a byte a
number, are made when somebody first asks: at most so many features each time that the worker is asked, so that texts
have their turns between. Where there is no room for them, or no product that is exact, all cosines are computed in
float64, which takes longer and gives the same.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from saeserve_server.catalog import Catalog, FloatArray, Kind
from saeserve_server.engine.memory import WORKING_BYTES, free_host_bytes, return_freed
from saeserve_server.engine.work import Abandoned
from saeserve_server.kernels.compiled import Doubles
from saeserve_server.kernels.cosines import Cosines, Points, exact_cosines, kept_bytes, points_of, product_for
from saeserve_server.models.loaded import LoadedModel
from saeserve_server.ranking.filters import BoolArray, Filters
from saeserve_server.ranking.similar import LeftOut, Preparing, Side, SimilarDone, SimilarWork
from saeserve_server.rows import IntArray
from saeserve_server.sources.directions import (
    NO_INPUT,
    NO_OUTPUT,
    Directions,
    is_at_neurons,
    of_neurons,
    read,
    written,
)
from saeserve_server.sources.source import SaeSource, Source
from saeserve_server.units import readable_bytes

log = logging.getLogger(__name__)

AT_ONCE = 8192
"""Features whose directions are made into integers, or compared exactly, together: some 50 ms for GPT-2 small."""

ROUNDING = np.float32(2.0**-20)
"""Of cosines in float32, and of the order in which float64 adds."""

Answer = SimilarDone | Preparing | Abandoned


@dataclass(slots=True, eq=False)
class _Compared:
    """A source whose features have directions."""

    directions: Directions
    norms: Doubles  # [count]
    off: FloatArray  # [count]
    """By how much a cosine may be off that was computed with these norms."""
    made: int = 0
    """Features whose norms are known, and that are in `cosines`."""
    cosines: Cosines | None = None
    """None where all cosines are computed exactly."""

    @property
    def is_made(self) -> bool:
        return self.made == self.directions.count


@dataclass(slots=True, eq=False)
class _Best:
    """Features that may be among the best `limit` for one question, as far as sources have been looked at."""

    limit: int
    source: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    index: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    about: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    off: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))

    def add(self, rank: int, index: IntArray, about: FloatArray, off: FloatArray) -> None:
        """Takes in features of a source."""
        if len(self.about) >= self.limit:
            kept = about + off >= self._bar()
            index, about, off = index[kept], about[kept], off[kept]
        self.source = np.concatenate([self.source, np.full(len(index), rank)])
        self.index = np.concatenate([self.index, index])
        self.about, self.off = np.concatenate([self.about, about]), np.concatenate([self.off, off])
        if len(self.about) > self.limit:
            kept = self.about + self.off >= self._bar()
            self.source, self.index = self.source[kept], self.index[kept]
            self.about, self.off = self.about[kept], self.off[kept]

    def _bar(self) -> np.float32:
        """What the last of the best is at least."""
        least = self.about - self.off
        last: np.float32 = np.partition(least, len(least) - self.limit)[len(least) - self.limit]
        return last


class Neighbours:
    """The directions of all sources that have some, and the questions about them. One caller at a time."""

    def __init__(self, model: LoadedModel, sources: Sequence[Source], filters: Filters, catalog: Catalog) -> None:
        self._model = model
        self._sources = sources
        self._filters = filters
        self._catalog = catalog
        self._by_side: dict[Side, dict[int, _Compared | str]] = {}
        self._product = product_for(catalog.model.d_model)

    @torch.inference_mode()
    def answer(self, works: Sequence[SimilarWork], gone: Callable[[int], bool] = lambda place: False) -> list[Answer]:
        """The answers, in order: `Preparing` while directions are not all made, of which a part is made first. `gone`
        says of a place whether nobody waits for it any more; it is asked before each source."""
        answers: dict[int, Answer] = {}
        ready: list[int] = []
        waiting: set[Side] = set()
        for place, work in enumerate(works):
            if work.side not in waiting and not self._is_made(work.side):
                self._make(work.side)
                if not self._is_made(work.side):
                    waiting.add(work.side)
            if work.side in waiting:
                answers[place] = self._preparing(work.side)
            else:
                ready.append(place)
        for side in Side:
            asked = {place: works[place] for place in ready if works[place].side is side}
            if asked:
                answers |= self._compare(side, asked, gone)
        return [answers[place] for place in range(len(works))]

    def _compare(self, side: Side, works: dict[int, SimilarWork], gone: Callable[[int], bool]) -> dict[int, Answer]:
        """The answers to questions of one side, by place."""
        answers: dict[int, Answer] = {}
        points: dict[int, torch.Tensor] = {}  # float64, of length 1
        for place, work in works.items():
            found = self._point(side, work)
            if isinstance(found, str):
                answers[place] = SimilarDone(*_nothing(), 0, (), missing=found)
            else:
                points[place] = found
        best = {place: _Best(works[place].limit) for place in points}
        counts: dict[int, int] = dict.fromkeys(points, 0)
        screened: dict[tuple[int, ...], Points] = {}
        for rank, compared in self._by_side[side].items():
            for place in [place for place in points if gone(place)]:
                del points[place]
                answers[place] = Abandoned("encode")
            if isinstance(compared, str):
                continue
            taking = {place: mask for place in points if (mask := self._mask(works[place], rank, compared)) is not None}
            for place, (about, off) in self._screen(compared, {place: points[place] for place in taking}, screened):
                index = np.flatnonzero(taking[place])
                counts[place] += len(index)
                best[place].add(rank, index, about[index], off[index])
        for place, x in points.items():
            left_out = self._left_out(side, works[place])
            answers[place] = SimilarDone(*self._exact(side, best[place], x), counts[place], left_out)
        return answers

    def _point(self, side: Side, work: SimilarWork) -> torch.Tensor | str:
        """[d_model], float64 and of length 1, where a feature or a vector points; in words why it points nowhere."""
        if work.vector:
            given = torch.from_numpy(np.frombuffer(work.vector, np.float32).astype(np.float64))
            direction: torch.Tensor = given / given.norm()
            return direction
        compared = self._by_side[side][work.source]
        if isinstance(compared, str):
            return compared
        if compared.norms[work.index] == 0:
            return "its direction is 0"
        x: torch.Tensor = compared.directions.rows(np.array([work.index]))[0]
        point: torch.Tensor = x / x.norm()
        return point

    def _mask(self, work: SimilarWork, rank: int, compared: _Compared) -> BoolArray | None:
        """bool [features of a source] that a question compares with; None for none."""
        chosen = next((one for one in work.filters if one.source == rank), None)
        if chosen is None:
            return None
        taken = compared.norms > 0
        mask = self._filters.mask(chosen)
        if mask is not None:
            taken = taken & mask
        if rank == work.source:
            taken[work.index] = False
        return taken

    def _screen(
        self, compared: _Compared, points: dict[int, torch.Tensor], screened: dict[tuple[int, ...], Points]
    ) -> Iterator[tuple[int, tuple[FloatArray, FloatArray]]]:
        """For each point the cosines of a source's features with it, [count], and by how much each may be off.

        `screened` keeps points as integers, by their places: they are the same for all sources.
        """
        if not points:
            return
        if compared.cosines is None or self._product is None:
            for place, x in points.items():
                about = np.empty(compared.directions.count, dtype=np.float32)
                for first in range(0, len(about), AT_ONCE):
                    index = np.arange(first, min(first + AT_ONCE, len(about)))
                    products = compared.directions.products(index, x)
                    about[index] = exact_cosines(products, compared.norms[index])
                yield place, (about, compared.off + ROUNDING)
            return
        places = tuple(points)
        if places not in screened:
            screened[places] = points_of(torch.stack(list(points.values())).float().numpy(), self._product)
        about, off = compared.cosines.screen(screened[places])
        for row, place in enumerate(points):
            # The screened point was rounded to float32.
            yield place, (about[row], off[row] + ROUNDING)

    def _exact(self, side: Side, best: _Best, x: torch.Tensor) -> tuple[IntArray, IntArray, FloatArray]:
        """Source, index and cosine of the best, in order. The likeliest are computed first: they raise the bar."""
        sources = self._by_side[side]

        def cosines(which: IntArray) -> Doubles:
            values = np.empty(len(which))
            for rank in np.unique(best.source[which]).tolist():
                here = np.flatnonzero(best.source[which] == rank)
                index = best.index[which][here]
                compared = sources[rank]
                if isinstance(compared, _Compared):
                    rows = compared.directions.rows(index)
                    values[here] = exact_cosines(rows @ x, rows.norm(dim=1).numpy())
            return values

        order = np.argsort(-best.about, kind="stable")
        first, rest = order[: best.limit], order[best.limit :]
        values = cosines(first)
        if len(rest):
            rest = rest[best.about[rest] + best.off[rest] >= values.min()]
            values = np.concatenate([values, cosines(rest)])
        which = np.concatenate([first, rest])
        rounded = values.astype(np.float32)
        ranked = np.lexsort((best.index[which], best.source[which], -rounded))[: best.limit]
        return best.source[which[ranked]], best.index[which[ranked]], rounded[ranked]

    def _left_out(self, side: Side, work: SimilarWork) -> tuple[LeftOut, ...]:
        reasons: dict[str, list[int]] = defaultdict(list)
        for chosen in work.filters:
            found = self._by_side[side][chosen.source]
            if isinstance(found, str):
                reasons[found].append(chosen.source)
        return tuple(LeftOut(reason, tuple(ranks)) for reason, ranks in reasons.items())

    # What is made when it is first asked for

    def _is_made(self, side: Side) -> bool:
        made = self._by_side.get(side)
        return made is not None and all(isinstance(one, str) or one.is_made for one in made.values())

    def _preparing(self, side: Side) -> Preparing:
        sources = [one for one in self._by_side[side].values() if isinstance(one, _Compared)]
        return Preparing(sum(one.made for one in sources), sum(one.directions.count for one in sources))

    def _make(self, side: Side) -> None:
        """Makes a part of what is missing, at most AT_ONCE features."""
        if side not in self._by_side:
            self._by_side[side] = {rank: self._begin(side, rank) for rank in range(len(self._sources))}
        left = AT_ONCE
        for compared in self._by_side[side].values():
            if isinstance(compared, str) or compared.is_made:
                continue
            if compared.made == 0:
                self._allocate(compared)
            left -= self._make_part(compared, left)
            if left == 0:
                return
        return_freed()
        sources = [one for one in self._by_side[side].values() if isinstance(one, _Compared)]
        size = sum(one.cosines.nbytes for one in sources if one.cosines is not None)
        exact = sum(one.cosines is None for one in sources)
        log.info(
            "similar features by %s: the directions of %d sources take %s as integers%s",
            side.value,
            len(sources) - exact,
            readable_bytes(size),
            f"; those of {exact} are computed exactly each time" if exact else "",
        )

    def _begin(self, side: Side, rank: int) -> _Compared | str:
        """What there is to compare of a source, or in words why there is nothing."""
        source, d_model = self._sources[rank], self._catalog.model.d_model
        info = source.info
        if isinstance(source, SaeSource):
            if side is Side.ENCODER:
                found = read(info, source.sae.W_enc, d_model)
            else:
                weights = self._model.neurons_write(info.hook_name, info.d_in) if is_at_neurons(info) else None
                W_out = None if weights is None else weights.take(torch.arange(weights.count))
                found = written(info, source.decoder, W_out, d_model)
        elif info.kind is Kind.NEURON and side is Side.ENCODER:
            found = of_neurons(self._model.neurons_read(info.hook_name, info.n_features), NO_INPUT)
        else:
            found = of_neurons(self._model.neurons_write(info.hook_name, info.n_features), NO_OUTPUT)
        if isinstance(found, str):
            return found
        return _Compared(found, np.zeros(found.count), np.zeros(found.count, np.float32))

    def _allocate(self, compared: _Compared) -> None:
        count, width = compared.directions.count, self._catalog.model.d_model
        free = free_host_bytes()
        # Packing takes as much again, for a moment.
        has_room = free is None or free >= 2 * kept_bytes(count, width) + WORKING_BYTES
        if self._product is not None and has_room:
            compared.cosines = Cosines(count, width, self._product)

    def _make_part(self, compared: _Compared, most: int) -> int:
        """Makes at most so many of a source's features; how many."""
        directions, first = compared.directions, compared.made
        end = min(first + most, directions.count)
        block = directions.block(first, end).contiguous()
        norms: Doubles = block.double().norm(dim=1).numpy()
        uncertain: Doubles = directions.error * directions.reach(first, end).numpy()
        compared.norms[first:end] = norms
        compared.off[first:end] = uncertain / np.where(norms > 0, norms, 1.0)
        if compared.cosines is not None:
            compared.cosines.add(first, block.numpy(), norms, uncertain)
            if end == directions.count:
                compared.cosines.finish()
        compared.made = end
        return end - first


def _nothing() -> tuple[IntArray, IntArray, FloatArray]:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
