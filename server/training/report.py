"""What the latents of an exported model answer: searches of a few sentences, with what each latent usually fires on.

Reads the files with plain formulas and nothing of the server, so it can be held against it.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2LMHeadModel

from training.streams import BOS_ID, DEMO_PASSAGES, read_passages


@dataclass(frozen=True)
class Query:
    """A search: rank by the largest value over the text, or by the sum over the tokens that read `word`."""

    text: str
    word: str | None = None
    results: int = 10
    relative: bool = False  # divide by each latent's maximum over the passages


QUERIES = (
    Query("My favorite color is red."),
    Query("My favorite color is red.", word="red"),
    Query("She wore a crimson dress.", word="crimson"),
    Query("I love you, and I hate him.", word="hate", results=6),
    Query("The whale swam in the sea near the ship.", relative=True),
    Query(
        "In 'The Odyssey', Homer takes us on an epic journey with Odysseus, whose adventures and trials on his way "
        "back to Ithaca after the Trojan War offer timeless insights into the human condition and the quest for home.",
        results=15,
        relative=True,
    ),
)


class Latents:
    """All SAEs of an exported folder on its model."""

    def __init__(self, folder: Path) -> None:
        self.model = GPT2LMHeadModel.from_pretrained(folder / "model", dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
        self.names = []
        self.weights = []
        for sae in sorted((folder / "saes").iterdir(), key=lambda path: int(path.name.split("-")[0])):
            weights = {name: weight.float() for name, weight in load_file(sae / "sae_weights.safetensors").items()}
            self.names += [f"{sae.name.upper()}:{index}" for index in range(len(weights["b_enc"]))]
            self.weights.append((int(sae.name.split("-")[0]), weights))
        self.caught: dict[int, Tensor] = {}
        for layer, block in enumerate(self.model.transformer.h):
            block.mlp.register_forward_hook(
                lambda _module, _input, out, layer=layer: self.caught.update({layer: out[0]})
            )

    @torch.no_grad()
    def encode(self, text: str) -> tuple[list[str], Tensor]:
        """The text's tokens as far as the model reads, without BOS, and all latents on them.  [tokens, latents]"""
        ids = self.tokenizer.encode(text).ids[: self.model.config.n_positions - 1]
        self.model.transformer(torch.tensor([[BOS_ID, *ids]]))
        acts = []
        for layer, w in self.weights:
            pre = (self.caught[layer][1:] - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
            acts.append(torch.relu(pre) * (pre > w["threshold"]))
        return [self.tokenizer.decode([token]) for token in ids], torch.cat(acts, 1)


class Statistics:
    """How often, how strongly and on what each latent fires over some texts."""

    def __init__(self, latents: Latents, texts: list[str]) -> None:
        count = len(latents.names)
        self.usual: list[Counter[str]] = [Counter() for _ in range(count)]
        self.maximum = torch.zeros(count)
        fired, self.tokens = torch.zeros(count), 0
        for text in texts:
            tokens, acts = latents.encode(text)
            self.tokens += len(tokens)
            fired += (acts > 0).sum(0)
            self.maximum = torch.maximum(self.maximum, acts.amax(0))
            for row, column in acts.nonzero().tolist():
                self.usual[column][tokens[row]] += acts[row, column].item()
        self.alive = int((fired > 0).sum())
        self.active = fired.sum().item() / self.tokens / len(latents.weights)
        self.density = fired / self.tokens


def answer(query: Query, latents: Latents, statistics: Statistics) -> list[str]:
    """The lines of one search."""
    tokens, acts = latents.encode(query.text)
    score = acts / statistics.maximum.clamp(min=0.5) if query.relative else acts
    if query.word is None:
        values = score.amax(0)
    else:
        values = score[[row for row, token in enumerate(tokens) if token.strip() == query.word]].sum(0)
    top = values.topk(min(query.results, len(values)))
    lines = [
        f"== {query.text}"
        + (f"  [by {query.word!r}]" if query.word else "")
        + ("  [relative]" if query.relative else "")
    ]
    for value, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        usual = " ".join(repr(token) for token, _ in statistics.usual[index].most_common(8))
        at = tokens[int(acts[:, index].argmax())]
        lines.append(
            f"  {latents.names[index]} {value:.2f} at {at!r}, density {statistics.density[index]:.4f} | {usual}"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that export.py wrote")
    parser.add_argument(
        "--passages", type=Path, default=DEMO_PASSAGES, help="JSON lines for the statistics (the demo's)"
    )
    parser.add_argument("--limit", type=int, help="read only so many passages")
    arguments = parser.parse_args(argv)
    latents = Latents(arguments.folder)
    statistics = Statistics(latents, read_passages(arguments.passages)[: arguments.limit])
    print(f"{statistics.alive} of {len(latents.names)} latents alive; {statistics.active:.2f} active a token and layer")
    for query in QUERIES:
        print(*answer(query, latents, statistics), sep="\n")


if __name__ == "__main__":
    main()
