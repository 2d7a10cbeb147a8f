"""A data set of the hub comes into a folder named like it, of which an index can be built."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from saeserve_server.records.corpus import Corpus, find_files
from tests.commands.hub import Hub


def table(*texts: str) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.table({"text": texts}), out)
    return out.getvalue()


@pytest.fixture(autouse=True)
def data_set(hub: Hub) -> None:
    hub.repos["org/texts"] = {
        "README.md": b"read me",
        "data/train-00000-of-00001.parquet": table("one", "two"),
        "data/test-00000-of-00001.parquet": table("three"),
        "pictures.zip": b"z" * 500,
    }


def test_its_files_are_fetched_and_read(fetch: Any, hub: Hub, tmp_path: Path) -> None:
    done = fetch("--dataset", "org/texts@v2")
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1] == "next: saeserve-server index build OUT org/texts"
    assert sorted(path for path, _ in hub.fetched()) == [
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
    ]
    assert (tmp_path / "SHA256SUMS").read_text().count("org/texts/data/") == 2
    assert list(Corpus(find_files(["org/texts"]))) == ["one", "two"]
    assert list(Corpus(find_files(["org/texts"], "test"))) == ["three"]
    fetch("--dataset", "org/texts")
    assert hub.fetched() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "texts"], "expected OWNER/NAME[@REVISION], got 'texts'"),
        (["google/tiny", "--dataset", "org/texts"], "expected no NAME beside it"),
        (["--dataset", "org/gone"], "org/gone: no such repository"),
        (["--dataset", "google/tiny"], "expected a data set with Parquet, JSONL or text files"),
    ],
)
def test_what_is_no_data_set_is_refused(fetch: Any, hub: Hub, arguments: list[str], message: str) -> None:
    done = fetch(*arguments)
    assert done.status == 2
    assert message in done.err
