"""Where SAEs lie and which model they are for: what cannot be is refused by its place in the configuration, at once."""

import os
from pathlib import Path

import pytest
from safetensors.torch import save_file

from saeserve_server.commands.main import CONFIG_ERROR, main
from saeserve_server.config import Config
from saeserve_server.errors import ConfigError, shown
from saeserve_server.sources.paths import locate
from tests.sources.formats import write_saelens
from tests.sources.hostile import CLEAR, FAMILIES, Family, copy, refused
from tests.sources.test_registry import Hooks, load, sae_table

ESCAPES = "\x1b]0;owned\x07\x1b[2J\n"
LAYER_TWO = "blocks.2.attn.hook_z"


def line_of(folder: Path, text: str, hooks: Hooks | None = None) -> str:
    line = refused(lambda: load(folder, text, hooks or Hooks(d_model=64)))
    return line.removeprefix(f"{folder}/")


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_sae_of_a_model_of_another_width_names_the_hook_points_that_would_fit(
    family: Family, tmp_path: Path
) -> None:
    victim = copy(family, tmp_path)
    table = sae_table(path=family.path, hook=LAYER_TWO, format=family.form)
    beginning = f"server.toml: sources[0].path: {victim.path}: expected d_in = 16, that of {LAYER_TWO}, got 64"
    assert line_of(tmp_path, table, Hooks(d_model=16)) == f"{beginning}; 64 wide are blocks.2.mlp.hook_post"
    beginning = beginning.replace("d_in = 16", "d_in = 20")
    assert line_of(tmp_path, table, Hooks(d_model=20)) == f"{beginning}, as no hook point of this layer has"


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_layer_beyond_the_model_is_refused(family: Family, tmp_path: Path) -> None:
    victim = copy(family, tmp_path)
    for hook in ("blocks.3.hook_mlp_out", "blocks.99999999999999999999.hook_mlp_out"):
        line = line_of(tmp_path, sae_table(path=family.path, hook=hook))
        expected = "server.toml: sources[0].hook: expected a hook point of layers 0 to 2, that the model has, got "
        assert line == f"{expected}{hook} of {victim.path}"


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_hook_point_that_the_model_lacks_is_refused_with_those_that_it_has(family: Family, tmp_path: Path) -> None:
    copy(family, tmp_path)
    line = line_of(tmp_path, sae_table(path=family.path, hook="blocks.2.hook_resid_past"))
    assert line.startswith(
        "server.toml: sources[0].hook: the model has no hook point blocks.2.hook_resid_past; layer 2"
    )
    assert LAYER_TWO in line


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_two_saes_for_one_id_are_refused(family: Family, tmp_path: Path) -> None:
    copy(family, tmp_path)
    table = sae_table(path=family.path, hook=LAYER_TWO)
    line = line_of(tmp_path, table + table)
    assert line == (
        f"server.toml: sources[1]: 2-one is the id or an alias of a source of {tmp_path}/server.toml: sources[0] too"
    )


@pytest.mark.parametrize("layer", [-1, 3, 10**9])
def test_a_layer_that_files_say_and_the_model_lacks_is_refused(layer: int, tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae", d_in=64, hook_name=f"blocks.{layer}.hook_mlp_out")
    line = line_of(tmp_path, sae_table())
    assert line.startswith("server.toml: sources[0]")
    assert f"blocks.{layer}.hook_mlp_out" in line or "layers" in line


PATHS = {
    "nothing": ("nowhere", "does not exist"),
    "a name too long": ("x" * 5000, "File name too long"),
    "a zero byte": ("a\\u0000b", r"without the character of code 0, got 'a\x00b'"),
    "a zero byte in a pattern": ("a\\u0000*", r"without the character of code 0, got 'a\x00*'"),
    "a loop": ("loop", "loop: does not exist"),
    "a file that is a folder": ("file/sae", "file/sae: does not exist"),
    "a pipe": ("pipe", "expected a file, got a pipe, socket or device"),
    "a device": ("/dev/zero", "expected a file, got a pipe, socket or device"),
    "an empty folder": ("empty", "it is empty"),
    "escapes": ("\\u001b[2J\\n", r"\x1b[2J\n: does not exist"),
    "no hub name": ("hf://../../etc", "expected hf://OWNER/NAME/PATH, got 'hf://../../etc'"),
    "no hub": ("hf://nobody/nothing/x", "saeserve-server fetch"),
}


@pytest.mark.parametrize("kind", PATHS)
def test_paths_that_lead_nowhere_are_refused(kind: str, tmp_path: Path) -> None:
    path, message = PATHS[kind]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("hello")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    line = line_of(tmp_path, f'[[sources]]\nset = "one"\npath = "{path}"\n')
    assert line.startswith("server.toml: sources[0].path: ")
    assert message in line


def test_folders_that_link_to_each_other_are_walked_once(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
    for name in "abcdefgh":
        for other in "abcdefgh":
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
        (tmp_path / name / "up").symlink_to(tmp_path)
    assert "no known layout" in refused(lambda: locate(Config(), str(tmp_path), None, 3))
    write_saelens(tmp_path / "h" / "sae")
    assert len(locate(Config(), str(tmp_path), None, 3)) == 1


def test_names_of_files_reach_no_terminal_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / f"saes{ESCAPES}"
    folder.mkdir()
    (folder / f"one{ESCAPES}.txt").touch()
    line = line_of(tmp_path, '[[sources]]\nset = "one"\npath = "saes*"\n')
    assert r"saes\x1b]0;owned\x07\x1b[2J\n" in line
    assert r"one\x1b]0;owned\x07\x1b[2J\n.txt" in line


def test_a_line_that_is_too_long_keeps_its_place_and_its_end() -> None:
    line = str(ConfigError("server.toml: " + "x\n" * 10**6 + "; set k"))
    assert line.isprintable()
    assert len(line) <= 2000
    assert line.startswith("server.toml: x")
    assert line.endswith("; set k")
    assert str(ConfigError(line)) == line


def test_values_out_of_files_are_shown_short() -> None:
    endless: list[object] = []
    endless.append(endless)
    for value in ("x" * 10**7, endless, {"a": endless}, 10**5000, [10**5000], b"\x00" * 10**6, object()):
        assert len(shown(value)) < 200


@pytest.mark.skipif(not CLEAR.exists(), reason="the system does not tell the peak of a process's memory")
def test_what_these_tests_measure_sees_memory_that_was_taken_in_between() -> None:
    def take() -> None:
        assert len(b"\1" * (80 * 2**20))
        raise ConfigError("done")

    with pytest.raises(AssertionError, match="MiB"):
        refused(take)


def test_the_command_ends_with_one_line_and_status_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, tensors = write_saelens(tmp_path / "sae", hook_name="blocks.1.hook_resid_post", d_in=128)
    save_file(tensors | {f"W{ESCAPES}": tensors["b_enc"].clone()}, tmp_path / "sae" / "sae_weights.safetensors")
    config = tmp_path / "server.toml"
    config.write_text('[[sources]]\nset = "one"\npath = "sae"\n')
    assert main(["sources", "--config", str(config)]) == CONFIG_ERROR == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    beginning = f"saeserve-server: error: {config}: sources[0].path: {tmp_path}/sae/sae_weights.safetensors: W"
    assert err.startswith(beginning + r"\x1b]0;owned\x07\x1b[2J\n: a tensor [40] that this kind of SAE does not have")


def test_check_refuses_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / f"a{ESCAPES}"
    folder.mkdir()
    (folder / "0.pt").write_bytes(b"hello")
    assert main(["check", str(tmp_path)]) == 1
    assert main(["check", str(tmp_path / ("x" * 5000))]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err
    for line in err.removesuffix("\n").split("\n"):
        assert line.startswith("saeserve-server: error: ")
        assert line.isprintable()
