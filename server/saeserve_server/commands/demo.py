"""`python -m saeserve_server.commands.demo`: a server on the embedded model, a search, the answer, and its end."""

from __future__ import annotations

import sys

import saeserve
from saeserve.cli.main import main as saeserve_command

TEXT = "My favorite color is red."
PAGE = "\nthe same in a browser: make web (or saeserve web --local), then open http://127.0.0.1:8080/"


def main() -> int:
    """The exit status of the search."""
    print("starting a server on the demo model (its first start builds an index) …", file=sys.stderr, flush=True)
    try:
        with saeserve.local(model="demo") as client:
            print(f'$ saeserve search "{TEXT}"\n', flush=True)
            status = saeserve_command(["--target", client.target, "search", TEXT])
    except KeyboardInterrupt:
        return 130
    print(PAGE, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
