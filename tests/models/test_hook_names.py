"""Names of hook points that no model has, told without one; and none that some model has."""

import importlib.util
import re
from pathlib import Path

import pytest

from saeserve_server.models.hook_names import ENDS, is_stream_wide, misnamed
from tests.models.test_hooks import ALIASES


@pytest.mark.parametrize(
    "name",
    [
        *(name for names in ALIASES.values() for pair in names.items() for name in pair),
        "blocks.{layer}.attn.q.hook_out",
        "blocks.3.ln2.hook_normalized",
        "ln_final.hook_normalized",
        "model.layers.{layer}.output",
        "transformer.blocks.0.ffn",
    ],
)
def test_what_some_model_may_have(name: str) -> None:
    assert misnamed(name) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("blocks.0.hook_mlp_ot", "did you mean blocks.0.hook_mlp_out?"),
        ("blocks.{layer}.attn.hook_zz", "did you mean blocks.{layer}.attn.hook_z?"),
        ("hook_embde", "did you mean hook_embed?"),
        ("blocks.hook_resid_post", "expected a hook point such as"),
        ("block.0.hook_resid_post", "expected a hook point such as"),
        ("model.layers.0.hook_resid_post", "expected a hook point such as"),
        ("blocks 0", "expected a hook point such as"),
        ("blocks..hook_out", "expected a hook point such as"),
        ("a\x1b[31m", r"got 'a\x1b[31m'"),
    ],
)
def test_what_no_model_has(name: str, says: str) -> None:
    assert says in str(misnamed(name))


def test_every_name_of_transformer_lens_ends_as_one_that_is_known() -> None:
    """Read off the source of the version that is installed, so that a newer one's names are not refused."""
    found = importlib.util.find_spec("transformer_lens")
    assert found is not None
    assert found.submodule_search_locations is not None
    bridge = Path(found.submodule_search_locations[0]) / "model_bridge"
    made = [
        name
        for file in bridge.rglob("*.py")
        for name in re.findall(r"self\.(hook_\w+)(?:: HookPoint)? = HookPoint\(", file.read_text())
    ]
    assert len(set(made)) > 20
    assert set(made) <= ENDS


def test_what_is_as_wide_as_the_stream() -> None:
    assert is_stream_wide("blocks.0.hook_resid_post")
    assert not is_stream_wide("blocks.0.attn.hook_z")
    assert not is_stream_wide("hook_embed")
