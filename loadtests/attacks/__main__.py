"""Attack a server, and print what a bystander's calls took meanwhile; by default a server of its own.

    python -m loadtests.attacks                                     # all of them, on the demo, about two minutes
    python -m loadtests.attacks unread long-texts --seconds 30
    python -m loadtests.attacks --target 127.0.0.1:50051 --metrics 127.0.0.1:9464 --pid 4711

Never against a server that others use. Nothing asserts a time.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from loadtests import connect
from loadtests.attacks import stand
from loadtests.attacks.moves import MOVES
from loadtests.processes import Address, leave_nothing_behind, served

NEEDS_A_FAULT = "shared-failure"


def main() -> None:
    """Parse the command line, attack, print."""
    usual = [name for name in MOVES if name != NEEDS_A_FAULT]
    attacks = "\n".join(f"  {name:17} {(move.__doc__ or '').splitlines()[0]}" for name, move in MOVES.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nattacks:\n{attacks}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"which (default: all but {NEEDS_A_FAULT})")
    parser.add_argument("--seconds", type=float, default=10, help="how long each (default %(default)s)")
    parser.add_argument("--rate", type=float, default=10, help="the bystander's calls a second of each kind")
    parser.add_argument("--model", default="demo", help="model of the server started here (default %(default)s)")
    parser.add_argument("--start-timeout", type=float, default=600, help="seconds that it may take to become ready")
    parser.add_argument("--target", help="HOST:PORT of a running server; none is started then")
    parser.add_argument("--metrics", help="HOST:PORT of that server's metrics")
    parser.add_argument("--pid", type=int, help="process id of that server, to see its memory")
    connect.add_options(parser)
    asked = parser.parse_args()
    for name in asked.attacks:
        if name not in MOVES:
            parser.error(f"{name!r} is no attack; known are {', '.join(MOVES)}")
    leave_nothing_behind()
    with contextlib.ExitStack() as stack:
        stack.enter_context(connect.one_line())
        if asked.target:
            address = Address(connect.Server.read(asked.target, asked), asked.metrics, asked.pid)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saeserve-attacks-")))
            address = stack.enter_context(served(folder, asked.start_timeout, model=asked.model))
        for name in asked.attacks or usual:
            report = stand.attack(address, name, stand.Stand(asked.seconds, rate=asked.rate))
            print(f"{report.describe()}\n", flush=True)


if __name__ == "__main__":
    main()
