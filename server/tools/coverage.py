"""How much of SAELens' directory of public SAEs can be served: `coverage.py WHEEL`, or its pretrained_saes.yaml.

Of every SAE in the directory the files are made in its release's own layout and with its own names, with few and random
numbers in them, and then found, described and read by the server's code. One counts if hook point, layer, model and
maths are those that SAELens' loader gives. Exit status 1 if fewer than 98 of 100 count.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.pop(0)  # this folder: the package called coverage must not be found here
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `tests`, which is not installed

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import complete
from saeserve_server.sources.formats import describe
from saeserve_server.sources.reading import read
from saeserve_server.sources.registry import same_model
from saeserve_server.sources.releases import with_release
from tests.models import shapes, test_hybrid, test_shapes
from tests.sources.layouts import WRITERS, files
from tests.sources.loaders import Expected, expected
from tests.sources.trees import D_IN, D_SAE, WEIGHTS, Published, put

GOAL = 0.98
YAML = "sae_lens/pretrained_saes.yaml"
MOST_NAMED = 4
"""SAEs of a release that are named before a count."""

FAMILIES = (
    (r"gemma-3-", "gemma3"),  # multimodal ones are served by their language model, which is this
    (r"gemma-2-", "gemma2"),
    (r"gemma-2b", "gemma"),
    (r"gpt2", "gpt2"),
    (r"pythia", "neox"),
    (r"mistral-7b", "mistral"),
    (r"llama-3|r1-distill-llama", "llama3"),
    (r"qwen2\.5-", "qwen2"),
    (r"qwen3-30b-a3b", "qwen3-moe"),
    (r"qwen3-", "qwen3"),
    (r"qwen3\.5-35b-a3b", "qwen3.5-moe"),
    (r"qwen3\.5-", "qwen3.5"),
    (r"gpt-oss", "gpt-oss"),
)
"""Models by name, and the shape in which tests/models load and read them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the shares, the rest, and what no tested model offers; returns the exit status."""
    parser = argparse.ArgumentParser(description="How much of SAELens' directory of public SAEs can be served.")
    parser.add_argument("directory", type=Path, metavar="WHEEL_OR_YAML", help="a wheel of sae-lens, or its directory")
    directory = read_directory(parser.parse_args(arguments).directory)
    total, served = Counter[str](), Counter[str]()
    refused, untested = defaultdict[str, list[str]](list), Counter[tuple[str, str]]()
    seen: dict[tuple[str, str], str | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for release, sae in directory:
            total[sae.layout] += 1
            place = (sae.repository, sae.path)
            if place not in seen:
                seen[place] = attempt(Path(folder), sae)
            if (why := seen[place]) is not None:
                refused[f"{release}: {why}"].append(sae.path)
                continue
            served[sae.layout] += 1
            facts = expected(sae)
            if facts is not None and (lacks := not_offered(facts)):
                untested[lacks, release] += 1
    report(total, served, refused, untested)
    return 0 if served.total() >= GOAL * total.total() else 1


def read_directory(path: Path) -> list[tuple[str, Published]]:
    """Release and SAE, of every SAE in the directory."""
    text = zipfile.ZipFile(path).read(YAML) if path.suffix == ".whl" else path.read_bytes()
    releases: Mapping[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
    return [(name, sae) for name, release in releases.items() for sae in _saes(release)]


def _saes(release: Mapping[str, Any]) -> Iterator[Published]:
    layout = release.get("conversion_func") or "sae_lens"
    for one in release["saes"]:
        yield Published(
            layout,
            release["repo_id"],
            str(one["path"]),
            release["model"],
            str(one["id"]),
            one.get("norm_scaling_factor"),
            release.get("config_overrides") or {},
        )


def attempt(folder: Path, sae: Published) -> str | None:
    """Makes an SAE, in the hub's cache, and reads it; None, or why it does not count."""
    if sae.layout not in WRITERS:
        return f"which files {sae.layout} has is not known"
    held = files(sae)
    root = put(folder / "whole", sae.repository, held, cached=True)
    try:
        why = read_one(root / sae.place, sae)
        if why is None and (bare := files(sae, config=False)) != held:
            why = read_one(put(folder / "bare", sae.repository, bare, cached=True) / sae.place, sae)
    except ConfigError as error:
        why = re.sub(r".*/snapshots/\w+/", "", str(error)).replace(sae.place, "PATH")
    return None if why is None else re.sub(r"\b(layers|blocks)\.\d+", r"\1.{layer}", why)


def read_one(path: Path, sae: Published) -> str | None:
    """What differs from what SAELens serves. Raises ConfigError if it is refused."""
    description = complete(with_release(describe(path), path, None))
    weights, warnings = read(description)
    facts = expected(sae)
    if facts is None:
        return "expected to be refused"
    given: list[tuple[str, Any, Any]] = [("layer", description.layer, sae.layer), ("d_in", description.d_in, D_IN)]
    given += [("latents", description.d_sae, D_SAE), ("warnings", (*description.warnings, *warnings), ())]
    given += [(one.name, getattr(description, one.name), getattr(facts, one.name)) for one in fields(Expected)]
    wrong = [f"{name} {ours!r}, expected {theirs!r}" for name, ours, theirs in given if not same(name, ours, theirs)]
    if not torch.allclose(weights.W_enc, WEIGHTS["encoder"], atol=0.02):  # of bfloat16
        wrong.append("W_enc is not the encoder")
    return "; ".join(wrong) or None


def same(name: str, ours: Any, theirs: Any) -> bool:
    """Whether two facts are one."""
    if name == "model":
        return ours is not None and same_model(ours, theirs)
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= 1e-6 * abs(theirs)
    return bool(ours == theirs)


def not_offered(facts: Expected) -> str | None:
    """What tests/models lack of a model and its hook point; None if they read it."""
    name = facts.model.rpartition("/")[2].casefold()
    shape = next((shape for pattern, shape in FAMILIES if re.search(pattern, name)), None)
    hook = re.sub(r"^blocks\.\d+\.", "", facts.hook_name)
    if shape in test_hybrid.SHAPES:
        offered = set(test_hybrid.HOOKS)
    elif shape in shapes.SHAPES:
        names = {re.sub(r"^blocks\.\d+\.", "", one) for one in test_shapes.NAMES}
        offered = names - test_shapes.LACKING.get(shape, set())
    else:
        return f"no test loads {facts.model}"
    return None if hook in offered else f"{hook} of {shape}"


def report(
    total: Counter[str],
    served: Counter[str],
    refused: Mapping[str, list[str]],
    untested: Mapping[tuple[str, str], int],
) -> None:
    """Prints it all."""
    width = max(map(len, total))
    print(f"{'layout':<{width}}    SAEs   served")
    for layout, count in [*total.most_common(), ("all", total.total())]:
        mine = served.total() if layout == "all" else served[layout]
        print(f"{layout:<{width}}  {count:6,}   {mine:6,}  {mine / count:7.2%}")
    print(f"\nnot served: {total.total() - served.total()}")
    for why, paths in refused.items():
        more = f" and {len(paths) - MOST_NAMED} more" if paths[MOST_NAMED:] else ""
        print(f"{len(paths):6,}  {why}\n        {', '.join(paths[:MOST_NAMED])}{more}")
    print(f"\nserved, and on a hook point that no model in tests/models offers: {sum(untested.values())}")
    for lacks, releases in by_lack(untested):
        print(f"{sum(releases.values()):6,}  {lacks}: {', '.join(releases)}")


def by_lack(untested: Mapping[tuple[str, str], int]) -> Iterable[tuple[str, Mapping[str, int]]]:
    """Releases and their counts, by what is lacking."""
    found = defaultdict[str, dict[str, int]](dict)
    for (lacks, release), count in untested.items():
        found[lacks][release] = count
    return found.items()


if __name__ == "__main__":
    sys.exit(main())
