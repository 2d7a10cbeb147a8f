"""Small notes in the cache folder, as JSON: what would only be found out again without them, at some cost in time."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from saeserve_server.config import cache_folder


def recall(name: str) -> Any:
    """What the note of that name says; None where there is none that can be read, or no home folder."""
    try:
        return json.loads((cache_folder() / name).read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):
        return None


def note(name: str, content: Any) -> None:
    """Replaces a note in one step, if the cache folder can be written to. Of two servers the later wins."""
    with contextlib.suppress(OSError, RuntimeError):
        target = cache_folder() / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
            fresh = Path(folder) / target.name
            fresh.write_text(json.dumps(content), encoding="utf-8")
            fresh.replace(target)
