"""Where an export goes: a folder that appears whole, with a README and a list of what the format does not hold."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from saeserve_server.errors import ConfigError
from saeserve_server.records.unfinished import Unfinished, beside, sweep

NOT_HELD_FILE = "not_held.json"


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which is at `out` once the block has ended well, and else nowhere. Raises ConfigError."""
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already: choose another place, or move it away")
    unfinished: Unfinished | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out.parent)
        unfinished = Unfinished.make(lambda: beside(out, "building"))
        yield unfinished.folder
        if out.exists():
            out.rmdir()
        unfinished.folder.rename(out)
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: {error.strerror or error}") from error
    finally:
        if unfinished is not None:
            unfinished.remove()


def describe(folder: Path, form: str, origin: str, lists: Mapping[str, Sequence[str]], again: str) -> None:
    """Writes README.md and `not_held.json`. `lists` are what is left out, by whose it is."""
    (folder / NOT_HELD_FILE).write_text(json.dumps({"format": form, "from": origin, **lists}, indent=1) + "\n")
    lines = [f"# {form}, exported from {origin}", "", "Written by `saeserve-server records export`.", ""]
    for name, entries in lists.items():
        if entries:
            lines += [f"{name.replace('_', ' ').capitalize()}:", "", *(f"- {entry}" for entry in entries), ""]
    (folder / "README.md").write_text("\n".join([*lines, again, ""]), encoding="utf-8")
