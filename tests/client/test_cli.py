"""The command line, called as a function: what it sends, prints and returns."""

import json
import shutil
import subprocess
import sys

import grpc
import pytest

from saeserve.v1 import feature_service_pb2 as service
from tests.client.fake import PIECES, SOURCES, TEXT, Failure, hit, search_answer, status, tokens


def test_search_prints_a_table_and_marks_the_peak(run):
    code, out, err = run("search", TEXT)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split() == ["#", "feature", "value", "on", "density", "usually", "on"]
    assert lines[1].split() == ["1", "0-DEMO:1633", "4.250", "·red", "✓", "1%", "·red"]
    assert lines[2].strip() == "My favorite color is «red»."
    assert lines[4].strip() == "«My» favorite color is red."
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in out


def test_tokens_are_shaded_where_colour_is_wanted(run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    _, out, _ = run("search", TEXT)
    assert "48;2;240;100;20m red" in out  # the strongest
    assert "48;2;249;189;136m color" in out  # a third of it
    assert "«" not in out
    monkeypatch.setenv("NO_COLOR", "1")
    _, out, _ = run("search", TEXT)
    assert "«red»" in out
    assert "48;2" not in out


def test_search_options_reach_the_server(run, fake):
    options = [
        *("--sort", "red", "--sort", "4", "--sort-position", "2", "--kind", "all", "--layers", "1-3,5", "--limit", "5"),
        *("--exclude-layers", "0", "--sources", "0-DEMO,2", "--exclude-sources", "1-x", "--sets", "demo"),
        *("--exclude-sets", "a,b", "--features", "2:1", "--exclude-features", "2:3,2:4", "--min-density", "0.1"),
        *("--max-density", "0.5", "--ranking", "relative", "--min-fires", "3", "--include-bos", "--truncate"),
    ]
    assert run("search", TEXT, *options)[0] == 0
    request = fake.seen[0].request
    assert [getattr(token, token.WhichOneof("token")) for token in request.sort_tokens] == ["red", "4", 2]
    assert [(span.first, span.last) for span in request.filter.include.layers] == [(1, 3), (5, 5)]
    assert [(span.first, span.last) for span in request.filter.exclude.layers] == [(0, 0)]
    assert list(request.filter.include.sources) == ["0-demo", "2"]
    assert list(request.filter.exclude.sets) == ["a", "b"]
    assert [feature.index for feature in request.filter.exclude.features] == [3, 4]
    assert len(request.filter.include.kinds) == 2
    assert (request.limit, request.min_fires, request.ranking) == (5, 3, 2)
    assert (request.filter.min_density, request.filter.max_density) == (0.1, 0.5)
    assert request.include_bos
    assert request.truncate


def test_ids_and_standard_input_instead_of_a_text(run, fake, monkeypatch):
    import io

    run("search", "--ids", "464, 22")
    assert list(fake.seen[0].request.input.token_ids.ids) == [464, 22]
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines\n"))
    run("tokenize", "-")
    assert fake.seen[1].request.input.text == "two\nlines"


def test_by_token(run, fake):
    code, out, _ = run("search", TEXT, "--by-token")
    assert code == 0
    assert fake.seen[0].request.by_token
    assert "  4  ·red\n       1  2:553" in out
    assert out.count("no feature fires") == len(PIECES) - 1


def test_a_search_that_finds_nothing_says_so(run, fake):
    def nothing(request):
        answer = search_answer(request)
        del answer.results[:]
        return answer

    fake.answers["Search"] = nothing
    code, out, _ = run("search", TEXT)
    assert code == 0
    assert out.startswith("no feature fires\n2,560 features")


@pytest.mark.parametrize(
    ("cache", "says"),
    [(0, ""), (1, ""), (2, ", from the cache"), (3, ", from the shared cache"), (4, ", ranked anew from the cache")],
)
def test_an_answer_from_the_cache_says_so(run, fake, cache, says):
    def cached(request):
        answer = search_answer(request)
        answer.call_info.cache = cache
        return answer

    fake.answers["Search"] = cached
    _, out, _ = run("search", TEXT)
    assert out.endswith(f"2,560 features of 2 sources considered, 0.0 ms{says}\n")


def answer_over(pieces, activations):
    """A search whose one feature fires on these tokens."""

    def answer(request):
        made = search_answer(request)
        del made.tokens[:], made.results[1:]
        made.tokens.extend(tokens(pieces))
        made.results[0].CopyFrom(hit("0-demo", 1633, activations, 1))
        return made

    return answer


def text_line(out):
    return out.splitlines()[2].strip()


BYTES = [bytes([byte]) for byte in "赤い".encode()]


@pytest.mark.parametrize(
    ("pieces", "peak", "line"),
    [
        ([*BYTES, "花".encode()], 6, "赤い«花»"),
        (BYTES, 1, "«赤»い"),  # whichever of the character's tokens it is
        (BYTES, 5, "赤«い»"),
        ([b"a ", b" \xf0\x9f", b"\x99\x82 b"], 2, "a  «🙂 b»"),
        ([b"a", b"\xe8", b"b"], 2, "a\\xe8«b»"),  # no character
        ([b"\xa4", b"\xe8\xb5", b"\xa4", b"\xe8"], 1, "\\xa4«赤»\\xe8"),  # cut at either end
        ([b"\xe8", b"\xe8", b"\xb5", b"\xa4"], 3, "\\xe8«赤»"),
        ([b"e", "\u0301".encode()], 0, "«e»\u0301"),
        ([b"\xc2", b"\x9b", b"\n", b"x"], 3, "\\x9b\\n«x»"),  # joined, a control character is escaped
    ],
)
def test_tokens_that_share_a_character_are_shown_as_the_character(run, fake, pieces, peak, line):
    activations = [0.0] * len(pieces)
    activations[peak] = 2.0
    fake.answers["Search"] = answer_over(pieces, activations)
    assert text_line(run("search", TEXT)[1]) == line


def test_a_shared_character_is_shaded_by_the_strongest_of_its_tokens(run, fake, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    fake.answers["Search"] = answer_over(BYTES, [0.0, 4.0, 1.0, 0.0, 0.0, 0.0])
    assert "48;2;240;100;20m赤\x1b[0mい" in run("search", TEXT)[1]


def test_a_long_text_of_shared_characters_is_cut_between_characters(run, fake):
    pieces = BYTES * 100
    activations = [0.0] * len(pieces)
    activations[301] = 2.0
    fake.answers["Search"] = answer_over(pieces, activations)
    _, out, _ = run("search", TEXT)
    shown = "".join(line.strip() for line in out.splitlines()[2:4])
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert set(shown) == set("…赤い«»")
    assert len(shown) > 60


def test_the_space_that_a_tokenizer_added_can_be_the_peak(run, fake):
    """Its piece is empty, and it is displayed as a space."""

    def prefixed(request):
        made = answer_over([b"", b"2", b" red"], [3.0, 0.0, 0.0])(request)
        made.tokens[0].display = " "
        return made

    fake.answers["Search"] = prefixed
    _, out, _ = run("search", TEXT)
    assert text_line(out) == "« »2 red"
    assert " ·  " in out.splitlines()[1]


def test_line_breaks_inside_tokens_are_shown_and_do_not_break_lines(run):
    _, out, _ = run("top", "0-DEMO:1633")
    assert "the «red\\n» door" in out


def test_a_long_text_is_shown_round_the_peak_or_whole(run, fake):
    def long(request):
        answer = search_answer(request)
        before = [answer.tokens[1]] * 200
        tokens = [*before, *answer.tokens]
        del answer.tokens[:]
        answer.tokens.extend(tokens)
        for result in answer.results:
            activations = [0.0] * 200 + list(result.activations)
            result.max_position += 200
            del result.activations[:]
            result.activations.extend(activations)
        return answer

    fake.answers["Search"] = long
    _, out, _ = run("search", TEXT)
    assert "… favorite" in out
    assert "«red»." in out
    assert len(out.splitlines()) < 12
    _, out, _ = run("search", TEXT, "--full")
    assert out.count("favorite") == 2 * 201


@pytest.mark.parametrize(
    "arguments",
    [
        ["0-DEMO:1633,2:553", "a red dress", "a blue dress"],
        ["0-DEMO:1633", "2:553", "--text", "a red dress", "--text", "a blue dress"],
    ],
)
def test_encode_takes_features_and_texts_two_ways(run, fake, arguments):
    code, out, _ = run("encode", *arguments)
    assert code == 0
    request = fake.seen[0].request
    assert [feature.index for feature in request.features] == [1633, 553]
    assert [sent.text for sent in request.inputs] == ["a red dress", "a blue dress"]
    assert out.count("1.100  ·red") == 2
    assert out.count("2.200  ·red") == 2


def test_encode_of_a_source_shows_its_strongest_latents(run):
    code, out, _ = run("encode", "--sources", "0-demo", "a text")
    assert code == 0
    assert "5 2.500  2 0.100" in out


def test_json_has_defaults_and_decoded_buffers(run):
    code, out, _ = run("encode", "2:1,2:2", "a", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["dense"]["data"][4] == [1.1, 2.2]
    assert answer["sparse"] == []
    assert answer["callInfo"]["batchSize"] == 0
    _, out, _ = run("--json", "encode", "--sources", "0-demo", "a")
    block = json.loads(out)["sparse"][0]
    assert block["indptr"] == [0, 0, 0, 0, 0, 2, 2]
    assert (block["indices"], block["data"]) == ([2, 5], [0.1, 2.5])


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["search", "a"], "results"),
        (["top", "2:1"], "records"),
        (["feature", "2:1"], "facts"),
        (["sources"], "sources"),
        (["tokenize", "a"], "tokens"),
        (["info"], "model"),
    ],
)
def test_every_command_prints_text_and_json(run, arguments, key):
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert out.strip()
    assert all(len(line) <= 80 for line in out.splitlines())
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    assert key in json.loads(out)


def test_where_sources_differ_in_their_bos_it_is_shown(run, fake):
    _, out, _ = run("sources")
    assert [line.split()[5] for line in out.splitlines()[:3]] == ["BOS", "0", "none"]
    fake.answers["ListSources"] = lambda _: service.ListSourcesResponse(sources=SOURCES[:1])
    code, out, _ = run("sources")
    assert code == 0
    assert "BOS" not in out


def test_sources_of_one_kind(run):
    _, out, _ = run("sources", "--kind", "neuron", "--json")
    assert [source["id"] for source in json.loads(out)["sources"]] == ["2"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.UNAVAILABLE, 4),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 4),
        (grpc.StatusCode.FAILED_PRECONDITION, 1),
        (grpc.StatusCode.INTERNAL, 1),
    ],
)
def test_exit_codes_tell_failures_apart(run, fake, code, expected):
    failure = Failure(
        status(code, "the\nmessage", reason="WHY", violations=[("input.text", "is empty")]),
        (("grpc-retry-pushback-ms", "1"),),
    )
    fake.failures = [failure] * 5
    exit_code, out, err = run("search", "a")
    assert (exit_code, out) == (expected, "")
    assert err.startswith(f"saeserve: error: {code.name} WHY: the message; TEXT: is empty")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json"],
        ["find", "a"],
        ["search"],
        ["search", "a", "--ids", "1"],
        ["search", "a", "--limit", "many"],
        ["search", "a", "--layers", "x"],
        ["search", "a", "--timeout", "0"],
        ["search", "a", "--timeout", "nan"],
        ["search", "a", "--wait=soon"],
        ["search", "--ids", "one"],
        ["search", "a", "--features", "0-DEMO"],
        ["feature", "0-DEMO"],
        ["encode", "2:1"],
        ["encode", "--sources", "2"],
    ],
)
def test_wrong_usage_is_one_line_and_2(run, fake, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("saeserve: error: ")
    assert err.count("\n") == 1
    assert fake.seen == []


def test_help_and_version_are_0(run):
    code, out, _ = run("search", "--help")
    assert code == 0
    assert "exit codes" in out
    assert run("--version")[:2] == (0, "saeserve 0.1.0\n")


def test_the_flag_wins_over_the_environment(run, target, monkeypatch):
    monkeypatch.setenv("SAESERVE_TARGET", "127.0.0.1:1")
    assert run("--target", target, "info")[0] == 0
    assert run("info", "--target", target)[0] == 0
    assert run("info", "--timeout", "5")[0] == 4


@pytest.mark.parametrize("repeated", [True, False])
def test_several_targets_are_repeated_or_joined(run, fake, target, repeated):
    targets = ["--target", target, "--target", target] if repeated else ["--target", f"{target},{target}"]
    assert run("info", *targets)[0] == 0
    assert len(fake.seen) == 1


def test_connecting_by_options_and_variables(run, fake, tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text("from-file\n")
    monkeypatch.setenv("SAESERVE_TOKEN", "from-variable")
    monkeypatch.setenv("SAESERVE_CLIENT_NAME", "cli")
    run("info")
    run("info", "--token-file", str(path), "--client-name", "other")
    sent = [(seen.metadata["authorization"], seen.metadata["x-saeserve-client"]) for seen in fake.seen]
    assert sent == [("Bearer from-variable", "cli"), ("Bearer from-file", "other")]
    assert "from-variable" not in run("--help")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--target", "localhost"],
        ["--token-file", "/nowhere"],
        ["--ca-cert", "/nowhere"],
        ["--client-cert", "/nowhere"],
        ["--target", "10.0.0.1:1", "--token-file", "TOKEN"],
    ],
)
def test_connections_that_cannot_be_meant_are_one_line_and_2(run, tmp_path, arguments):
    (tmp_path / "token").write_text("sesame")
    arguments = [str(tmp_path / "token") if part == "TOKEN" else part for part in arguments]
    code, out, err = run("info", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "sesame" not in err


def test_interrupting_is_130(run, fake, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("saeserve.client.Client._invoke", interrupted)
    assert run("search", "a") == (130, "", "")


def test_alone_it_prints_its_help(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.startswith("usage: saeserve ")
    assert "exit codes: 0 answered" in out


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["tokenize", "-hello"], "saeserve tokenize … -- -hello"),
        (["search", "--red"], "-- --red"),
        (["search", "-x y=$z"], None),  # with a space it is no option
        (["search", "-1.5"], None),
        (["search", "a", "--sort", "-red"], "--sort=-red"),
        (["tokenize", "--", "-hello"], None),
        (["search", "a", "--sort=-red"], None),
    ],
)
def test_a_text_that_begins_with_a_dash(run, arguments, advice):
    code, _, err = run(*arguments)
    assert code == (2 if advice else 0)
    assert (advice or "") in err
    assert err.count("\n") == bool(advice)


@pytest.mark.parametrize(
    ("arguments", "field", "flag"),
    [
        (["top", "2:1", "--count", "0"], "page_size", "--count"),
        (["top", "2:1", "--page-token", "x"], "page_token", "--page-token"),
        (["top", "2:1"], "feature.source", "FEATURE"),
        (["search", "a"], "limit", "--limit"),
        (["search", "a"], "input.text", "TEXT"),
        (["search", "a"], "input.token_ids.ids[3]", "--ids"),
        (["search", "a"], "sort_tokens[1]", "--sort"),
        (["search", "a"], "filter.include.layers[0]", "--layers"),
        (["search", "a"], "filter.exclude.sources[2]", "--exclude-sources"),
        (["search", "a"], "filter.exclude.kinds[2]", "--exclude-kind"),
        (["search", "a"], "filter.max_density", "--max-density"),
        (["encode", "2:1", "a"], "inputs[0].text", "TEXT"),
        (["encode", "2:1", "a"], "sources", "--sources"),
    ],
)
def test_errors_name_options_and_not_fields(run, fake, arguments, field, flag):
    said = f"{field}: 'limit: page_size' is not it; of all sources, unless truncate is set"
    fake.failures = [Failure(status(grpc.StatusCode.INVALID_ARGUMENT, said, violations=[(field, said)]))]
    code, _, err = run(*arguments)
    assert code == 2
    expected = f"{flag}: 'limit: page_size' is not it; of all sources, unless --truncate is set\n"
    assert err == f"saeserve: error: INVALID_ARGUMENT: {expected}"


def test_a_deadline_does_not_hide_that_the_server_loads(run, fake):
    loading = status(grpc.StatusCode.UNAVAILABLE, "the model is being loaded", reason="LOADING", retry_seconds=3)
    fake.failures = [Failure(loading, (("grpc-retry-pushback-ms", "3000"),))] * 9
    code, _, err = run("search", TEXT, "--timeout", "1")
    assert code == 4
    assert "LOADING: the model is being loaded" in err
    assert "--wait waits until it has loaded" in err
    assert "wait_ready" not in err


def test_waiting_for_a_server_that_loads(run, fake):
    loading = status(grpc.StatusCode.UNAVAILABLE, "the model is being loaded", reason="LOADING")
    fake.failures = [Failure(loading, (("grpc-retry-pushback-ms", "1"),))] * 12
    assert run("--wait", "search", TEXT)[0] == 0
    assert [seen.method for seen in fake.seen[-2:]] == ["GetServerInfo", "Search"]
    assert run("info", "--wait", "5")[0] == 0


def test_a_server_that_is_not_ready_in_time_says_why(run, fake):
    loading = status(grpc.StatusCode.UNAVAILABLE, "the model is being loaded", reason="LOADING")
    fake.failures = [Failure(loading, (("grpc-retry-pushback-ms", "100"),))] * 50
    code, _, err = run("info", "--wait=0.5")
    assert code == 4
    assert "not ready after 0.5 s" in err
    assert "the model is being loaded" in err


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["se"], ["search"]),
        (["top", "--pa"], ["--page-token"]),
        (["search", "--kind", ""], ["latent", "neuron", "all"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
)
def test_bash_completes_commands_options_and_choices(run, tmp_path, typed, words):
    code, script, err = run("completion", "bash")
    assert (code, err) == (0, "")
    ask = f'COMP_WORDS=(saeserve "$@"); COMP_CWORD={len(typed)}; _shtab_saeserve; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}", "bash", *typed], capture_output=True, text=True, timeout=20
    )
    assert (done.stdout.split(), done.stderr) == (words, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_too(run, shell):
    code, script, _ = run("completion", shell)
    assert code == 0
    assert all(word in script for word in ("tokenize", "page-token", "relative"))
