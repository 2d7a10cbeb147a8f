"""The page: the files of `clients/web/`, of the kinds that a browser asks for."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent / "page"
"""A link to `clients/web` in the repository; a folder where the distribution is installed from a wheel."""
KINDS = {".html", ".js", ".css", ".svg", ".png", ".ico", ".woff2"}


class Page(StaticFiles):
    """Serves nothing else that may lie there."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER.resolve(), html=True)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """As of StaticFiles; other kinds of files are not there."""
        full, found = super().lookup_path(path)
        hidden = any(part.startswith(".") for part in Path(path).parts if part != ".")
        if found is not None and (hidden or (Path(full).is_file() and Path(full).suffix not in KINDS)):
            return "", None
        return full, found

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A browser asks each time whether a file is still the same: it changes with the next version."""
        asks = scope["method"] in ("GET", "HEAD")
        # Of another method too it is said first whether anything is there.
        response = await super().get_response(path, scope if asks else {**scope, "method": "GET"})
        if not asks:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        response.headers["cache-control"] = "no-cache"
        return response
