"""Where settings come from, and how strict each place is."""

import errno
import re
import socket
from pathlib import Path

import pytest

from saeserve_server.addresses import check_address, collide
from saeserve_server.api.listen import obstacle
from saeserve_server.commands.settings import unknown_variables
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


TABLE = '[[sources]]\nset = "a"\npath = "x"\n'
WORDS = {
    # A file → what each of its lines says, `server.toml: ` left out
    '[sources]\nset = "a"': ["sources: expected tables, each headed [[sources]], got a table headed [sources]"],
    'sources = ["x"]': ["sources[0]: expected a table headed [[sources]], got 'x'"],
    "synthetic = 3": ["synthetic: expected tables, each headed [synthetic.NAME], got 3"],
    "[synthetic]\nlayers = 2": ["synthetic.layers: expected a table headed [synthetic.layers], got 2"],
    "seed = 3": ["seed: unknown key here: seed stands in a table headed [synthetic.NAME]"],
    TABLE + "max_tokens = 5": [
        "sources[0].max_tokens: unknown key here: max_tokens is a setting of the server, which stands above all tables"
    ],
    '[[sources]]\nset = "a"': [
        "sources[0].path: missing, expected a path, or a table from layers (0, 1, …) to paths",
    ],
    TABLE + "scaling_factor = {0 = 'x'}": [
        "sources[0].scaling_factor: expected a number over 0, or a table from layers (0, 1, …) to such numbers, got "
        "{'0': 'x'}"
    ],
    TABLE + 'dtype = "fp16"\naliases = [1]\nk = 0\nthreshold = nan\ncenter_input = "yes"': [
        "sources[0].aliases: expected a list of texts, got [1]",
        "sources[0].dtype: expected 'float32', 'bfloat16' or 'float16', got 'fp16'; did you mean float16?",
        "sources[0].k: expected a whole number of at least 1, got 0",
        "sources[0].threshold: expected a number, got nan",
        "sources[0].center_input: expected true or false, got 'yes'",
    ],
    'max_inputs = "many"\nneurons = 7\ngrace = inf\nmodel = 2026-01-01': [
        "model: expected a text that is not empty, got a date or time",
        "neurons: expected true or false, got 7",
        "max_inputs: expected a whole number from 1 to 10000, got 'many'",
        "grace: expected a number from 0 to 1000000, got inf",
    ],
    'device = "gpu"\nlog_level = "INFO"': [
        "device: expected auto, cpu, cuda or cuda:N, got 'gpu'",
        "log_level: expected 'debug', 'info', 'warning' or 'error', got 'INFO'; did you mean info?",
    ],
    'tls_cert = "a"': ["tls_key: set tls_cert and tls_key both or neither"],
    'model = "a\\u0000"': ["model: expected a text without the character of code 0, got 'a\\x00'"],
    'log_format = "\\u001b[31m\\n"': ["log_format: expected 'text' or 'json', got '\\x1b[31m\\n'"],
    '"a\\u001bb" = 1': ["a\\x1bb: unknown key; known: model, …"],
    "cache_url = 7": ["cache_url: expected a text that is not empty"],
    'port_file = "~nobody-of-that-name/p"': ["port_file: ~nobody-of-that-name/p: Could not determine home directory."],
}


@pytest.mark.parametrize("text", WORDS)
def test_what_is_expected_is_said_once(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, text), {}, {})
    lines = [re.sub(r"^.*server\.toml: ", "", line) for line in str(error.value).split("\n")]
    assert lines == WORDS[text]


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_bytes(b"\xef\xbb\xbfmax_inputs = 3")
    assert load_config(path, {}, {}).max_inputs == 3  # a mark that editors put there
    path.write_bytes(b"model = '\xe9'")
    with pytest.raises(ConfigError, match=r"not valid TOML, which is UTF-8: byte 0xe9 at 9$"):
        load_config(path, {}, {})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("50051", "127.0.0.1:50051"),
        ("::1:0", "[::1]:0"),
        ("::1", "[::1]:50051"),
        ("[::1]", "[::1]:50051"),
        ("localhost", "localhost:50051"),
        (":50051", "0.0.0.0:50051"),
        ("*:50051", "0.0.0.0:50051"),
        ("http://localhost:80/", "localhost:80"),
        ("127.0.0.1: 5", "127.0.0.1:5"),
        ("256.1.1.1:5", None),
        ("1.2.3.4:99999", None),
        ("1.2.3.4:٣", None),
        ("unix:", None),
        ("", None),
    ],
)
def test_an_address_that_is_none_is_told_what_was_meant(written: str, meant: str | None) -> None:
    with pytest.raises(ValueError, match=r"^expected .*, got '") as error:
        check_address(written, default_port=50051)
    assert str(error.value).partition("; did you mean ")[2] == (f"{meant}?" if meant else "")
    if meant:
        assert check_address(meant, default_port=50051) == meant


def test_addresses_that_cannot_both_be_had() -> None:
    assert collide("127.0.0.1:5", "127.0.0.1:5")
    assert collide("[::]:5", "127.0.0.1:5")
    assert not collide("127.0.0.1:0", "127.0.0.1:0")
    assert not collide("127.0.0.1:5", "127.0.0.2:5")
    assert not collide("unix:/a", "127.0.0.1:5")


def test_what_the_system_refuses_is_said_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a port that needs a permission, and of a machine without IPv6: this one may have both."""
    for number, address, says in (
        (errno.EACCES, "127.0.0.1:80", "port 80 needs a permission that this user has not; give one from 1024 on"),
        (errno.EAFNOSUPPORT, "[::1]:80", "this machine has no addresses of the kind of ::1"),
    ):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, "refused")

        monkeypatch.setattr(socket.socket, "bind", refuse)
        assert obstacle(address) == says


def test_the_socket_of_a_server_that_is_gone_is_no_obstacle(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
        one.listen()
        assert "another server listens" in str(obstacle(f"unix:{tmp_path}/s"))
    assert obstacle(f"unix:{tmp_path}/s") is None
    assert obstacle(f"unix://{tmp_path}/new") is None


def test_a_socket_in_the_file_refers_to_its_folder(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, 'bind = "unix:s"'), {}, {}).bind == f"unix:{tmp_path}/s"


def test_a_variable_that_is_no_setting_is_warned_of_and_others_are_not() -> None:
    known = ["MAX_INPUTS", "CONFIG", "PORT", "SERVICE_HOST", "PORT_50051_TCP_ADDR", "INDEX_SERVICE_PORT_GRPC"]
    assert unknown_variables({f"SAESERVE_{name}": "1" for name in known} | {"PATH": "x"}) == []
    assert unknown_variables({"SAESERVE_MAX_IMPUTS": "1"}) == [
        "SAESERVE_MAX_IMPUTS: no such setting, it changes nothing; did you mean SAESERVE_MAX_INPUTS?"
    ]


def test_every_variable_that_is_read_anywhere_is_known() -> None:
    root = Path(__file__).parent.parent
    files = [*root.glob("clients/python/src/**/*.py"), *root.glob("server/saeserve_server/**/*.py")]
    named = {name for file in files for name in re.findall(r"\bSAESERVE_[A-Z_]+\b(?!_)", file.read_text())}
    assert len(named) > 10
    assert unknown_variables(dict.fromkeys(named, "1")) == []
