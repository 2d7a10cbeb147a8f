"""Arrows run one way: what each part of the server may import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "server" / "saeserve_server"
FORBIDDEN = {
    # Nothing below api knows protobuf or gRPC.
    "text": {"api", "scheduler", "engine", "models", "sources", "records", "google", "grpc", "saeserve", "torch"},
    "records": {"api", "scheduler", "engine", "models", "sources", "text", "google", "grpc", "saeserve"},
    "scheduler": {"api", "models", "sources", "google", "grpc", "saeserve", "torch", "transformer_lens"},
    "engine": {"api", "scheduler", "google", "grpc", "saeserve", "serving"},
    "models": {"api", "scheduler", "engine", "records", "google", "grpc", "saeserve"},
    "sources": {"api", "scheduler", "engine", "models", "records", "google", "grpc", "saeserve"},
    # Nothing above engine imports torch.
    "api": {"models", "sources", "torch", "transformer_lens", "transformers"},
}
MAY = {
    "models/load.py": {"sources"},  # its content hash
    "sources/plan.py": {"models"},  # where the demo's files are
}


def imports_of(file: Path) -> set[str]:
    """Top-level packages, and parts of the server, that a module imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            parts = name.split(".")
            found.add(parts[1] if parts[0] == "saeserve_server" and len(parts) > 1 else parts[0])
    return found


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_imports_nothing_above_it(part: str) -> None:
    for file in sorted((ROOT / part).rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        bad = imports_of(file) & FORBIDDEN[part] - MAY.get(name, set())
        assert not bad, f"{name} imports {sorted(bad)}"
