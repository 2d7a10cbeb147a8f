"""One attack, as a process of its own: says `ready`, waits for a line, attacks, and prints how its calls ended."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys

from loadtests import connect
from loadtests.attacks.moves import MOVES, Attack

NICENESS = 10
"""The attacker's own computing shall not be what others wait for."""
READY = "ready"


async def attack(server: connect.Server, name: str, seconds: float) -> Attack:
    """One attack, begun by a line on standard input."""

    async def begin() -> None:
        print(READY, flush=True)
        if not await asyncio.to_thread(sys.stdin.readline):
            sys.exit("whoever started the attack is gone")

    made = Attack(server, seconds, begin)
    await MOVES[name](made)
    return made


def main() -> None:
    """Parse the command line and attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="HOST:PORT of the server")
    parser.add_argument("--attack", required=True, choices=MOVES, help="which")
    parser.add_argument("--seconds", type=float, required=True, help="how long")
    connect.add_options(parser)
    asked = parser.parse_args()
    os.nice(NICENESS)
    with connect.one_line():
        made = asyncio.run(attack(connect.Server.read(asked.target, asked), asked.attack, asked.seconds))
    print(json.dumps(made.ends.numbers()), flush=True)
    os._exit(0)  # calls that are still open shall end now, not when gRPC has tidied up


if __name__ == "__main__":
    main()
