"""A server without an index that serves imported records and explanations, and one that has none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import saeserve
from saeserve_server.records.imported.importer import import_files
from saeserve_server.records.imported.items import Naming
from tests.inside import served_inside
from tests.records.imports import files

TEXT = "The red cars stood in the red barn."


@pytest.fixture(scope="module")
def imported(cache_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[saeserve.Client]:
    """Records for some latents of the demo's layer 0 and 1; those of layer 3 are of other weights."""
    folder = tmp_path_factory.mktemp("imports")
    given = files.write_neuron_records(folder / "records", indices=range(40))
    import_files(folder / "store", [str(given)], "records", naming=Naming(set="demo"))
    import_files(folder / "store", [str(files.write_neuronpedia(folder / "np"))], "words")
    wrong = str(files.write_neuronpedia(folder / "wrong", source="3-demo"))
    import_files(folder / "store", [wrong], "wrong", revisions=lambda sources: dict.fromkeys(sources, "00000000"))
    with served_inside(index="none", imports=folder / "store") as target, saeserve.Client(target) as client:
        yield client


def test_records_are_imported_ones_and_say_so(imported: saeserve.Client) -> None:
    page = imported.top_activations("1-demo:5", page_size=2)
    assert [(record.origin, record.import_name) for record in page] == [(saeserve.RecordOrigin.IMPORT, "records")] * 2
    assert [record.max_activation for record in page] == [7.5, 7.5]
    assert page[0].text == " a red car"
    rest = imported.top_activations("1-demo:5", page_size=2, page_token=page.next_page_token)
    assert [token.piece for token in rest[0].tokens] == [token.encode() for token in files.CUT]
    assert rest.next_page_token == ""
    assert [record.max_activation for record in imported.top_activations("1-demo:5", group="random")] == [0.5]
    with pytest.raises(saeserve.FailedPrecondition, match="no index") as refused:
        imported.top_activations("1-demo:5", origin="index")
    assert refused.value.reason == "INDEX_REQUIRED"


def test_facts_come_from_imports_and_say_so(imported: saeserve.Client) -> None:
    feature = imported.get_feature("0-demo:7").feature
    assert feature.density == 1 / 4096
    assert feature.index_max_activation == 5.0
    assert {feature.density_origin, feature.index_max_origin} == {saeserve.DensityOrigin.IMPORT}
    assert [one.text for one in feature.explanations] == ["the colour red, number 0"]
    assert str(feature.explanations[0]) == "the colour red, number 0"
    usual = imported.get_feature("1-demo:5").feature.usual_tokens
    assert [(one.token.piece, one.count) for one in usual] == [(b" red", 2), ("\ufffd".encode(), 1)]


def test_a_search_matches_and_filters_by_what_was_imported(imported: saeserve.Client) -> None:
    found = imported.search(TEXT, sources="0-demo", max_density=0.5, limit=1000)
    assert found.features_considered == 3
    hits = imported.search(TEXT, sources=["0-demo", "1-demo"], limit=1000)
    by_match = {hit.match for hit in hits if hit.name.index < 40}
    assert saeserve.Match.UNKNOWN not in by_match
    relative = imported.search(TEXT, sources="1-demo", ranking="relative", limit=1000)
    assert {hit.name.index for hit in relative} <= set(range(40))


def test_explanations_are_searched_and_paged(imported: saeserve.Client) -> None:
    first = imported.search_explanations('colours "red number"', page_size=2)
    rest = imported.search_explanations('colours "red number"', page_size=2, page_token=first.next_page_token)
    assert [str(one.name) for one in (*first, *rest)] == ["0-DEMO:2", "0-DEMO:7", "0-DEMO:1500"]
    assert rest.next_page_token == ""
    assert first[0].explanation.origin == "words"
    assert first[0].feature.explanations == ()
    assert len(imported.search_explanations("red", features="0-demo:7")) == 1
    assert len(imported.search_explanations("red", exclude_sources="0-demo")) == 0
    assert len(imported.search_explanations("red", kinds="neuron")) == 0
    assert len(imported.search_explanations("red", min_density=2.5 / 4096)) == 1
    with pytest.raises(saeserve.InvalidArgument, match="not of this search"):
        imported.search_explanations("red", page_token=first.next_page_token)
    for wrong in ("", '"', "?!", "x" * 1025, "a " * 65):
        with pytest.raises(saeserve.InvalidArgument, match="query"):
            imported.search_explanations(wrong)


def test_the_asynchronous_client_searches_them_too(imported: saeserve.Client) -> None:
    async def ask() -> list[str]:
        async with saeserve.AsyncClient(imported.target) as client:
            return [str(one.name) for one in await client.search_explanations("red", page_size=1)]

    assert asyncio.run(ask()) == ["0-DEMO:2"]


def test_what_is_of_other_weights_is_not_shown_and_told(imported: saeserve.Client) -> None:
    sources = imported.list_sources()
    assert [source.id for source in sources if source.warnings] == ["3-demo"]
    assert "import 'wrong' is not shown: it was made for revision 00000000" in sources["3-demo"].warnings[0]
    assert imported.get_feature("3-demo:7").feature.explanations == ()
    told = [(one.name, one.format, one.features, one.records) for one in imported.server_info().imports]
    assert told == [
        ("records", "neuron-records", 80, 400),
        ("words", "neuronpedia", 3, 6),
        ("wrong", "neuronpedia", 3, 6),
    ]


def test_without_imports_it_is_said_what_to_do(demo: saeserve.Client) -> None:
    for ask in (lambda: demo.search_explanations("red"), lambda: demo.top_activations("0-demo:5", origin="import")):
        with pytest.raises(saeserve.FailedPrecondition, match="records import") as refused:
            ask()
        assert refused.value.reason == "RECORDS_REQUIRED"
    assert demo.server_info().imports == ()
