"""Lint proto/ with buf, and hold it against the contract as it was committed last.

`contract.binpb` beside this file is that contract, a descriptor image. A change that breaks whoever has generated code
from it fails here; a commit that breaks on purpose replaces the image with `--accept`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).resolve().parents[2] / "proto"
CONTRACT = Path(__file__).with_name("contract.binpb")
BUF = Path(sys.executable).with_name("buf")


def buf(*arguments: str) -> None:
    """Run buf in proto/; exit with its status if it finds something."""
    status = subprocess.run([BUF, *arguments], cwd=PROTO, check=False).returncode
    if status:
        sys.exit(status)


def main() -> None:
    """Exit with buf's status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accept", action="store_true", help="make today's proto/ the contract that is held against")
    if parser.parse_args().accept:
        buf("build", "--exclude-source-info", "--output", str(CONTRACT))
    buf("lint")
    buf("breaking", "--against", str(CONTRACT))
    print("buf: proto/ is clean, and breaks nobody who has generated code from it")


if __name__ == "__main__":
    main()
