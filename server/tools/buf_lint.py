"""Lint proto/ with buf, and hold it against the contract as it was committed last.

`contract.binpb` beside this file is that contract, a descriptor image. A change that breaks whoever has generated code
from it fails here. `--accept` takes what was added, so that it is held against from then on; a commit that breaks on
purpose replaces the image with `--break`.
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
    replace = parser.add_mutually_exclusive_group()
    replace.add_argument("--accept", action="store_true", help="take what breaks nobody into the contract")
    replace.add_argument("--break", dest="break_", action="store_true", help="take proto/ as it is, whoever it breaks")
    options = parser.parse_args()
    buf("lint")
    if not options.break_:
        buf("breaking", "--against", str(CONTRACT))
    if options.accept or options.break_:
        buf("build", "--exclude-source-info", "--output", str(CONTRACT))
    print("buf: proto/ is clean" + ("" if options.break_ else ", and breaks nobody who has generated code from it"))


if __name__ == "__main__":
    main()
