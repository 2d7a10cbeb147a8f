"""Exports to Parquet: `features.parquet`, `records.parquet`, `explanations.parquet`, for whoever reads tables.

Takes pyarrow, which the extra `saeserve-server[parquet]` brings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from saeserve_server.errors import ConfigError
from saeserve_server.records.export.features import NEAR_MISSES, SAMPLE, OutFeature, OutRecord, text_of
from saeserve_server.records.imported.schema import FIRST_QUANTILE, RANDOM, TOP

NAME: Final = "parquet"
BATCH: Final = 1024
"""Features whose rows are written at a time."""

NOT_HELD: Final = ("firing positions, peak tokens beyond the 20 most usual, texts as a whole",)
"""Of an index of ours."""
NOT_KNOWN: Final[tuple[str, ...]] = ()


def write(features: Iterable[OutFeature], out: Path) -> int:
    """Writes them all; returns how many. Raises ConfigError without pyarrow."""
    pyarrow, parquet = _pyarrow()
    schemas = _schemas(pyarrow)
    count = 0
    writers = {name: parquet.ParquetWriter(out / f"{name}.parquet", schema) for name, schema in schemas.items()}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in schemas}

    def flush() -> None:
        for name, schema in schemas.items():
            if rows[name]:
                writers[name].write_table(pyarrow.Table.from_pylist(rows[name], schema=schema))
                rows[name] = []

    try:
        for feature in features:
            count += 1
            rows["features"].append(_feature(feature))
            rows["records"] += [_record(feature, record) for record in feature.records]
            rows["explanations"] += [
                {**_named(feature), "text": one.text, "score": one.score, "type": one.type, "model": one.model}
                for one in feature.explanations
            ]
            if count % BATCH == 0:
                flush()
        flush()
    finally:
        for writer in writers.values():
            writer.close()
    return count


def check_installed() -> None:
    """Raises ConfigError without pyarrow."""
    _pyarrow()


def group_name(group: int) -> str:
    """`top`, `random`, `quantile 0`, …, `sample`, `near miss`."""
    names = {TOP: "top", RANDOM: "random", SAMPLE: "sample", NEAR_MISSES: "near miss"}
    return names.get(group) or f"quantile {group - FIRST_QUANTILE}"


def _feature(feature: OutFeature) -> dict[str, Any]:
    statistics, usual = feature.statistics, feature.usual_tokens
    return {
        **_named(feature),
        "density": feature.density,
        "max_activation": feature.maximum,
        "tokens": None if statistics is None else statistics.tokens,
        "fires": None if statistics is None else statistics.fires,
        "blocks": None if statistics is None else statistics.blocks,
        "texts": None if statistics is None else statistics.texts,
        "mean_activation": None if statistics is None else statistics.mean,
        "histogram_edges": [] if statistics is None else statistics.histogram_edges.tolist(),
        "histogram_counts": [] if statistics is None else statistics.histogram_counts.tolist(),
        "usual_token_ids": [] if usual is None else usual.ids.tolist(),
        "usual_token_counts": [] if usual is None else usual.counts.tolist(),
        "other_fields": None if feature.kept is None else json.dumps(feature.kept),
    }


def _record(feature: OutFeature, record: OutRecord) -> dict[str, Any]:
    pieces = [token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token for token in record.tokens]
    return {
        **_named(feature),
        "group": group_name(record.group),
        "tokens": [text_of(piece) for piece in pieces],
        "pieces": pieces,
        "token_ids": list(record.token_ids),
        "activations": record.values.tolist(),
        "max_activation": record.maximum,
        "max_position": record.peak,
        "text_index": record.text_index,
        "text_position": record.text_position,
        "stands_for": record.weight,
        "active_features": list(record.active),
        "other_fields": json.dumps(record.kept) if record.kept else None,
    }


def _named(feature: OutFeature) -> dict[str, Any]:
    return {"source": feature.source, "index": feature.index}


def _schemas(pyarrow: Any) -> dict[str, Any]:
    of = pyarrow
    named = [("source", of.string()), ("index", of.uint32())]
    return {
        "features": of.schema(
            [
                *named,
                ("density", of.float64()),
                ("max_activation", of.float32()),
                ("tokens", of.uint64()),
                ("fires", of.uint64()),
                ("blocks", of.uint64()),
                ("texts", of.uint64()),
                ("mean_activation", of.float64()),
                ("histogram_edges", of.list_(of.list_(of.float64()))),
                ("histogram_counts", of.list_(of.uint64())),
                ("usual_token_ids", of.list_(of.uint32())),
                ("usual_token_counts", of.list_(of.uint32())),
                ("other_fields", of.string()),
            ]
        ),
        "records": of.schema(
            [
                *named,
                ("group", of.string()),
                ("tokens", of.list_(of.string())),
                ("pieces", of.list_(of.binary())),
                ("token_ids", of.list_(of.uint32())),
                ("activations", of.list_(of.float32())),
                ("max_activation", of.float32()),
                ("max_position", of.uint32()),
                ("text_index", of.uint64()),
                ("text_position", of.uint32()),
                ("stands_for", of.float64()),
                ("active_features", of.list_(of.uint32())),
                ("other_fields", of.string()),
            ]
        ),
        "explanations": of.schema(
            [*named, ("text", of.string()), ("score", of.float64()), ("type", of.string()), ("model", of.string())]
        ),
    }


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("--format parquet takes pyarrow: pip install 'saeserve-server[parquet]'") from None
    return pyarrow, parquet
