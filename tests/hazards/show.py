"""`make hazards`: the two silent races, each on the naive way and on ours. Exit 1 if ours gave a wrong answer."""

from __future__ import annotations

import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `tests`, which is not installed

import saeserve
from tests.hazards import races

LIBRARIES = ("torch", "transformer-lens", "transformers", "tokenizers")


def main() -> int:
    """The exit status."""
    began = time.monotonic()
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(f"Python {platform.python_version()}, {versions}\n", flush=True)

    bridge = races.BridgeRace()
    print(
        f"1. One TransformerBridge: {len(bridge.texts)} texts of {races.TOKENS} tokens, {races.BRIDGE_ROUNDS} times "
        f"each, from {races.THREADS} threads.\n   Activation tensors (mlp.hook_post of "
        f"{len(races.HOOKS)} layers) that differ from the text's own by more than {races.TOLERANCE:g} of its largest:"
    )
    naive = bridge.naive()
    show("naive: the threads share the bridge", naive)
    print(f"{'':45}{naive.foreign:4} of the wrong ones are another text's activations", flush=True)
    with saeserve.local(model="demo", index="none", device="cpu") as client:
        served = bridge.ours(client)
    show("ours: the threads ask one server", served)
    print(f"{'':45}{served.together:4} requests in the largest batch\n")

    tokenizer = races.TokenizerRace()
    print(
        f"2. One fast tokenizer: {len(tokenizer.texts)} texts, {races.TOKENIZER_ROUNDS} times each, in each of "
        f"{races.THREADS} threads,\n   of which one cuts to "
        f"{races.CUT} tokens and pads to {races.PADDED} in turns. Encodings that are not what their caller asked for:"
    )
    show("naive: transformers', asked in each call", tokenizer.transformers())
    show("naive: raw, each call sets it", tokenizer.raw_set_each_time())
    show("naive: raw, only the one sets it", tokenizer.raw_set_by_one())
    ours = tokenizer.ours()
    show("ours: never set, cut and padded after", ours)
    print(f"\n{time.monotonic() - began:.0f} s")
    return 1 if served.failed or ours.failed else 0


def show(what: str, count: races.Count) -> None:
    print(f"   {what:42}{count}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
