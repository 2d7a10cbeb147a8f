"""What was imported, as messages: explanations, tokens by their bytes, imports. Records are in `imported_records`."""

from __future__ import annotations

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.records.imported.store import Explanation, ImportedStore
from saeserve_server.text.pieces import display

EXPLANATIONS = 3
"""Most that answers carry of a feature."""


def known_of(imported: ImportedStore | None, source_id: str, index: int) -> list[types.Explanation]:
    """A feature's best explanations."""
    if imported is None:
        return []
    return [explanation_message(one) for one in imported.explanations(source_id, index, EXPLANATIONS)]


def explanation_message(explanation: Explanation) -> types.Explanation:
    """An explanation."""
    return types.Explanation(
        text=explanation.text,
        score=explanation.score,
        type=explanation.type,
        model=explanation.model,
        origin=explanation.import_name,
    )


def usual_pieces(imported: ImportedStore | None, source_id: str, index: int) -> list[types.UsualToken]:
    """Tokens on which the feature peaks in imported records. Their ids are not known."""
    if imported is None:
        return []
    return [
        types.UsualToken(
            token=types.Token(piece=one.piece, display=display(one.piece)), count=one.count, max_activation=one.maximum
        )
        for one in imported.usual_tokens(source_id, index)
    ]


def import_messages(imported: ImportedStore | None) -> list[service.ImportInfo]:
    """What was imported."""
    return [
        service.ImportInfo(
            name=one.name,
            format=one.format,
            features=one.features,
            records=one.records,
            explanations=one.explanations,
        )
        for one in (imported.imports if imported is not None else ())
    ]


def warnings_of(imported: ImportedStore | None, source_id: str) -> list[str]:
    """What was imported for a source and is not shown, and why."""
    return [] if imported is None else imported.warnings.get(source_id, [])
