"""The documentation names every setting, every reason, and its examples are configurations that parse."""

import re
from pathlib import Path

import pytest

from saeserve_server.config import ServerSettings, SourceSettings, SyntheticSettings, load_config

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "server" / "docs"


@pytest.mark.parametrize("settings", [ServerSettings, SourceSettings, SyntheticSettings], ids=lambda cls: cls.__name__)
def test_every_setting_is_documented(settings: type) -> None:
    text = (DOCS / "configuration.md").read_text()
    assert [name for name in settings.model_fields if f"`{name}`" not in text] == []


def test_every_reason_is_documented() -> None:
    code = "".join(path.read_text() for path in (ROOT / "server" / "saeserve_server").rglob("*.py"))
    reasons = set(re.findall(r'reason(?:: str)? ?= ?"([A-Z_]+)"', code))
    generic = {"NOT_FOUND", "FAILED_PRECONDITION", "ABORTED", "UNAVAILABLE"}  # defaults of classes
    text = (DOCS / "status-codes.md").read_text()
    assert sorted(reason for reason in reasons - generic if f"`{reason}`" not in text) == []


def test_the_example_configuration_parses() -> None:
    config = load_config(ROOT / "deploy" / "gpt2-small.toml", {}, {})
    assert (config.model, config.model_name) == ("gpt2", "gpt2-small")
    assert config.sources[0].format == "openai"


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *DOCS.glob("*.md"), *ROOT.glob("*/*/README.md"), *ROOT.glob("*/README.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
