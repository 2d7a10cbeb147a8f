"""Random SAEs of every format and architecture on the demo model, as a configuration, with their plain formulas."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.reference import MODEL, Reference, neurons, openai_formula, saelens_formula
from tests.sources.formats import write_openai, write_saelens

LATENTS = 192
WIDTHS = {"mlp.hook_post": 512}
OWN_BOS = {'bos = "none"': None, "bos = 14": 14}
"""Rules of sources that do not follow the model; 14 is a full stop."""


def build_zoo(folder: Path) -> tuple[Path, Reference]:
    """Writes the SAEs and `config.toml` into `folder`; gives the configuration's path and the reference."""
    reference = Reference.of_demo()
    tables = [f'model = "{MODEL}"', 'model_name = "zoo"', 'metrics_bind = "none"', 'index = "none"']
    layer = 0

    def add(name: str, hook: str, path: Path, kind: str, formula: object, extra: str = "") -> str:
        nonlocal layer
        point = f"blocks.{layer}.{hook}"
        table = {"set": name, "format": kind, "path": str(path), "layers": str(layer), "hook": point}
        tables.extend(["[[sources]]", *(f'{key} = "{value}"' for key, value in table.items()), extra])
        reference.formulas[f"{layer}-{name}"] = (point, formula)  # type: ignore[assignment]
        added, layer = f"{layer}-{name}", (layer + 1) % 4
        return added

    for seed, (version, hook) in enumerate(
        [("v1", "mlp.hook_post"), ("v4", "hook_mlp_out"), ("v5", "hook_resid_mid"), ("v5", "hook_attn_out")]
    ):
        path = folder / f"openai-{seed}.pt"
        d_in = WIDTHS.get(hook, 128)
        state = write_openai(path, version=version, d_in=d_in, d_sae=LATENTS, k=8, seed=seed)
        add(f"oai-{version}-{seed}", hook, path, "openai", openai_formula(state))
    kinds = [
        ("standard", "hook_resid_post", {}, 'bos = "none"', {}),
        ("jumprelu", "hook_mlp_out", {}, "", {}),
        ("jumprelu", "hook_mlp_out", {}, "fold_decoder_norm = true", {"fold": True}),
        ("topk", "attn.hook_z", {}, "", {}),
        ("topk", "hook_resid_post", {"rescale": True}, "", {}),
        ("standard", "hook_resid_mid", {"normalize_activations": "layer_norm"}, "bos = 14", {}),
        ("standard", "hook_attn_out", {"normalize_activations": "constant_norm_rescale"}, "", {}),
        ("standard", "hook_resid_pre", {"flat": True, "apply_b_dec_to_input": False}, "", {}),
        ("topk", "mlp.hook_post", {"flat": True}, 'bos = "none"', {}),
        (
            "standard",
            "hook_mlp_out",
            {"normalize_activations": "expected_average_only_in"},
            "scaling_factor = 1.7",
            {"scaling_factor": 1.7},
        ),
    ]
    for seed, (architecture, hook, how, extra, options) in enumerate(kinds, start=10):
        path = folder / f"saelens-{seed}"
        cfg, weights = write_saelens(
            path,
            architecture=architecture,
            hook_name=f"blocks.{layer}.{hook}",
            d_in=WIDTHS.get(hook, 128),
            d_sae=LATENTS,
            k=8,
            seed=seed,
            **how,  # type: ignore[arg-type]
        )
        formula = saelens_formula(cfg, weights, **options)
        source = add(f"lens-{architecture}-{seed}", hook, path, "saelens", formula, extra)
        if extra.startswith("bos"):
            reference.bos[source] = OWN_BOS[extra]
    for number in range(4):
        reference.formulas[str(number)] = (f"blocks.{number}.mlp.hook_post", neurons)
    reference.order = sorted(
        reference.formulas, key=lambda name: (int(name.partition("-")[0]), 0 if "-" in name else 1, name)
    )
    config = folder / "config.toml"
    config.write_text("\n".join(tables))
    torch.manual_seed(0)
    return config, reference
