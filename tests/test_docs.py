"""The documentation names every setting, every reason, and its examples are configurations that parse."""

import re
from pathlib import Path

import pytest

from saeserve_server.config import ServerSettings, load_config
from saeserve_server.metrics import Metrics
from saeserve_server.tables import SourceSettings, SyntheticSettings

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


def test_every_metric_is_documented_with_its_type_and_labels_and_no_other() -> None:
    written: dict[str, tuple[str, set[str]]] = {}
    for row in re.findall(r"^\| (`saeserve_.*)$", (DOCS / "metrics.md").read_text(), re.MULTILINE):
        names, kind, labels = row.split(" | ")[:3] if " | | " not in row else [*row.split(" | | ")[0].split(" | "), ""]
        for name in re.findall(r"`(saeserve_\w+)`", names):
            assert name not in written, f"{name} stands twice"
            written[name] = (kind.strip(), set(re.findall(r"`(\w+)`", labels)))
    served = {}
    for collector in set(Metrics().registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            if family.name.startswith("saeserve_"):
                name = family.name + "_total" * (family.type == "counter")
                served[name] = (family.type, labels)
    assert written == served


def test_what_else_the_documents_say_of_metrics_names_some_that_there_are() -> None:
    served = {family.name for family in Metrics().registry.collect()}
    suffixes = ("_total", "_bucket", "_sum", "_count")
    for page in [ROOT / "README.md", *DOCS.glob("*.md"), *ROOT.glob("deploy/**/*.md"), *ROOT.glob("loadtests/*.md")]:
        for name in re.findall(r"\bsaeserve_(?!server\b)\w+", page.read_text()):
            plain = next((name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)), name)
            assert {name, plain} & served, f"{page.relative_to(ROOT)} names {name}"


def test_the_example_configurations_parse() -> None:
    examples = [load_config(file, {}, {}) for file in (ROOT / "deploy").glob("*.toml")]
    assert len(examples) > 5
    assert all(config.sources for config in examples)


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *DOCS.glob("*.md"), *ROOT.glob("*/*/README.md"), *ROOT.glob("*/README.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
