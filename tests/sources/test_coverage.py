"""The program that counts which SAEs of SAELens' directory can be served, on a directory of three releases."""

import importlib.util
import re
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml

PROGRAM = Path(__file__).parents[2] / "server" / "tools" / "coverage.py"
SERVED = {
    "gemma-scope-2b-pt-res": {
        "conversion_func": "gemma_2",
        "repo_id": "google/gemma-scope-2b-pt-res",
        "model": "gemma-2-2b",
        "saes": [{"id": f"layer_{n}", "path": f"layer_{n}/width_16k/average_l0_82"} for n in range(3)],
    },
    "somebody-s": {
        "repo_id": "somebody/saes",
        "model": "some-model",
        "saes": [{"id": "blocks.3.hook_resid_post", "path": "three"}],
    },
}
TEMPORAL = {
    "temporal-sae": {
        "conversion_func": "temporal",
        "repo_id": "canrager/temporalSAEs",
        "model": "gemma-2-2b",
        "saes": [{"id": "blocks.12.hook_resid_post", "path": "gemma-2-2B/layer_12/temporal"}],
    }
}


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # which the program changes
    spec = importlib.util.spec_from_file_location("coverage_program", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_that_is_served_counts_and_what_no_test_reads_is_listed_apart(
    coverage: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pretrained_saes.yaml").write_text(yaml.safe_dump(SERVED))
    assert coverage.main([str(tmp_path / "pretrained_saes.yaml")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\nall +4 +4 +100\.00%\n\nnot served: 0\n", out)
    assert out.endswith("offers: 1\n     1  no test loads some-model: somebody-s\n")


def test_below_98_of_100_it_fails_and_says_what_is_not_served_and_why(
    coverage: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "sae_lens.whl", "w") as wheel:
        wheel.writestr("sae_lens/pretrained_saes.yaml", yaml.safe_dump(SERVED | TEMPORAL))
    assert coverage.main([str(tmp_path / "sae_lens.whl")]) == 1
    out = capsys.readouterr().out
    assert "not served: 1\n     1  temporal-sae: PATH: a temporal SAE cannot be served: " in out


def test_a_layout_that_is_new_in_the_directory_does_not_count(
    coverage: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = SERVED["somebody-s"] | {"conversion_func": "from_next_year"}
    (tmp_path / "pretrained_saes.yaml").write_text(yaml.safe_dump({"next": release}))
    assert coverage.main([str(tmp_path / "pretrained_saes.yaml")]) == 1
    assert "     1  next: which files from_next_year has is not known\n        three\n" in capsys.readouterr().out


def test_what_differs_from_what_saelens_serves_does_not_count(
    coverage: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from saeserve_server.sources.formats import gemma_scope

    monkeypatch.setitem(gemma_scope.HOOKS_ONE, "res", "hook_resid_pre")
    (tmp_path / "pretrained_saes.yaml").write_text(yaml.safe_dump(SERVED))
    assert coverage.main([str(tmp_path / "pretrained_saes.yaml")]) == 1
    assert (
        "hook_name 'blocks.{layer}.hook_resid_pre', expected 'blocks.{layer}.hook_resid_post'"
        in capsys.readouterr().out
    )
