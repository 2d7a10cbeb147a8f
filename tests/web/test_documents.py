"""/openapi.json and /docs: whole, and of the contract as it is."""

from __future__ import annotations

import html
import re
from pathlib import Path

import jsonschema
import pytest

from saeserve.answers.as_json import as_json
from saeserve.cli.options import parser
from saeserve.v1 import feature_service_pb2 as service
from saeserve.web import contract, openapi
from saeserve.web.calls import RPCS
from tests.web.running import gateway_before
from tests.web.test_calls import UNARY, message

README = Path(__file__).parents[2] / "clients" / "web" / "README.md"
DOCUMENT = openapi.document()


def within(value):
    """Every object in it."""
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from within(one)
    elif isinstance(value, list):
        for one in value:
            yield from within(one)


def test_every_reference_leads_somewhere():
    for one in within(DOCUMENT):
        if "$ref" in one:
            at = DOCUMENT
            for part in one["$ref"].removeprefix("#/").split("/"):
                at = at[part]


def test_every_schema_is_one():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("description") or name == "Error", name


def test_every_call_and_field_is_there_with_its_words():
    assert DOCUMENT["paths"].keys() == {contract.path_of(name) for name in RPCS}
    schemas = DOCUMENT["components"]["schemas"]
    for name, kind in (contract.asked() | contract.answered()).items():
        if hasattr(kind, "values"):
            assert schemas[name]["enum"] == [one.name for one in kind.values]
            continue
        assert schemas[name]["properties"].keys() == {field.json_name for field in kind.fields}
        for field in kind.fields:
            assert schemas[name]["properties"][field.json_name]["description"], field.full_name


@pytest.mark.parametrize("rpc", [name for name in UNARY if name != "SearchExplanations"])
def test_requests_and_answers_are_as_it_says(demo, rpc):
    call = next(call for call in contract.calls() if call.name == rpc)
    jsonschema.validate(call.example, DOCUMENT | {"$ref": f"#/components/schemas/{call.request}"})
    answer = as_json(demo.call(rpc, message(rpc, call.example)))
    jsonschema.validate(answer, DOCUMENT | {"$ref": f"#/components/schemas/{call.response}"})


def test_a_wrong_request_is_none():
    schema = DOCUMENT | {"$ref": "#/components/schemas/SearchRequest"}
    for wrong in ({"inptu": {}}, {"limit": "a"}, {"ranking": "BEST"}, {"filter": {"include": {"layers": 1}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_errors_are_as_it_says(http):
    schema = DOCUMENT | {"$ref": "#/components/schemas/Error"}
    for answer in (http.post("/api/v1/search", content="x"), http.get("/nope"), http.post("/api/v1/get-feature")):
        assert str(answer.status_code) in DOCUMENT["paths"]["/api/v1/search"]["post"]["responses"]
        jsonschema.validate(answer.json(), schema)


def test_it_is_served(http):
    assert http.get("/openapi.json").json() == DOCUMENT


def test_the_page_has_every_call_type_and_field_and_no_script(http):
    page = http.get("/docs").text
    assert "<script" not in page
    assert "style=" not in page
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    words = html.unescape(re.sub(r"<[^>]+>", "", page))
    for call in contract.calls():
        assert call.name in ids
        assert f"POST {call.path}" in words
        assert call.curl.replace("URL", str(http.base_url).rstrip("/")) in words
    for file in (service.DESCRIPTOR,):
        for kind in file.message_types_by_name.values():
            if kind.name not in ids:
                assert kind.name.endswith("Request"), kind.name  # those of streams, whose parts are in the body
                continue
            for field in kind.fields:
                assert field.json_name in words
    assert http.get("/docs.css").headers["content-type"].startswith("text/css")


def test_behind_a_proxy_that_is_trusted_its_lines_for_curl_go_to_the_proxy(demo, http):
    heads = {"host": "localhost", "x-forwarded-proto": "https"}
    assert "curl http://localhost/api" in http.get("/docs", headers=heads).text
    with gateway_before(demo.target, trust_proxy=True) as behind:
        assert "curl https://localhost/api" in http.get(f"{behind.url}/docs", headers=heads).text
        strange = heads | {"x-forwarded-proto": "javascript"}
        assert "curl http://localhost/api" in http.get(f"{behind.url}/docs", headers=strange).text


def test_the_readme_has_every_option_and_metric_and_path(http):
    text = README.read_text() + README.with_name("neuronpedia.md").read_text()
    own = parser()._subparsers._group_actions[0].choices["web"]
    common = {option for action in parser()._actions for option in action.option_strings}
    options = {option for action in own._actions for option in action.option_strings if option not in common}
    assert sorted(option for option in options if f"`{option}" not in text) == []
    found = re.findall(r"^# TYPE (saeserve_web_\w+) \w+$", http.get("/metrics").text, re.MULTILINE)
    assert sorted(name for name in found if not name.endswith("_created") and f"`{name}`" not in text) == []
    for call in contract.calls():
        assert call.path.rpartition("/")[2] in text
