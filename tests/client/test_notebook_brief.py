"""Answers in one line: every type that the package names, short, and nothing in them that a terminal obeys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

import saeserve
from tests.client.test_notebook import HOSTILE, PLAIN

# Types without a line of their own: a few plain fields, as dataclasses print them.
FLAT = {"HistogramBin", "NotCompared", "Model", "Index", "Import", "Limits", "FieldViolation"}


def parts(value, found):
    """The answer and all that is in it, by type."""
    if dataclasses.is_dataclass(value):
        found.setdefault(type(value).__name__, value)
        for field in dataclasses.fields(value):
            parts(getattr(value, field.name), found)
    elif isinstance(value, tuple):
        for one in value:
            parts(one, found)
    elif isinstance(value, Mapping):
        for one in value.values():
            parts(one, found)
    return found


def all_parts(answers):
    found = {}
    for one in answers.values():
        parts(one, found)
    parts(answers["Comparison"].peaks("0-demo:7"), found)
    return found


ALL, EVIL = all_parts(PLAIN), all_parts(HOSTILE)


@pytest.mark.parametrize("name", sorted(ALL.keys() - FLAT - {"FeatureName"}))
def test_a_line_is_short_and_safe(name):
    for value in (ALL[name], EVIL[name]):
        line = repr(value)
        assert line.startswith(f"<{name} ")
        assert line.endswith(">")
        assert len(line) <= 330
        assert line.isprintable()
    assert len(repr(ALL[name])) <= 140


def test_every_type_of_the_package_was_seen():
    known = {name for name in saeserve.__all__ if dataclasses.is_dataclass(getattr(saeserve, name))}
    own = {"Activations", "FeatureMatrix", "Vectors", "Direction"}  # tried where they are made
    assert known - ALL.keys() - FLAT - own == set()


def test_a_name_prints_as_it_is_written():
    name = saeserve.FeatureName("0-demo", 1635)
    assert (repr(name), str(name), repr([name])) == ("0-DEMO:1635", "0-DEMO:1635", "[0-DEMO:1635]")


def test_what_lines_say():
    said = {name: repr(value) for name, value in ALL.items()}
    assert said["Hit"] == "<Hit 0-DEMO:1633 4.250 on ' red', match exact>"
    assert said["SearchResult"] == (
        "<SearchResult 2 features on 6 tokens 'My favorite color is red.': 0-DEMO:1633 4.250, 2:553 0.500>"
    )
    assert repr(PLAIN["by token"]) == "<SearchResult by token, for 6 of 6 tokens 'My favorite color is red.'>"
    assert repr(PLAIN["TokenHits"]) == "<TokenHits 4 ' red', 2 features: 2:553 4.250, 0-DEMO:1633 1.500>"
    assert said["Feature"] == "<Feature 0-DEMO:1633 latent of layer 0, density 1%, on ' red'>"
    assert said["Token"] == "<Token 'My' id 100>"
    assert said["EncodeResult"] == "<EncodeResult 2 texts, 12 tokens × 2 features: 0-DEMO:7, 2:8>"
    assert repr(PLAIN["sparse"]) == "<EncodeResult 2 texts, 12 tokens × '0-DEMO'>"
    assert said["Csr"] == "<Csr 6 tokens × 8 features, 2 values > 0>"
    assert said["Record"] == "<Record 4.500 on ' red\\\\n' in ' the red\\\\n door'>".replace("\\\\", "\\")
    assert repr(PLAIN["failed StreamItem"]) == "<StreamItem 0 failed: 'INVALID_ARGUMENT: too long'>"
    assert said["Similar"] == "<Similar 0-DEMO:1633 0.500>"


def test_a_slice_of_hits_is_a_line_each():
    assert repr(PLAIN["SearchResult"][:2]) == (
        "(<Hit 0-DEMO:1633 4.250 on ' red', match exact>, <Hit 2:553 0.500 on 'My', match none>)"
    )


def test_threads_may_print_at_once():
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(repr, [PLAIN["Hit"]] * 64))) == 1
