"""`saeserve encode --input FILE --output FILE`: activations of whole data sets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saeserve.answers.names import FeatureName
from saeserve.answers.results import SourceList
from saeserve.answers.types import Kind, Source
from saeserve.arguments.extras import load
from saeserve.cli import streams
from saeserve.cli.ended import Ended
from saeserve.cli.printing import json_text, sentence
from saeserve.cli.values import listed, text
from saeserve.transport.errors import SaeserveError

if TYPE_CHECKING:
    from saeserve.client import Client
    from saeserve.files.encode import Summary
    from saeserve.files.partial import Partial
    from saeserve.files.settings import Block, Settings

SKIPPED = 5
"""Exit code of a run that is finished, and has left texts out."""
FAILED, USAGE = 1, 2
SUFFIXES = (".parquet", ".npz")
"""Of outputs."""
_OWN = ("output", "input_format", "text_field", "id_field", "on_error", "force", "kind")
_OTHERS = ("text", "full")


def options(encode: argparse.ArgumentParser) -> None:
    """Those of files, beside the command's own."""
    files = encode.add_argument_group("whole data sets (a run that is killed goes on where it was, asked the same way)")
    files.add_argument(
        "--input",
        metavar="FILE",
        type=text,
        help=".jsonl, .txt (a text a line), .csv, of these .gz; .parquet; - is stdin",
    )
    files.add_argument("--output", metavar="FILE", type=text, help=".parquet, or .npz for NumPy and SciPy")
    files.add_argument("--kind", choices=["latent", "neuron", "all"], help="instead of FEATURE,...: all of this kind")
    files.add_argument("--text-field", metavar="NAME", type=text, help="which field is the text (default: text)")
    files.add_argument("--id-field", metavar="NAME", type=text, help="which field is an id, to be kept")
    files.add_argument(
        "--input-format", choices=["jsonl", "txt", "csv", "parquet"], help="default: as FILE ends; of stdin: jsonl"
    )
    files.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        help="a text that cannot be read or encoded: end there (default), or not",
    )
    files.add_argument("--force", action="store_true", help="replace an output, and begin anew what was begun")


def asked(arguments: argparse.Namespace) -> bool:
    """Whether a file is to be encoded. Raises ValueError where half of it is said."""
    if arguments.input is not None:
        return True
    for option in _OWN:
        if getattr(arguments, option):
            raise ValueError(f"{_flag(option)} goes with --input, the file to encode")
    return False


def run(arguments: argparse.Namespace, connect: Callable[[], Client]) -> None:
    """Raises SaeserveError, KeyboardInterrupt, and Ended for what else is not as it should be."""
    try:
        _run(arguments, connect)
    except ValueError as error:  # which speaks of files, and not of a request's fields
        raise Ended(str(error), USAGE) from error


def _run(arguments: argparse.Namespace, connect: Callable[[], Client]) -> None:
    from saeserve.cli.progress import Telling  # rich and what reads files are loaded only where they are needed
    from saeserve.files.encode import encode
    from saeserve.files.partial import Partial
    from saeserve.files.texts import Input

    output = _output(arguments)
    given = Input(arguments.input, arguments.input_format, arguments.text_field, arguments.id_field)
    with connect() as client:
        if arguments.wait is not None:
            client.wait_ready(arguments.wait)
        settings, wanted = _settings(client, arguments)
        stream = partial(client.encode_stream, include_bos=arguments.include_bos, truncate=arguments.truncate, **wanted)
        try:
            with Partial(output, settings, arguments.force) as folder, _going_on(folder), Telling(output.name) as told:
                summary = encode(
                    given,
                    stream,
                    folder,
                    skip=arguments.on_error == "skip",
                    told=told,
                    check=lambda: _check(client, settings),
                )
        except OSError as error:
            raise Ended(f"{error.filename or output} cannot be written: {error.strerror or error}", FAILED) from error
        except ImportError as error:
            raise Ended(str(error), FAILED) from error
    _say(summary, output, arguments)


def _output(arguments: argparse.Namespace) -> Path:
    """The file to write. Raises ValueError for options that do not go together, and a file that cannot be written."""
    for option in _OTHERS:
        if getattr(arguments, option):
            raise ValueError(f"{_flag(option)} does not go with --input")
    if arguments.output is None:
        raise ValueError("--input goes with --output, the file to write")
    chosen = [bool(arguments.arguments), arguments.sources is not None, arguments.kind is not None]
    if sum(chosen) != 1:
        raise ValueError("either FEATURE,..., or --sources SOURCE,..., or --kind says which features are meant")
    output = Path(arguments.output)
    if output.suffix not in SUFFIXES:
        raise ValueError(f"--output {output} ends with none of {', '.join(SUFFIXES)}")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: the folder {output.parent} is not there")
    source = Path(arguments.input)
    if arguments.input != "-" and output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"--output {output} is the input")
    if output.suffix == ".parquet":
        try:
            load("pyarrow.parquet", f"--output {output}", "pyarrow", "arrow")
        except ImportError as error:
            raise Ended(str(error), FAILED) from error
    return output


def _settings(client: Client, arguments: argparse.Namespace) -> tuple[Settings, dict[str, Any]]:
    """What is asked of what is served, and the arguments of the stream. Raises NotFound and ValueError."""
    from saeserve.files.settings import Settings

    served = client.list_sources()
    features: list[FeatureName] = []
    if arguments.arguments:
        sources: list[Source] = []
        for name in map(FeatureName.parse, listed(arguments.arguments) or []):
            source = _source(client, served, name.source, name.index)
            features.append(FeatureName(source.id, name.index))
            sources += [source] if source not in sources else []
    elif arguments.sources is not None:
        sources = [_source(client, served, name, 0) for name in listed(arguments.sources) or []]
    else:
        sources = [source for source in served if arguments.kind == "all" or source.kind is Kind(arguments.kind)]
    for what, twice in (("feature", features), ("source", sources)):
        for place, one in enumerate(twice):
            if one in twice[:place]:
                raise ValueError(f"{what} {one} is asked for twice")
    if not sources:
        raise ValueError("no features are asked for, or none of this kind is served")
    settings = Settings(
        model=client.server_info().model.name,
        model_revision=served.call_info.model_revision,
        sources=tuple(map(_block, sources)),
        features=tuple(map(str, features)),
        include_bos=arguments.include_bos,
        truncate=arguments.truncate,
        has_ids=arguments.id_field is not None,
    )
    wanted: dict[str, Any] = {"features": features} if features else {"sources": [source.id for source in sources]}
    return settings, wanted


def _source(client: Client, served: SourceList, name: str, index: int) -> Source:
    """A source that has a feature of this index. Raises NotFound in the server's words, which knows what is nearest."""
    try:
        source = served[name]
    except KeyError:
        source = None
    if source is None or index >= source.n_features:
        return client.get_feature((name, index)).source
    return source


def _block(source: Source) -> Block:
    from saeserve.files.settings import Block

    return Block(source.id, source.name, source.kind.value, source.n_features, source.revision)


def _check(client: Client, settings: Settings) -> None:
    """Raises ValueError if what was asked for is not what is served any more."""
    served = client.list_sources()
    sources = tuple(_block(one) for asked in settings.sources for one in served if one.id == asked.id)
    now = replace(settings, model_revision=served.call_info.model_revision, sources=sources)
    if difference := settings.difference(now):
        raise ValueError(
            f"what is served has changed during the run, which was begun with {difference}: once that is served again "
            "the same command without --force goes on; --force begins anew"
        )


@contextmanager
def _going_on(folder: Partial) -> Iterator[None]:
    """Whatever ends a run before its end says that it can go on."""
    try:
        yield
    except KeyboardInterrupt:
        streams.complain(f"saeserve: {sentence(f'stopped; {_kept(folder)}')}")
        raise
    except SaeserveError as error:
        error.message += f"; {_kept(folder)}"
        raise
    except OSError as error:
        where = error.filename or folder.folder
        raise Ended(f"{where} cannot be written: {error.strerror or error}; {_kept(folder)}", FAILED) from error
    except ValueError as error:
        if "--force" in str(error):  # which says itself what to do
            raise
        raise ValueError(f"{error}; {_kept(folder)}") from error


def _kept(folder: Partial) -> str:
    if not folder.texts:
        return "no part of it was finished"
    command = "the same command without --force" if folder.force else "the same command"
    return f"the first {folder.texts:,} texts are kept in {folder.folder}: {command} goes on"


def _say(summary: Summary, output: Path, arguments: argparse.Namespace) -> None:
    """The end of it on standard output. Raises Ended where texts were left out."""
    if arguments.json:
        print(json_text({"output": str(output), **asdict(summary)}, sys.stdout.encoding or "utf-8"))
    else:
        print(
            sentence(
                f"{output}: {summary.texts:,} texts, {summary.tokens:,} tokens, {summary.values:,} values, "
                f"{summary.bytes:,} bytes"
            )
        )
    if summary.skipped:
        raise Ended(f"{summary.skipped:,} text{'s' if summary.skipped != 1 else ''} left out", SKIPPED)


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
