"""A file that lies elsewhere: what download has to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file to be fetched."""

    name: str
    """Where it goes, relative to the folder, with slashes: `google/gemma-2-2b/config.json`."""
    url: str
    size: int
    """In bytes."""
    sha256: str | None = None
    """As published; None where it is not."""
    git_oid: str | None = None
    """Its name in git, which the hub gives for files that are small: SHA-1 of `blob SIZE\\0` and the content."""
    etag: str | None = None
    """Names the content that `url` gives now, where the URL itself does not."""
    on_hub: bool = True
    """Asked for with the hub's token."""
    cached: Path | None = None
    """The same file in the local hub cache."""

    @property
    def key(self) -> str:
        """Tells one content from another, for the name of what is half fetched."""
        return (self.sha256 or self.git_oid or self.etag or str(self.size)).strip('"')[:16]
