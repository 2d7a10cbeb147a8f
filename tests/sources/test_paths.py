"""Where SAEs are looked for: patterns, tables, folders of many, the hub's cache."""

from pathlib import Path

import pytest
import torch

from saeserve_server.config import Config
from saeserve_server.errors import ConfigError
from saeserve_server.sources.formats import describe
from saeserve_server.sources.paths import locate
from tests.sources.formats import write_openai, write_saelens


def found(folder: Path, path: str, layers: list[int] | None = None) -> list[tuple[str, int | None]]:
    located = locate(Config(base=folder), path, layers, 12)
    return [(one.path.relative_to(folder).as_posix(), one.layer) for one in located]


def test_a_pattern_takes_the_whole_number_of_a_layer(tmp_path: Path) -> None:
    for layer in (1, 10, 11):
        write_saelens(tmp_path / f"layer_{layer}_width_16k" / f"average_l0_{layer}7")
    expected = [(f"layer_{layer}_width_16k/average_l0_{layer}7", layer) for layer in (1, 10, 11)]
    assert found(tmp_path, "layer_{layer}*/average_l0_*") == expected
    assert found(tmp_path, "layer_{layer}_width_?6k/average_l0_*", [10]) == expected[1:2]


def test_two_matches_for_a_layer_are_listed(tmp_path: Path) -> None:
    for l0 in (17, 105):
        write_saelens(tmp_path / f"layer_3/average_l0_{l0}")
    with pytest.raises(ConfigError, match=r"for layer 3, got 2: average_l0_17, average_l0_105; name"):
        found(tmp_path, "layer_{layer}/average_l0_*")


def test_brackets_in_names_are_no_pattern(tmp_path: Path) -> None:
    write_saelens(tmp_path / "run[1]" / "layer_2")
    assert found(tmp_path, "run[1]/layer_{layer}") == [("run[1]/layer_2", 2)]
    assert found(tmp_path, "run[1]/layer_*") == [("run[1]/layer_2", None)]


def test_a_folder_of_many_gives_each_in_the_order_of_numbers(tmp_path: Path) -> None:
    for layer in (0, 2, 10):
        write_saelens(tmp_path / f"saes/part/layer_{layer}", hook_name=f"blocks.{layer}.hook_mlp_out")
    write_openai(tmp_path / "saes/7.pt")
    (tmp_path / "saes/notes.txt").write_text("about them")
    assert found(tmp_path, "saes") == [
        *(("saes/7.pt", None), ("saes/part/layer_0", None), ("saes/part/layer_2", None), ("saes/part/layer_10", None)),
    ]


def test_a_folder_that_holds_itself_is_searched_to_an_end(tmp_path: Path) -> None:
    write_saelens(tmp_path / "saes/one")
    (tmp_path / "saes/again").symlink_to(tmp_path / "saes", target_is_directory=True)
    assert ("saes/one", None) in found(tmp_path, "saes")


def test_who_names_a_file_inside_the_folder_of_an_sae_means_the_folder(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae")
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert found(tmp_path, f"sae/{name}") == [("sae", None)]


def test_what_is_in_neither_place_is_refused_with_what_brings_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not in the local hub cache .*`saeserve-server fetch"):
        found(tmp_path, "hf://nobody/nothing-of-that-name/layer_{layer}")
    with pytest.raises(ConfigError, match=r"expected hf://OWNER/NAME/PATH"):
        found(tmp_path, "hf://nobody")


def test_an_empty_folder_and_one_of_other_things_say_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"/empty: no known layout of an SAE: it is empty\. Known are saelens: "):
        found(tmp_path, "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/readme.md").write_text("x")
    with pytest.raises(ConfigError, match=r"/other: no known layout of an SAE: it holds readme\.md\. Known are"):
        found(tmp_path, "other")


def test_tensors_that_are_nested_are_said_to_be(tmp_path: Path) -> None:
    torch.save({"model": {"encoder.weight": torch.zeros(3)}, "epoch": 3}, tmp_path / "checkpoint.pt")
    with pytest.raises(ConfigError, match=r"it holds model \(not a tensor; save what is in it alone\), epoch"):
        describe(tmp_path / "checkpoint.pt")
