"""Where settings come from, and how strict each place is."""

from pathlib import Path

import pytest

from saeserve_server.config import load_config
from saeserve_server.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text)
    return path


def test_flags_go_before_variables_before_the_file_before_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "max_tokens = 5\nmax_inputs = 6\nthreads = 1\n")
    environment = {"SAESERVE_MAX_TOKENS": "7", "SAESERVE_MAX_INPUTS": "8", "SAESERVE_THREADS": ""}
    config = load_config(path, {"max_tokens": "9"}, environment)
    assert (config.max_tokens, config.max_inputs, config.threads, config.grace) == (9, 8, 1, 20.0)
    assert load_config(None, {}, {"SAESERVE_CONFIG": str(path)}).max_tokens == 5


@pytest.mark.parametrize(
    "line",
    ['threads = "4"', "max_text_bytes = true", 'neurons = "no"', "neurons = 1", "max_tokens = 12.5", "model = 3"],
)
def test_a_file_has_types_of_its_own(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=rf"server\.toml: {line.split()[0]}: "):
        load_config(write(tmp_path, line), {}, {})


def test_words_in_flags_and_variables_are_read() -> None:
    config = load_config(None, {"threads": "4", "neurons": "false"}, {"SAESERVE_DRAIN_DELAY": "0.5"})
    assert (config.threads, config.neurons, config.drain_delay) == (4, False, 0.5)
    for flags in ({"threads": "four"}, {"threads": "0"}, {"model": ""}, {"metrics_bind": "unix:/x"}, {"bind": "here"}):
        with pytest.raises(ConfigError, match="--" + next(iter(flags)).replace("_", "-")):
            load_config(None, flags, {})


def test_digits_are_an_id_in_flags_and_variables_and_a_token_in_the_file(tmp_path: Path) -> None:
    assert load_config(None, {"bos": "2"}, {}).bos == 2
    assert load_config(None, {}, {"SAESERVE_BOS": "0"}).bos == 0
    assert load_config(None, {"bos": "<s>"}, {}).bos == "<s>"
    assert load_config(write(tmp_path, "bos = 2"), {}, {}).bos == 2
    assert load_config(write(tmp_path, 'bos = "2"'), {}, {}).bos == "2"
    assert load_config(write(tmp_path, ""), {}, {}).bos == "auto"


@pytest.mark.parametrize("value", ["true", '""', "-1", "1.5", "[2]"])
def test_a_bos_that_can_be_no_token_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(
        ConfigError, match=r"server\.toml: bos: .*expected `auto`, `none`, a token's text, or its id"
    ) as error:
        load_config(write(tmp_path, f"bos = {value}"), {}, {})
    assert "\n" not in str(error.value)


def test_the_type_of_the_model_is_one_of_three() -> None:
    assert load_config(None, {"model_dtype": "auto"}, {}).model_dtype == "auto"
    with pytest.raises(ConfigError, match=r"--model-dtype: .*'float32', 'bfloat16' or 'auto', got 'float16'"):
        load_config(None, {"model_dtype": "float16"}, {})


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("cache_bytes", "0"),
        ("inner_cache_bytes", "0"),
        ("cache_ttl", "1"),
        ("queue_items", "1"),
        ("queue_gflop", "0.1"),
        ("queue_bytes", str(2**20)),
        ("max_batch", "1"),
        ("max_calls", "1"),
        ("max_streams", "1"),
        ("max_connections", "1"),
        ("batch_timeout", "0.1"),
    ],
)
def test_sizes_have_a_least_value(name: str, least: str) -> None:
    """Of the caches it is 0, which turns them off; of what lets requests in, whatever lets one in."""
    flag = "--" + name.replace("_", "-")
    assert getattr(load_config(None, {name: least}, {}), name) == float(least)
    for wrong in (str(float(least) - 1) if "." in least else str(int(least) - 1), "many"):
        with pytest.raises(ConfigError, match=flag):
            load_config(None, {name: wrong}, {})


def test_what_is_unset_follows_from_what_is_served() -> None:
    config = load_config(None, {}, {})
    assert (config.max_batch, config.queue_gflop, config.batch_tokens, config.cache_url) == (None, None, None, None)
    assert min(config.cache_bytes, config.inner_cache_bytes) > 0


def test_paths_in_the_file_refer_to_its_folder_and_others_to_the_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "sub", 'index = "idx"\nport_file = "port"\n')
    config = load_config(path, {}, {})
    assert config.resolve(config.index or "") == tmp_path / "sub" / "idx"
    assert config.port_file == tmp_path / "sub" / "port"
    config = load_config(path, {"index": "idx"}, {})
    assert config.resolve(config.index or "") == tmp_path / "idx"
    assert load_config(path, {"index": "none"}, {}).index == "none"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("[synthetic.x]\nlayers = 2\nd_model = 50\nheads = 4", "heads: 4 does not divide d_model"),
        ("[synthetic.x]\nlayers = 2\nd_model = 48\nheads = 4\nseed = -1", r"synthetic\.x\.seed"),
        ("[synthetic.x]\nlayers = 2\nd_modell = 48\nheads = 4", "did you mean d_model"),
        ('[[sources]]\nset = "a b"\nformat = "openai"\npath = "x"', r"sources\[0\]\.set"),
        ('[[sources]]\nset = "a"\nformat = "gguf"\npath = "x"', r"sources\[0\]\.format"),
        ("base = 3", "unknown key"),
        ("model = ", "not valid TOML"),
    ],
)
def test_errors_name_the_key_and_what_was_expected(tmp_path: Path, table: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(write(tmp_path, table), {}, {})
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_config(tmp_path / "absent.toml", {}, {})
