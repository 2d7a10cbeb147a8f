"""Train a byte-level BPE on WORK/corpus.jsonl; write it and the token streams train.bin and val.bin to WORK."""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.streams import BOS, encode


def train(texts: list[str], vocabulary: int) -> Tokenizer:
    """A tokenizer whose id 0 is the BOS; every byte is in its alphabet, so that it has no unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def passages(text: str, chars: int) -> Iterator[str]:
    """The text in pieces of whole paragraphs, each a little longer than `chars`."""
    piece = ""
    for paragraph in text.split("\n\n"):
        piece += paragraph + "\n"
        if len(piece) > chars:
            yield piece
            piece = ""
    if piece:
        yield piece


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tokenizer and both streams."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder that all steps share")
    parser.add_argument("--vocabulary", type=int, default=8192, help="tokens, at most 65536 (%(default)s)")
    parser.add_argument("--passage-chars", type=int, default=1400, help="least length of a piece (%(default)s)")
    parser.add_argument("--held-out", type=int, default=500, help="pieces kept for validation (%(default)s)")
    arguments = parser.parse_args(argv)
    with (arguments.work / "corpus.jsonl").open() as lines:
        texts = [json.loads(line)["text"] for line in lines]
    pieces = [piece for text in texts for piece in passages(text, arguments.passage_chars)]
    if len(pieces) <= arguments.held_out:
        raise SystemExit(
            f"{len(pieces)} pieces of text, of which {arguments.held_out} are to be held out: nothing is left"
        )
    random.Random(0).shuffle(pieces)  # noqa: S311
    tokenizer = train(texts, arguments.vocabulary)
    tokenizer.save(str(arguments.work / "tokenizer.json"))
    held_out, kept = pieces[: arguments.held_out], pieces[arguments.held_out :]
    for name, part in (("val", held_out), ("train", kept)):
        stream = encode(tokenizer, part)
        stream.tofile(arguments.work / f"{name}.bin")
        print(f"{name}.bin: {len(part)} pieces, {len(stream) / 1e6:.3f} million tokens")


if __name__ == "__main__":
    main()
