"""The sides of the benchmark: servers of this checkout, of another revision, and the plain way, all idle but one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from loadtests.bench.usage import come_to_rest
from loadtests.processes import Address, served, started
from loadtests.sweep import LIMITS_AWAY, ROOT, UNCACHED

PLAIN, OURS, BASE = "plain", "ours", "base"


@contextmanager
def sides(model: str, base: str | None, folder: Path, patience: float) -> Iterator[dict[str, Address]]:
    """All of them, ready and at rest. Exits with a log if one does not become so.

    Raises TimeoutError if one goes on to compute.
    """
    settings: dict[str, object] = {**UNCACHED, **LIMITS_AWAY, "model": model, "device": "cpu"}
    with contextlib.ExitStack() as stack:
        program = ["loadtests.bench.plain", "--model", model]
        starting = {
            PLAIN: started(program, folder / PLAIN, patience, _paths(ROOT)),
            OURS: served(folder / OURS, patience, _paths(ROOT), **settings),
        }
        if base is not None:
            tree = stack.enter_context(worktree(base, folder / "tree"))
            starting[BASE] = served(folder / BASE, patience, _paths(tree), **settings)
        with ThreadPoolExecutor(len(starting)) as pool:  # a start is most of a minute
            addresses = list(pool.map(stack.enter_context, starting.values()))
        for address in addresses:
            if address.pid is not None:
                come_to_rest(address.pid, patience)
        yield dict(zip(starting, addresses, strict=True))


@contextmanager
def worktree(revision: str, folder: Path) -> Iterator[Path]:
    """The files of a revision of this repository, until left. Exits with what git says if there is no such revision."""
    _git(["worktree", "add", "--quiet", "--detach", str(folder), revision])
    try:
        yield folder
    finally:
        _git(["worktree", "remove", "--force", str(folder)])


def revision_of(name: str) -> str:
    """The commit that a name stands for, shortened."""
    return _git(["rev-parse", "--short", f"{name}^{{commit}}"])


def _git(words: Sequence[str]) -> str:
    found = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)  # noqa: S607 - that of the path
    if found.returncode:
        sys.exit(f"git {' '.join(words)}: {found.stderr.strip()}")
    return found.stdout.strip()


def _paths(tree: Path) -> Mapping[str, str]:
    """The environment in which a program finds that tree's packages before those that are installed."""
    found = (tree, tree / "server", tree / "clients" / "python" / "src")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, found))}
