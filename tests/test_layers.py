"""Arrows run one way: what each part of the server, and each room of the client, may import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "server" / "saeserve_server"
HEAVY = {"torch", "transformer_lens", "transformers"}
WIRE = {"google", "grpc", "saeserve"}
FORBIDDEN = {
    # Nothing below api knows protobuf or gRPC.
    "text": {"api", "scheduler", "cache", "engine", "models", "sources", "records", "serving", *WIRE, "torch"},
    "records": {"api", "scheduler", "cache", "engine", "models", "sources", "text", "serving", *WIRE, *HEAVY},
    # What worker and front end share: NumPy, and what the index knows of features.
    "ranking": {"api", "scheduler", "cache", "engine", "models", "sources", "text", "serving", *WIRE, *HEAVY},
    "scheduler": {"api", "models", "sources", "records", "text", "serving", *WIRE, *HEAVY},
    # Of the engine it knows plain data, and what is computed from plain data.
    "cache": {"api", "scheduler", "models", "sources", "records", "text", "serving", "selection", *WIRE, *HEAVY},
    "engine": {"api", "scheduler", "cache", "serving", *WIRE},
    "models": {"api", "scheduler", "cache", "engine", "records", "serving", *WIRE},
    "kernels": {"api", "scheduler", "cache", "engine", "models", "records", "serving", *WIRE},
    "sources": {"api", "scheduler", "cache", "engine", "models", "records", "serving", *WIRE},
    # Nothing above engine imports torch.
    "api": {"models", "sources", *HEAVY},
    "serving": {"api", "models", "sources", *WIRE, *HEAVY},
    # On top of everything; what is heavy belongs to the rooms below.
    "commands": HEAVY,
}
MODULES = {
    # Modules of the engine that a part may import, where that is not all of it.
    "cache": {"work"},
    "scheduler": {"work", "process"},
}
MAY = {
    "models/load.py": {"sources"},  # its content hash
    "scheduler/queue.py": {"cache"},  # what an answer took
    "scheduler/scheduler.py": {"cache"},
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


@pytest.mark.parametrize("part", MODULES)
def test_of_the_engine_a_part_imports_what_it_needs(part: str) -> None:
    for file in sorted((ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                if name.startswith("saeserve_server.engine"):
                    parts = name.split(".")
                    assert len(parts) > 2, f"{file} imports the engine as a whole"
                    assert parts[2] in MODULES[part], f"{file.relative_to(ROOT)} imports {name}"


def test_what_both_processes_import_needs_no_torch() -> None:
    """The front end answers from kept activations with these, and must not load torch for it."""
    for name in ("work", "link", "process", "worker"):
        tree = ast.parse((ROOT / "engine" / f"{name}.py").read_text())
        found = {
            node.module.split(".")[0] if isinstance(node, ast.ImportFrom) and node.module else alias.name.split(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not found & HEAVY, f"engine/{name}.py imports {found & HEAVY}"


def test_no_part_imports_the_commands() -> None:
    for part in FORBIDDEN.keys() - {"commands"}:
        for file in sorted((ROOT / part).rglob("*.py")):
            assert "commands" not in imports_of(file), f"{file.relative_to(ROOT)} imports the commands"


def test_every_part_is_told_what_it_may_import() -> None:
    parts = {folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").exists()}
    assert parts == FORBIDDEN.keys()


# The client, from the bottom up. A room imports those below it; of `transport`, answers know the errors only.
CLIENT = Path(__file__).parent.parent / "clients" / "python" / "src" / "saeserve"
ROOMS = {
    "arguments": set(),
    "transport": {"arguments"},
    "answers": {"arguments", "transport.errors"},
    "notebook": {"arguments", "answers"},
    "tables": {"arguments", "answers"},
    "plots": {"arguments", "answers", "tables"},
    "calls": {"arguments", "transport", "answers"},
    "web": {"arguments", "transport", "answers", "calls", "aio"},
    "files": {"arguments", "transport.errors", "answers", "tables"},
    "cli": {
        "arguments",
        "transport",
        "answers",
        "calls",
        "files",
        "client",
        "local_server",
        "server_process",
        "web",
        "plots",
    },
}
# What draws an answer stands above it: an answer's method loads it when it is called, and only there.
LATE = {"answers": {"notebook", "tables", "plots"}}


def client_modules(file: Path, *, at_once: bool = False) -> set[str]:
    """What a module imports of the client, anywhere in it or `at_once`: `transport.errors`, `client`."""
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    for node in tree.body if at_once else ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            # `from saeserve.transport import errors` means the module as much as `from saeserve.transport.errors`.
            whole = node.module in {"saeserve", *(f"saeserve.{room}" for room in ROOMS)}
            names = [f"{node.module}.{alias.name}" for alias in node.names] if whole else [str(node.module)]
        found |= {name.removeprefix("saeserve.") for name in names if name.startswith("saeserve.")}
    return {name for name in found if not name.startswith(("v1", "_version"))}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_client_imports_only_those_below_it(room: str) -> None:
    for file in sorted((CLIENT / room).rglob("*.py")):
        for name in client_modules(file):
            top = name.split(".")[0]
            assert {top, name} & {room, *ROOMS[room], *LATE.get(room, ())}, f"{room}/{file.name} imports {name}"
        late = {name.split(".")[0] for name in client_modules(file, at_once=True)} & LATE.get(room, set())
        assert not late, f"{room}/{file.name} imports {sorted(late)} before an answer is asked for it"


def test_every_room_of_the_client_is_told_what_it_may_import() -> None:
    assert {folder.parent.name for folder in CLIENT.glob("*/__init__.py")} == {*ROOMS, "v1"}
