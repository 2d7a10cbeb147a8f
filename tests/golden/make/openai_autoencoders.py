"""OpenAI's autoencoders, saved and run by the code of github.com/openai/sparse_autoencoder, whose file is given.

    python -m venv /tmp/openai
    /tmp/openai/bin/pip install torch==2.13.0 numpy
    /tmp/openai/bin/python tests/golden/make/openai_autoencoders.py sparse_autoencoder/model.py

Made with sparse_autoencoder/model.py of commit 4965b941e9eb590b00b253a2c406db1e1b193942.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch
from common import D_SAE, GOLDEN, LAYER, Random, inputs, record


def load(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("openai_model", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def make(model: ModuleType, name: str, location: str, hook: str, note: str, bias: float, **options: Any) -> None:
    random = Random(name)
    x = inputs(hook)
    made = model.Autoencoder(D_SAE, x.shape[1], **options)
    made.encoder.weight.data = random.encoder(D_SAE, x.shape[1])
    made.latent_bias.data = random.normal(D_SAE, mean=bias, std=0.3)
    made.pre_bias.data = random.b_dec(x.shape[1])
    if not options.get("tied"):
        made.decoder.weight.data = random.decoder(x.shape[1], D_SAE)
    file = GOLDEN / "published" / "openai" / name / location / "autoencoders" / f"{LAYER}.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(made.state_dict(), file)
    acts, _ = made.encode(x)
    print("negative values:", int((acts < 0).sum()))
    record(f"openai-{name}", file, hook, acts, note)


def main() -> None:
    model = load(sys.argv[1])
    make(model, "v1-tied", "mlp_post_act", "mlp.hook_post", "TiedTranspose", -0.3, tied=True)
    top = {"activation": model.TopK(8), "normalize": True}
    make(model, "v5-tied", "resid_post_mlp_v5_32k", "hook_resid_post", "TiedTranspose and TopK", -0.3, tied=True, **top)
    top = {"activation": model.TopK(24, torch.nn.Identity()), "normalize": True}
    note = "fewer than k are positive and postact_fn is Identity: values below 0 are served as 0"
    make(model, "v5-identity-few", "resid_post_mlp_v5_32k", "hook_resid_post", note, -1.3, **top)


main()
