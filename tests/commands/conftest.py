"""A hub on this machine, and `saeserve-server fetch` that asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest

from saeserve_server.commands.main import main
from tests.commands.hub import MODEL, SCOPE, Hub, serve


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server, which the hub's client and `fetch` ask, and an empty hub cache."""
    hub = Hub({"google/tiny": MODEL, "google/scope": {"README.md": b"", "config.json": b"{ }", **SCOPE}})
    server = serve(hub)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SAESERVE_OPENAI_URL", hub.url)
    values = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }
    for name, value in values.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.chdir(tmp_path)
    yield hub
    hub.go_on.set()
    server.shutdown()


@pytest.fixture
def fetch(hub: Hub, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def command(*arguments: str) -> Any:
        capsys.readouterr()
        hub.asked.clear()
        status = main(["fetch", *arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return command
