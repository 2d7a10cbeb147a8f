"""Facts that published releases leave out of their files: the shipped table `releases.json`.

SAELens' directory keeps them beside the files: centred writing weights, a normalisation, factors of inputs. An entry is
applied to SAEs that lie in a folder named like its repository (or in the hub cache's folder of it), or where the
configuration says `release = "NAME"`; the configuration's own settings come after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from saeserve_server.errors import ConfigError, nearest
from saeserve_server.sources.description import Description, Facts, Normalization

TABLE = Path(__file__).with_name("releases.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One release."""

    repository: str
    """On the hub, OWNER/NAME."""
    center_input: bool | None = None
    normalization: Normalization | None = None
    scaling_factors: Mapping[str, float] = field(default_factory=dict)
    """Factors of inputs, by the path of the SAE in the repository. They are for SAEs whose files say that they were
    trained on scaled inputs."""

    def holds(self, path: Path) -> bool:
        """Whether the path lies in a folder that is named like the repository."""
        owner, name = self.repository.split("/")
        return name in path.parts or f"models--{owner}--{name}" in path.parts


@cache
def releases() -> Mapping[str, Release]:
    """The table, by SAELens' names of releases."""
    return {name: Release(**facts) for name, facts in json.loads(TABLE.read_text(encoding="utf-8")).items()}


def with_release(description: Description, path: Path, name: str | None) -> Description:
    """The description with the facts of the release that is named, or else of the one that the path lies in.

    Raises ConfigError for a name that is not in the table.
    """
    table, named = releases(), name is not None
    if name is None:
        name = next((one for one, release in table.items() if release.holds(path)), None)
        if name is None:
            return description
    elif name not in table:
        raise ConfigError(
            f"no release {name!r} in the table of releases whose files leave facts out{nearest(name, table)}; files of "
            "all others say everything, and need no release"
        )
    release = table[name]
    factor = None
    if description.expects_scaling:
        factor = next((one for end, one in release.scaling_factors.items() if path.match(end)), None)
        if factor is None and named and release.scaling_factors:
            raise ConfigError(
                f"{name} has no scaling factor for {path}: expected a path that ends like the published one, such as "
                f"{next(iter(release.scaling_factors))}; or set scaling_factor"
            )
    facts = Facts(center_input=release.center_input, normalization=release.normalization, scaling_factor=factor)
    return replace(facts.over(description), release=name)
