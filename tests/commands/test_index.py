"""`saeserve-server index` as its user types it: killed and resumed, in shards that are merged, described."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saeserve_server.commands.index.progress import describe
from saeserve_server.commands.main import main
from saeserve_server.records.builder import Progress
from saeserve_server.records.store import RecordStore
from tests.conftest import DEVICE, START_TIMEOUT

SETTINGS = ["--neurons", "false", "--device", DEVICE, "--threads", "1", "--records", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred texts, and an index of them."""
    folder = tmp_path_factory.mktemp("index")
    draw = random.Random(0)
    words = "the a red blue ship sails over sea and house was built in old town by two men who sang"
    texts = [" ".join(draw.choices(words.split(), k=draw.randint(3, 60))) for _ in range(200)]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    assert main(["index", "build", str(folder / "whole"), str(folder / "texts.jsonl"), *SETTINGS]) == 0
    return folder


def content(index: Path) -> str:
    return RecordStore.open(index, verify=True).content


def test_a_build_that_is_killed_is_not_begun_anew_but_resumed_to_the_same_bytes(folder, capsys):
    out, part = folder / "resumed", folder / "resumed.part"
    build = ["index", "build", str(out), str(folder / "texts.jsonl"), *SETTINGS, "--checkpoint", "1", "--batch", "2048"]
    code = "import sys, saeserve_server.records.builder as b; b.CHECKPOINT_SHARE = 0\n"
    code += "from saeserve_server.records.building.part import Part; save = Part.save\n"
    code += "def slowly(self): save(self); import time; time.sleep(600)\n"  # killed in the midst of the corpus
    code += "Part.save = slowly; b.Folding.fold = (lambda fold: lambda s, c: (setattr(s, '_saved', 0), fold(s, c)))"
    code += "(b.Folding.fold)\nfrom saeserve_server.commands.main import main; main(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", code, *build], stderr=subprocess.DEVNULL) as killed:
        deadline = time.monotonic() + START_TIMEOUT
        while not (part / "part.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        killed.kill()
    assert not out.exists()
    assert main(build) == 2
    assert f"{part}: a build that was not finished: --resume goes on with it" in capsys.readouterr().err
    assert main([*build, "--resume", "--context", "64"]) == 2
    assert "was begun in another way: cut.context: 128, 64: remove it to begin anew" in capsys.readouterr().err
    assert main([*build, "--resume"]) == 0
    assert content(out) == content(folder / "whole")
    assert not part.exists()


def test_shards_are_merged_and_described(folder, capsys):
    parts = [folder / f"part-{number}" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        build = ["index", "build", str(part), str(folder / "texts.jsonl"), *SETTINGS, "--shard", f"{number}/2"]
        assert main(build) == 0
    assert "part 2 of 2, 72 of 200 texts" in capsys.readouterr().out
    settings = SETTINGS[:-2]
    assert main(["index", "merge", str(folder / "merged"), str(parts[1]), *settings]) == 2
    assert "2 chunks of 64 texts are missing, the first at text 1: give the parts of all" in capsys.readouterr().err
    assert main(["index", "merge", str(folder / "merged"), *map(str, reversed(parts)), *settings]) == 0
    assert content(folder / "merged") == content(folder / "whole")
    capsys.readouterr()
    for place, kind in [(parts[0], "part"), (folder / "merged", "index")]:
        assert main(["index", "info", str(place), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["kind"], told["made_of"]["keeping"]["records"]) == (kind, 8)
        assert told["made_of"]["computed"]["kernel of 0-demo"] == "plain"
    assert main(["index", "info", str(folder / "merged")]) == 0
    assert "cut.context                 128" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("bound", "told"),
    [
        (["--max-memory", "10MB"], "--max-memory: 9.5 MiB is less than the "),
        (["--max-disk", "1 MiB"], "--max-disk: 1.0 MiB is less than the "),
    ],
)
def test_what_would_take_too_much_is_refused_before_it_begins(folder, capsys, bound, told):
    build = ["index", "build", str(folder / "small"), str(folder / "texts.jsonl"), *SETTINGS, *bound]
    assert main(build) == 2
    assert told in capsys.readouterr().err
    assert not (folder / "small.part").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/100000"])
def test_a_share_that_cannot_be_is_refused(capsys, shard):
    with pytest.raises(SystemExit):
        main(["index", "build", "out", "texts", "--shard", shard])
    assert "expected a share such as 2/8" in capsys.readouterr().err


def test_progress_says_how_far_how_fast_and_how_long():
    line = describe(Progress(10, 20, 3000), 0.25, 30.0, 1500)
    assert line == "[######..................]  25% 10 texts, 3,000 tokens, 50 tokens/s, 1:30 left"
    assert describe(Progress(10, 20, 3000, 0.5), 1.0, 60.0, 0) == "[############............]  50% second pass"
