"""A feature's records as TopActivations answers them: which are asked for, and what each stands for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.api.build import token_message
from saeserve_server.errors import InvalidArgument, printable
from saeserve_server.records.diversity import BY_OVERLAP, DEFAULT_THRESHOLD, SIDE, Level, Shown, diverse
from saeserve_server.records.groups import Group, grouped
from saeserve_server.records.likeness import Folding
from saeserve_server.records.store import Record, RecordStore
from saeserve_server.serving.serving import Serving
from saeserve_server.text.tokenizer import Tokenizer

_GROUPS = {
    types.RECORD_GROUP_UNSPECIFIED: Group.TOP,
    types.RECORD_GROUP_TOP: Group.TOP,
    types.RECORD_GROUP_QUANTILES: Group.QUANTILES,
    types.RECORD_GROUP_RANDOM: Group.RANDOM,
    types.RECORD_GROUP_NEAR_MISSES: Group.NEAR_MISSES,
}
_LEVELS = {
    types.DIVERSITY_UNSPECIFIED: Level.NONE,
    types.DIVERSITY_NONE: Level.NONE,
    types.DIVERSITY_TOKEN: Level.TOKEN,
    types.DIVERSITY_FOLDED_TOKEN: Level.FOLDED_TOKEN,
    types.DIVERSITY_PHRASE: Level.PHRASE,
    types.DIVERSITY_SENTENCE: Level.SENTENCE,
    types.DIVERSITY_TEXT: Level.TEXT,
    types.DIVERSITY_SEMANTIC: Level.SEMANTIC,
}
_ORIGINS = (types.RECORD_ORIGIN_UNSPECIFIED, types.RECORD_ORIGIN_INDEX, types.RECORD_ORIGIN_IMPORT)

RECORD_SECONDS: Final = 0.0001
"""To write one record, about 33 tokens."""
KEPT_SECONDS: Final = {
    Level.NONE: 0.0,
    Level.TOKEN: 0.000_02,
    Level.FOLDED_TOKEN: 0.000_02,
    Level.PHRASE: 0.000_05,
    Level.SENTENCE: 0.000_07,
    Level.TEXT: 0.000_1,
    Level.SEMANTIC: 0.000_03,
}
"""To read and to compare one kept record."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which of a feature's records."""

    group: Group
    level: Level
    threshold: float
    """0 for a level without one."""
    origin: types.RecordOrigin.ValueType
    """Unspecified: the index's, or where it has none of the source, imported ones."""

    def key(self, origin: str) -> str:
        """What a page token is bound to beside the feature; `origin` is where the records do come from."""
        return f"{origin} {self.group.value} {self.level.value} {self.threshold!r}"

    def seconds(self, kept: int, size: int) -> float:
        """About what it takes of a core to answer `size` records where `kept` are kept of a feature."""
        return kept * KEPT_SECONDS[self.level] + size * RECORD_SECONDS


def parse_asked(request: service.TopActivationsRequest) -> Asked:
    """Which records a request asks for. Raises InvalidArgument."""
    group, level = _GROUPS.get(request.group), _LEVELS.get(request.diversity)
    if group is None:
        raise InvalidArgument.field("group", f"{request.group}; a RecordGroup is expected, RECORD_GROUP_TOP or another")
    if level is None:
        raise InvalidArgument.field(
            "diversity", f"{request.diversity}; a Diversity is expected, DIVERSITY_NONE or another"
        )
    if request.origin not in _ORIGINS:
        raise InvalidArgument.field(
            "origin", f"{request.origin}; RECORD_ORIGIN_INDEX, RECORD_ORIGIN_IMPORT or nothing is expected"
        )
    if level is not Level.NONE and group is not Group.TOP:
        raise InvalidArgument.field(
            "diversity",
            f"{types.Diversity.Name(request.diversity)} is taken with RECORD_GROUP_TOP only: leave one of both out",
        )
    return Asked(group, level, _parse_threshold(request, level), request.origin)


def _parse_threshold(request: service.TopActivationsRequest, level: Level) -> float:
    if not request.HasField("threshold"):
        return DEFAULT_THRESHOLD if level in BY_OVERLAP else 0.0
    if level not in BY_OVERLAP:
        raise InvalidArgument.field(
            "threshold",
            "taken only with a diversity that compares by overlap: DIVERSITY_PHRASE, DIVERSITY_SENTENCE, "
            "DIVERSITY_TEXT or DIVERSITY_SEMANTIC",
        )
    if not 0 < request.threshold <= 1:
        raise InvalidArgument.field("threshold", f"{request.threshold:g}; over 0 and at most 1 is expected")
    return request.threshold


def page_of_index(
    serving: Serving, store: RecordStore, source_id: str, index: int, asked: Asked, offset: int, size: int
) -> tuple[list[types.ActivationRecord], bool]:
    """At most `size` of the records asked for, from the `offset`-th on, and whether more follow."""
    shown: Sequence[Shown]
    if asked.group is Group.TOP:
        shown, more = diverse(
            store, source_id, index, asked.level, asked.threshold, offset, size, _folding(serving.tokenizer)
        )
    else:
        every = grouped(store, source_id, index, asked.group)
        shown, more = every[offset : offset + size], offset + size < len(every)
    return [record_message(serving.tokenizer, one) for one in shown], more


@functools.lru_cache(maxsize=1)
def _folding(tokenizer: Tokenizer) -> Folding:
    """What is known of the tokens of the model that is served."""
    return Folding(tokenizer.piece)


def record_message(tokenizer: Tokenizer, shown: Shown) -> types.ActivationRecord:
    """A record of the index, its tokens' offsets counted from the window's start, and what it stands for."""
    record = shown.record
    return types.ActivationRecord(
        tokens=[token_message(token) for token in tokenizer.pieces(record.token_ids.tolist(), record.id_before)],
        activations=record.activations.tolist(),
        max_activation=record.max_activation,
        max_position=record.max_position,
        text_index=record.text_index,
        text_position=record.text_position,
        origin=types.RECORD_ORIGIN_INDEX,
        stands_for=shown.stands_for,
        is_lower_bound=shown.is_lower_bound,
        least_activation=shown.least,
        most_activation=shown.most,
        examples=[_example(tokenizer, other) for other in shown.others],
        active_features=record.active.tolist(),
    )


def _example(tokenizer: Tokenizer, record: Record) -> types.RecordExample:
    first = max(0, record.max_position - SIDE)
    ids = record.token_ids[first : record.max_position + SIDE + 1].tolist()
    before = int(record.token_ids[first - 1]) if first else record.id_before
    data = b"".join(token.piece for token in tokenizer.pieces(ids, before))
    return types.RecordExample(
        text=printable(data.decode(errors="replace")),
        activation=record.max_activation,
        text_index=record.text_index,
    )
