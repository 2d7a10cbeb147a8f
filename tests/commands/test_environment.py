"""What a command sets in the environment before anything loads torch, unless the operator has."""

from __future__ import annotations

import pytest

from saeserve_server.commands import main


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        (
            {"OMP_WAIT_POLICY": "ACTIVE", "PYTORCH_ALLOC_CONF": "backend:native"},
            {"OMP_WAIT_POLICY": "ACTIVE", "PYTORCH_ALLOC_CONF": "backend:native"},
        ),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"},
            {"OMP_WAIT_POLICY": "PASSIVE", "PYTORCH_CUDA_ALLOC_CONF": "backend:native"},
        ),
    ],
    ids=["nothing", "both", "the older name"],
)
def test_what_is_set_stays_and_what_is_not_gets_its_default(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = dict(given)
    monkeypatch.setattr(main.os, "environ", environment)
    assert main.main([]) == 0
    assert environment == expected
    assert "start" in capsys.readouterr().out
