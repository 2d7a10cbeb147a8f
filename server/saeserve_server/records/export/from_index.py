"""The features of an index of ours: statistics, strongest records, the sample by size, and near misses."""

from __future__ import annotations

from collections.abc import Iterator

from saeserve_server.records.export.features import NEAR_MISSES, SAMPLE, Chosen, OutFeature, OutRecord, Pieces
from saeserve_server.records.imported.schema import TOP
from saeserve_server.records.layout import TOP_TOKENS
from saeserve_server.records.store import Record, RecordStore


def index_features(store: RecordStore, chosen: Chosen, pieces: Pieces) -> Iterator[OutFeature]:
    """Its features, source by source, by index; one in memory at a time. Raises ConfigError."""
    chosen.check([source.id for source in store.sources])
    for source in store.sources:
        if not chosen.takes(source.id):
            continue
        first, last = chosen.indices or (0, source.n_features - 1)
        for index in range(first, min(last, source.n_features - 1) + 1):
            statistics = store.statistics(source.id, index)
            groups = (
                (TOP, store.records(source.id, index, 0, store.records_per_feature)),
                (SAMPLE, store.sample(source.id, index)),
                (NEAR_MISSES, store.near_misses(source.id, index)),
            )
            yield OutFeature(
                source=source.id,
                index=index,
                density=statistics.density,
                maximum=statistics.maximum,
                records=[_record(group, record, pieces) for group, records in groups for record in records],
                statistics=statistics,
                usual_tokens=store.usual_tokens(source.id, index, TOP_TOKENS),
            )


def _record(group: int, record: Record, pieces: Pieces) -> OutRecord:
    ids = record.token_ids.tolist()
    return OutRecord(
        group=group,
        tokens=pieces(ids, record.id_before),
        values=record.activations,
        peak=record.max_position,
        maximum=record.max_activation,
        token_ids=ids,
        text_index=record.text_index,
        text_position=record.text_position,
        weight=record.weight,
        active=record.active.tolist(),
    )
