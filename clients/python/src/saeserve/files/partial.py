"""A folder with the finished parts of a file that is being made: what a run that was killed goes on from.

    acts.parquet.partial/
        settings.json          what is asked of which model; at the end, which file is the whole of it
        part-00000000.npz      the first texts' activations, laid out as an .npz file
        part-00000001.npz      …

A part is written whole or not at all, and says how much of the input it and those before it stand for, with a digest.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np

from saeserve.files import npz
from saeserve.files.activations import Activations
from saeserve.files.arrays import OFFSETS, Array, arrays, fixed
from saeserve.files.disk import UNFINISHED, settle, whole
from saeserve.files.settings import FORMAT, About, Settings

T = TypeVar("T")
SUFFIX = ".partial"
_SETTINGS, _LOCK, _RESULT = "settings.json", "lock", "result" + UNFINISHED
_PARTS = "part-*.npz"
_TRIES = 100
"""To lock a folder that other runs take away."""


class Partial:
    """The folder, locked while it is open. Raises ValueError where it is not this run's, and OSError."""

    def __init__(self, output: Path, settings: Settings, force: bool = False) -> None:
        """force: begin anew, and replace an output that is there."""
        self.output = output
        self.folder = output.with_name(output.name + SUFFIX)
        self.settings = settings
        self.force = force

    def __enter__(self) -> Self:
        self._check_output()
        self._lock_folder()
        try:
            self._check_output()  # by now another run may have finished it
            self._leave_whole()
            self._begin()
        except BaseException:
            if not (self.folder / _SETTINGS).exists():  # it was made just now, and is nobody's
                self._vacate()
            self._lock.close()
            raise
        return self

    def _lock_folder(self) -> None:
        """Make the folder and lock it, anew where another run takes it away meanwhile, and the lock with it."""
        for _ in range(_TRIES):
            with suppress(FileExistsError):
                self.folder.mkdir()
            if os.path.lexists(self.folder) and not self.folder.is_dir():
                raise ValueError(f"{self.folder} is no folder, and the finished parts would lie in it: move it away")
            try:
                self._lock = (self.folder / _LOCK).open("w")
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._lock.close()
                raise ValueError(f"{self.folder} is in use: another run writes {self.output.name}") from error
            if self._is_locked():
                return
            self._lock.close()
        raise ValueError(f"{self.folder} is in use: other runs make it and take it away")

    def _is_locked(self) -> bool:
        """Whether the lock that is held is the one that others would find."""
        try:
            return os.path.samestat(os.fstat(self._lock.fileno()), (self.folder / _LOCK).stat())
        except FileNotFoundError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.close()

    def _check_output(self) -> None:
        """An output that is there is replaced only if that was asked for, now or by the run that this one goes on."""
        if self.output.is_dir():
            raise ValueError(f"{self.output} is a folder: --output takes the name of a file")
        if self.output.exists() and not self.force and not self._replaces() and not self._is_whole():
            raise ValueError(f"{self.output} is there already: --force makes it anew")

    def _replaces(self) -> bool:
        return bool(self._begun().get("replaces"))

    def _is_whole(self) -> bool:
        """Whether the output is what was made of the parts, by the same settings: a run was killed behind that."""
        begun = self._begun()
        return begun.get("result") == _identity(self.output.stat()) and begun.get("settings") == _as_json(self.settings)

    def _begun(self) -> dict[str, Any]:
        """What the settings' file says; empty where it says nothing."""
        try:
            begun = json.loads((self.folder / _SETTINGS).read_text())
        except (OSError, ValueError):
            return {}
        return begun if isinstance(begun, dict) else {}

    def _leave_whole(self) -> None:
        """End what a run had left to do that was killed while it took the parts away. Raises ValueError then."""
        if not self.force and self.output.exists() and self._is_whole():
            self.parts = sorted(self.folder.glob(_PARTS))
            self.remove()
            raise ValueError(
                f"{self.output} is there already, and whole: a run was killed as it took {self.folder} away, which is "
                "gone now; --force makes it anew"
            )

    def _begin(self) -> None:
        settings = self.folder / _SETTINGS
        if self.force or not settings.exists() or not any(self.folder.glob(_PARTS)):
            self._clear()
            self._write({"replaces": self.output.exists()})
        self._check_settings(settings)
        for unfinished in self.folder.glob("*" + UNFINISHED):
            unfinished.unlink()
        self.parts = sorted(self.folder.glob(_PARTS))
        if [part.name for part in self.parts] != [_name(number) for number in range(len(self.parts))]:
            raise ValueError(f"{self.folder} lacks parts: --force begins anew")
        # With one and the same settings: there may be thousands of parts, and of features.
        self._abouts = [replace(_of(part, npz.described), settings=self.settings) for part in self.parts]

    def _write(self, more: dict[str, Any]) -> None:
        with whole(self.folder / _SETTINGS) as file:
            said = {"saeserve": FORMAT, **more, "settings": self.settings.as_dict()}
            file.write(json.dumps(said, indent=2).encode())

    def _check_settings(self, file: Path) -> None:
        try:
            begun = json.loads(file.read_text())
            earlier = Settings.from_dict(begun["settings"]) if begun["saeserve"] == FORMAT else None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} cannot be read ({error}): --force begins anew") from error
        if earlier is None:
            raise ValueError(f"{self.folder} is of another version of saeserve: --force begins anew")
        if difference := earlier.difference(self.settings):
            raise ValueError(
                f"{self.folder} was begun with {difference}: ask as before to go on, or --force to begin anew"
            )

    def _clear(self) -> None:
        """Away with what a run has put there, and with nothing else."""
        for pattern in (_SETTINGS, _PARTS, "*" + UNFINISHED):
            for file in self.folder.glob(pattern):
                file.unlink()
        settle(self.folder)

    @property
    def last(self) -> About:
        """How far the finished parts go: of the input's texts how many, and their digest."""
        return self._abouts[-1] if self._abouts else About(self.settings, 0, 0)

    @property
    def texts(self) -> int:
        """In the finished parts."""
        return sum(about.texts for about in self._abouts)

    def add(self, part: Activations) -> None:
        """Keep a part; its `about` says how far the input has been read. Raises OSError."""
        path = self.folder / _name(len(self.parts))
        with whole(path) as file:
            np.savez(file, **arrays(part), **fixed(part.about, len(part.csr)))  # type: ignore[arg-type]
        self.parts.append(path)
        self._abouts.append(part.about)

    def __iter__(self) -> Iterator[Activations]:
        """The parts, each read when it is its turn. Raises ValueError for one that is damaged."""
        for path in self.parts:
            yield _of(path, npz.read)

    def pieces(self, name: str) -> Iterator[Array]:
        """One array of each part, read when it is its turn."""
        for path in self.parts:
            yield _of(path, partial(npz.array, name=name))

    def lengths(self) -> dict[str, int]:
        """Of each array over all parts."""
        made: dict[str, int] = {}
        for path in self.parts:
            for name, length in _of(path, npz.lengths).items():
                # Of what counts what comes before, the first entry stands once.
                made[name] = made.get(name, 1 if name in OFFSETS else 0) + length - (1 if name in OFFSETS else 0)
        return made

    def result(self) -> Path:
        """What the output is called until it is whole."""
        return self.folder / _RESULT

    def is_written(self, file: BinaryIO) -> None:
        """All of the result is in this file, which is about to get the output's name: whoever finds it there, and the
        folder too, knows that it is whole."""
        file.flush()
        self._write({"replaces": self._replaces(), "result": _identity(os.fstat(file.fileno()))})

    def remove(self) -> None:
        """The output is there: the parts are not needed any more. A folder with files of others stays."""
        for part in self.parts:
            part.unlink()
        self._clear()  # what says that the output is whole goes last
        self._vacate()

    def _vacate(self) -> None:
        if self._is_locked():
            (self.folder / _LOCK).unlink()
        with suppress(OSError):
            self.folder.rmdir()


def _of(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; --force begins anew") from error


def _identity(file: os.stat_result) -> list[int]:
    """What a file keeps when it is renamed, and another one under its name has not."""
    return [file.st_ino, file.st_size]


def _as_json(settings: Settings) -> Any:
    """As they are once they were written and read."""
    return json.loads(json.dumps(settings.as_dict()))


def _name(number: int) -> str:
    return f"part-{number:08}.npz"
