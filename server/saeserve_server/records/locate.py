"""Where the demo's index is kept: it is built once, on first start, and found again by what it was made of."""

from __future__ import annotations

import hashlib
from pathlib import Path

from saeserve_server.catalog import Catalog
from saeserve_server.config import cache_folder
from saeserve_server.records.layout import VERSION
from saeserve_server.records.made_of import Keeping
from saeserve_server.records.writer import CannotWrite


def demo_index_folder(catalog: Catalog, passages: Path, keeping: Keeping) -> Path:
    """Folder of the index of the demo's passages: for other weights, sources, passages or settings another folder.

    Raises CannotWrite where there is no home folder.
    """
    made_of = [f"format {VERSION}", str(keeping), hashlib.sha256(passages.read_bytes()).hexdigest()]
    made_of += [catalog.model.revision, *(source.revision for source in catalog.sources)]
    digest = hashlib.sha256("\n".join(made_of).encode()).hexdigest()
    try:
        return cache_folder() / "index" / f"demo-{digest[:16]}"
    except RuntimeError as error:
        raise CannotWrite(str(error)) from error
