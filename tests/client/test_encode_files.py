"""`saeserve encode --input --output`: what is written is what was answered, whatever ends a run in between."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

import saeserve
from saeserve.cli.main import main
from saeserve.files import parts
from tests.client import words
from tests.client.fake import Failure, status

TEXTS = ["My favorite color is red.", "She wore a crimson dress.", "日本語 שלום \u202eolleh\u202c", "red  red"]
MANY = [f"text {number} of many, {'long ' * (number % 7)}" for number in range(100)]
KEPT = "the first {} texts are kept in acts.npz.partial: the same command goes on"
FEATURES = ["0-DEMO:1633", "2:53", "0-DEMO:7"]


@pytest.fixture(autouse=True)
def small(fake, monkeypatch):
    """Parts of few texts, so that little is needed for several."""
    monkeypatch.setattr(parts, "PART_TEXTS", 8)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no test of these takes the power away
    fake.streams[:] = [words.stream()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path, texts, **fields):
    """A file of JSON lines; each of `fields` makes a text's value from its number."""
    made = [{"text": text} | {name: make(place) for name, make in fields.items()} for place, text in enumerate(texts)]
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in made))


def dense(matrix):
    return matrix.csr.toarray()


def numbers(text, asked):
    """[words, columns] as the fake service has them."""
    if asked == ["--kind", "all"]:
        return np.hstack([words.rows(text, 2048), words.rows(text, 512)])
    if asked == ["--sources", "0-DEMO"]:
        return words.rows(text, 2048)
    if asked == ["--kind", "neuron"]:
        return words.rows(text, 512)
    return np.stack(
        [words.rows(text, 2048 if "-" in name else 512)[:, int(name.split(":")[1])] for name in FEATURES], 1
    )


@pytest.mark.parametrize("output", ["acts.parquet", "acts.npz"])
@pytest.mark.parametrize("asked", [["--sources", "0-DEMO"], ["--kind", "neuron"], ["--kind", "all"], FEATURES])
def test_a_file_holds_what_was_answered(run, here, output, asked):
    texts = TEXTS + MANY[:20]
    lines("texts.jsonl", texts, key=lambda place: f"../{place}\x1b[31m" if place else 7)
    code, out, err = run("encode", *asked, "--input", "texts.jsonl", "--id-field", "key", "--output", output)
    assert (code, err) == (0, "")
    assert out.startswith(f"{output}: 24 texts, ")
    assert sorted(path.name for path in here.iterdir()) == sorted(["texts.jsonl", output])
    acts = saeserve.read_activations(output)
    expected = [numbers(text, asked) for text in texts]
    assert len(acts) == 24
    assert np.array_equal(acts.toarray(), np.concatenate(expected))
    assert [np.array_equal(acts[place].toarray(), expected[place]) for place in range(24)] == [True] * 24
    assert list(acts.ids) == ["7", *(f"../{place}\x1b[31m" for place in range(1, 24))]
    assert list(acts[1].tokens) == ["She", " wore", " a", " crimson", " dress."]
    assert [acts[1].starts[2], acts[1].ends[2]] == [8, 10]
    assert acts.positions.tolist() == [place for rows in expected for place in range(len(rows))]
    names = [str(name) for name in acts.feature_names[:2]] + [str(acts.feature_names[-1])]
    assert names == {
        "--sources": ["0-DEMO:0", "0-DEMO:1", "0-DEMO:2047"],
        "neuron": ["2:0", "2:1", "2:511"],
        "all": ["0-DEMO:0", "0-DEMO:1", "2:511"],
    }.get(asked[1] if asked[0] == "--kind" else asked[0], [FEATURES[0], FEATURES[1], FEATURES[2]])
    name = acts.feature_names[1]
    assert np.array_equal(acts.column(str(name)), np.concatenate(expected)[:, 1])
    with pytest.raises(KeyError, match="9-DEMO:1"):
        acts.column("9-demo:1")
    matrix = acts.to_scipy()
    assert np.array_equal(dense(matrix), acts.toarray())
    assert np.array_equal(matrix.by_text().toarray(), [rows.max(0) for rows in expected])


def test_other_programs_read_the_files(run, here):
    import pandas
    import polars
    import scipy.sparse

    lines("texts.jsonl", TEXTS, id=str)
    for output in ("all.parquet", "all.npz"):
        assert run("encode", "--kind", "all", "--input", "texts.jsonl", "--id-field", "id", "--output", output)[0] == 0
    assert run("encode", ",".join(FEATURES), "--input", "texts.jsonl", "--output", "few.parquet")[0] == 0
    expected = np.concatenate([numbers(text, ["--kind", "all"]) for text in TEXTS])
    loaded = scipy.sparse.load_npz("all.npz")
    assert isinstance(loaded, scipy.sparse.csr_array)
    assert np.array_equal(loaded.toarray(), expected)
    frame = pandas.read_parquet("all.parquet")
    assert list(frame) == [
        *("text", "id", "position", "token_id", "token", "start", "end"),
        *("0-DEMO:indices", "0-DEMO:values", "2:values"),
    ]
    assert np.array_equal(np.stack(frame["2:values"]), expected[:, 2048:])
    row = frame.iloc[4]
    assert (row["token"], row["text"], row["position"]) == (" red.", 0, 4)
    assert row["0-DEMO:values"].tolist() == expected[4, row["0-DEMO:indices"]].tolist() != []
    long = polars.read_parquet("all.parquet").explode("0-DEMO:indices", "0-DEMO:values")
    assert len(long) == np.count_nonzero(expected[:, :2048])
    few = polars.read_parquet("few.parquet").select(FEATURES).to_numpy()
    assert np.array_equal(few, np.concatenate([numbers(text, FEATURES) for text in TEXTS]))


def test_a_file_is_what_encode_answers_on_the_demo(demo, here, capsys):
    texts = [*TEXTS, "x" * 400]
    lines("texts.jsonl", texts)
    options = ["--include-bos", "--truncate", "--input", "texts.jsonl", "--target", demo.target]
    latents = demo.encode(texts, sources="0-demo", include_bos=True, truncate=True)
    chosen = demo.encode(texts, features=["2:53", "0-demo:1633"], include_bos=True, truncate=True)
    for asked, answer in ((["--sources", "0-DEMO,2"], latents), (["2:53", "0-demo:1633"], chosen)):
        tables = []
        for output in ("acts.parquet", "acts.npz"):
            assert main(["encode", *asked, *options, "--force", "--output", output]) == 0
            tables.append(saeserve.read_activations(output))
        for acts in tables:
            assert acts.text_offsets.tolist() == list(answer.text_offsets)
            assert list(acts.tokens) == [token.display for text in answer for token in text.tokens]
            assert np.flatnonzero(acts.is_bos).tolist() == list(answer.text_offsets[:-1])
            if answer is chosen:
                np.testing.assert_allclose(acts.toarray(), chosen.dense, atol=1e-4)
            else:
                np.testing.assert_allclose(acts.toarray()[:, :2048], latents.sparse["0-demo"].toarray(), atol=1e-3)
                neuron = demo.encode(texts, features="2:53", include_bos=True, truncate=True).dense[:, 0]
                np.testing.assert_allclose(acts.column("2:53"), neuron, atol=1e-4)


PROGRAM = """
import os, resource, sys
from saeserve.files import parts
parts.PART_TEXTS = 8
os.fsync = lambda _: None
resource.setrlimit(resource.RLIMIT_FSIZE, (MOST, MOST))
from saeserve.cli.main import main
sys.exit(main())
"""


def begun(*arguments, limit=resource.RLIM_INFINITY):
    """The command in a process of its own, whose files have at most so many bytes."""
    program = PROGRAM.replace("MOST", str(limit))
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished_parts(output):
    return len(list(Path(f"{output}.partial").glob("part-*.npz")))


def wait_for_parts(process, output, count):
    deadline = time.monotonic() + 60
    while finished_parts(output) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("output", ["acts.parquet", "acts.npz"])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(run, here, fake, target, output):
    lines("texts.jsonl", MANY)
    asked = ["encode", "--kind", "all", "--input", "texts.jsonl", "--output", output]
    assert run(*asked)[0] == 0
    whole = Path(output).rename("whole").read_bytes()
    fake.streams[:] = [words.stream(lambda count: time.sleep(0.02 if count > 30 else 0))]
    with begun(*asked, "--target", target) as killed:
        wait_for_parts(killed, output, 3)
        killed.send_signal(signal.SIGKILL)
    assert not Path(output).exists()
    done = finished_parts(output)
    assert 3 <= done < 12
    Path(f"{output}.partial", "part-00000099.npz.tmp").write_text("half a part")
    fake.streams[:] = [words.stream()]
    before = len(fake.seen)
    code, _, err = run(*asked)
    assert (code, err) == (0, f"saeserve: goes on after {8 * done} texts that an earlier run has encoded\n")
    assert [seen.method for seen in fake.seen[before:]].count("EncodeStream") == 1
    assert Path(output).read_bytes() == whole
    assert not Path(f"{output}.partial").exists()


def test_a_run_that_was_interrupted_says_how_to_go_on(run, here, fake, target):
    lines("texts.jsonl", MANY)
    fake.streams[:] = [words.stream(lambda count: time.sleep(0.02))]
    asked = ["encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz"]
    with begun(*asked, "--target", target) as stopped:
        wait_for_parts(stopped, "acts.npz", 1)
        code, _, err = run(*asked)
        assert code == 2
        assert "acts.npz.partial is in use: another run writes acts.npz" in err
        stopped.send_signal(signal.SIGINT)
        said = stopped.stderr.read()
    assert stopped.returncode == 130
    assert re.fullmatch(rf"saeserve: stopped; {KEPT.format('[0-9]+')}\n", said)
    fake.streams[:] = [words.stream()]
    assert run(*asked)[0] == 0
    assert len(saeserve.read_activations("acts.npz")) == 100


def test_a_server_that_goes_for_good_leaves_what_can_go_on(run, here, fake):
    lines("texts.jsonl", MANY)

    refuses = Failure(status(grpc.StatusCode.PERMISSION_DENIED, "not any more", reason="DENIED"))

    def first_then_refused(requests, context):
        config = next(requests).config
        for count, message in enumerate(requests):
            if count == 20:
                refuses.abort(context)
            yield from words.answer(config, message.item)

    fake.streams[:] = [first_then_refused]
    asked = ["encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz"]
    code, out, err = run(*asked)
    assert (code, out) == (1, "")
    assert err == (
        "saeserve: error: PERMISSION_DENIED DENIED: not any more; the first 16 texts are kept in acts.npz.partial: the "
        "same command goes on\n"
    )
    fake.streams[:] = [words.stream()]
    assert run(*asked)[0] == 0
    assert np.array_equal(
        saeserve.read_activations("acts.npz").toarray()[:, 0],
        np.concatenate([words.rows(text, 512)[:, 53] for text in MANY]),
    )


@pytest.mark.parametrize(("most", "kept"), [(3_000, "no part of it was finished"), (20_000, KEPT.format(100))])
def test_a_full_disk_is_one_line_and_a_later_run_goes_on(run, here, target, most, kept):
    lines("texts.jsonl", MANY)
    asked = ["encode", "--kind", "all", "--input", "texts.jsonl", "--output", "acts.npz"]
    with begun(*asked, "--target", target, limit=most) as full:
        said = full.stderr.read()
    assert full.returncode == 1
    assert re.fullmatch(rf"saeserve: error: acts.npz.* cannot be written: File too large; {kept}\n", said)
    assert not Path("acts.npz").exists()
    assert run(*asked)[0] == 0
    assert len(saeserve.read_activations("acts.npz")) == 100


def test_a_bad_line_ends_the_run_and_a_mended_one_goes_on(run, here):
    given = [json.dumps({"text": text}) for text in MANY[:20]]
    for place, wrong, why in (
        (12, b'{"text": 7}', "expected an object with a text in 'text' (--text-field names another)"),
        (13, b"[1]", "expected an object with a text in 'text' (--text-field names another)"),
        (14, b'{"text": ', "no JSON: Expecting value: line 1 column 10 (char 9)"),
        (15, b'{"text": "caf\xe9"}', "not UTF-8, byte 0xe9 at 13"),
    ):
        rest = [line.encode() for line in given]
        Path("texts.jsonl").write_bytes(b"\n".join([*rest[:place], wrong, *rest[place + 1 :]]))
        code, out, err = run("encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz")
        assert (code, out) == (2, "")
        assert err.removeprefix("saeserve: goes on after 8 texts that an earlier run has encoded\n") == (
            f"saeserve: error: texts.jsonl, line {place + 1}: {why}; {KEPT.format(8)}\n"
        )
    lines("texts.jsonl", MANY[:20])
    code, _, err = run("encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz")
    assert (code, err) == (0, "saeserve: goes on after 8 texts that an earlier run has encoded\n")
    assert len(saeserve.read_activations("acts.npz")) == 20


def test_a_text_that_is_refused_ends_the_run_with_its_place(run, here):
    lines("texts.jsonl", ["red", "bad", "blue"])
    code, _, err = run("encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz")
    assert code == 2
    assert err == (
        "saeserve: error: INVALID_ARGUMENT TEXT_BAD: texts.jsonl, line 2: a bad text; no part of it was finished\n"
    )
    lines("texts.jsonl", ["red", "\ud83d", "blue"])
    code, _, err = run("encode", "2:53", "--input", "texts.jsonl", "--output", "acts.npz")
    assert code == 2
    assert "texts.jsonl, line 2: the text is not UTF-8: character 0 is U+D83D, half of a surrogate pair" in err


@pytest.mark.parametrize("output", ["acts.parquet", "acts.npz"])
def test_what_is_skipped_is_told_counted_and_not_there(run, here, fake, output):
    texts = ["bad" if place in (3, 40) else text for place, text in enumerate(MANY[:50])]
    lines("texts.jsonl", texts)
    given = Path("texts.jsonl").read_text().splitlines()
    given[5] = given[49] = "no JSON\x1b[31m"
    Path("texts.jsonl").write_text("\n\n".join(given))
    asked = ["encode", "--sources", "0-demo", "--input", "texts.jsonl", "--output", output, "--on-error", "skip"]
    code, out, err = run(*asked)
    assert code == 5
    assert out.startswith(f"{output}: 46 texts, ")
    assert sorted(err.splitlines()) == [
        "saeserve: error: 4 texts left out",
        "saeserve: skipped: texts.jsonl, line 11: no JSON: Expecting value: line 1 column 1 (char 0)",
        "saeserve: skipped: texts.jsonl, line 7: INVALID_ARGUMENT TEXT_BAD: a bad text",
        "saeserve: skipped: texts.jsonl, line 81: INVALID_ARGUMENT TEXT_BAD: a bad text",
        "saeserve: skipped: texts.jsonl, line 99: no JSON: Expecting value: line 1 column 1 (char 0)",
    ]
    acts = saeserve.read_activations(output)
    left = [place for place in range(50) if place not in (3, 5, 40, 49)]
    assert acts.text_numbers.tolist() == left
    assert (acts.about.texts, acts.about.skipped) == (46, 4)
    assert np.array_equal(acts.toarray(), np.concatenate([words.rows(MANY[place], 2048) for place in left]))
