"""A wrong configuration is told within a second, by every command, before torch or anything like it is imported."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from saeserve_server.models.locate import DEMO_FOLDER
from tests.sources.formats import write_openai, write_saelens

MODEL = DEMO_FOLDER / "model"
SAE = f'[[sources]]\nset = "mine"\npath = "{DEMO_FOLDER}/saes/0-demo"\n'
LISTENS = 'bind = "127.0.0.1:0"\nmetrics_bind = "none"\n'
SYNTHETIC = 'model = "synthetic:x"\n[synthetic.x]\nlayers = 2\nd_model = 32\nheads = 2\n'


class Told(NamedTuple):
    """How a command line ended."""

    status: int
    lines: list[str]
    seconds: float


# What is wrong → the file, and what the one line says. Told by all commands that load a model.
SERVED = {
    "typo": ("max_imputs = 3", "max_imputs: unknown key; did you mean max_inputs?"),
    "no model folder": ('model = "./nowhere"', "model: no folder"),
    "model is a file": ('model = "./file"', "model: no folder"),
    "model is not in the cache": ('model = "me/mine"', "nothing is downloaded at a start"),
    "model with a revision": ('model = "gpt2@main"', "expected a name without revision"),
    "model of a name too long": (f'model = "{"x" * 300}"', "File name too long"),
    "no model in the folder": ('model = "./empty"', "holds no config.json"),
    "cut weights": ('model = "./cut"', "model.safetensors is no safetensors file, or truncated or damaged"),
    "cut configuration": ('model = "./config-cut"', "config.json cannot be loaded: not valid JSON"),
    "no tokenizer": ('model = "./no-tokenizer"', "tokenizer.json is missing"),
    "unknown shape": ('model = "synthetic:tinny"', "no [synthetic.tinny] shape is configured; did you mean tiny?"),
    "hook of a shape": (
        SYNTHETIC + 'hook = "blocks.{layer}.hook_mpl_out"',
        "did you mean blocks.{layer}.hook_mlp_out?",
    ),
    "l0 of a shape": (
        SYNTHETIC + "latents = 20",
        "synthetic.x.l0: expected less than the number of latents (20), got 50",
    ),
    "nothing to serve": (f'model = "{MODEL}"\nneurons = false', "sources: nothing to serve"),
    "no SAE there": ('[[sources]]\nset = "a"\npath = "nowhere"', "sources[0].path: {folder}/nowhere: does not exist"),
    "no SAE in the folder": ('[[sources]]\nset = "a"\npath = "empty"', "no known layout of an SAE: it is empty"),
    "cut safetensors": (
        '[[sources]]\nset = "a"\npath = "cut-sae"',
        "sae_weights.safetensors: not a safetensors file, or",
    ),
    "cut pt": ('[[sources]]\nset = "a"\npath = "cut.pt"', "cut.pt: not an archive, or truncated or damaged"),
    "hook misspelt": (SAE + 'hook = "blocks.0.hook_mlp_uot"', "sources[0].hook: no model has a hook point"),
    "hook of no form": (SAE + 'hook = "block 0"', "sources[0].hook: expected a hook point such as"),
    "hook of two kinds": (SAE + 'hook = "model.layers.0.hook_resid_post"', "expected a hook point such as"),
    "hook of no layer": (SAE + 'hook = "blocks.7.hook_mlp_out"', "expected a hook point of layers 0 to 3"),
    "layers beyond": (SAE + 'layers = "0-9"', "sources[0].layers: expected layers from 0 to 3, got '0-9'"),
    "another model's": (
        'model = "synthetic:tiny"\n' + SAE,
        "expected d_in = 32, that of blocks.0.hook_mlp_out, got 128",
    ),
}
INDEXED = {
    "no index": (
        'index = "nowhere"',
        "index: {folder}/nowhere: not an index: no such folder; `saeserve-server index build`",
    ),
    "index is a file": ('index = "file"', "index: {folder}/file: a file, expected the folder of an index"),
    "no manifest": ('index = "notes"', "index: {folder}/notes: not an index: it has no index.json"),
    "another version": ('index = "old"', "index format 99"),
    "no manifest in it": ('index = "garbled"', "corrupted or not the manifest of an index"),
}
STARTED = {
    "port in use": ('bind = "127.0.0.1:{port}"', "bind: 127.0.0.1:{port} cannot be listened on: port {port} is in use"),
    "metrics port in use": (
        'bind = "127.0.0.1:0"\nmetrics_bind = "127.0.0.1:{port}"',
        "metrics_bind: 127.0.0.1:{port} cannot be listened on: port {port} is in use",
    ),
    "one port twice": ('bind = "127.0.0.1:7"\nmetrics_bind = "0.0.0.0:7"', "metrics_bind: 0.0.0.0:7 is bind's too"),
    "somebody else's address": ('bind = "192.0.2.1:0"', "192.0.2.1 is no address of this machine"),
    "no such name": ('bind = "no.such.invalid:0"', "the name no.such.invalid cannot be looked up"),
    "no folder of a socket": ('bind = "unix:nowhere/s"', "there is no folder {folder}/nowhere; make it"),
    "folder in a socket's way": ('bind = "unix:empty"', "{folder}/empty is a folder; give a path where nothing is"),
    "file in a socket's way": ('bind = "unix:file"', "{folder}/file is a file; give a path where nothing is"),
    "path below a file": ('bind = "unix:file/s"', "{folder}/file is no folder"),
    "path too long": (f'bind = "unix:/{"s" * 107}"', "a path of 108 bytes, and a socket's has at most 107"),
    "socket in use": ('bind = "unix:live"', "another server listens on {folder}/live"),
    "no folder of the port file": ('port_file = "nowhere/p"', "port_file: {folder}/nowhere/p: there is no folder"),
    "port file is a folder": ('port_file = "empty"', "port_file: {folder}/empty: a folder, expected a file"),
    "no certificate": ('tls_cert = "nowhere"\ntls_key = "file"', "tls_cert: {folder}/nowhere: No such file"),
    "no token": ('auth_token_file = "empty"', "auth_token_file: {folder}/empty: Is a directory"),
    "no cache": ('cache_url = "http://:secret@here"', "cache_url: expected redis://"),
}
BUILDS = {
    "no texts": (["out", "nowhere.txt"], "nowhere.txt: no such file or folder"),
    "no texts in the folder": (["out", "empty"], "file in this folder"),
    "nothing matches": (["out", "*.none"], "no file matches this pattern"),
    "empty text": (["out", "nothing.txt"], "nothing to index"),
    "no JSON": (["out", "bad.jsonl"], "bad.jsonl:1: not valid JSON"),
    "another field": (["out", "good.jsonl", "--field", "body"], "good.jsonl:1: no field 'body'; it has text"),
    "out is a file": (["file", "good.jsonl"], "file: a file, expected the folder of an index or none"),
    "out below a file": (["file/out", "good.jsonl"], "is a file, expected a folder"),
    "out is something else": (["notes", "good.jsonl"], "notes: exists and is not an index"),
    "no block": (["out", "good.jsonl", "--context", "0"], "--context: expected a whole number from 1 to"),
    "no records": (
        ["out", "good.jsonl", "--records", "many"],
        "--records: expected a whole number from 1 to 1000, got",
    ),
}
OTHERS = {
    "no file": (["start", "--config", "nowhere.toml"], "nowhere.toml: No such file or directory, expected a TOML file"),
    "no flag": (["start", "--max-imputs", "3"], "--max-imputs"),
    "bind by flag": (
        ["start", "--bind", "50051"],
        "--bind: bind: expected HOST:PORT or unix:PATH, got '50051'; did you",
    ),
    "verify nothing": (["index", "verify", "nowhere"], "nowhere: not an index: no such folder"),
    "verify a folder": (["index", "verify", "notes"], "notes: not an index"),
    "fetch into a file": (["fetch", "gpt2", "--out", "file"], "file is a file, expected a folder"),
    "fetch what a file does not name": (["fetch", "nowhere.toml"], "nowhere.toml: No such file"),
}
COMMANDS = {"start": ["start"], "sources": ["sources"], "build": ["index", "build", "out", "good.jsonl"]}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Told], dict[str, str]]:
    """How every command line ended, all in one process, and what the cases' names stand for."""
    folder = tmp_path_factory.mktemp("early")
    for name in ("empty", "notes", "old", "garbled"):
        (folder / name).mkdir()
    (folder / "file").write_text("hello")
    (folder / "notes" / "a.md").write_text("hello")
    (folder / "old" / "index.json").write_text('{"magic": "saeserve-index", "version": 99}')
    (folder / "garbled" / "index.json").write_bytes(b"\xff\x00")
    (folder / "nothing.txt").touch()
    (folder / "bad.jsonl").write_text("{")
    (folder / "good.jsonl").write_text('{"text": "red"}\n')
    for name in ("cut", "config-cut", "no-tokenizer"):
        shutil.copytree(MODEL, folder / name)
    (folder / "cut" / "model.safetensors").write_bytes((MODEL / "model.safetensors").read_bytes()[:-100])
    (folder / "config-cut" / "config.json").write_bytes((MODEL / "config.json").read_bytes()[:-9])
    for file in (folder / "no-tokenizer").glob("*token*"):
        file.unlink()
    write_saelens(folder / "cut-sae", d_in=128)
    write_openai(folder / "cut.pt", d_in=128)
    for file in (folder / "cut-sae" / "sae_weights.safetensors", folder / "cut.pt"):
        file.write_bytes(file.read_bytes()[:-1000])
    with socket.socket() as taken, socket.socket(socket.AF_UNIX) as live:
        for one, place in ((taken, ("127.0.0.1", 0)), (live, str(folder / "live"))):
            one.bind(place)
            one.listen()
        names = {"folder": str(folder), "port": str(taken.getsockname()[1])}
        lines: dict[str, list[str]] = {}
        tables = {"start": {**SERVED, **INDEXED, **STARTED}, "sources": {**SERVED, **INDEXED}, "build": SERVED}
        for command, cases in tables.items():
            for i, (case, (text, _)) in enumerate(cases.items()):
                file = folder / f"{command}-{i}.toml"
                file.write_text(("" if "bind" in text else LISTENS) + text.replace("{port}", names["port"]))
                lines[f"{command}: {case}"] = [*COMMANDS[command], "--config", str(file)]
        lines |= {f"index build: {case}": ["index", "build", *given] for case, (given, _) in BUILDS.items()}
        lines |= {case: given for case, (given, _) in OTHERS.items()}
        program = Path(__file__).with_name("many.py")
        done = subprocess.run([sys.executable, program], input=json.dumps(list(lines.values())), cwd=folder, **RUN)
    assert done.returncode == 0, done.stderr
    answers = [
        Told(answer["status"], answer["said"].splitlines(), answer["seconds"]) for answer in json.loads(done.stdout)
    ]
    return dict(zip(lines, answers, strict=True)), names


RUN = {"capture_output": True, "text": True, "timeout": 120}
CASES = [
    *((f"start: {case}", says) for case, (_, says) in {**SERVED, **INDEXED, **STARTED}.items()),
    *((f"sources: {case}", says) for case, (_, says) in {**SERVED, **INDEXED}.items()),
    *((f"build: {case}", says) for case, (_, says) in SERVED.items()),
    *((f"index build: {case}", says) for case, (_, says) in BUILDS.items()),
    *((case, says) for case, (_, says) in OTHERS.items()),
]


@pytest.mark.parametrize(("case", "says"), CASES, ids=[case for case, _ in CASES])
def test_what_is_wrong_is_one_line_before_anything_heavy(
    told: tuple[dict[str, Told], dict[str, str]], case: str, says: str
) -> None:
    answers, names = told
    answer = answers[case]
    assert answer.status == 2, answer
    assert len(answer.lines) == 1
    line = answer.lines[0]
    assert line.startswith("saeserve-server: error: ")
    assert re.sub(r"\{(folder|port)\}", lambda match: names[match[1]], says) in line
    assert "secret" not in line
    assert answer.seconds < 1.0


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(
        f'bind = "unix:nowhere/s"\nport_file = "nowhere/p"\nmodel = "./nowhere"\nindex = "nowhere"\n{SAE}k = 3'
    )
    done = subprocess.run([sys.executable, "-m", "saeserve_server", "start", "--config", file], **RUN)
    assert done.returncode == 2
    keys = [
        line.partition("error: ")[2].removeprefix(f"{file}: ").partition(":")[0] for line in done.stderr.splitlines()
    ]
    assert keys == ["bind", "port_file", "model", "sources[0]", "index"]
