"""Whatever the format: files that are not what they should be are refused by their name, at once, in one line."""

import io
import math
import os
import pickle  # noqa: TID251 - to make what must never be unpickled
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.sources.hostile import FAMILIES, Victim, copy, refusal, victim

__all__ = ["victim"]


def nothing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def writing(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


REPLACED: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (nothing, "cannot be read: No such file"),
    "folder": (folder, "cannot be read: expected a file, got a folder"),
    "pipe": (pipe, "cannot be read: expected a file, got a pipe"),
    "device": (device, "cannot be read: expected a file, got a pipe, socket or device"),
    "loop": (loop, "cannot be read: Too many levels of symbolic links"),
    "empty": (writing(b""), "empty: truncated or damaged: fetch it again"),
    "lfs": (
        writing(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 302039000\n"),
        "only the pointer that Git LFS leaves in place of the file: run `git lfs pull`",
    ),
    "page": (writing(b"<!DOCTYPE html><title>404</title>"), "a web page in place of the file: fetch it again"),
}
NO_WEIGHTS = {
    "text": b"hello, these are the weights\n" * 40,
    "json": b'{"W_enc": [[1.0, 2.0]]}',
    "zip": b"PK\x03\x04",
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "all-bytes": bytes(range(256)) * 20,
}


@pytest.mark.parametrize("kind", REPLACED)
def test_what_stands_in_for_weights_is_named(victim: Victim, kind: str) -> None:
    replace, message = REPLACED[kind]
    replace(victim.weights)
    expected = f"{victim.family.weights}: {message}"
    if kind == "missing" and victim.family.form == "gemma-scope":
        expected = f"{victim.family.path}: holds neither params.npz nor params.safetensors: fetch it again"
    assert refusal(victim).startswith(expected)


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_other_content_is_no_weights(victim: Victim, kind: str) -> None:
    victim.weights.write_bytes(NO_WEIGHTS[kind])
    line = refusal(victim)
    assert line.startswith(f"{victim.family.weights}: not a")
    assert "truncated or damaged: fetch it again" in line


@pytest.mark.parametrize("kind", REPLACED)
@pytest.mark.parametrize("family", [one for one in FAMILIES if one.facts], ids=str)
def test_what_stands_in_for_a_file_of_facts_is_named(family: Any, kind: str, tmp_path: Path) -> None:
    victim = copy(family, tmp_path)
    replace, message = REPLACED[kind]
    replace(victim.facts[0])
    if kind in NEEDLESS and (family.form, family.suffix) in ABLE_WITHOUT:
        assert victim.read().d_sae == 96
    else:
        assert refusal(victim).startswith(f"{family.facts[0]}: {message}")


NEEDLESS = ("missing",)
ABLE_WITHOUT = {("gemma-scope", ".safetensors"), ("circuit-tracer", ".safetensors"), ("qwen-scope", ".pt")}
"""Folder and file names say enough."""


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.97, 1.0])
def test_truncated_weights_are_refused(victim: Victim, share: float) -> None:
    data = victim.weights.read_bytes()
    victim.weights.write_bytes(data[: max(1, int(len(data) * share) - 1)])
    line = refusal(victim)
    assert line.startswith(f"{victim.family.weights}: ")
    assert "truncated or damaged: fetch it again" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused(tmp_path: Path) -> None:
    for family in FAMILIES:
        victim = copy(family, tmp_path / str(family))
        victim.weights.chmod(0)
        assert refusal(victim).startswith(f"{family.weights}: cannot be read: Permission denied")


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["protocol 0", "protocol 4", "torch", "torch legacy"])
def test_pickled_code_is_refused_and_does_not_run_whatever_the_file_is_called(
    victim: Victim, writer: str, tmp_path: Path
) -> None:
    trace = tmp_path / "it-ran"
    state = {"W_enc": torch.zeros(2, 2), "extra": Touch(trace)}
    if writer.startswith("protocol"):
        victim.weights.write_bytes(pickle.dumps(state, protocol=int(writer[-1])))
    else:
        torch.save(state, victim.weights, _use_new_zipfile_serialization=writer == "torch")
        torch.load(io.BytesIO(victim.weights.read_bytes()), weights_only=False)  # noqa: TID251 - shows that the file does what it is meant to
        assert trace.exists()
        trace.unlink()
    line = refusal(victim)
    assert line.startswith(f"{victim.family.weights}: ")
    if victim.family.suffix in (".pt", ".pth"):
        assert "refused: it holds pickled code or objects (" in line
    assert not trace.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_no_number_is_found_in_any_part(victim: Victim, value: float) -> None:
    whole = victim.tensors()
    for name in victim.parts().values():
        tensor = whole[name].contiguous().clone()
        tensor.view(-1)[-1] = value
        victim.write(whole | {name: tensor})
        assert refusal(victim) == f"{victim.family.weights}: {name}: holds values that are not finite (NaN or infinity)"


def test_a_part_that_is_missing_is_named(victim: Victim) -> None:
    whole, parts = victim.tensors(), victim.parts()
    for role, name in parts.items():
        victim.write({key: tensor for key, tensor in whole.items() if key != name})
        if (victim.family.form, role) == ("circuit-tracer", "threshold"):
            assert victim.read().activation.name == "relu"
        else:
            assert refusal(victim).startswith(f"{victim.family.weights}: ")
            assert ": missing" in refusal(victim)


def test_a_part_of_another_width_type_or_rank_is_refused(victim: Victim) -> None:
    whole = victim.tensors()
    for name in victim.parts().values():
        tensor = whole[name]
        bad = {
            "longer": torch.cat([tensor, tensor[:1]]) if tensor.ndim else tensor.expand(2).clone(),
            "rank": tensor[None],
            "integers": tensor.to(torch.int32),
        }
        for other in bad.values():
            victim.write(whole | {name: other})
            line = refusal(victim)
            assert line.startswith(f"{victim.family.weights}: ")
            assert ": expected " in line
            assert "got" in line


def test_an_encoder_that_lies_the_other_way_round_is_refused(victim: Victim) -> None:
    whole, name = victim.tensors(), victim.parts()["W_enc"]
    victim.write(whole | {name: whole[name].t().contiguous()})
    line = refusal(victim)
    assert line.startswith(f"{victim.family.weights}: ")
    assert "expected shape [" in line
    assert "got [" in line


@pytest.mark.parametrize("name", ["log_threshold", "scaling_factors", "b_gate2", "\x1b[2J\nW", "W" * 10_000])
def test_a_tensor_that_nobody_knows_is_refused_by_name(victim: Victim, name: str) -> None:
    victim.write(victim.tensors() | {name: torch.zeros(96)})
    line = refusal(victim)
    assert line.startswith(f"{victim.family.weights}: {name.encode('unicode_escape').decode()[:1000]}")
    assert "expected only" in line
