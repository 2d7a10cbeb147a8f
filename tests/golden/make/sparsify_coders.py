"""Sparse coders of EleutherAI's sparsify, saved, read and run by its own code.

python -m venv /tmp/sparsify
/tmp/sparsify/bin/pip install torch==2.13.0 eai-sparsify==1.3.3
/tmp/sparsify/bin/python tests/golden/make/sparsify_coders.py
"""

from pathlib import Path

import torch
from common import D_IN, D_SAE, GOLDEN, LAYER, Random, inputs, record
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor

ALWAYS = (5, 6, 17, 20, 40, 43, 44, 90)
"""Latents that no input moves: their pre-activations are all the same number, to the last bit."""


def make(name: str, config: SparseCoderConfig, ties_at: float, module: str) -> tuple[Path, SparseCoder]:
    random = Random(name)
    coder = SparseCoder(D_IN, config)
    coder.encoder.weight.data = random.encoder(D_SAE, D_IN)
    coder.encoder.bias.data = random.b_enc()
    coder.W_dec.data = random.decoder(D_SAE, D_IN)
    coder.b_dec.data = random.b_dec()
    coder.encoder.weight.data[list(ALWAYS)] = 0.0
    coder.encoder.bias.data[list(ALWAYS)] = ties_at
    folder = GOLDEN / "published" / "EleutherAI" / name / module
    coder.save_to_disk(folder)
    return folder, SparseCoder.load_from_disk(folder)


def dense(coder: SparseCoder, x: Tensor) -> Tensor:
    top = coder.encode(x)
    return torch.zeros_like(top.pre_acts).scatter_(-1, top.top_indices, top.top_acts)


@torch.no_grad()
def main() -> None:
    config = SparseCoderConfig(num_latents=D_SAE, k=8, transcode=True)
    folder, coder = make("sae-transcoder", config, 1.6, f"layers.{LAYER}.mlp")
    acts = dense(coder, inputs("mlp.hook_in"))
    record("sparsify-transcoder", folder, "mlp.hook_in", acts, "no skip; nothing subtracted; ties", equal=ALWAYS)

    config = SparseCoderConfig(num_latents=D_SAE, k=12, activation="groupmax")
    folder, coder = make("sae-groupmax", config, 1.3, f"layers.{LAYER}")
    acts = dense(coder, inputs("hook_resid_post"))
    record("sparsify-groupmax", folder, "hook_resid_post", acts, "12 groups of 8, three with ties")


main()
