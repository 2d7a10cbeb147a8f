"""Every golden SAE through the whole front end: read from its files, run on the golden model, asked for over gRPC.

The worker is a thread, see tests/inside.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import saeserve
from tests.inside import served_inside
from tests.sources.test_golden import GOLDEN, SERVED, expected

IDS = json.loads((GOLDEN / "ids.json").read_text())


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[saeserve.Client]:
    folder = tmp_path_factory.mktemp("golden")
    lines = [f'model = "{GOLDEN / "model"}"', "neurons = false", 'index = "none"']
    for entry in SERVED:
        lines += ["[[sources]]", f'set = "{set_name(entry)}"', f'path = "{GOLDEN / entry["path"]}"']
        lines += [f'hook = "{entry["hook"]}"']  # the tiny model is none of those that the releases are for
        lines += [f"{key} = {json.dumps(value)}" for key, value in entry.get("settings", {}).items()]
    config = Path(folder, "server.toml")
    config.write_text("\n".join(lines))
    with served_inside(config) as target, saeserve.Client(target) as client:
        yield client


def set_name(entry: dict[str, str]) -> str:
    return "s-" + entry["name"].lower()


def test_every_golden_sae_is_served_as_its_own_code_gives_it(client: saeserve.Client) -> None:
    sources = [f"2-{set_name(entry)}" for entry in SERVED]
    result = client.encode([IDS], sources=sources, include_bos=True)
    for entry, source in zip(SERVED, sources, strict=True):
        acts = expected(entry)
        ours = result.sparse[source].toarray()
        assert np.abs(ours - acts).max() <= 1e-5 * acts.max(), entry["name"]


def test_vectors_are_given_where_files_hold_them_and_refused_where_not(client: saeserve.Client) -> None:
    """A transcoder writes elsewhere than it reads; of one that crosses layers the decoders are not read."""
    refused = []
    for source in client.list_sources():
        feature = f"{source.name}:1"
        read = client.vectors(feature, side="encoder").encoder
        assert (read.hook_name, len(read.values)) == (source.hook_name, source.d_in)
        if client.get_feature(feature).decoder_norm is None or "cross_layer" in source.architecture:
            refused.append(source)
            continue
        written = client.vectors(feature).decoder
        scale = re.search(r"times ([\d.]+)", source.normalization)  # its norm is that of what is written, unscaled
        norm = client.get_feature(feature).decoder_norm * (float(scale[1]) if scale else 1)
        assert np.linalg.norm(written.values) == pytest.approx(norm, rel=1e-4)
        writes = "blocks.2.hook_mlp_out" if "transcoder" in source.architecture else source.hook_name
        assert written.hook_name == writes
    assert len(refused) > 1
    for source in refused:
        for side in ("decoder", "both"):
            with pytest.raises(saeserve.FailedPrecondition, match=f"{source.name}:1 has no decoder direction: ") as no:
                client.vectors(f"{source.name}:1", side=side)
            assert no.value.reason == "NO_DIRECTION"
            assert no.value.message.endswith("its encoder can be asked for alone") == (side == "both")


def test_an_encoder_is_as_it_is_applied_also_where_it_is_scaled_by_the_decoders_norm(client: saeserve.Client) -> None:
    """A latent and the product with its encoder differ by a bias."""
    scaled = [entry for entry in SERVED if "rescaleTrue-none" in entry["name"]]
    assert scaled
    for entry in scaled:
        source = f"2-{set_name(entry)}"
        latent = int((expected(entry) > 0).sum(axis=0).argmax())
        read = client.vectors((source, latent), side="encoder").encoder
        rows = client.encode([IDS], features=[(source, latent)], projections=[(read.hook_name, read.values)]).dense
        fires, product = rows[rows[:, 0] > 0].T
        assert len(fires) > 2
        assert np.ptp(fires) > 1e-2
        assert np.ptp(fires - product) < 1e-4 * max(1.0, fires.max()), entry["name"]


def test_a_source_of_another_model_says_so(client: saeserve.Client) -> None:
    warnings = {source.id: source.warnings for source in client.list_sources()}
    assert any("trained on google/gemma-3-1b-pt" in one for one in warnings["2-s-gemmascope2-resid_post"])
    assert any("trained on texts without BOS" in one for one in warnings["2-s-openai-v5"])
