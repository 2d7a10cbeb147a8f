"""SAEs in the layouts of published releases, against what each family's own code gives (`tests/golden/README.md`)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import read
from saeserve_server.sources.formats import describe

GOLDEN = Path(__file__).parents[1] / "golden"
LISTS = ("published.json", "saelens.json")
CANNOT = ("abstopk", "matching_pursuit", "temporal")


def entries() -> list[dict[str, Any]]:
    return [entry for name in LISTS for entry in json.loads((GOLDEN / name).read_text())]


SERVED = [entry for entry in entries() if not any(name in entry["name"] for name in CANNOT)]
REFUSED = [entry for entry in entries() if entry not in SERVED]


def expected(entry: dict[str, Any]) -> np.ndarray:
    """[121, 96] activations by the family's own code."""
    path = entry.get("expected", f"{entry['path']}/reference.npz")
    acts: np.ndarray = np.load(GOLDEN / path)["acts"]
    return acts


@pytest.mark.parametrize("entry", SERVED, ids=lambda entry: entry["name"])
def test_every_family_gives_what_its_own_code_gives(entry: dict[str, Any]) -> None:
    x = np.load(GOLDEN / "inputs.npz")[entry["hook"].removeprefix("blocks.2.")]
    sae, _ = read(describe(GOLDEN / entry["path"]))
    acts = expected(entry)
    ours = sae.encode(torch.from_numpy(x)).numpy()
    assert np.abs(ours - acts).max() <= 1e-5 * acts.max()
    assert ((ours > 0) == (acts > 0)).all()


@pytest.mark.parametrize("entry", REFUSED, ids=lambda entry: entry["name"])
def test_what_cannot_be_served_is_refused_by_name(entry: dict[str, Any]) -> None:
    name = next(name for name in CANNOT if name in entry["name"])
    with pytest.raises(ConfigError, match=rf"cfg\.json: architecture: {name} cannot be served: "):
        describe(GOLDEN / entry["path"])
