"""What a file of activations holds of what: the same words in a part, in a finished file, and in what is read back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from saeserve.answers.names import FeatureName

FORMAT = 1
"""Of parts and files. Raised where an older program could not read what is written."""


@dataclass(frozen=True, slots=True)
class Block:
    """A source all of whose features are columns."""

    id: str
    name: str
    """As people write it: `0-DEMO`."""
    kind: str
    """`latent` or `neuron`."""
    features: int
    revision: str
    """Digest of the SAE, or of the model's layer."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked of which model. Columns are the features chosen, or all of the sources, one behind the other."""

    model: str
    model_revision: str
    sources: tuple[Block, ...]
    """Those asked for whole; else those that have the chosen features."""
    features: tuple[str, ...]
    """Names of chosen features, in the order asked for; empty where whole sources were asked for."""
    include_bos: bool
    truncate: bool
    has_ids: bool
    """Whether each text came with an id."""

    @property
    def columns(self) -> int:
        """How many features there are."""
        return len(self.features) or sum(block.features for block in self.sources)

    def places(self) -> list[tuple[Block, int, int]]:
        """Of whole sources the columns: from the first to before the second. None for chosen features."""
        made, start = [], 0
        for block in self.sources if not self.features else ():
            made.append((block, start, start + block.features))
            start += block.features
        return made

    def name(self, column: int) -> FeatureName:
        """Which feature a column is. Raises IndexError."""
        column = range(self.columns)[column]
        if self.features:
            return FeatureName.parse(self.features[column])
        block, start, _ = next(place for place in self.places() if column < place[2])
        return FeatureName(block.id, column - start)

    def column(self, name: FeatureName) -> int | None:
        """Which column a feature is; None for one that is not there."""
        if self.features:
            return self.features.index(str(name)) if str(name) in self.features else None
        for block, start, _ in self.places():
            if block.id == name.source and name.index < block.features:
                return start + name.index
        return None

    def difference(self, other: Settings) -> str:
        """The first thing in which two differ, in words: this one's first. Empty where they are the same."""
        for field in dataclasses.fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if ours == theirs:
                continue
            if field.name == "sources":
                if [block.id for block in ours] == [block.id for block in theirs]:
                    changed = next(a.name for a, b in zip(ours, theirs, strict=True) if a != b)
                    return f"another {changed} than the one now served"
                return f"sources {_listed(ours)}, not {_listed(theirs)}"
            return f"{_WORDS[field.name]} {_said(ours)}, not {_said(theirs)}"
        return ""

    def as_dict(self) -> dict[str, Any]:
        """What JSON can say."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Settings:
        """Raises TypeError and KeyError for something else."""
        sources = tuple(Block(**block) for block in given["sources"])
        return cls(**{**given, "sources": sources, "features": tuple(given["features"])})


_WORDS = {
    "model": "model",
    "model_revision": "model revision",
    "features": "features",
    "include_bos": "--include-bos",
    "truncate": "--truncate",
    "has_ids": "--id-field",
}


def _listed(sources: tuple[Block, ...]) -> str:
    return ",".join(block.name for block in sources)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "given" if value else "not given"
    if isinstance(value, tuple):
        return ",".join(value[:3]) + (f" and {len(value) - 3} more" if len(value) > 3 else "") or "of whole sources"
    return str(value)[:16]


@dataclass(frozen=True, slots=True)
class About:
    """A part's or a file's own description, kept in it as JSON."""

    settings: Settings
    texts: int
    """That are in it."""
    skipped: int
    """That were left out because they could not be read or encoded."""
    consumed: int = 0
    """Of a part: how many texts of the input were read up to its end, those skipped among them."""
    digest: str = ""
    """Of a part: of all those texts, SHA-256."""

    def as_json(self) -> str:
        """The same text for the same contents."""
        return json.dumps({"saeserve": FORMAT, **dataclasses.asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, given: str | bytes) -> About:
        """Raises ValueError for anything else."""
        try:
            fields = json.loads(given)
            if (version := fields.pop("saeserve")) != FORMAT:
                raise ValueError(f"format {version}; this version of saeserve reads format {FORMAT}")
            return cls(**{**fields, "settings": Settings.from_dict(fields["settings"])})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no description of activations: {error}") from error
