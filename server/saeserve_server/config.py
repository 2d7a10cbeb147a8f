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

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from saeserve_server.errors import ConfigError, nearest

ENVIRONMENT_PREFIX = "SAESERVE_"
SECRET = ("cache_url",)
"""Settings that may hold a password: never repeated."""
FILES = ("port_file", "tls_cert", "tls_key", "tls_client_ca", "auth_token_file")
"""Settings that name a file."""


Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]

FORMAT_NAMES = (
    "saelens",
    "sparsify",
    "gemma-scope",
    "dictionary-learning",
    "llama-scope",
    "qwen-scope",
    "hook-z",
    "circuit-tracer",
    "openai",
    "linear",
)
"""Layouts of SAEs on disk; `sources/formats/` has a module for each."""


class Section(BaseModel):
    """A table of the file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(Section):
    """One `[[sources]]` table: an SAE, or one for each layer. Everything but `set` and `path` corrects the files."""

    set: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$", description="name of the set; ids are LAYER-SET")
    path: str | Mapping[str, str] = Field(
        description="file or folder of an SAE, a folder of many, a pattern with `{layer}` or `*`, `hf://REPOSITORY/…` "
        "in the local hub cache, or a table from layers to any of these"
    )
    format: Literal[FORMAT_NAMES] | None = Field(  # type: ignore[valid-type]
        default=None, description="how it is stored; default: found out"
    )
    release: str | None = Field(
        default=None, min_length=1, description="published release whose facts its files leave out; default: by name"
    )
    layers: str | None = Field(default=None, description="which layers, `0-11` or `0,3,5`; default: all that exist")
    hook: str | None = Field(
        default=None,
        min_length=1,
        description="hook point, by its TransformerLens or Hugging Face name; `{layer}` stands for the layer",
    )
    aliases: tuple[str, ...] = Field(default=(), description="other ids, `{layer}` stands for the layer")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="type in which the weights are kept; computation is in float32"
    )
    bos: int | str | None = Field(
        default=None,
        description="what stands before the texts that this source reads: `none`, a token, or its id; default: the "
        "model's",
    )
    activation: Literal["relu", "jumprelu", "gated", "topk", "groupmax"] | None = Field(
        default=None, description="the nonlinearity"
    )
    k: int | None = Field(default=None, ge=1, description="latents that fire (topk), or groups (groupmax)")
    threshold: FiniteFloat | None = Field(default=None, description="one threshold for all latents (jumprelu)")
    normalization: Literal["none", "layer_norm", "constant_norm_rescale"] | None = Field(
        default=None, description="what is done to each row of inputs"
    )
    center_input: bool | None = Field(
        default=None, description="subtract the mean of each row: trained on a model with centred writing weights"
    )
    scaling_factor: Factor | Mapping[str, Factor] | None = Field(
        default=None, description="factor by which inputs are scaled, or a table from layers to factors"
    )
    subtract_bias: bool | None = Field(default=None, description="subtract the decoder's bias from inputs")
    fold_decoder_norm: bool | None = Field(
        default=None, description="multiply activations by the norm of the latent's decoder row, as Neuronpedia does"
    )

    @field_validator("bos", mode="before")
    @classmethod
    def _bos_is_a_token(cls, value: object) -> object:
        return None if value is None else check_bos(value)

    @field_validator("path", "scaling_factor")
    @classmethod
    def _keys_are_layers(cls, value: object) -> object:
        if isinstance(value, Mapping):
            bad = next((key for key in value if not key.isdecimal()), None)
            if bad is not None or not value:
                raise ValueError("expected a table from layers (0, 1, …)")
        return value


class SyntheticSettings(Section):
    """One `[synthetic.NAME]` table: a GPT-2-shaped model with random weights and random SAEs, for load tests."""

    layers: int = Field(ge=1, le=512, description="number of layers")
    d_model: int = Field(ge=8, description="width of the residual stream")
    heads: int = Field(ge=1, description="attention heads; they divide d_model")
    vocabulary: int = Field(default=50257, ge=8192, description="at least that of the demo's tokenizer, which it uses")
    context: int = Field(default=1024, ge=8, description="longest sequence, BOS included")
    latents: int = Field(default=32768, ge=1, description="latents of the SAE of each layer")
    hook: str = Field(default="blocks.{layer}.hook_mlp_out", description="hook point of the SAE of each layer")
    l0: float = Field(default=50.0, gt=0, description="mean number of latents that fire on a token")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of all weights")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> SyntheticSettings:
        if self.d_model % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide d_model, {self.d_model}")
        return self


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
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu or cuda[:n]")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="type in which SAE weights are kept; computation and ranking are in float32"
    )
    neurons: bool = Field(default=True, description="serve the MLP neurons of every layer")
    index: str | None = Field(
        default=None,
        min_length=1,
        description="folder of the index of top activations; `none` for no index; default: the demo's",
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
        default=None, ge=1, le=2**24, description="tokens that one batch holds; default: 512 on a CPU, 8192 on a GPU"
    )
    max_batch: int | None = Field(
        default=None, ge=1, le=2**16, description="most requests in one batch; default: as many as its tokens hold"
    )
    queue_items: int = Field(default=1024, ge=1, le=2**20, description="most texts waiting for the model")
    queue_gflop: float | None = Field(
        default=None,
        gt=0,
        description="most computation waiting or running, in GFLOP; default: 1000 on a CPU, 200000 on a GPU",
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
        description="most memory of answers that have not left yet, those of streams included",
    )
    stall_timeout: float = Field(
        default=60.0,
        gt=0,
        description="seconds after which a call whose caller neither sends its request nor reads its answer is ended",
    )
    max_calls: int = Field(
        default=1024, ge=1, le=2**20, description="most calls at a time, each until its answer has left"
    )
    max_streams: int = Field(default=64, ge=1, le=2**16, description="most EncodeStreams at a time")
    max_connections: int = Field(default=10_000, ge=1, le=2**20, description="most connections at a time")
    max_concurrent_streams: int = Field(
        default=100, ge=1, le=2**20, description="most calls at a time on one connection; others wait at the caller's"
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
    tls_cert: Path | None = Field(default=None, description="PEM file of the server's certificate chain, for TLS")
    tls_key: Path | None = Field(default=None, validate_default=True, description="PEM file of its private key")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM file of the authorities whose client certificates are required (mutual TLS)"
    )
    auth_token_file: Path | None = Field(
        default=None, description="file with the bearer token that every call must carry; read again when it changes"
    )
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads of the model; default: all cores")
    start_timeout: float = Field(default=600.0, gt=0, description="seconds within which the worker must be ready")
    batch_timeout: float = Field(
        default=600.0, gt=0, description="seconds after which a worker that has not answered a batch is replaced"
    )
    drain_delay: float = Field(default=2.0, ge=0, description="seconds between SIGTERM and the end of accepting")
    grace: float = Field(default=20.0, ge=0, description="seconds that accepted calls then have to finish")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")
    log_texts: bool = Field(default=False, description="log texts and what callers named, which are left out otherwise")
    log_format: Literal["text", "json"] = Field(default="text", description="how log lines are written")

    @field_validator("bos", mode="before")
    @classmethod
    def _bos_is_a_token(cls, value: object) -> object:
        return check_bos(value)

    @field_validator("bind")
    @classmethod
    def _bind_is_address(cls, value: str) -> str:
        return check_address(value)

    @field_validator("tls_key")
    @classmethod
    def _key_goes_with_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_cert") is None):
            raise ValueError("tls_cert and tls_key are set both or neither")
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
        return value if value == "none" else check_address(value, sockets=False)


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


BUILT_IN_SHAPES = {
    "gpt2-small": SyntheticSettings(layers=12, d_model=768, heads=12),
    "tiny": SyntheticSettings(layers=2, d_model=32, heads=2, vocabulary=8192, context=128, latents=256, l0=8.0),
}


def check_bos(value: object) -> object:
    """`auto`, `none`, a token's text or an id, unchanged. Raises ValueError for anything else."""
    is_id = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not is_id and not (isinstance(value, str) and value):
        raise ValueError("expected `auto`, `none`, a token's text, or its id as a number")
    return value


def check_address(value: str, *, sockets: bool = True) -> str:
    """`HOST:PORT`, `[V6]:PORT` or, with `sockets`, `unix:PATH`, unchanged. Raises ValueError for anything else."""
    if sockets and value.startswith("unix:"):
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT, got {value!r}")
    return value


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
        for key in FILES:
            if isinstance(values.get(key), str):
                values[key] = path.absolute().parent / Path(values[key]).expanduser()
    for name in ServerSettings.model_fields:
        variable = ENVIRONMENT_PREFIX + name.upper()
        given, place = environment.get(variable) or None, variable  # empty means unset
        if flags.get(name) is not None:
            given, place = flags[name], "--" + name.replace("_", "-")
        if given is not None:
            values[name], origin[name] = _from_here(name, given), place
    values["base"] = path.absolute().parent if path else Path.cwd()
    values["origin"] = str(path) if path else "the settings"
    return _validate(values, origin)


def _validate(values: Mapping[str, Any], origin: Mapping[str, str], *, strict: bool = False) -> Config:
    try:
        return Config.model_validate(values, strict=strict)
    except ValidationError as error:
        raise ConfigError(*_explain(error, origin)) from None


def _from_here(name: str, value: str) -> str | int:
    """Paths in flags and variables refer to the current folder, those in the file to the file's; digits are an id."""
    if name == "bos" and value.isascii() and value.isdigit():
        return int(value)
    names_a_path = (name == "index" and value != "none") or (name == "model" and value and Path(value).is_dir())
    return str(Path(value).absolute()) if names_a_path else value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = _frozen(tomllib.loads(path.read_text(encoding="utf-8")))
        return content
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _frozen(value: Any) -> Any:
    """The same with tuples for lists, as the settings have them."""
    if isinstance(value, dict):
        return {key: _frozen(one) for key, one in value.items()}
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def _explain(error: ValidationError, origin: Mapping[str, str]) -> list[str]:
    lines = []
    for problem in error.errors():
        key = _key(problem["loc"])
        place = origin.get(str(problem["loc"][0]), "configuration")
        if problem["type"] == "extra_forbidden":
            lines.append(f"{place}: {key}: unknown key{nearest(str(problem['loc'][-1]), _known(problem['loc']), 1)}")
        elif problem["type"] == "missing":
            lines.append(f"{place}: {key}: missing")
        else:
            got = "" if key in SECRET else f", got {problem['input']!r}"
            lines.append(f"{place}: {key}: {problem['msg']}{got}")
    return lines


def _key(location: tuple[int | str, ...]) -> str:
    key = ""
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def _known(location: tuple[int | str, ...]) -> list[str]:
    if location[0] == "sources" and len(location) > 1:
        return list(SourceSettings.model_fields)
    if location[0] == "synthetic" and len(location) > 1:
        return list(SyntheticSettings.model_fields)
    return [*ServerSettings.model_fields, "sources", "synthetic"]


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/saeserve`, by default `~/.cache/saeserve`. Raises RuntimeError where there is no home folder."""
    given = os.environ.get("XDG_CACHE_HOME")
    base = Path(given) if given and Path(given).is_absolute() else Path("~/.cache").expanduser()
    return base / "saeserve"
