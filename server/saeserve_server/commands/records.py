"""`saeserve-server records import|list|remove|export`: the records and explanations of others, in and out."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve_server.commands.settings import read_config
from saeserve_server.config import ENVIRONMENT_PREFIX
from saeserve_server.errors import ConfigError, printable, shown
from saeserve_server.units import readable_bytes, table

if TYPE_CHECKING:
    from saeserve_server.catalog import Catalog
    from saeserve_server.commands.settings import Commands
    from saeserve_server.records.export.features import Chosen
    from saeserve_server.records.imported.items import Naming

FORMATS = ("auto", "neuron-records", "openai-explanations", "neuronpedia")
EXPORTS = ("neuron-records", "neuronpedia", "parquet")
SKIPPED = 1
"""Exit status of an import that passed over lines."""


def add_command(commands: Commands) -> None:
    """Adds the command, which has several of its own, to the parser."""
    records = commands.add_parser("records", help="import, list, remove and export records and explanations")
    several = records.add_subparsers(metavar="command", required=True)
    _add_import(several)
    _add_export(several)
    listing = several.add_parser("list", help="print what a store holds")
    listing.add_argument("store", type=Path, metavar="STORE", help="folder of the store")
    listing.set_defaults(run=run_list)
    remove = several.add_parser("remove", help="take an import out of a store")
    remove.add_argument("store", type=Path, metavar="STORE", help="folder of the store")
    remove.add_argument("name", metavar="NAME", help="the import's name")
    remove.set_defaults(run=run_remove)


def _add_import(several: Commands) -> None:
    parser = several.add_parser(
        "import",
        help="import records and explanations into a store",
        description="Reads NeuronRecords, OpenAI's explanations or Neuronpedia's batches into a store, which the "
        "setting `imports` serves. An import of the same name is replaced; one that fails or is stopped leaves the "
        f"store as it was. Exit status {SKIPPED} if lines were skipped.",
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the store; it is made if it is not there")
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="files, folders, gzipped or not, or - for lines on stdin"
    )
    parser.add_argument("--name", required=True, help="what the import is called in answers")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="default: found out by the first line")
    parser.add_argument("--set", help="set of the sources, where lines give a layer only; default: the layer's neurons")
    parser.add_argument("--source", metavar="SOURCE", help="the one source of all lines, whatever they say")
    parser.add_argument(
        "--source-map", metavar="FROM=TO", action="append", default=[], help="another id for a source; repeat"
    )
    parser.add_argument(
        "--revision",
        metavar="[SOURCE=]REVISION",
        action="append",
        default=[],
        help="revision of the SAE, as `saeserve sources --json` prints it: nothing is shown where another is served; "
        "repeat",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"take revisions from what this configuration serves, which is loaded [{ENVIRONMENT_PREFIX}CONFIG]",
    )
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="what a bad line does (default: stop)"
    )
    parser.set_defaults(run=run_import)


def _add_export(several: Commands) -> None:
    parser = several.add_parser(
        "export",
        help="write an index, or an import, in the formats of others",
        description="Writes the features of an index, or of an import, in another format, and beside them "
        "`not_held.json`: what the format has no place for. For an index model and sources are loaded: its tokens are "
        "numbers, and it must be theirs.",
    )
    parser.add_argument("origin", type=Path, metavar="FROM", help="folder of an index, or of a store of imports")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    parser.add_argument("--format", choices=EXPORTS, required=True)
    parser.add_argument("--name", help="which import, where the store has several")
    parser.add_argument("--source", metavar="SOURCE", action="append", default=[], help="only this source; repeat")
    parser.add_argument("--features", metavar="FIRST-LAST", help="only these indices of each source, both included")
    parser.add_argument("--model", help="Neuronpedia's name of the model; default: as imported, or as it is served")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration of the server that the index is of; default: the demo [{ENVIRONMENT_PREFIX}CONFIG]",
    )
    parser.set_defaults(run=run_export)


def run_import(options: argparse.Namespace) -> int:
    """Imports; returns the exit status. Raises ConfigError, with file and line of what is wrong."""
    from saeserve_server.records.imported.importer import import_files

    given = _revisions(options.revision)
    naming = _naming(options)

    def revisions(sources: Sequence[str]) -> Mapping[str, str]:
        found = _served_revisions(options, sources) if options.config is not None else {}
        return {**found, **{source: given.get(source, given.get("", found.get(source, ""))) for source in sources}}

    done = import_files(
        options.store,
        options.paths,
        options.name,
        form=options.format,
        naming=naming,
        skip=options.on_error == "skip",
        revisions=revisions,
        complain=lambda line: print(f"saeserve-server: skipped: {printable(line)}", file=sys.stderr),
    )
    skipped = f", {done.skipped} skipped" if done.skipped else ""
    print(f"{options.store}: {options.name}: {done.lines} lines of {done.format}{skipped}")
    _print_contents(options.store, options.name)
    return SKIPPED if done.skipped else 0


def run_list(options: argparse.Namespace) -> int:
    """Prints a store's imports; returns the exit status. Raises ConfigError for what is no store."""
    _print_contents(options.store)
    return 0


def run_remove(options: argparse.Namespace) -> int:
    """Takes an import out; returns the exit status. Raises ConfigError where there is none of that name."""
    from saeserve_server.records.imported.contents import read_contents
    from saeserve_server.records.imported.writer import StoreChange

    names = [one.name for one in read_contents(options.store).imports]
    if options.name not in names:
        raise ConfigError(f"{options.store}: no import {shown(options.name)}; there are {', '.join(names) or 'none'}")
    with StoreChange(options.store) as change:
        change.remove(options.name)
        change.commit()
    print(f"{options.store}: {options.name}: removed")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Exports; returns the exit status. Raises ConfigError."""
    from saeserve_server.records.export.features import Chosen
    from saeserve_server.records.layout import is_index

    if options.format == "parquet":
        from saeserve_server.records.export.parquet import check_installed

        check_installed()
    chosen = Chosen(tuple(options.source), _range(options.features))
    export = _export_index if is_index(options.origin) else _export_import
    count = export(options, chosen)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {count} features in {options.format}, {readable_bytes(size)}")
    return 0


def _export_index(options: argparse.Namespace, chosen: Chosen) -> int:
    from saeserve_server.records.export import whole
    from saeserve_server.records.store import RecordStore
    from saeserve_server.text.tokenizer import Tokenizer

    store = RecordStore.open(options.origin)
    catalog = _catalog(options)
    store.check(catalog)
    tokenizer = Tokenizer(catalog.model.tokenizer_json, catalog.model.bos_id)
    return whole.export_index(
        store,
        options.out,
        options.format,
        chosen,
        lambda ids, before: [token.piece for token in tokenizer.pieces(ids, before)],
        model=options.model or store.model_name,
        hooks={source.id: source.hook_name for source in catalog.sources},
    )


def _export_import(options: argparse.Namespace, chosen: Chosen) -> int:
    from saeserve_server.records.export import whole
    from saeserve_server.records.export.from_imports import ImportedFeatures

    found = ImportedFeatures(options.origin, options.name)
    return whole.export_import(found, options.out, options.format, chosen, model=options.model)


def _print_contents(store: Path, name: str | None = None) -> None:
    from saeserve_server.records.imported.contents import read_contents

    contents = read_contents(store)
    rows = [("import", "format", "source", "features", "records", "explanations", "revision")]
    for one in contents.imports:
        if name is None or one.name == name:
            for part in contents.parts:
                if part.import_id == one.id:
                    counts = (f"{part.features:,}", f"{part.records:,}", f"{part.explanations:,}")
                    rows.append((one.name, one.format, part.source, *counts, part.revision[:12] or "not given"))
    print("\n".join(table(rows, {"features", "records", "explanations"})) if len(rows) > 1 else f"{store}: nothing")


def _naming(options: argparse.Namespace) -> Naming:
    from saeserve_server.records.imported.items import Naming, is_source

    renamed = dict(_pair(given, "--source-map", "FROM=TO") for given in options.source_map)
    for name in filter(None, (options.source, *renamed.values(), options.set and f"0-{options.set}")):
        if not is_source(name.casefold()):
            raise ConfigError(f"a source's id is letters, digits, '_', '.' and '-', not {shown(name)}")
    if options.source and (options.set or renamed):
        raise ConfigError("--source: names the source of all lines; leave out --set and --source-map")
    return Naming(
        source=options.source and options.source.casefold(),
        set=options.set and options.set.casefold(),
        renamed={one.casefold(): other.casefold() for one, other in renamed.items()},
    )


def _revisions(given: Sequence[str]) -> dict[str, str]:
    """By source; without one under the empty name."""
    found = {}
    for one in given:
        source, equals, revision = one.rpartition("=")
        if not re.fullmatch("[0-9a-f]{8,128}", revision):
            raise ConfigError(f"--revision: expected [SOURCE=]REVISION, hexadecimal digits, got {shown(one)}")
        found[source.casefold() if equals else ""] = revision
    return found


def _pair(given: str, option: str, form: str) -> tuple[str, str]:
    one, equals, other = given.partition("=")
    if not equals or not one or not other:
        raise ConfigError(f"{option}: expected {form}, got {shown(given)}")
    return one, other


def _range(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    found = re.fullmatch("([0-9]{1,10})(?:-([0-9]{1,10}))?", given)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise ConfigError(f"--features: expected FIRST-LAST, such as 0-99, got {shown(given)}")
    return first, last


def _served_revisions(options: argparse.Namespace, sources: Sequence[str]) -> dict[str, str]:
    """Revisions of the sources that a configuration serves, by the names that the import has for them."""
    found = {}
    for source in _catalog(options).sources:
        for name in (source.id, *source.aliases):
            found[name.casefold()] = source.revision
    missing = [source for source in sources if source not in found]
    if missing:
        raise ConfigError(
            f"--config: {options.config} serves no {missing[0]}: rename it with --source-map, or leave --config out"
        )
    return {source: found[source] for source in sources}


def _catalog(options: argparse.Namespace) -> Catalog:
    from saeserve_server.commands.preflight import check_served
    from saeserve_server.logs import configure_console

    config = read_config(options)
    configure_console()
    check_served(config, with_index=False)
    from saeserve_server.engine.build import build_runner

    runner, _ = build_runner(config, with_index=False)
    return runner.catalog
