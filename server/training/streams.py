"""Token streams on disk, windows drawn from them, and how far a training run has come."""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

BOS = "<|endoftext|>"
BOS_ID = 0
DEMO_PASSAGES = Path(__file__).resolve().parents[1] / "saeserve_server" / "models" / "demo" / "passages.jsonl"

Stream = NDArray[np.uint16]


def encode(tokenizer: Tokenizer, texts: list[str]) -> Stream:
    """The ids of all texts in a row, each text behind one BOS."""
    ids: list[int] = []
    for first in range(0, len(texts), 4000):
        for encoding in tokenizer.encode_batch(texts[first : first + 4000]):
            ids.append(BOS_ID)
            ids.extend(encoding.ids)
    return np.array(ids, dtype=np.uint16)


def open_stream(path: Path) -> Stream:
    """A stream that `tokenizer.py` wrote, memory-mapped."""
    return np.memmap(path, dtype=np.uint16, mode="r")


def windows(stream: Stream, count: int, length: int, generator: torch.Generator) -> Tensor:
    """`count` windows at random places.  [count, length], int64"""
    if len(stream) <= length:
        raise SystemExit(
            f"a stream of {len(stream)} tokens holds no window of {length}: more text, or a smaller --context"
        )
    starts = torch.randint(len(stream) - length, (count,), generator=generator).tolist()
    return torch.stack([torch.from_numpy(stream[start : start + length].astype(np.int64)) for start in starts])


def read_passages(path: Path) -> list[str]:
    """The texts of a JSON-lines file of `{"text": …}`."""
    with path.open() as lines:
        return [json.loads(line)["text"] for line in lines]


def write_json_lines(path: Path, rows: Iterable[object]) -> None:
    """One JSON value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


@dataclass
class Budget:
    """A run of so many steps, or of so many seconds; learning rates follow the fraction of it that is spent."""

    steps: int | None
    seconds: float | None
    began: float = field(default_factory=time.monotonic)

    def spent(self, step: int) -> float:
        """Share of the budget spent before this step; 1 or more ends the run."""
        if self.steps is not None:
            return step / self.steps
        assert self.seconds is not None  # noqa: S101  (argparse requires one of the two)
        return self.elapsed() / self.seconds

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """`--steps` and `--seconds`, of which exactly one is needed, and `--threads`."""
        length = parser.add_mutually_exclusive_group(required=True)
        length.add_argument("--steps", type=int, help="train for so many steps: the same result every time")
        length.add_argument("--seconds", type=float, help="train for so much time: what the demo was made with")
        parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Budget":
        """The budget that the command line asks for; sets the number of threads too."""
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        return cls(arguments.steps, arguments.seconds)
