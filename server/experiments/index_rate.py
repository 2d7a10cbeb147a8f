"""What folding costs: an index built beside the bare encoding of the same texts, in turns, on one machine.

python server/experiments/index_rate.py [--model synthetic:gpt2-small] [--texts 200] [--rounds 2]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path

from saeserve_server.config import load_config
from saeserve_server.engine.build import PASSAGES, build_runner, pin_kernels
from saeserve_server.records.builder import Progress, Settings, build_index
from saeserve_server.records.building.chunks import chunks
from saeserve_server.records.corpus import Corpus
from saeserve_server.text.tokenizer import Tokenizer


def main() -> None:
    """Prints tokens a second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="synthetic:gpt2-small")
    parser.add_argument("--neurons", default="false")
    parser.add_argument("--texts", type=int, default=200, help="passages of the demo's corpus")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    config = load_config(None, {"model": options.model, "neurons": options.neurons})
    runner, _ = build_runner(config, with_index=False)
    pin_kernels(config, runner)
    model = runner.catalog.model
    tokenizer = Tokenizer(model.tokenizer_json, model.bos_id)
    texts = list(islice(Corpus([PASSAGES]), options.texts))
    settings = Settings()
    cut = settings.made_of(runner).cut
    batches = [batch for chunk in chunks(texts, tokenizer.ids, model) for batch in chunk.batches(cut)]
    tokens = sum(len(batch.ids) for batch in batches)
    print(
        f"{len(texts)} texts, {tokens:,} tokens, {len(runner.catalog.sources)} sources, {runner.computed}", flush=True
    )

    def encode(some: int | None = None) -> float:
        began = time.monotonic()
        for batch in batches[:some]:
            for _ in runner.encode_blocks(batch.blocks):
                pass
        return time.monotonic() - began

    def build() -> tuple[float, float]:
        began, first = time.monotonic(), 0.0

        def note(progress: Progress) -> None:
            nonlocal first
            if progress.second_pass is None:
                first = time.monotonic() - began

        with tempfile.TemporaryDirectory() as folder:
            settled = Path(folder, "index")
            build_index(runner, tokenizer.ids, texts, settled, piece=tokenizer.piece, settings=settings, progress=note)
            return first, time.monotonic() - began

    encode(2)  # kernels and memory settle
    for _ in range(options.rounds):
        bare, (first, whole) = encode(), build()
        print(
            f"encoding alone {tokens / bare:,.0f} tokens/s; first pass {tokens / first:,.0f} ({bare / first:.0%}); "
            f"index {tokens / whole:,.0f} ({bare / whole:.0%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
