import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve import FeatureName

SOURCES = st.from_regex(r"[0-9]{1,3}(-[a-zA-Z0-9_.]{1,12}){0,3}", fullmatch=True)
INDICES = st.integers(0, 2**32 - 1)


@given(SOURCES, INDICES)
def test_what_is_printed_is_parsed_again(source, index):
    name = FeatureName(source, index)
    assert FeatureName.parse(str(name)) == name
    assert str(FeatureName.parse(str(name))) == str(name)


@given(SOURCES, INDICES)
def test_case_does_not_matter(source, index):
    assert FeatureName.parse(f"{source.upper()}:{index}") == FeatureName.parse(f" {source.lower()}:{index}\n")
    assert FeatureName(source, index).source == source.lower()


def test_names_of_the_field():
    assert str(FeatureName.parse("0-mlp-oai:22631")) == "0-MLP-OAI:22631"
    assert FeatureName.parse("2:553") == FeatureName("2", 553)
    assert FeatureName.parse("0-MLP-OAI:22631").source == "0-mlp-oai"
    assert sorted([FeatureName("2", 10), FeatureName("2", 9)])[0].index == 9
    assert copy.deepcopy(FeatureName("2", 9)) == FeatureName("2", 9)


@given(st.text())
def test_anything_else_is_a_value_error(text):
    try:
        name = FeatureName.parse(text)
    except ValueError:
        return
    assert text.strip().lower().endswith(f":{text.strip().rpartition(':')[2]}")
    assert 0 <= name.index < 2**32


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "0-demo",
        "0-demo:",
        ":1",
        "0-demo:-1",
        "0-demo:1.5",
        "0-demo:٣",
        "0 demo:1",
        f"a:{2**32}",
        "a:" + "9" * 9999,
    ],
)
def test_no_feature_name(text):
    with pytest.raises(ValueError, match=r"feature name|source id|not between"):
        FeatureName.parse(text)
