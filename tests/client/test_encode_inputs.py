"""What `saeserve encode --input` reads, refuses and tells, and that it needs no more memory for more texts."""

import gzip
import io
import json
import os
import sys
import tracemalloc
from pathlib import Path

import grpc
import numpy as np
import pytest

import saeserve
from saeserve.answers.results import EncodedText, StreamItem
from saeserve.answers.types import CallInfo, Token
from saeserve.cli import progress
from saeserve.files import parquet, parts
from saeserve.files.encode import encode
from saeserve.files.partial import Partial
from saeserve.files.settings import Block, Settings
from saeserve.files.strings import Strings
from saeserve.files.texts import MOST_BYTES, Bad, Input
from saeserve.v1 import feature_service_pb2 as service
from tests.client import words
from tests.client.fake import SOURCES, Failure, status

TEXTS = ["My favorite color is red.", "She wore a\ncrimson, “dark” dress.", "日本語 שלום \u202eolleh\u202c"]
ONE_LINE = [text.replace("\n", " ") for text in TEXTS]


@pytest.fixture(autouse=True)
def small(fake, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parts, "PART_TEXTS", 4)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no test of these takes the power away
    fake.streams[:] = [words.stream()]


def lines(texts, name="texts.jsonl"):
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def write(name, texts):
    """The texts in the format that the name ends with."""
    if name.endswith(".csv"):
        import csv

        with Path(name).open("w", newline="") as file:
            csv.writer(file).writerows([["id", "text"], *([f"n{place}", text] for place, text in enumerate(texts))])
    elif name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        ids = [f"n{place}" for place in range(len(texts))]
        pyarrow.parquet.write_table(pyarrow.table({"id": ids, "text": texts, "other": ids}), name)
    else:
        plain = "\ufeff" + "\r\n\r\n".join(
            json.dumps({"id": f"n{place}", "text": text}) if "jsonl" in name else text
            for place, text in enumerate(texts)
        )
        Path(name).write_bytes(gzip.compress(plain.encode()) if name.endswith(".gz") else plain.encode())


@pytest.mark.parametrize(
    "name", ["in.jsonl", "in.ndjson.gz", "in.jsonl.gz", "in.txt", "in.txt.gz", "in.csv", "in.parquet"]
)
def test_every_format_gives_the_same_texts(run, name):
    texts = ONE_LINE if ".txt" in name else TEXTS
    if name == "in.ndjson.gz":
        write("in.jsonl.gz", texts)
        Path("in.jsonl.gz").rename(name)
    else:
        write(name, texts)
    ids = [] if ".txt" in name else ["--id-field", "id"]
    code, _, err = run("encode", "2:53", "--input", name, *ids, "--output", "acts.npz")
    assert (code, err) == (0, "")
    acts = saeserve.read_activations("acts.npz")
    assert ["".join(one.tokens).replace("\\n", "\n") for one in acts] == [text.encode().decode() for text in texts]
    assert acts.ids == (["n0", "n1", "n2"] if ids else None)


@pytest.mark.parametrize(("given", "options"), [('{"text": "red"}\n{"text": "blue"}', []), ("red\nblue", ["txt"])])
def test_standard_input(run, monkeypatch, given, options):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    asked = [part for form in options for part in ("--input-format", form)]
    assert run("encode", "2:53", "--input", "-", *asked, "--output", "acts.npz")[0] == 0
    assert list(saeserve.read_activations("acts.npz").tokens) == ["red", "blue"]


def test_token_ids_instead_of_texts(run, fake):
    seen = []

    def remember(requests, _):
        config = next(requests).config
        for message in requests:
            seen.append(list(message.item.input.token_ids.ids))
            message.item.input.text = "red"
            yield from words.answer(config, message.item)

    fake.streams[:] = [remember]
    lines([[5, 6], [7]])
    assert run("encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz")[0] == 0
    assert seen == [[5, 6], [7]]


@pytest.mark.parametrize("output", ["acts.parquet", "acts.npz"])
@pytest.mark.parametrize("asked", ["--kind=all", "2:53"])
def test_no_texts_are_a_file_of_none(run, output, asked):
    Path("texts.jsonl").write_text("\n\n")
    code, out, _ = run("encode", asked, "--input", "texts.jsonl", "--output", output)
    assert (code, out.partition(" values")[0]) == (0, f"{output}: 0 texts, 0 tokens, 0")
    acts = saeserve.read_activations(output)
    assert (len(acts), acts.shape) == (0, (0, 2560 if asked == "--kind=all" else 1))
    assert acts.to_scipy().by_text().shape == (0, acts.shape[1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["2:53", "--output", "a.npz"], "--output goes with --input, the file to encode"),
        (["2:53", "text", "--on-error", "skip"], "--on-error goes with --input"),
        (["--kind", "latent", "text"], "--kind goes with --input"),
        (["2:53", "--input", "t.jsonl"], "--input goes with --output, the file to write"),
        (["--input", "t.jsonl", "--output", "a.npz"], "either FEATURE,..., or --sources SOURCE,..., or --kind"),
        (
            ["2:53", "--kind", "all", "--input", "t.jsonl", "--output", "a.npz"],
            "or --kind says which features",
        ),
        (["2:53", "--text", "red", "--input", "t.jsonl", "--output", "a.npz"], "--text does not go with --input"),
        (["2:53", "--full", "--input", "t.jsonl", "--output", "a.npz"], "--full does not go with --input"),
        (["2:53", "--input", "t.jsonl", "--output", "a.csv"], "--output a.csv ends with none of .parquet, .npz"),
        (["2:53", "--input", "t.jsonl", "--output", "no/a.npz"], "--output no/a.npz: the folder no is not there"),
        (["2:53", "--input", "t.npz", "--output", "t.npz"], "--output t.npz is the input"),
        (["2:53", "--input", "t.dat", "--output", "a.npz"], "t.dat ends with none of .jsonl, "),
        (["2:53", "--input", "gone.txt", "--output", "a.npz"], "gone.txt is not there"),
        (["2:53", "--input", "t.txt", "--id-field", "id", "--output", "a.npz"], "t.txt is read as a text a line"),
        (["2:53,2:53", "--input", "t.jsonl", "--output", "a.npz"], "feature 2:53 is asked for twice"),
        (["--sources", "0-demo,DEMO0", "--input", "t.jsonl", "--output", "a.npz"], "source 0-DEMO is asked for twice"),
        (["no name", "--input", "t.jsonl", "--output", "a.npz"], "'no name' is no feature name"),
        (["2:53", "--input", "t.csv", "--output", "a.npz"], "t.csv has no column 'text', but 'a', 'b'"),
        (["2:53", "--input", "t.parquet", "--output", "a.npz"], "t.parquet is no Parquet file, or a damaged one"),
        (["2:53", "--input", "t.jsonl.gz", "--output", "a.npz"], "t.jsonl.gz cannot be read: Not a gzipped file"),
        (["2:53", "--input", "folder.txt", "--output", "a.npz"], "folder.txt cannot be read: Is a directory"),
        (["2:53", "--input", "t.jsonl", "--output", "folder.npz"], "folder.npz is a folder"),
        (["2:53", "--input", "t.jsonl", "--output", "there.npz"], "there.npz is there already: --force makes it anew"),
    ],
)
def test_what_cannot_be_meant_is_one_line(run, options, says):
    lines(["red"], "t.jsonl")
    for name in ("t.dat", "t.txt", "t.npz", "t.parquet", "t.jsonl.gz", "there.npz"):
        Path(name).write_text("nothing of the kind")
    Path("t.csv").write_text("a,b\n1,2\n")
    for name in ("folder.txt", "folder.npz"):
        Path(name).mkdir()
    code, out, err = run("encode", *options)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_what_is_not_served_is_said_in_the_servers_words(run, fake):
    lines(["red"])
    for asked in (["9-demo:1"], ["--sources", "9-demo"], ["0-demo:2048"]):
        fake.answers["ListSources"] = _then_not_found(fake)
        code, _, err = run("encode", *asked, "--input", "texts.jsonl", "--output", "acts.npz")
        assert (code, err) == (
            3,
            "saeserve: error: NOT_FOUND SOURCE_NOT_FOUND: did you mean 0-demo?\n",
        )


def _then_not_found(fake):
    """Sources, and then a refusal of whatever is asked next."""

    def answer(_):
        fake.failures.append(
            Failure(status(grpc.StatusCode.NOT_FOUND, "did you mean 0-demo?", reason="SOURCE_NOT_FOUND"))
        )
        return service.ListSourcesResponse(sources=SOURCES)

    return answer


def begin(run, fake, *more):
    """A run that stops at its tenth text, with two parts finished."""
    lines([f"text {place}" for place in range(9)] + ["bad"])
    asked = ["encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz", *more]
    assert run(*asked)[0] == 2
    return asked


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--include-bos"], "acts.npz.partial was begun with --include-bos not given, not given: ask as before"),
        (["--truncate"], "was begun with --truncate not given, not given"),
        (["--id-field", "id"], "was begun with --id-field not given, not given"),
    ],
)
def test_a_run_goes_on_only_if_it_is_asked_for_the_same(run, fake, more, says):
    asked = begin(run, fake)
    code, _, err = run(*asked, *more)
    assert code == 2
    assert says in err
    assert err.endswith(" to go on, or --force to begin anew\n")


def test_a_run_goes_on_only_with_what_it_has_read(run, fake):
    asked = begin(run, fake)
    texts = [f"text {place}" for place in range(9)]
    for given, says in (
        (["another", *texts[1:]], "the first 8 texts of texts.jsonl are not those of which acts.npz.partial has"),
        (texts[:5], "texts.jsonl has 5 texts, and in acts.npz.partial are the first 8 of a longer one"),
    ):
        lines(given)
        code, _, err = run(*asked)
        assert code == 2
        assert says in err
    lines([*texts, "more than before"])
    code, _, err = run(*asked)
    assert (code, err) == (0, "saeserve: goes on after 8 texts that an earlier run has encoded\n")


def test_another_source_or_another_model_is_another_run(run, fake):
    asked = begin(run, fake)
    code, _, err = run(*["2:54" if part == "2:53" else part for part in asked])
    assert "was begun with features 2:53, not 2:54: ask as before" in err
    code, _, err = run("encode", "--kind", "latent", *asked[2:])
    assert "was begun with sources 2, not 0-DEMO: ask as before" in err
    changed = service.ListSourcesResponse(sources=SOURCES)
    changed.sources[1].revision = "other"
    fake.answers["ListSources"] = lambda _: changed
    code, _, err = run(*asked)
    assert "was begun with another 2 than the one now served" in err
    changed.sources[1].revision = ""
    changed.call_info.model_revision = "f" * 64
    code, _, err = run(*asked)
    assert code == 2
    assert "was begun with model revision , not ffffffffffffffff" in err


def test_a_model_that_changes_during_a_run_is_noticed(run, fake):
    def changing(requests, _):
        config = next(requests).config
        for count, message in enumerate(requests):
            for answer in words.answer(config, message.item):
                answer.call_info.model_revision = "" if count < 6 else "new"
                yield answer

    fake.streams[:] = [changing]
    lines([f"text {place}" for place in range(9)])
    code, _, err = run("encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz")
    assert code == 2
    assert "the server now serves another model (revision new): --force begins anew" in err
    assert not Path("acts.npz").exists()


def test_a_part_of_another_sae_is_not_kept(run, fake):
    served = service.ListSourcesResponse(sources=SOURCES)
    asked = []

    def changing(_):  # once for the settings, then before each part; in the end the first is there again
        asked.append(None)
        served.sources[1].revision = "other" if len(asked) == 3 else ""
        return served

    fake.answers["ListSources"] = changing
    lines([f"text {place}" for place in range(9)])
    command = ["encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz"]
    code, _, err = run(*command)
    assert code == 2
    assert "has changed during the run, which was begun with another 2 than the one now served" in err
    code, _, err = run(*command)
    assert (code, err) == (0, "saeserve: goes on after 4 texts that an earlier run has encoded\n")
    assert len(saeserve.read_activations("acts.npz")) == 9


def test_what_was_begun_by_force_does_not_go_on_by_force(run):
    lines([f"text {place}" for place in range(9)] + ["bad"])
    code, _, err = run("encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz", "--force")
    assert code == 2
    assert err.endswith("the first 8 texts are kept in acts.npz.partial: the same command without --force goes on\n")


def test_force_begins_anew_and_leaves_what_others_put_there(run, fake):
    asked = begin(run, fake)
    lines(["red"])
    Path("acts.npz").write_text("an older one")
    Path("acts.npz.partial", "mine.txt").write_text("somebody's")
    assert run(*asked)[0] == 2
    assert Path("acts.npz").read_text() == "an older one"
    assert run(*asked, "--force")[0] == 0
    assert len(saeserve.read_activations("acts.npz")) == 1
    assert [path.name for path in Path("acts.npz.partial").iterdir()] == ["mine.txt"]


def test_a_replacement_that_was_begun_goes_on_without_force(run, fake):
    Path("acts.npz").write_text("an older one")
    asked = begin(run, fake, "--force")[:-1]
    lines([f"text {place}" for place in range(9)])
    code, _, err = run(*asked)
    assert (code, err) == (0, "saeserve: goes on after 8 texts that an earlier run has encoded\n")
    assert len(saeserve.read_activations("acts.npz")) == 9


def test_a_damaged_part_is_named(run, fake):
    asked = begin(run, fake)
    lines([f"text {place}" for place in range(9)])
    part = Path("acts.npz.partial", "part-00000000.npz")
    whole = part.read_bytes()
    for damaged in (whole[:-40], b"", whole.replace(b"text 3", b"text 9"), whole.replace(b'"texts": 4', b'"texts": 5')):
        assert damaged != whole
        part.write_bytes(damaged)
        code, _, err = run(*asked)
        assert code == 2
        assert "part-00000000.npz: no .npz file, or a damaged one" in err
        assert "--force begins anew" in err
    part.unlink()
    code, _, err = run(*asked)
    assert "acts.npz.partial lacks parts: --force begins anew" in err


def test_what_parquet_needs_is_said_before_anything_is_asked(run, fake, monkeypatch):
    lines(["red"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, _, err = run("encode", "2:53", "--input", "texts.jsonl", "--output", "acts.parquet")
    assert code == 1
    assert err == 'saeserve: error: --output acts.parquet needs pyarrow: pip install "saeserve[arrow]"\n'
    assert fake.seen == []
    Path("t.parquet").write_text("")
    code, _, err = run("encode", "2:53", "--input", "t.parquet", "--output", "acts.npz")
    assert code == 1
    assert err == 'saeserve: error: t.parquet, a Parquet file, needs pyarrow: pip install "saeserve[arrow]"\n'
    with pytest.raises(ImportError, match=r"a Parquet file needs pyarrow: pip install"):
        saeserve.read_activations("t.parquet")


def test_only_our_files_are_read_back():
    np.savez("other.npz", a=np.zeros(3))
    Path("text.npz").write_text("PK")
    write("other.parquet", TEXTS)
    for name, says in (
        ("other.npz", "it has no description by saeserve"),
        ("text.npz", "no .npz file, or a damaged one"),
        ("other.parquet", "its metadata have no description by saeserve"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: .*{says}"):
            saeserve.read_activations(name)
    with pytest.raises(FileNotFoundError):
        saeserve.read_activations("gone.npz")


def test_a_line_without_end_is_a_bad_line(tmp_path):
    long = tmp_path / "long.txt"
    with long.open("wb") as file:
        file.write(b"red\n" + b"x" * (MOST_BYTES + 9) + b"\nblue\n")
    first, second, third = Input(str(long), None, None, None)
    assert (first.text, third.text, third.place) == ("red", "blue", f"{long}, line 3")
    assert isinstance(second, Bad)
    assert second.why == f"more than {MOST_BYTES:,} bytes"


SETTINGS = Settings("demo", "rev", (Block("0-demo", "0-DEMO", "latent", 64, ""),), ("0-DEMO:1",), False, False, False)
INFO = CallInfo("", 0, "", "rev", "", 0, 0, 0, 0, 0, None)
ROWS = np.linspace(0, 1, 100, dtype=np.float32).reshape(-1, 1)
TOKENS = tuple(Token(place, b"x", "x", place, place + 1) for place in range(100))


def stub(texts):
    """Answers at once, 100 tokens each."""
    for sequence, _ in enumerate(texts):
        result = EncodedText(TOKENS, False, False, (), ROWS, {}, {})
        yield StreamItem(sequence, INFO, result, None)


class Silent:
    def begins(self, texts): ...
    def goes_on(self, tokens, share): ...
    def skips(self, place, why): ...
    def writes(self): ...


def peak(tmp_path, texts, output):
    """Most bytes in use at a time, Python's and NumPy's, and Arrow's."""
    import pyarrow

    path = tmp_path / "many.txt"
    path.write_text("a text\n" * texts)
    pool = pyarrow.system_memory_pool()
    pyarrow.set_memory_pool(pool)
    before = pool.bytes_allocated()
    tracemalloc.start()
    try:
        with Partial(tmp_path / f"{texts}{output}", SETTINGS) as folder:
            given = Input(str(path), None, None, None)
            summary = encode(given, stub, folder, skip=False, told=Silent(), check=lambda: None)
        assert summary.tokens == 100 * texts
        return tracemalloc.get_traced_memory()[1], pool.max_memory() - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("output", [".parquet", ".npz"])
def test_more_texts_need_no_more_memory(tmp_path, monkeypatch, output):
    monkeypatch.setattr(parts, "PART_TEXTS", 8)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 2**18)
    peak(tmp_path, 8, output)  # what is loaded at first
    few, of_few = peak(tmp_path, 24, output)
    many, of_many = peak(tmp_path, 120, output)
    assert few < 4 * 2**20
    assert many < 1.3 * few + 2**18
    assert of_many < 1.3 * of_few + 2**18


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.txt", "in.parquet", "in.jsonl.gz"])
def test_how_much_has_been_read_is_known_as_it_is_read(name):
    write(name, [f"text {place}" for place in range(1000)])
    given = Input(name, None, None, None)
    shares = [given.share for _ in given]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1, abs=0.01)
    assert name.endswith(".gz") or shares[499] == pytest.approx(0.5, abs=0.03)


def test_strings_are_a_sequence_of_texts():
    given = ["", "日本語", "a"]
    strings = Strings.of(given)
    assert (list(strings), strings[-1], list(strings[1:]), len(strings[5:])) == (given, "a", given[1:], 0)
    with pytest.raises(IndexError):
        strings[3]


def test_a_run_that_is_not_watched_tells_now_and_then(capsys):
    now = 0.0
    with progress.Telling("acts.npz", clock=lambda: now) as told:
        told.begins(1000)
        for step in range(1, 101):
            now = step * 1.0
            told.goes_on(50, 0.5 + step / 200)
        for place in range(30):
            told.skips(f"line {place}", "why\x1b[31m")
    said = capsys.readouterr().err.splitlines()
    assert said[:4] == [
        "saeserve: goes on after 1,000 texts that an earlier run has encoded",
        "saeserve: 65%, 1,030 texts, 52 tokens/s, 1 min 10 s left",
        "saeserve: 80%, 1,060 texts, 51 tokens/s, 40 s left",
        "saeserve: 95%, 1,090 texts, 51 tokens/s, 10 s left",
    ]
    assert said[4] == "saeserve: skipped: line 0: why\\x1b[31m"
    assert len(said) == 25
    assert said[-1] == "saeserve: skipped: more, which are only counted from here on"


def test_a_terminal_gets_a_bar(monkeypatch):
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress.Telling("[red]\x1b[5macts.npz") as told:
        told.begins(0)
        told.goes_on(50, 0.25)
        told.skips("line 7", "[bold]no JSON")
        told.writes()
    assert "[red]\\x1b[5macts.npz" in shown.getvalue()
    assert "saeserve: skipped: line 7: [bold]no JSON" in shown.getvalue()
    assert " 25%" in shown.getvalue()
    assert "writing the file" in shown.getvalue()
