"""SAEs in the layouts of published releases, against what each family's own code gives (`tests/golden/README.md`)."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import Facts
from saeserve_server.sources.formats import describe
from saeserve_server.sources.reading import read
from saeserve_server.sources.releases import with_release
from saeserve_server.sources.sae import Sae, fold_decoder_norm

GOLDEN = Path(__file__).parents[1] / "golden"
LISTS = ("published.json", "saelens.json", "siblings.json")
CANNOT = ("abstopk", "matching_pursuit", "temporal")


def entries() -> list[dict[str, Any]]:
    return [entry for name in LISTS for entry in json.loads((GOLDEN / name).read_text())]


SERVED = [entry for entry in entries() if not any(name in entry["name"] for name in CANNOT)]
REFUSED = [entry for entry in entries() if entry not in SERVED]


def expected(entry: dict[str, Any]) -> np.ndarray:
    """[121, 96] activations by the family's own code, as they are served: values below 0 are 0."""
    path = entry.get("expected", f"{entry['path']}/reference.npz")
    acts: np.ndarray = np.load(GOLDEN / path)["acts"]
    assert (acts >= 0).all() or "identity" in entry["name"]
    acts = np.maximum(acts, 0)
    equal = entry.get("equal", [])
    acts[:, equal] = -np.sort(-acts[:, equal])  # torch.topk leaves open which of equal values it keeps: we the first
    return acts


def load(entry: dict[str, Any]) -> Sae:
    """The SAE as the entry's settings have it."""
    settings = dict(entry.get("settings", {}))
    path = GOLDEN / entry["path"]
    description = with_release(describe(path), path, settings.pop("release", None))
    description = Facts(**settings).over(description)
    sae, _ = read(description)
    return fold_decoder_norm(sae) if description.fold_decoder_norm else sae


@pytest.mark.parametrize("entry", SERVED, ids=lambda entry: entry["name"])
def test_every_family_gives_what_its_own_code_gives(entry: dict[str, Any]) -> None:
    x = np.load(GOLDEN / "inputs.npz")[entry["hook"].removeprefix("blocks.2.")]
    acts = expected(entry)
    ours = load(entry).encode(torch.from_numpy(x)).numpy()
    assert np.abs(ours - acts).max() <= 1e-5 * acts.max()
    assert ((ours > 0) == (acts > 0)).all()


@pytest.mark.parametrize("entry", REFUSED, ids=lambda entry: entry["name"])
def test_what_cannot_be_served_is_refused_by_name(entry: dict[str, Any]) -> None:
    name = next(name for name in CANNOT if name in entry["name"])
    with pytest.raises(ConfigError, match=rf"cfg\.json: architecture: {name} cannot be served: "):
        describe(GOLDEN / entry["path"])


def test_an_autoencoder_is_told_by_its_tensors_where_the_trainer_wrote_another_name(tmp_path: Path) -> None:
    (entry,) = [one for one in SERVED if one["name"] == "dictlearn-AutoEncoderNew"]
    folder = shutil.copytree(GOLDEN / entry["path"], tmp_path / "trainer_0")
    config = json.loads((folder / "config.json").read_text())
    config["trainer"]["dict_class"] = "AutoEncoder"
    (folder / "config.json").write_text(json.dumps(config))
    assert describe(folder).layout == describe(GOLDEN / entry["path"]).layout
    assert not describe(folder).subtract_bias
