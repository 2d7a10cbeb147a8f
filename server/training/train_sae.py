"""Train one BatchTopK SAE for each layer on blocks.L.hook_mlp_out of WORK/lm; write them to WORK/saes as JumpReLU.

BatchTopK keeps the K x batch largest latents of a whole batch (Bussmann et al. 2024), scored by what they add to the
reconstruction. Its cut-off, averaged over the run, becomes the threshold of a JumpReLU SAE, which needs no batch. An
auxiliary loss (Gao et al. 2024) lets latents that have not fired for long reconstruct what the others leave over.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2LMHeadModel

from training.streams import BOS_ID, DEMO_PASSAGES, Budget, encode, open_stream, read_passages, windows

PEAK_RATE = 1e-3
WARM_UP_STEPS = 50
CHUNK = 1024  # activations a step
DEAD_AFTER = 60_000  # tokens without firing
AUXILIARY_LATENTS = 32
AUXILIARY_WEIGHT = 1 / 32


class Activations:
    """Draws windows of text and gives the MLP outputs of every layer on them."""

    def __init__(self, work: Path, passages: Path | None, share: float, context: int) -> None:
        self.model = GPT2LMHeadModel.from_pretrained(work / "lm").eval()
        self.text = open_stream(work / "train.bin")
        tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        self.passages = encode(tokenizer, read_passages(passages)) if passages else None
        self.share = share
        self.context = context
        self.generator = torch.Generator().manual_seed(3)
        self.caught: dict[int, Tensor] = {}
        for layer, block in enumerate(self.model.transformer.h):
            block.mlp.register_forward_hook(lambda _module, _input, out, layer=layer: self.caught.update({layer: out}))

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return len(self.model.transformer.h)

    @torch.no_grad()
    def draw(self, count: int) -> list[Tensor]:
        """Activations of `count` windows, BOS left out: for each layer [count * (context - 1), d_model]."""
        ids = torch.cat([self._window() for _ in range(count)])
        ids[:, 0] = BOS_ID
        self.model.transformer(ids)
        return [self.caught[layer][:, 1:].flatten(0, 1) for layer in range(self.layers)]

    def _window(self) -> Tensor:
        from_passages = torch.rand(1, generator=self.generator).item() < self.share
        stream = self.passages if from_passages and self.passages is not None else self.text
        return windows(stream, 1, self.context, self.generator)


class BatchTopK:
    """One SAE in training. Its inputs are scaled to norm sqrt(d_model) on average; `saved` folds the scale away."""

    def __init__(self, sample: Tensor, latents: int, active: int) -> None:
        width = sample.shape[1]
        mean = sample.mean(0)
        self.active = active
        self.scale = width**0.5 / (sample - mean).norm(dim=1).mean().item()
        directions = torch.randn(width, latents)
        directions /= directions.norm(dim=0, keepdim=True)
        self.W_enc = directions.clone().requires_grad_()
        self.W_dec = directions.t().clone().requires_grad_()
        self.b_enc = torch.zeros(latents).requires_grad_()
        self.b_dec = (mean * self.scale).requires_grad_()
        self.optimizer = torch.optim.Adam(
            [self.W_enc, self.W_dec, self.b_enc, self.b_dec], lr=PEAK_RATE, betas=(0.9, 0.99)
        )
        self.silent = torch.zeros(latents)  # tokens since each latent last fired
        self.threshold: float | None = None
        self.unexplained = 1.0  # fraction of variance
        self.dead = 0

    def step(self, x: Tensor, step: int, spent: float) -> None:
        """Learn from activations `x` [batch, d_model]."""
        for group in self.optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARM_UP_STEPS) * min(1.0, max(0.03, (1 - spent) / 0.3))
        h = x * self.scale
        pre = (h - self.b_dec) @ self.W_enc + self.b_enc  # [batch, latents]
        positive = torch.relu(pre)
        score = positive * self.W_dec.norm(dim=1)
        cut = score.flatten().topk(self.active * len(h)).values[-1]
        acts = positive * (score >= cut)
        error = h - (acts @ self.W_dec + self.b_dec)
        loss = error.pow(2).sum(1).mean()

        fired = (acts.detach() > 0).any(0)
        self.silent = torch.where(fired, 0.0, self.silent + len(h))
        dead = self.silent > DEAD_AFTER
        self.dead = int(dead.sum())
        if self.dead > AUXILIARY_LATENTS // 2:
            loss = loss + AUXILIARY_WEIGHT * self._auxiliary(pre, dead, error.detach())

        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)
        early = self.threshold is None or step <= 20
        self.threshold = cut.item() if early else 0.99 * (self.threshold or 0.0) + 0.01 * cut.item()
        self.unexplained = (error.detach().pow(2).sum() / (h - h.mean(0)).pow(2).sum()).item()

    def _auxiliary(self, pre: Tensor, dead: Tensor, error: Tensor) -> Tensor:
        """How badly the strongest dead latents reconstruct the error of the others."""
        strongest = (torch.relu(pre) * dead).topk(min(AUXILIARY_LATENTS, dead.numel()), dim=1)
        acts = torch.zeros_like(pre).scatter(1, strongest.indices, strongest.values)
        return (error - acts @ self.W_dec).pow(2).sum(1).mean()

    def saved(self) -> dict[str, Tensor]:
        """Weights of the JumpReLU SAE on raw activations.

        `a = p * (p > threshold)` with `p = relu((x - b_dec) @ W_enc + b_enc)`. Activations come out divided by the
        scale, so that `a @ W_dec + b_dec` reconstructs x.
        """
        weights = {
            "W_enc": self.W_enc,
            "b_enc": self.b_enc / self.scale,
            "W_dec": self.W_dec,
            "b_dec": self.b_dec / self.scale,
            "threshold": torch.full_like(self.b_enc, (self.threshold or 0.0) / self.scale),
        }
        return {name: weight.detach().contiguous() for name, weight in weights.items()}


def write(folder: Path, weights: dict[str, Tensor], layer: int, model: str, context: int) -> None:
    """Save one SAE in SAELens' v6 layout."""
    width, latents = weights["W_enc"].shape
    config = {
        "architecture": "jumprelu",
        "d_in": width,
        "d_sae": latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "model_name": model,
            "hook_name": f"blocks.{layer}.hook_mlp_out",
            "prepend_bos": True,
            "context_size": context,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config, indent=1))


def main(argv: Sequence[str] | None = None) -> None:
    """Train the SAEs of all layers side by side on the same text, and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder that all steps share")
    Budget.add_arguments(parser)
    parser.add_argument("--name", default="demo", help="name of the model and of the set of SAEs (%(default)s)")
    parser.add_argument("--latents", type=int, default=2048, help="of each SAE (%(default)s)")
    parser.add_argument("--active", type=int, default=5, help="latents active a token, on average (%(default)s)")
    parser.add_argument("--context", type=int, default=128, help="tokens a window (%(default)s)")
    parser.add_argument("--windows", type=int, default=32, help="windows drawn at a time (%(default)s)")
    parser.add_argument("--passages", type=Path, default=DEMO_PASSAGES, help="JSON lines mixed in (the demo's)")
    parser.add_argument("--passage-share", type=float, default=0.25, help="share of windows from them (%(default)s)")
    arguments = parser.parse_args(argv)

    budget = Budget.of(arguments)
    torch.manual_seed(0)
    passages = arguments.passages if arguments.passage_share > 0 else None
    source = Activations(arguments.work, passages, arguments.passage_share, arguments.context)
    sample = source.draw(2 * arguments.windows)
    saes = [BatchTopK(sample[layer], arguments.latents, arguments.active) for layer in range(source.layers)]
    step, tokens = 0, 0
    while budget.spent(step) < 1:
        drawn = source.draw(arguments.windows)
        for chunk in torch.randperm(len(drawn[0]), generator=source.generator).split(CHUNK):
            spent = budget.spent(step)
            for sae, acts in zip(saes, drawn, strict=True):
                sae.step(acts[chunk], step, spent)
            step += 1
            tokens += len(chunk)
            if step % 100 == 0:
                state = ", ".join(f"{s.unexplained:.3f} unexplained {s.dead} dead" for s in saes)
                print(f"step {step} ({spent:.0%}): {state}", flush=True)
    for layer, sae in enumerate(saes):
        folder = arguments.work / "saes" / f"{layer}-{arguments.name}"
        write(folder, sae.saved(), layer, arguments.name, arguments.context)
    explained = ", ".join(f"{sae.unexplained:.3f}" for sae in saes)
    print(f"{step} steps, {tokens} tokens, fraction of variance unexplained by layer: {explained}")


if __name__ == "__main__":
    main()
