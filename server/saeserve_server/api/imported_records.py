"""Imported records as TopActivations answers them: with the file's own tokens, whose ids are not known."""

from __future__ import annotations

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.api.build import call_info, facts_builder, statistics_message
from saeserve_server.api.call import current_call
from saeserve_server.api.records import Asked
from saeserve_server.errors import FailedPrecondition
from saeserve_server.records.diversity import Level
from saeserve_server.records.groups import Group
from saeserve_server.records.imported import schema
from saeserve_server.records.imported.store import ImportedRecord, ImportedStore
from saeserve_server.records.page import decode_page_token, encode_page_token
from saeserve_server.serving.serving import Serving
from saeserve_server.text.pieces import display

RECORD_SECONDS = 0.0002
"""Of a core, to read one imported record and to write it."""
_GROUPS = {Group.TOP: schema.TOP, Group.RANDOM: schema.RANDOM, Group.QUANTILES: None}


def import_to_answer(serving: Serving, rank: int, asked: Asked) -> ImportedStore | None:
    """What a source's records are to be answered from, if that is what was imported: where it was asked for, or where
    there is no index of the source. Raises FailedPrecondition where it was asked for and is not there."""
    source, imported = serving.catalog.sources[rank], serving.imported
    covered = imported is not None and imported.covers(source.id)
    if asked.origin == types.RECORD_ORIGIN_IMPORT and not covered:
        raise FailedPrecondition(
            f"no records of {source.name} are imported; `saeserve-server records import` makes a store of them, and "
            "the setting `imports` serves it",
            reason="RECORDS_REQUIRED",
        )
    indexed = serving.index is not None and serving.index.covers(source.id)
    wanted = asked.origin == types.RECORD_ORIGIN_IMPORT or (
        asked.origin == types.RECORD_ORIGIN_UNSPECIFIED and not indexed
    )
    return imported if covered and wanted else None


async def top_imported(
    serving: Serving, imported: ImportedStore, rank: int, index: int, asked: Asked, token: str, size: int
) -> service.TopActivationsResponse:
    """A page of a feature's imported records. Raises FailedPrecondition for what only an index can tell."""
    source, store = serving.catalog.sources[rank], serving.index
    key = asked.key("import")
    offset = decode_page_token(token, imported.revision, source.id, index, key)
    records, more = await serving.desk.do(
        page_of_import,
        imported,
        source.id,
        index,
        asked,
        offset,
        size,
        seconds=size * RECORD_SECONDS,
        client=current_call().lane,
    )
    response = service.TopActivationsResponse(facts=facts_builder(serving).message(rank, index), records=records)
    if store is not None and store.covers(source.id):
        response.statistics.CopyFrom(statistics_message(serving, store.statistics(source.id, index)))
    if more:
        response.next_page_token = encode_page_token(imported.revision, source.id, index, key, offset + size)
    response.call_info.CopyFrom(call_info(serving))
    return response


def page_of_import(
    imported: ImportedStore, source_id: str, index: int, asked: Asked, offset: int, size: int
) -> tuple[list[types.ActivationRecord], bool]:
    """At most `size` of the imported records asked for, from the `offset`-th on, and whether more follow."""
    if asked.group not in _GROUPS or asked.level is not Level.NONE:
        what = "near misses" if asked.group not in _GROUPS else f"the diversity {asked.level.value}"
        raise FailedPrecondition(
            f"{what} cannot be told of imported records; `saeserve-server index build` makes an index that tells it",
            reason="INDEX_REQUIRED",
        )
    found = imported.records(source_id, index, offset, size + 1, _GROUPS[asked.group])
    return [_record(one) for one in found[:size]], len(found) > size


def _record(record: ImportedRecord) -> types.ActivationRecord:
    message = types.ActivationRecord(
        activations=record.activations.tolist(),
        max_activation=record.max_activation,
        max_position=record.max_position,
        text_position=record.position,
        origin=types.RECORD_ORIGIN_IMPORT,
        import_name=record.import_name,
        stands_for=1.0,
        least_activation=record.max_activation,
        most_activation=record.max_activation,
    )
    start = 0
    for piece in record.pieces:
        message.tokens.add(piece=piece, display=display(piece), start=start, end=start + len(piece))
        start += len(piece)
    return message
