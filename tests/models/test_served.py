"""Every family through the whole front end: what gRPC answers equals `run_with_cache` and the SAE's formula.

Everything is real but for the worker's process, see tests/inside.py.
"""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import saeserve
from saeserve_server.api import server as front_end
from saeserve_server.config import Config, load_config
from saeserve_server.engine.build import build_runner
from saeserve_server.errors import ConfigError
from tests.conftest import DEVICE
from tests.inside import ThreadEngine
from tests.models.shapes import SHAPES, build, save, save_multimodal
from tests.models.test_shapes import HEADS, LACKING, MIXTURES
from tests.sources import plain
from tests.sources.formats import write_saelens

pytestmark = pytest.mark.device

HOOKS = ("hook_resid_post", "hook_resid_mid", "hook_mlp_out", "hook_attn_out", "attn.hook_z", "mlp.hook_in")
IDS = [[5, 6, 7], [*range(200, 230)], [9]]


@pytest.mark.parametrize("shape", [*SHAPES, "gemma3-multimodal"])
def test_a_family_is_served_as_run_with_cache_and_the_formula_say(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_end, "ProcessEngine", ThreadEngine)
    text_only = shape.removesuffix("-multimodal")
    folder = save_multimodal(tmp_path / "m") if text_only != shape else save(tmp_path / "m", build(shape))
    saes = {}
    lines = [f'model = "{folder}"', 'index = "none"', 'bind = "127.0.0.1:0"', 'metrics_bind = "none"']
    lines += [f'device = "{DEVICE}"', "drain_delay = 0", "grace = 0"]
    for hook in HOOKS:
        if hook in LACKING.get(text_only, ()):
            continue
        name, d_in = hook.replace(".", "-"), 64 if hook == "attn.hook_z" and text_only in HEADS else 32
        saes[f"1-{name}"] = (
            f"blocks.1.{hook}",
            *write_saelens(
                tmp_path / name, hook_name=f"blocks.1.{hook}", d_in=d_in, normalize_activations="layer_norm"
            ),
        )
        lines += ["[[sources]]", f'set = "{name}"', f'path = "{tmp_path / name}"']
    (tmp_path / "server.toml").write_text("\n".join(lines))
    config = load_config(tmp_path / "server.toml", {}, {})
    bos, encoded, neurons = asyncio.run(ask(config, list(saes)))
    assert neurons is (text_only not in MIXTURES)
    texts = folder if text_only == shape else save(tmp_path / "text", build(text_only))
    if text_only != shape:  # TransformerLens' reference is a model of the same weights without a tower
        copy_language_model(tmp_path / "m", tmp_path / "text")
    bridge: Any = TransformerBridge.boot_transformers(str(texts), device="cpu")
    for place, ids in enumerate(IDS):
        run = ids if bos is None else [bos, *ids]
        with torch.inference_mode():
            names = [hook for hook, _, _ in saes.values()]
            _, cache = bridge.run_with_cache(torch.tensor([run]), names_filter=names, prepend_bos=False)
        first, end = encoded.text_offsets[place], encoded.text_offsets[place + 1]
        for source, (hook, cfg, tensors) in saes.items():
            x = cache[hook].reshape(len(run), -1)[-len(ids) :]
            expected = plain.saelens(cfg, tensors, x)[1]
            ours = encoded.sparse[source].toarray()[first:end]
            assert np.abs(ours - expected).max() <= 1e-4 * max(1.0, expected.max()), source


@pytest.mark.parametrize("shape", [*SHAPES])
def test_an_sae_that_does_not_fit_is_told_what_would(shape: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", build(shape))
    table = f'model = "{folder}"\ndevice = "{DEVICE}"\n[[sources]]\nset = "s"\npath = "sae"\n'
    config = tmp_path / "server.toml"
    write_saelens(tmp_path / "sae", hook_name="blocks.1.hook_resid_post", d_in=48)
    config.write_text(table)
    fits = r", as no hook point of this layer has" if shape in MIXTURES else r"; 48 wide are blocks\.1\.mlp\.hook_post$"
    with pytest.raises(ConfigError, match=rf"expected d_in = 32, that of blocks\.1\.hook_resid_post, got 48{fits}"):
        build_runner(load_config(config, {}, {}))
    config.write_text(table + 'hook = "blocks.1.hook_residual"\n')
    with pytest.raises(
        ConfigError, match=r"no hook point blocks\.1\.hook_residual; layer 1 has blocks\.1\.hook_resid_pre, [^;]*hook_z"
    ):
        build_runner(load_config(config, {}, {}))


async def ask(config: Config, sources: list[str]) -> tuple[int | None, saeserve.EncodeResult, bool]:
    """The model's BOS, the activations of the sources, and whether neurons are served."""
    server = front_end.FeatureServer(config)
    await server.start(lambda address: None)
    try:
        async with saeserve.AsyncClient(server.address) as client:
            await client.wait_ready(30)
            bos = (await client.server_info()).model.bos_id
            served = await client.list_sources()
            encoded = await client.encode(IDS, sources=sources)
            found = await client.search(IDS[1], sources=sources, limit=5)
            assert [hit.value for hit in found] == sorted((hit.value for hit in found), reverse=True)
        return bos, encoded, any(one.kind is saeserve.Kind.NEURON for one in served)
    finally:
        await server.stop(asyncio.Event())
        gc.unfreeze()  # a server freezes what it has loaded


def copy_language_model(multimodal: Path, to: Path) -> None:
    """Gives a text model the weights of a multimodal checkpoint's language model."""
    from transformers import Gemma3ForCausalLM, Gemma3ForConditionalGeneration

    whole = Gemma3ForConditionalGeneration.from_pretrained(multimodal)
    text = Gemma3ForCausalLM(whole.config.text_config)
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.save_pretrained(to)
