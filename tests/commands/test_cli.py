"""The command `saeserve` against a real server: every option does what it says."""

import json
import sys
from typing import Any

import pytest

import saeserve
from saeserve.cli.main import main

TEXT = "My favorite color is red."


@pytest.fixture
def run(demo: saeserve.Client, capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["--target", demo.target, *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return command


@pytest.fixture
def search(run: Any) -> Any:
    def command(*arguments: str) -> dict[str, Any]:
        status, out, err = run("search", TEXT, "--json", *arguments)
        assert status == 0, err
        return json.loads(out)

    return command


def names(answer: dict[str, Any]) -> list[str]:
    return [result["facts"]["name"] for result in answer["results"]]


def test_a_search_prints_25_features_and_their_tokens(run: Any) -> None:
    status, out, _ = run("search", TEXT)
    assert status == 0
    assert out.count("0-DEMO:") + out.count("1-DEMO:") + out.count("2-DEMO:") + out.count("3-DEMO:") == 25
    assert "My favorite color is «red»." in out
    assert "8,192 features of 4 sources considered" in out


def test_search_options(search: Any) -> None:
    plain = search()
    assert len(names(plain)) == 25
    assert names(search("--limit", "5")) == names(plain)[:5]
    assert names(search("--sort", "red"))[:2] == ["0-DEMO:248", "0-DEMO:1633"]
    assert search("--sort", "red")["sortPositions"] == [5]
    assert names(search("--sort-position", "5")) == names(search("--sort", "red"))
    assert all("DEMO" not in name for name in names(search("--kind", "neuron")))
    kinds = {result["facts"]["kind"] for result in search("--kind", "all", "--limit", "1000")["results"]}
    assert kinds == {"FEATURE_KIND_LATENT", "FEATURE_KIND_NEURON"}
    assert {name[0] for name in names(search("--layers", "1-3"))} == {"1", "2", "3"}
    assert {name[0] for name in names(search("--exclude-layers", "0"))} == {"1", "2", "3"}
    assert {name.split(":")[0] for name in names(search("--sources", "2-demo,3"))} <= {"2-DEMO", "3"}
    assert "0-DEMO:248" not in names(search("--max-density", "0.3"))
    tokens = search("--by-token", "--limit", "3")
    assert tokens["results"] == []
    assert [len(token["features"]) for token in tokens["tokenResults"]] == [3] * 7
    assert all(result["value"] > 0 for result in search("--ranking", "relative")["results"])


def test_the_first_feature_can_be_looked_at(run: Any, search: Any) -> None:
    first = names(search())[0]
    assert run("feature", first)[0] == 0
    assert first in run("top", first, "--count", "2")[1]
    status, out, _ = run("encode", first, TEXT, "My favorite color is crimson.")
    assert status == 0
    assert out.count("My favorite") == 2
    values = json.loads(run("encode", first, TEXT, "--json")[1])
    assert "13.9" in json.dumps(values)


def test_the_others_answer(run: Any) -> None:
    assert "0-DEMO" in run("sources")[1]
    assert "red" in run("tokenize", TEXT)[1]
    assert "demo" in run("info")[1]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["search", TEXT, "--sort", "blue"], 2, "SORT_TOKEN_NOT_FOUND"),
        (["search", ""], 2, "TEXT_EMPTY"),
        (["search", TEXT, "--limit", "0"], 2, "limit"),
        (["search", TEXT, "--sources", "9-demo"], 3, "SOURCE_NOT_FOUND"),
        (["top", "0-DEMO:99999"], 3, "FEATURE_NOT_FOUND"),
        (["encode", "0-DEMO:1", "0-DEMO:2", TEXT], 2, "join features with commas"),
    ],
)
def test_errors_are_one_line_and_a_status(run: Any, arguments: list[str], status: int, says: str) -> None:
    got, out, err = run(*arguments)
    assert got == status
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_nobody_listening_is_status_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "127.0.0.1:1", "--timeout", "5", "search", TEXT]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_the_client_needs_no_torch() -> None:
    import subprocess

    code = "import sys, saeserve.cli.main, saeserve; saeserve.Client; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
