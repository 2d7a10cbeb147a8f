"""Transcoders of circuit-tracer, saved, read and run by its own code.

python -m venv /tmp/circuit-tracer
/tmp/circuit-tracer/bin/pip install torch==2.13.0 circuit-tracer==0.5.0
/tmp/circuit-tracer/bin/python tests/golden/make/circuit_tracer_transcoders.py
"""

import shutil
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, load_relu_transcoder
from common import D_IN, D_SAE, GOLDEN, LAYER, Random, inputs, record

FOLDER = GOLDEN / "published" / "circuit-tracer"
LAYERS = 4


def configure(folder: Path, **values: str) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({"feature_output_hook": "hook_mlp_out", **values}))


@torch.no_grad()
def skip(name: str) -> None:
    """A transcoder with W_skip, which its latents do not depend on."""
    random = Random(name)
    made = SingleLayerTranscoder(D_IN, D_SAE, F.relu, LAYER, skip_connection=True, dtype=torch.float32)
    made.W_enc.data, made.b_enc.data = random.encoder(D_SAE, D_IN), random.b_enc()
    made.W_dec.data, made.b_dec.data = random.decoder(D_SAE, D_IN), random.b_dec()
    made.W_skip.data = random.encoder(D_IN, D_IN)
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"layer_{LAYER}.safetensors"
    made.to_safetensors(str(file))
    configure(folder, model_kind="transcoder_set", feature_input_hook="mlp.hook_in", model_name="google/gemma-2-2b")
    acts = load_relu_transcoder(str(file), LAYER).encode(inputs("mlp.hook_in"))
    record(f"circuit-tracer-{name}", file, "mlp.hook_in", acts, "W_skip")


@torch.no_grad()
def crossing(name: str) -> None:
    """One layer of a cross-layer transcoder with thresholds."""
    random = Random(name)
    made = CrossLayerTranscoder(LAYERS, D_SAE, D_IN, "jump_relu", lazy_decoder=False, dtype=torch.float32)
    made.W_enc.data, made.b_enc.data = random.encoder(LAYERS, D_SAE, D_IN), random.normal(LAYERS, D_SAE, mean=-0.3)
    made.b_dec.data = random.normal(LAYERS, D_IN)
    made.activation_function.threshold.data = random.threshold(LAYERS, 1, D_SAE)
    for decoder in made.W_dec:
        decoder.data = random.encoder(*decoder.shape)
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as whole:
        made.to_safetensors(whole)
        shutil.copy(Path(whole, f"W_enc_{LAYER}.safetensors"), folder)
        x = inputs("hook_resid_mid")
        acts = load_clt(whole, dtype=torch.float32).encode_layer(x, LAYER)
    configure(folder, model_kind="cross_layer_transcoder", feature_input_hook="hook_resid_mid")
    record(f"circuit-tracer-{name}", folder / f"W_enc_{LAYER}.safetensors", "hook_resid_mid", acts, "threshold_n")


skip("skip-relu")
crossing("clt-jumprelu")
