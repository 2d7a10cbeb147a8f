"""The commands and their options."""

from __future__ import annotations

import argparse
import os
from typing import Any

from saeserve._version import __version__
from saeserve.calls.select import DIVERSITIES, GROUPS, ORIGINS
from saeserve.cli import compare, contrast, encode_file, explanations, match, similar, vector, web
from saeserve.cli.parser import Parser
from saeserve.cli.values import integers, seconds, text
from saeserve.transport.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT

EXIT_CODES = (0, 1, 2, 3, 4)
"""Answered; failed otherwise; wrong usage or INVALID_ARGUMENT; NOT_FOUND; UNAVAILABLE or DEADLINE_EXCEEDED."""
SHELLS = ("bash", "zsh", "fish")
WAIT = 600.0
"""Seconds that `--wait` waits where it does not say: as long as a server takes at most to start, by default."""

_EPILOG = """\
[NAME] is an environment variable, which an option goes before.
exit codes: 0 answered, also help alone; 1 refused or failed, or the answer could not be written; 2 wrong usage or
INVALID_ARGUMENT; 3 NOT_FOUND; 4 UNAVAILABLE or DEADLINE_EXCEEDED; 5 encoded, with texts left out; 130 interrupted; 141
the reader of the output left.
A TEXT of "-" is read from standard input, without its last line break. One that begins with - stands after --, as
in: saeserve tokenize -- -hello
Tokens are shaded by activation on terminals; elsewhere, and with NO_COLOR set, the peak stands in «...».
In columns a token's leading space is written as ·."""

_CONNECTION = ("token", "token_file", "ca_cert", "client_cert", "client_key", "server_name", "client_name")
"""Arguments of a client that are options and variables; the token is a variable only: others can see command lines."""


def parser() -> Parser:
    """The whole command line."""
    top = Parser(
        prog="saeserve",
        parents=[_common()],
        description="Ask what a language model's features (SAE latents, MLP neurons) respond to.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"saeserve {__version__}")
    top.set_defaults(target=None, timeout=DEFAULT_TIMEOUT, wait=None, json=False)
    top.set_defaults(**{name: os.environ.get("SAESERVE_" + name.upper()) or None for name in _CONNECTION})
    top.set_defaults(tls=_yes("SAESERVE_TLS"), allow_insecure_token=_yes("SAESERVE_ALLOW_INSECURE_TOKEN"))
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, summary: str, *, answers: bool = True) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary,
            parents=[_common(answers)],
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _search(command("search", "which features fire on a text?"))
    _encode(command("encode", "how strongly do features fire on each token of some texts?"))
    _top(command("top", "on which texts of the index does a feature fire most?"))
    compare.options(command("compare", "how strongly do features fire on variants of a text, side by side?"))
    similar.options(command("similar", "which features point, fire or read like one?"))
    vector.options(command("vector", "which directions does a feature read and write?"))
    explanations.options(command("explanations", "which features are explained in some words?"))
    contrast.options(command("contrast", "which features tell two sets of texts apart?"))
    match.options(command("match", "how many of the features that fire most do so on a token they usually fire on?"))
    feature = command("feature", "what is known of a feature?")
    feature.add_argument("feature", metavar="FEATURE", type=text, help="for example 0-MLP-OAI:22631 or 2:553")
    sources = command("sources", "which sources of features are served?")
    sources.add_argument("--kind", choices=["latent", "neuron", "all"], default="all", help="only these (default: all)")
    tokenize = command("tokenize", "how does the model cut a text into tokens?")
    tokenize.add_argument("text", metavar="TEXT", nargs="?", type=text, help="the text, or - for standard input")
    tokenize.add_argument("--ids", metavar="ID,...", type=integers, help="token ids instead of a text")
    command("info", "which model, which device, which limits?")
    web.options(
        command("web", "a page in the browser and HTTP for everyone, before one or several servers", answers=False)
    )
    completion = commands.add_parser(
        "completion",
        help="what a shell completes `saeserve` by",
        description='Prints what a shell completes commands and options by. For bash and zsh: eval "$(saeserve '
        'completion bash)"; for fish: saeserve completion fish | source',
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")
    return top


def _common(answers: bool = True) -> Parser:
    """Options of every command. They have no defaults of their own, so that they work before and after its name.

    answers: whether it prints an answer.
    """
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("connection and output")
    group.add_argument(
        "--target",
        metavar="HOST:PORT,...",
        action="append",
        help=f"the server, or several that share the calls; repeat (default: {DEFAULT_TARGET}) [SAESERVE_TARGET]",
    )
    group.add_argument(
        "--token-file", metavar="FILE", help="file with the bearer token [SAESERVE_TOKEN_FILE, or it: SAESERVE_TOKEN]"
    )
    group.add_argument(
        "--allow-insecure-token",
        action="store_true",
        help="send it without TLS to other machines too [SAESERVE_ALLOW_INSECURE_TOKEN]",
    )
    group.add_argument("--tls", action="store_true", help="use TLS; so do the four options below [SAESERVE_TLS]")
    group.add_argument("--ca-cert", metavar="FILE", help="PEM file of the authorities to trust [SAESERVE_CA_CERT]")
    group.add_argument("--client-cert", metavar="FILE", help="PEM file to be known by [SAESERVE_CLIENT_CERT]")
    group.add_argument("--client-key", metavar="FILE", help="PEM file of its private key [SAESERVE_CLIENT_KEY]")
    group.add_argument("--server-name", metavar="NAME", help="name in the certificate [SAESERVE_SERVER_NAME]")
    group.add_argument("--client-name", metavar="NAME", help="who calls, for fair queueing [SAESERVE_CLIENT_NAME]")
    group.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, help=f"for the answer; inf: no end (default: {DEFAULT_TIMEOUT:g})"
    )
    group.add_argument(
        "--wait",
        metavar="SECONDS",
        nargs="?",
        const=WAIT,
        type=seconds,
        help=f"before that, wait for a server that starts or loads (without SECONDS: {WAIT:g})",
    )
    if answers:
        group.add_argument("--json", action="store_true", help="print the answer as JSON")
    return common


def connection(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and how to connect, as a client takes it."""
    chosen = {name: getattr(arguments, name) for name in _CONNECTION}
    if arguments.token_file is not None and arguments.token_file != os.environ.get("SAESERVE_TOKEN_FILE"):
        chosen["token"] = None  # an option goes before a variable
    chosen["client_name"] = arguments.client_name or ""
    chosen["target"] = arguments.target or os.environ.get("SAESERVE_TARGET") or DEFAULT_TARGET
    return chosen | {"tls": arguments.tls or None, "allow_insecure_token": arguments.allow_insecure_token}


def _yes(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in ("", "0", "false", "no")


def _search(search: argparse.ArgumentParser) -> None:
    search.add_argument("text", metavar="TEXT", nargs="?", type=text, help="the text, or - for standard input")
    search.add_argument("--ids", metavar="ID,...", type=integers, help="token ids instead of a text")
    which = search.add_argument_group("which features (all that is given must hold)")
    which.add_argument("--kind", choices=["latent", "neuron", "all"], help="default: latents, or neurons if none are")
    for option, example in (("layers", "1-3,5"), ("sources", "0-MLP-OAI,..."), ("sets", "mlp-oai,...")):
        for prefix, only in (("", "only"), ("exclude-", "leave out")):
            which.add_argument(
                f"--{prefix}{option}", metavar=example, action="append", type=text, help=f"{only} these {option}"
            )
    for prefix, only in (("", "only"), ("exclude-", "leave out")):
        which.add_argument(
            f"--{prefix}features", metavar="FEATURE,...", action="append", type=text, help=f"{only} these features"
        )
    which.add_argument("--min-density", metavar="SHARE", type=float, help="fire on at least this share of tokens, 0-1")
    which.add_argument("--max-density", metavar="SHARE", type=float, help="fire on at most this share of tokens, 0-1")
    order = search.add_argument_group("order")
    order.add_argument(
        "--sort",
        metavar="TOKEN",
        action="append",
        type=text,
        default=[],
        help="rank by the sum over tokens that read so; repeat",
    )
    order.add_argument(
        "--sort-position", metavar="N", type=int, action="append", default=[], help="a token by its position, from 0"
    )
    order.add_argument(
        "--ranking",
        choices=["raw", "relative", "surprisal"],
        default="raw",
        help="relative: by share of the index maximum; surprisal: by bits, the rarer in the index the more",
    )
    order.add_argument("--min-fires", metavar="N", type=int, help="if not raw: fire so often in the index (10)")
    order.add_argument("--limit", metavar="K", type=int, help="how many features, 1 to 1000 (default: 25)")
    order.add_argument("--rank-bos", action="store_true", help="let the BOS token rank too, and show it")
    order.add_argument("--sort-bos", action="store_true", help="sort by it; needs --rank-bos")
    order.add_argument("--by-token", action="store_true", help="the top features of each token")
    _text_options(search)
    search.add_argument("--full", action="store_true", help="show long texts whole, not only around the peak")


def _encode(encode: argparse.ArgumentParser) -> None:
    encode.usage = (
        "saeserve encode FEATURE,... TEXT [TEXT ...]\n"
        "       saeserve encode FEATURE [FEATURE ...] --text TEXT [--text TEXT ...]\n"
        "       saeserve encode --sources SOURCE,... TEXT [TEXT ...]\n"
        "       saeserve encode FEATURE,... | --sources SOURCE,... | --kind KIND --input FILE --output FILE"
    )
    encode.add_argument("arguments", metavar="FEATURE,... TEXT", nargs="*", type=text, help="features, then the texts")
    encode.add_argument("--text", action="append", metavar="TEXT", type=text, help="a text; all others are features")
    encode.add_argument(
        "--sources", metavar="SOURCE,...", action="append", type=text, help="all of these SAEs; of files, neurons too"
    )
    _text_options(encode)
    encode.add_argument("--full", action="store_true", help="show long texts whole, not only around the peak")
    encode_file.options(encode)


def _text_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--include-bos", action="store_true", help="show the BOS token, which never ranks")
    command.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of refusing them")


def _top(top: argparse.ArgumentParser) -> None:
    top.add_argument("feature", metavar="FEATURE", type=text, help="for example 0-MLP-OAI:22631 or 2:553")
    which = top.add_argument_group("which records")
    which.add_argument(
        "--group", choices=list(GROUPS), default="top", help="the strongest, a sample, or where it fails to fire"
    )
    which.add_argument(
        "--diversity",
        choices=list(DIVERSITIES),
        default="none",
        help="one of a kind, which says for how many it stands",
    )
    which.add_argument(
        "--threshold", metavar="OVERLAP", type=float, help="from what overlap on two are of a kind, 0-1 (default: 0.5)"
    )
    which.add_argument("--origin", choices=list(ORIGINS), help="default: the index's, or else imported ones")
    top.add_argument("--count", metavar="N", type=int, help="how many records, 1 to 100 (default: 10)")
    top.add_argument("--page-token", metavar="TOKEN", type=text, default="", help="go on where an earlier page ended")
