"""`saeserve-server` with a worker that fails on request: run instead of `python -m saeserve_server`.

The worker is spawned, so multiprocessing imports this script in it once more, as `__mp_main__`. Only there the runner
is patched; the front end is the one that is shipped. What goes wrong is said by the first word of a text, and by files
in the folder FAULTS_FOLDER.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

FOLDER = "FAULTS_FOLDER"
POISON = "xpoisonx"
"""A batch with such a text raises."""
CRASH = "xcrashx"
"""A batch with such a text ends the worker."""
HOLD = "xholdx"
"""A batch with such a text is not begun while the file `hold` exists."""
PAUSE = "xpausex"
"""The same with the file `pause`, for a batch that follows one on hold."""
LINGER = "xlingerx"
"""A batch with such a text is not encoded, after the forward pass, while the file `linger` exists."""
GATES = {HOLD: "hold", PAUSE: "pause", LINGER: "linger"}
REACHED = ".reached"
"""Suffix of the file that says that a batch stands still there."""
MEMORY = "memory"
"""While this file exists, a run of more tokens than the number in it runs out of memory."""
RUNS = "runs"
"""File to which the tokens of each run are appended, a line each."""


def install() -> None:
    """Makes the runner of this process, the worker, fail on request."""
    import torch

    from saeserve_server.engine.runner import BatchRunner
    from saeserve_server.text.tokenizer import Tokenizer

    folder = Path(os.environ[FOLDER])
    run, forward = BatchRunner.run, BatchRunner._forward
    markers: dict[str, tuple[int, ...]] = {}

    def found(self, works) -> set[str]:
        if not markers:
            tokenizer = Tokenizer(self.catalog.model.tokenizer_json, self.catalog.model.bos_id)
            markers.update({word: tuple(tokenizer.tokenize(word).ids) for word in (POISON, CRASH, *GATES)})
        return {word for word, ids in markers.items() for work in works if work.ids[: len(ids)] == ids}

    def wait(gate: str) -> None:
        (folder / gate).with_suffix(REACHED).touch()
        while (folder / gate).exists():
            time.sleep(0.005)

    def failing_run(self, batch, *others):
        words = found(self, batch)
        tokens = sum(len(work.ids) + 1 for work in batch)  # with the BOS
        with (folder / RUNS).open("a") as runs:
            runs.write(f"{tokens}\n")
        for word in (HOLD, PAUSE):
            if word in words:
                wait(GATES[word])
        if CRASH in words:
            os._exit(41)
        if POISON in words:
            raise RuntimeError("injected")
        try:
            most = int((folder / MEMORY).read_text())
        except FileNotFoundError:
            most = tokens
        if tokens > most:
            raise torch.OutOfMemoryError("injected")
        return run(self, batch, *others)

    def failing_forward(self, works, *others):
        texts = forward(self, works, *others)
        if LINGER in found(self, works):
            wait(GATES[LINGER])
        return texts

    BatchRunner.run, BatchRunner._forward = failing_run, failing_forward


if __name__ == "__mp_main__":
    install()
elif __name__ == "__main__":
    from saeserve_server.commands.main import main

    sys.exit(main())
