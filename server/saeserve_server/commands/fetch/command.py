"""`saeserve-server fetch`: a model and SAEs into a folder, with the configuration that serves them."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve_server.commands.fetch import wanted as asked
from saeserve_server.commands.fetch.choose import choose, files_of
from saeserve_server.commands.fetch.sums import FILE as SUMS
from saeserve_server.commands.fetch.sums import Sums
from saeserve_server.commands.fetch.wanted import Wanted, WantedSae
from saeserve_server.commands.preflight import check_writable
from saeserve_server.config import load_config
from saeserve_server.errors import ConfigError, nearest, printable
from saeserve_server.layers import LAYER, parse_layers
from saeserve_server.units import readable_bytes

if TYPE_CHECKING:
    from saeserve_server.commands.fetch.hub import Repository
    from saeserve_server.commands.fetch.remote import RemoteFile
    from saeserve_server.commands.settings import Commands

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
INTERRUPTED = 130
CHECKERS = 4
"""Files read at a time, to see whether they are whole."""
MARGIN = 64 * 2**20
"""Bytes of the disk that are left free."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to lie in the folder."""

    files: Sequence[RemoteFile]
    chosen: Sequence[tuple[WantedSae, Mapping[int | None, str]]]


def add_command(commands: Commands) -> None:
    """Adds the command to the parser."""
    names = asked.ready_names()
    fetch = commands.add_parser(
        "fetch",
        help="download a model and SAEs into a folder",
        description="Downloads a model and SAEs into a folder, and writes the configuration that serves them. What is "
        "there and whole is not fetched again, what was interrupted goes on. No other command uses the network.",
        epilog=f"Ready: {', '.join(names)}. A token for gated models is read from HF_TOKEN, or from where `hf auth "
        "login` put it.",
    )
    fetch.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a ready configuration, a model's hub name (OWNER/NAME[@REVISION]), or a TOML file: what it names",
    )
    fetch.add_argument(
        "--sae",
        action="append",
        default=[],
        metavar="[SET=]hf://OWNER/NAME[@REVISION]/PATH",
        help=f"SAEs of the hub, for the model NAME; in PATH {LAYER} stands for the layer, * and ? for parts of a name: "
        "one match for each layer; repeatable",
    )
    fetch.add_argument(
        "--dataset",
        metavar="OWNER/NAME[@REVISION]",
        help="instead: the Parquet, JSONL and text files of a data set of the hub, for `index build`",
    )
    fetch.add_argument("--layers", metavar="LAYERS", help=f"of paths with {LAYER}, only these: 0-5,8 (default: all)")
    fetch.add_argument("--out", type=Path, metavar="FOLDER", help="where to (default: the current one)")
    fetch.add_argument("--dry-run", action="store_true", help="list the files and their sizes, and fetch nothing")
    fetch.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fetches; returns the exit status. Raises ConfigError."""
    wanted, folder = _asked(options)
    check_writable(folder.absolute())
    offline = [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if offline:
        raise ConfigError(f"{offline[0]} is set: fetch is what uses the network; unset it, or go without fetch")
    from saeserve_server.commands.fetch.download import checksum_if_there, download, half_there

    plan = _plan(wanted, folder)
    sums = Sums(folder)
    with ThreadPoolExecutor(CHECKERS) as pool:
        there = list(pool.map(lambda file: checksum_if_there(file, folder, sums.get(file.name)), plan.files))
    missing = [file for file, sha256 in zip(plan.files, there, strict=True) if sha256 is None]
    for file in missing:
        _may_be_replaced(folder / file.name, sums.get(file.name) is not None)
    if options.dry_run:
        return _list(plan.files, missing, folder)
    _check_space(folder, sum(max(file.size - half_there(file, folder), 0) for file in missing))
    folder.mkdir(parents=True, exist_ok=True)
    for file, sha256 in zip(plan.files, there, strict=True):
        if sha256 is not None:
            sums.add(file.name, sha256)
    try:
        download(missing, folder, sums)
    except KeyboardInterrupt:
        print("\ninterrupted; run the same again to go on", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # transfers that wait for the network end when it answers
    _summary(plan, missing, folder)
    if wanted.data_set is not None:
        print(f"next: saeserve-server index build OUT {shlex.quote(str(folder / wanted.data_set))}")
        return 0
    _write_configuration(wanted, plan, folder, options)
    return 0


def _may_be_replaced(path: Path, was_fetched: bool) -> None:
    """Says that a file of an earlier fetch is fetched again. Raises ConfigError for one of the user's."""
    if not path.exists():
        return
    if not was_fetched:
        raise ConfigError(
            f"{path}: is there, is another file, and no fetch brought it: move it away, or choose another folder with "
            "--out"
        )
    print(printable(f"{path}: damaged, or of another version: fetched again"), file=sys.stderr)


def _asked(options: argparse.Namespace) -> tuple[Wanted, Path]:
    """What is asked for, and the folder that it goes into."""
    name: str | None = options.name
    layers = None if options.layers is None else parse_layers(options.layers, "--layers")
    if options.dataset is not None:
        return _data_set(options), options.out or Path()
    if name is None and not options.sae:
        raise ConfigError(f"fetch: expected a name or --sae, or --dataset; ready: {', '.join(asked.ready_names())}")
    if name is not None and name.endswith(".toml"):
        return _of_file(Path(name), options)
    if name in asked.ready_names():
        if options.sae:
            raise ConfigError(f"--sae: {name} is a ready configuration, which has its own; expected a model's name")
        file = asked.READY / f"{name}.toml"
        text = file.read_text(encoding="utf-8")
        if layers is not None:
            text = _only(text, options.layers)
        config = load_config(file, {}, {})
        wanted = asked.of_config(config, name, text, layers)
    else:
        wanted = asked.of_options(name, options.sae, options.layers)
    return wanted, options.out or Path()


def _data_set(options: argparse.Namespace) -> Wanted:
    for flag, value in {"NAME": options.name, "--sae": options.sae, "--layers": options.layers}.items():
        if value:
            raise ConfigError(f"--dataset: expected no {flag} beside it, a data set is fetched alone")
    match = re.fullmatch(rf"({asked.REPOSITORY})(?:@([^/]+))?", options.dataset)
    if match is None:
        raise ConfigError(f"--dataset: expected OWNER/NAME[@REVISION], got {options.dataset!r}")
    return Wanted(match[1].rpartition("/")[2], None, match[2], (), data_set=match[1])


def _only(text: str, layers: str) -> str:
    """A configuration with `layers` in every source that has more than one."""
    head, *tables = re.split(r"^(?=\[\[sources\]\]$)", text, flags=re.MULTILINE)
    for i, table in enumerate(tables):
        if LAYER in table or "[sources.path]" in table:
            table = re.sub(r"^layers *=.*\n", "", table, flags=re.MULTILINE)
            tables[i] = re.sub(r"^(set *=.*\n)", rf'\1layers = "{layers}"\n', table, count=1, flags=re.MULTILINE)
    return "".join([head, *tables])


def _of_file(file: Path, options: argparse.Namespace) -> tuple[Wanted, Path]:
    """What a configuration of the user's names and lacks; it goes where the configuration looks: beside it."""
    given = {"--sae": options.sae, "--layers": options.layers, "--out": options.out}
    for flag, value in given.items():
        if value:
            raise ConfigError(f"{flag}: expected none, {file} says what is fetched, and it goes beside that")
    config, folder = load_config(file, {}, {}), file.absolute().parent
    wanted = asked.of_config(config, file.stem, file.read_text(encoding="utf-8"))
    sums = Sums(folder)

    def is_own(repo: str) -> bool:
        """A folder that no fetch brought is the user's, however it is named."""
        return (folder / repo).exists() and not sums.holds_any_under(repo)

    model = None if wanted.model is None or is_own(wanted.model) else wanted.model
    saes = tuple(sae for sae in wanted.saes if not is_own(sae.repo or asked.STATIC))
    if model is None and not saes:
        raise ConfigError(f"{file}: nothing to fetch: it names no model or SAEs of the hub that are not there")
    return Wanted(wanted.name, model, wanted.revision, saes, wanted.text), folder


def _plan(wanted: Wanted, folder: Path) -> Plan:
    """The files of all that is wanted, each once. Raises ConfigError for what is not there, or not one."""
    from saeserve_server.commands.fetch.hub import NoSuchRepository, open_repository
    from saeserve_server.commands.fetch.static import static_files

    repositories: dict[tuple[str, str | None], Repository] = {}

    def repository(repo: str, revision: str | None) -> Repository:
        key = (repo, revision)
        if key not in repositories:
            repositories[key] = open_repository(repo, revision)
        return repositories[key]

    if wanted.data_set is not None:
        data_set = open_repository(wanted.data_set, wanted.revision, "dataset")
        return Plan([data_set.remote(name) for name in data_set.data_files()], [])
    files: dict[str, RemoteFile] = {}
    chosen: list[tuple[WantedSae, Mapping[int | None, str]]] = []
    if wanted.model is not None:
        try:
            model = repository(wanted.model, wanted.revision)
        except NoSuchRepository as error:
            raise ConfigError(f"{error}{nearest(wanted.name, asked.ready_names(), 3)}") from error
        files |= {file.name: file for file in map(model.remote, model.model_files())}
    for sae in wanted.saes:
        layers = None if sae.layers is None else parse_layers(sae.layers, f"{sae.set}: layers")
        if sae.repo is None:
            paths: Mapping[int | None, str] = {layer: sae.path.replace(LAYER, str(layer)) for layer in layers or ()}
            found = static_files(list((paths or {None: sae.path}).values()))
        else:
            source = repository(sae.repo, sae.revision)
            paths = choose(list(source.files), sae.path, layers, sae.repo)
            found = [source.remote(name) for path in paths.values() for name in files_of(source.files, path)]
        files |= {file.name: file for file in found}
        chosen.append((sae, paths))
    return Plan(list(files.values()), chosen)


def _list(files: Sequence[RemoteFile], missing: Sequence[RemoteFile], folder: Path) -> int:
    absent = {file.name for file in missing}
    for file in files:
        print(f"{readable_bytes(file.size):>10}  {printable(file.name)}{'' if file.name in absent else '  (there)'}")
    size = readable_bytes(sum(file.size for file in missing))
    print(f"{len(missing)} of {len(files)} files to fetch into {_called(folder)}, {size}; nothing was fetched")
    return 0


def _check_space(folder: Path, needed: int) -> None:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed + MARGIN > free:
        raise ConfigError(
            f"{_called(folder)}: no room: {readable_bytes(needed)} to fetch, {readable_bytes(free)} free; choose "
            "another folder with --out, or fewer layers with --layers"
        )


def _summary(plan: Plan, fetched: Sequence[RemoteFile], folder: Path) -> None:
    kept = len(plan.files) - len(fetched)
    there = f" ({kept} were there)" if kept else ""
    size = readable_bytes(sum(file.size for file in fetched))
    print(f"fetched {len(fetched)} files, {size}, into {_called(folder)}{there}; checksums in {folder / SUMS}")
    if any(not file.on_hub for file in plan.files):
        print("OpenAI publishes no checksums: its files' are those of what arrived, in the size that the server names")


def _write_configuration(wanted: Wanted, plan: Plan, folder: Path, options: argparse.Namespace) -> None:
    """Writes the configuration, unless another is there; prints the next command, or what to add by hand."""
    file = folder / f"{wanted.name}.toml"
    sources = "\n".join(asked.sources_toml(sae, paths) for sae, paths in plan.chosen)
    text = wanted.text
    if text is None:
        arguments = [options.name or "", *(part for sae in options.sae for part in ("--sae", sae))]
        words = [*arguments, *(["--layers", options.layers] if options.layers else [])]
        head = f"# Written by: saeserve-server fetch {shlex.join(filter(None, words))}\n\n"
        text = f'{head}model = "{wanted.model}"\n' + (f"\n{sources}" if sources else "")
    if wanted.model is None and wanted.text is None:
        print(f"to serve them, add to a configuration in {_called(folder)}:\n\n{sources}")
        return
    if not file.exists():
        file.write_text(text, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != text:
        print(f"{file} is there already and was left as it is" + (f"; to add to it:\n\n{sources}" if sources else ""))
    print(f"next: saeserve-server start --config {shlex.quote(str(file))}")


def _called(folder: Path) -> str:
    return "the current folder" if folder == Path() else str(folder)
