"""Settings: one TOML file; every setting of a server is also a flag and an environment variable.

Precedence: flag, then `SAESERVE_<NAME>`, then the file, then the default. Sources and synthetic shapes, which are
tables, stand in the file only. A key that is not known is an error, so that a typo never passes silently.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from saeserve_server.addresses import UNIX, check_address, socket_path
from saeserve_server.complaints import Expected, explain
from saeserve_server.errors import ConfigError
from saeserve_server.tables import BUILT_IN_SHAPES, Section, SourceSettings, SyntheticSettings, check_bos

ENVIRONMENT_PREFIX = "SAESERVE_"
SECRET = ("cache_url",)
"""Settings that may hold a password: never repeated."""
FILES = ("imports", "port_file", "cache_key_file", "tls_cert", "tls_key", "tls_client_ca", "auth_token_file")
"""Settings that name a file, or a folder."""
GRPC_PORT, METRICS_PORT = 50051, 9464
MOST_SECONDS = 10**6
"""Longest of times: more than the system's clocks take."""


class ServerSettings(Section):
    """What `saeserve-server start` takes."""

    model: str = Field(
        default="demo", min_length=1, description="`demo`, `synthetic:NAME`, a Hugging Face folder, or a hub name"
    )
    model_name: str | None = Field(
        default=None, description="name under which it is served; default: made from `model`"
    )
    bos: int | str = Field(
        default="auto",
        description="what stands before every text: `auto` (as the model was made), `none`, a token, or its id",
    )
    model_dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32",
        description="type in which the model runs; `auto`: that of its files; SAE maths and ranking are in float32",
    )
    device: Annotated[str, Expected("auto, cpu, cuda or cuda:N")] = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu or cuda[:n]"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="type in which SAE weights are kept; computation and ranking are in float32"
    )
    neurons: bool = Field(default=True, description="serve the MLP neurons of every layer")
    index: str | None = Field(
        default=None,
        min_length=1,
        description="folder of the index of top activations; `none` for no index; default: the demo's",
    )
    imports: Path | None = Field(
        default=None,
        description="folder of a store of imported records and explanations, made by `records import`; default: none",
    )
    bind: str = Field(default="127.0.0.1:50051", description="address of the gRPC service")
    metrics_bind: str = Field(default="127.0.0.1:9464", description="address of the Prometheus metrics, or none")
    port_file: Path | None = Field(default=None, description="file into which the bound address is written")
    max_text_bytes: int = Field(
        default=64 * 1024, ge=1, le=2**24, description="largest text, refused before tokenising"
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=2**20,
        description="longest text in tokens, without BOS; default: the model's context, at most 2048",
    )
    max_inputs: int = Field(default=64, ge=1, le=10_000, description="most texts in one Encode")
    max_answer_bytes: int = Field(
        default=4 * 1024 * 1024 - 64 * 1024, ge=65536, le=2**30, description="largest unary answer"
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=1,
        le=2**24,
        description="tokens that one batch holds; default: 512 on a CPU, on a GPU up to 8192, measured",
    )
    max_batch: int | None = Field(
        default=None, ge=1, le=2**16, description="most requests in one batch; default: as many as its tokens hold"
    )
    queue_items: int | None = Field(
        default=None,
        ge=1,
        le=2**20,
        description="most texts waiting for the model; default: 1024, on a GPU as many as it does in 10 s",
    )
    queue_gflop: float | None = Field(
        default=None,
        gt=0,
        description="most computation waiting or running, in GFLOP; default: 1000, on a GPU what it does in 10 s",
    )
    queue_bytes: int = Field(
        default=512 * 1024 * 1024, ge=2**20, le=2**40, description="most memory that answers not yet given may take"
    )
    front_seconds: float = Field(
        default=10.0, gt=0, le=3600, description="most work of the front end that waits, in seconds of a core"
    )
    answer_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=2**20,
        le=2**40,
        validate_default=True,
        description="most memory of answers that have not left yet, those of streams included; at least four times "
        "max_answer_bytes",
    )
    stall_timeout: float = Field(
        default=60.0,
        gt=0,
        le=MOST_SECONDS,
        description="seconds after which a call whose caller neither sends its request nor reads its answer is ended",
    )
    max_calls: int = Field(
        default=1024, ge=1, le=2**20, description="most calls at a time, each until its answer has left"
    )
    max_streams: int = Field(default=64, ge=1, le=2**16, description="most EncodeStreams at a time")
    max_connections: int = Field(default=10_000, ge=1, le=2**20, description="most connections at a time")
    max_concurrent_streams: int = Field(
        default=128, ge=1, le=2**20, description="most calls at a time on one connection; others wait at the caller's"
    )
    cache_bytes: int = Field(
        default=64 * 1024 * 1024, ge=0, le=2**40, description="memory of the cache of answers; 0: nothing is kept"
    )
    inner_cache_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=0,
        le=2**40,
        description="memory of the activations kept for other questions about the same text; 0: none are kept",
    )
    cache_url: str | None = Field(
        default=None,
        min_length=1,
        description="Redis or Valkey that replicas share: redis://, rediss:// or unix://; default: none",
    )
    cache_ttl: int = Field(default=7 * 24 * 3600, ge=1, le=10**9, description="seconds that an answer is kept in Redis")
    cache_key_file: Path | None = Field(
        default=None,
        description="file with the key that signs what is kept in Redis; read again when it changes; default: unsigned",
    )
    tls_cert: Path | None = Field(default=None, description="PEM file of the server's certificate chain, for TLS")
    tls_key: Path | None = Field(default=None, validate_default=True, description="PEM file of its private key")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM file of the authorities whose client certificates are required (mutual TLS)"
    )
    auth_token_file: Path | None = Field(
        default=None, description="file with the bearer token that every call must carry; read again when it changes"
    )
    kernel: Literal["auto", "plain", "onednn", "onnxruntime", "fbgemm-int8", "onnxruntime-int8", "cuda-bf16"] = Field(
        default="auto", description="how latents are computed; auto: whatever is fastest here, which is measured once"
    )
    deterministic: bool = Field(
        default=False, description="give answers that are the same to the bit whatever else is computed beside them"
    )
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads of the model; default: all cores")
    start_timeout: float = Field(
        default=600.0, gt=0, le=MOST_SECONDS, description="seconds within which the worker must be ready"
    )
    batch_timeout: float = Field(
        default=600.0,
        gt=0,
        le=MOST_SECONDS,
        description="seconds after which a worker that has not answered a batch is replaced",
    )
    drain_delay: float = Field(
        default=2.0, ge=0, le=MOST_SECONDS, description="seconds between SIGTERM and the end of accepting"
    )
    grace: float = Field(
        default=20.0, ge=0, le=MOST_SECONDS, description="seconds that accepted calls then have to finish"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")
    log_texts: bool = Field(default=False, description="log texts and what callers named, which are left out otherwise")
    log_format: Literal["text", "json"] = Field(default="text", description="how log lines are written")

    @field_validator("bos", mode="before")
    @classmethod
    def _bos_is_a_token(cls, value: object) -> object:
        return check_bos(value)

    @field_validator("deterministic")
    @classmethod
    def _kernels_go_by_row(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("kernel") not in ("auto", "fbgemm-int8", "onnxruntime-int8"):
            raise ValueError("it takes kernel auto, fbgemm-int8 or onnxruntime-int8, which compute each row by itself")
        return value

    @field_validator("bind")
    @classmethod
    def _bind_is_address(cls, value: str) -> str:
        return check_address(value, default_port=GRPC_PORT)

    @field_validator("cache_key_file")
    @classmethod
    def _cache_key_needs_redis(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and "cache_url" in info.data and info.data["cache_url"] is None:
            raise ValueError("it takes cache_url too")
        return value

    @field_validator("tls_key")
    @classmethod
    def _key_goes_with_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_cert") is None):
            raise ValueError("set tls_cert and tls_key both or neither")
        return value

    @field_validator("answer_bytes")
    @classmethod
    def _several_answers_fit(cls, value: int, info: ValidationInfo) -> int:
        largest = info.data.get("max_answer_bytes", 0)
        if value < 4 * largest:
            raise ValueError(f"expected at least {4 * largest}, four times max_answer_bytes")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _client_ca_needs_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_key") is None:
            raise ValueError("it takes tls_cert and tls_key too")
        return value

    @field_validator("metrics_bind")
    @classmethod
    def _metrics_bind_is_address(cls, value: str) -> str:
        return value if value == "none" else check_address(value, default_port=METRICS_PORT, sockets=False)


class Config(ServerSettings):
    """The whole file."""

    sources: tuple[SourceSettings, ...] = ()
    synthetic: Mapping[str, SyntheticSettings] = Field(default_factory=dict, validate_default=True)
    base: Path = Field(default_factory=Path.cwd, exclude=True, description="folder to which relative paths refer")
    origin: str = Field(default="defaults", exclude=True, description="the file's name, for messages")

    @field_validator("synthetic")
    @classmethod
    def _with_built_in_shapes(cls, value: Mapping[str, SyntheticSettings]) -> Mapping[str, SyntheticSettings]:
        return {**BUILT_IN_SHAPES, **value}

    def resolve(self, path: str) -> Path:
        """A path of the file, relative to the file's folder."""
        try:
            return (self.base / Path(path).expanduser()).absolute()
        except RuntimeError as error:
            raise ConfigError(f"{self.origin}: {path}: {error}") from error


def load_config(
    path: Path | None,
    flags: Mapping[str, str | None],
    environment: Mapping[str, str] = os.environ,
) -> Config:
    """The configuration from file, environment and flags (a flag that was not given is None).

    Raises ConfigError, which names the file, the key and what was expected.
    """
    if path is None and environment.get(f"{ENVIRONMENT_PREFIX}CONFIG"):
        path = Path(environment[f"{ENVIRONMENT_PREFIX}CONFIG"])
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if path is not None:
        values = _read_toml(path)
        origin = dict.fromkeys(values, str(path))
        for key in ("base", "origin"):
            if key in values:
                raise ConfigError(f"{path}: {key}: unknown key")
        # A file has types of its own: "4" and true are no numbers in it. It has none for paths.
        _validate({key: value for key, value in values.items() if key not in FILES}, origin, strict=True)
        for key in (*FILES, "bind"):
            if isinstance(values.get(key), str):
                values[key] = _beside(path, key, values[key])
    for name in ServerSettings.model_fields:
        variable = ENVIRONMENT_PREFIX + name.upper()
        given, place = environment.get(variable) or None, variable  # empty means unset
        if flags.get(name) is not None:
            given, place = flags[name], "--" + name.replace("_", "-")
        if given is not None:
            values[name], origin[name] = _from_here(name, given, place), place
    values["base"] = path.absolute().parent if path else Path.cwd()
    values["origin"] = str(path) if path else "the settings"
    return _validate(values, origin)


def _validate(values: Mapping[str, Any], origin: Mapping[str, str], *, strict: bool = False) -> Config:
    try:
        return Config.model_validate(values, strict=strict)
    except ValidationError as error:
        raise ConfigError(*explain(error, Config, values, origin, SECRET)) from None


def _beside(file: Path, key: str, value: str) -> Path | str:
    """A path of the file, relative to its folder; of an address the path of a socket."""
    if key != "bind":
        return Path(value) if value == "-" else file.absolute().parent / _expanded(value, f"{file}: {key}")
    if not value.startswith(UNIX) or not socket_path(value).name:
        return value
    return f"{UNIX}{file.absolute().parent / socket_path(value)}"


def _from_here(name: str, value: str, place: str) -> str | int:
    """Paths in flags and variables refer to the current folder, those in the file to the file's; digits are an id."""
    if name == "bos" and value.isascii() and value.isdigit():
        return int(value)
    if name in FILES:
        return value if value == "-" else str(_expanded(value, place))
    if name not in ("index", "model") or not value:
        return value
    path = _expanded(value, place)
    try:
        names_a_path = path.is_dir() if name == "model" else value != "none"
    except OSError as error:
        raise ConfigError(f"{place}: {name}: {value}: {error.strerror}") from error
    return str(path.absolute()) if names_a_path else value


def _expanded(path: str, place: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{place}: {path}: {error}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = _frozen(tomllib.loads(path.read_text(encoding="utf-8-sig")))
        return content
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}, expected a TOML file") from error
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise ConfigError(f"{path}: not valid TOML, which is UTF-8: {wrong}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _frozen(value: Any) -> Any:
    """The same with tuples for lists, as the settings have them."""
    if isinstance(value, dict):
        return {key: _frozen(one) for key, one in value.items()}
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/saeserve`, by default `~/.cache/saeserve`. Raises RuntimeError where there is no home folder."""
    given = os.environ.get("XDG_CACHE_HOME")
    base = Path(given) if given and Path(given).is_absolute() else Path("~/.cache").expanduser()
    return base / "saeserve"
