"""Runs many command lines of `saeserve-server` in one process in which nothing heavy can be imported.

    python many.py < [[ARGUMENT, …], …] > [{"status": …, "said": …, "seconds": …}, …]

`seconds` are of the processor, so that a busy machine does not count.
"""

import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec

HEAVY = {"torch", "transformers", "transformer_lens"}


class Refuse:
    """A finder that finds what is heavy, and says so."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in HEAVY:
            raise AssertionError(f"{name} was imported")
        return None


def main() -> None:
    """Imports the command once and runs every line."""
    sys.meta_path.insert(0, Refuse)
    lines, answers = json.load(sys.stdin), []
    for arguments in lines:
        began, said = time.process_time(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                from saeserve_server.commands.main import main as run

                status = run(arguments)
            except SystemExit as end:
                status = end.code
            except AssertionError as error:
                status, _ = -1, said.write(str(error))
        answers.append({"status": status, "said": said.getvalue(), "seconds": time.process_time() - began})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
