"""The nouns of the service as frozen values: tokens, features, sources, statistics, and what is known of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from saeserve.answers.activations import Floats
from saeserve.answers.names import FeatureName
from saeserve.answers.seen import Brief, Histogram, Shown


class Kind(StrEnum):
    """What a source's features are."""

    LATENT = "latent"
    NEURON = "neuron"
    UNKNOWN = "unknown"
    """A kind that this version of the client does not know."""


class DensityOrigin(StrEnum):
    """Where a density, or a largest activation, was measured."""

    INDEX = "index"
    FILE = "file"
    IMPORT = "import"
    """Imported with somebody else's records."""
    UNKNOWN = "unknown"


class Match(StrEnum):
    """Whether the token on which a feature fires is one that it usually fires on."""

    EXACT = "exact"
    FOLDED = "folded"
    """After stripping white space and folding case."""
    NONE = "none"
    UNKNOWN = "unknown"
    """There is no index, or the feature never fired over it."""


class Cache(StrEnum):
    """Where an answer came from. All else in it is the same whichever it was."""

    NONE = "none"
    """Nowhere: it was computed."""
    LOCAL = "local"
    """The server had given it before."""
    SHARED = "shared"
    """A replica had given it before."""
    INNER = "inner"
    """It was ranked anew from activations that the server had kept."""


@dataclass(frozen=True, slots=True, repr=False)
class CallInfo(Brief):
    """What a call cost and who answered it. Times are whole microseconds on the server."""

    request_id: str
    batch_size: int
    """Requests in the batch that computed the answer; 0 where the model computed nothing."""
    server_version: str
    model_revision: str
    index_revision: str
    """Empty without an index."""
    tokenize_micros: int
    queue_micros: int
    forward_micros: int
    encode_micros: int
    total_micros: int
    cache: Cache | None
    """None where nothing is cached."""


@dataclass(frozen=True, slots=True, repr=False)
class Token(Brief):
    """One token of a text."""

    id: int
    piece: bytes
    """The bytes it stands for; may be part of a character. Empty for a space that the tokenizer added."""
    display: str
    """The piece made printable: control characters escaped, bytes that are not UTF-8 as `\\xNN`."""
    start: int
    """Where it begins in the text, in bytes of UTF-8."""
    end: int
    """Where it ends, exclusive."""

    def __str__(self) -> str:
        return self.display


@dataclass(frozen=True, slots=True, repr=False)
class UsualToken(Brief):
    """A token on which a feature peaks in its records."""

    token: Token
    count: int
    """In how many of the kept records."""
    max_activation: float


@dataclass(frozen=True, slots=True, repr=False)
class Explanation(Brief):
    """What somebody, or a program, says that a feature is about: imported, never made by the server."""

    text: str
    score: float | None
    """How well it predicts activations, as its author measured it; None where that was not measured."""
    type: str
    """How it was made, for example `oai_token-act-pair`; empty where unknown."""
    model: str
    """The model that wrote it; empty where unknown."""
    origin: str
    """The name of the import that it came with."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, repr=False)
class Feature(Shown):
    """What is known of a feature whatever the text. `str()` is its name."""

    name: FeatureName
    layer: int
    kind: Kind
    density: float | None
    """Share of text tokens on which it fires, 0 to 1; None where unknown."""
    density_origin: DensityOrigin
    index_max_activation: float | None
    """Largest activation over the index, or as it was imported; None where neither is known."""
    index_max_origin: DensityOrigin
    usual_tokens: tuple[UsualToken, ...]
    """At most five, the most frequent first; empty without an index or imported records."""
    explanations: tuple[Explanation, ...] = ()
    """What was imported about it, the best score first; at most three."""

    def __str__(self) -> str:
        return str(self.name)


@dataclass(frozen=True, slots=True, repr=False)
class Source(Shown):
    """A set of features read at one hook point: one SAE, or the MLP neurons of one layer. `str()` is its name."""

    id: str
    name: str
    set: str
    aliases: tuple[str, ...]
    layer: int
    kind: Kind
    hook_name: str
    architecture: str
    d_in: int
    n_features: int
    dead_features: int | None
    density_origin: DensityOrigin
    normalization: str
    fold_decoder_norm: bool
    memory_bytes: int
    revision: str
    warnings: tuple[str, ...]
    bos_id: int | None
    """Id of the token that stands before every text that this source reads; None where texts are read without one."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class HistogramBin:
    """Number of tokens whose activation is at least `lower` and below `upper`."""

    lower: float
    upper: float
    count: int


@dataclass(frozen=True, slots=True, repr=False)
class Statistics(Shown, Histogram):
    """What the index knows of one feature."""

    tokens: int
    """Text tokens over which the index was built."""
    fires: int
    """Tokens on which the feature fires."""
    density: float
    mean_activation: float
    """Over the tokens on which it fires; 0 if it never does."""
    max_activation: float
    histogram: tuple[HistogramBin, ...]
    top_tokens: tuple[UsualToken, ...]
    blocks: int
    """Blocks of the index in which it fires."""
    fires_in_texts: int
    """Texts in which it fires, of the `texts` of the index."""
    texts: int


class RecordOrigin(StrEnum):
    """Where a record comes from."""

    INDEX = "index"
    """From texts that the server's index was built over."""
    IMPORT = "import"
    """Imported: its tokens are those of the file, whose ids are not known (0)."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, repr=False)
class RecordExample(Brief):
    """One of the records that another stands for."""

    text: str
    """The peak token and up to three tokens either side, printable."""
    activation: float
    text_index: int
    """Which text of the index, from 0."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Record(Shown):
    """A stretch of indexed text on which a feature fires strongly, and the others that it stands for."""

    tokens: tuple[Token, ...]
    activations: Floats
    """[tokens]."""
    max_activation: float
    max_position: int
    """Which token of the window has it."""
    text_index: int
    text_position: int
    """Where the window begins in its text, in tokens."""
    origin: RecordOrigin
    import_name: str
    """Of an imported record the name of the import; else empty."""
    stands_for: float
    """For how many blocks of the index it stands, itself included: see `top_activations`."""
    is_lower_bound: bool
    """Whether it may stand for more, of which the index keeps no record."""
    least_activation: float
    """Of those that it stands for, the smallest."""
    most_activation: float
    """And the largest."""
    examples: tuple[RecordExample, ...]
    """Some of the others, the strongest first; at most three."""
    active_features: tuple[int, ...]
    """The latents of the same source that fire most on the peak token, strongest first; at most 16."""

    @property
    def text(self) -> str:
        """The window's text; pieces cut from a character at either end are replaced."""
        return b"".join(token.piece for token in self.tokens).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Model:
    """The served model."""

    name: str
    n_layers: int
    d_model: int
    context_tokens: int
    """Longest sequence it reads, BOS included."""
    vocabulary: int
    bos_id: int | None
    revision: str
    special_ids: tuple[int, ...] = ()
    """Of the tokens that its tokenizer calls special, ascending."""


@dataclass(frozen=True, slots=True)
class Index:
    """The index of top activations."""

    revision: str
    texts: int
    tokens: int
    context: int
    """Tokens of each block that was run, BOS left out."""
    records_per_feature: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Import:
    """Imported records and explanations."""

    name: str
    format: str
    """`neuron-records`, `openai-explanations` or `neuronpedia`."""
    features: int
    """With records."""
    records: int
    explanations: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit a request can meet."""

    max_text_bytes: int
    max_tokens: int
    max_inputs: int
    max_limit: int
    default_limit: int
    max_features: int
    max_sort_tokens: int
    max_sort_text_bytes: int
    max_page_size: int
    max_answer_bytes: int
    max_request_bytes: int
    max_stream_items: int
    max_chunk_bytes: int
    batch_tokens: int
    max_batch: int
    """Requests in one batch; 0 where only `batch_tokens` bounds it."""
    queue_items: int
    queue_gflop: float
    queue_bytes: int
    max_calls: int
    max_streams: int
    max_names: int
    """Entries of each repeated field of names: sets, sources, layers."""
    max_fields: int
    request_bytes: Mapping[str, int]
    """Largest request message of each method."""
    front_seconds: float
    answer_bytes: int
    stall_timeout: float
    """Seconds after which a call is ended whose caller neither sends nor reads."""
    max_connections: int
    max_concurrent_streams: int
    """Calls at a time on one connection."""
    max_watches: int
    most_memory_bytes: int
    """What the front end's memory stays under."""
    max_contrast_texts: int
    """Most texts of a contrast, both sides together."""
    max_projections: int
    """Most projections of an encode."""
