"""`python -m saeserve_server.demo`: starts a server on the embedded model, searches, prints the answer, stops it."""

from __future__ import annotations

import sys

import saeserve
from saeserve.cli.main import main as saeserve_command

TEXT = "My favorite color is red."


def main() -> int:
    """The exit status of the search."""
    print(f'$ saeserve search "{TEXT}"\n', flush=True)
    with saeserve.local(model="demo") as client:
        return saeserve_command(["--target", client.target, "search", TEXT])


if __name__ == "__main__":
    sys.exit(main())
