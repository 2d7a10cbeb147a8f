"""SAEs of dictionary_learning: configured by its own trainers, saved as its training does, run by its own code.

python -m venv /tmp/dictionary-learning
/tmp/dictionary-learning/bin/pip install torch==2.13.0 dictionary-learning==0.1.0
/tmp/dictionary-learning/bin/pip uninstall torchvision  # of another build of torch, brought by nnsight; not needed
/tmp/dictionary-learning/bin/python tests/golden/make/dictionary_learning_saes.py
"""

import json
from pathlib import Path
from typing import Any

import torch
from common import D_IN, D_SAE, GOLDEN, LAYER, Random, inputs, record
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew
from dictionary_learning.trainers import BatchTopKTrainer, GatedSAETrainer, StandardTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary

HOOK = "hook_resid_post"
X = inputs(HOOK)
STEPS = 10_000  # asked for, on no data


def folder_of(name: str) -> Path:
    return GOLDEN / "published" / "canrager" / "saebench" / name / f"resid_post_layer_{LAYER}"


def make(name: str, trainer: type, threshold: float | None = None, **options: Any) -> Path:
    """An SAE with random numbers in place of trained ones; `config.json` and the keys of `ae.pt` are the package's."""
    folder = folder_of(name)
    about = {"layer": LAYER, "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": f"resid_post_layer_{LAYER}"}
    config = {"trainer": trainer, "activation_dim": D_IN, "dict_size": D_SAE, "steps": STEPS, "device": "cpu", **about}
    trainSAE([], [config | options], steps=STEPS, save_dir=str(folder), device="cpu")
    folder = folder / "trainer_0"
    state = torch.load(folder / "ae.pt", weights_only=True)  # noqa: TID251 - weights only
    random = Random(name)
    for key, value in state.items():
        if key in ("k", "group_sizes"):
            continue
        if key == "threshold":
            state[key] = value if threshold is None else torch.tensor(threshold)
        elif value.ndim == 2:
            state[key] = (random.encoder if "enc" in key else random.decoder)(*value.shape)
        elif key == "r_mag":
            state[key] = random.normal(D_SAE, std=0.3)
        else:
            state[key] = random.b_enc() if value.shape == (D_SAE,) else random.b_dec()
    torch.save(state, folder / "ae.pt")
    return folder


@torch.no_grad()
def main() -> None:
    folder = make("AutoEncoder-unnormalised", StandardTrainer)
    plain = AutoEncoder.from_pretrained(folder / "ae.pt", normalize_decoder=False)
    record("dictlearn-AutoEncoder-plain", folder, HOOK, plain.encode(X), "from_pretrained(normalize_decoder=False)")
    folded, _ = load_dictionary(str(folder), "cpu")
    note = "load_dictionary, which normalises the decoder by default"
    record("dictlearn-AutoEncoder-folded", folder, HOOK, folded.encode(X), note, fold_decoder_norm=True)

    folder = make("AutoEncoderNew", StandardTrainer, dict_class=AutoEncoderNew)
    config = json.loads((folder / "config.json").read_text())
    config["trainer"]["dict_class"] = "AutoEncoderNew"  # this version's trainers always write AutoEncoder
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    sae, _ = load_dictionary(str(folder), "cpu")
    record("dictlearn-AutoEncoderNew", folder, HOOK, sae.encode(X), "a decoder bias that is not subtracted")
    _, acts = sae(X, output_features=True)
    record("dictlearn-AutoEncoderNew-folded", folder, HOOK, acts, "output_features=True", fold_decoder_norm=True)

    folder = make("Gated", GatedSAETrainer)
    sae, _ = load_dictionary(str(folder), "cpu")
    record("dictlearn-Gated", folder, HOOK, sae.encode(X), "r_mag is not zero")
    acts = sae.encode(X, normalize_decoder=True)
    record("dictlearn-Gated-folded", folder, HOOK, acts, "encode(normalize_decoder=True)", fold_decoder_norm=True)

    folder = make("Matryoshka", MatryoshkaBatchTopKTrainer, 0.4, k=8, group_fractions=[0.25, 0.75])
    sae, _ = load_dictionary(str(folder), "cpu")
    record("dictlearn-Matryoshka", folder, HOOK, sae.encode(X), "one threshold of 0.4")

    folder = make("BatchTopK-untrained", BatchTopKTrainer, k=8)
    sae, _ = load_dictionary(str(folder), "cpu")
    record("dictlearn-BatchTopK-untrained", folder, HOOK, sae.encode(X), "its threshold is still -1: a ReLU")


main()
