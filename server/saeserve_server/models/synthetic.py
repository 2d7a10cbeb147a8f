"""A GPT-2-shaped model with random weights from a seed: real sizes for load tests, without a download."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from saeserve_server.tables import SyntheticSettings


def build_synthetic(shape: SyntheticSettings, bos_id: int) -> Any:
    """A GPT2LMHeadModel of that shape, the same for the same seed. The global random state is left as it was."""
    configuration = synthetic_settings(shape, bos_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        return GPT2LMHeadModel(configuration).eval()


def synthetic_settings(shape: SyntheticSettings, bos_id: int = 0) -> GPT2Config:
    """Hugging Face's configuration of a model of that shape."""
    return GPT2Config(
        n_layer=shape.layers,
        n_embd=shape.d_model,
        n_head=shape.heads,
        vocab_size=shape.vocabulary,
        n_positions=shape.context,
        bos_token_id=bos_id,
        eos_token_id=bos_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
