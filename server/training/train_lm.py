"""Train a small language model of GPT-2's architecture on WORK/train.bin; write it to WORK/lm."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from training.streams import BOS_ID, Budget, Stream, open_stream, windows

PEAK_RATE = 2e-3
WARM_UP_STEPS = 200


def rate(step: int, spent: float) -> float:
    """Learning rate: a short warm-up, flat for the first 30% of the run, then a cosine down to 2%."""
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    decay = 1.0 if spent < 0.3 else max(0.02, 0.5 * (1 + math.cos(math.pi * (spent - 0.3) / 0.7)))
    return PEAK_RATE * warm_up * decay


def loss_of(model: GPT2LMHeadModel, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats. `ids` [batch, context + 1]."""
    logits = model(ids[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def make_optimizer(model: GPT2LMHeadModel) -> torch.optim.Optimizer:
    """AdamW that decays matrices and leaves biases and layer norms alone."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)


@torch.no_grad()
def validate(model: GPT2LMHeadModel, stream: Stream, batch: int, context: int, batches: int = 40) -> float:
    """Loss on held-out text, always on the same windows."""
    generator = torch.Generator().manual_seed(5)
    losses = [loss_of(model, windows(stream, batch, context + 1, generator)).item() for _ in range(batches)]
    return sum(losses) / len(losses)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, save every 500 steps and at the end, print the held-out loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder that all steps share")
    Budget.add_arguments(parser)
    parser.add_argument("--batch", type=int, default=32, help="windows a step (%(default)s)")
    parser.add_argument("--context", type=int, default=128, help="tokens a window (%(default)s)")
    parser.add_argument("--positions", type=int, default=256, help="longest context of the model (%(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--width", type=int, default=128, help="d_model (%(default)s)")
    parser.add_argument("--heads", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--vocabulary", type=int, default=8192, help="as in tokenizer.py (%(default)s)")
    arguments = parser.parse_args(argv)

    budget = Budget.of(arguments)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=arguments.vocabulary,
        n_positions=arguments.positions,
        n_embd=arguments.width,
        n_layer=arguments.layers,
        n_head=arguments.heads,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,
    )
    model = GPT2LMHeadModel(config)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters")
    stream = open_stream(arguments.work / "train.bin")
    optimizer = make_optimizer(model)
    generator = torch.Generator().manual_seed(1)
    step, smooth = 0, math.nan
    while (spent := budget.spent(step)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, spent)
        loss = loss_of(model, windows(stream, arguments.batch, arguments.context + 1, generator))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        step += 1
        if step % 50 == 0:
            tokens = step * arguments.batch * arguments.context
            print(f"step {step} ({spent:.0%}): loss {smooth:.3f}, {tokens / budget.elapsed():.0f} tokens/s", flush=True)
        if step % 500 == 0:
            model.save_pretrained(arguments.work / "lm")
    model.save_pretrained(arguments.work / "lm")
    held_out = validate(model, open_stream(arguments.work / "val.bin"), arguments.batch, arguments.context)
    print(f"{step} steps, held-out loss {held_out:.3f} nats a token")


if __name__ == "__main__":
    main()
