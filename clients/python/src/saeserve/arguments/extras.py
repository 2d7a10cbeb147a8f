"""Libraries that only some calls need: loaded where they are used, and where they are missing, what to install."""

from __future__ import annotations

import importlib
from typing import Any


def missing(what: str, package: str, extra: str) -> str:
    """What is said where a library is not there."""
    return f'{what} needs {package}: pip install "saeserve[{extra}]"'


def load(module: str, what: str, package: str, extra: str) -> Any:
    """A module of an optional library. Raises ImportError that says which extra brings it.

    module: as in an import, `scipy.sparse`.
    what: what cannot be had without it, `to_scipy()`.
    package: what it is called, `SciPy`; extra: of this distribution.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        # A library that is there, and lacks something itself, says so itself.
        if error.name is not None and error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise ImportError(missing(what, package, extra), name=error.name) from error
