"""`saeserve-server check PATH…`: what these SAEs are, and what serving them would need. No weights are loaded."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve_server.config import Config
from saeserve_server.errors import ConfigError, printable, quoted
from saeserve_server.units import readable_bytes, table

if TYPE_CHECKING:
    from saeserve_server.commands.settings import Commands
    from saeserve_server.sources.description import Description

NOT_UNDERSTOOD = 1
"""Exit status if anything was refused."""
MOST_LAYERS = 512
"""Of a path with `{layer}`, those below are looked for."""
WEIGHTS = {".safetensors", ".npz", ".pt", ".pth", ".bin"}
HEADERS = ("path", "format", "hook point", "architecture", "inputs", "latents", "k", "model", "memory")
NUMBERS = {"inputs", "latents", "k", "memory"}
SETS = {"resid": "res", "mlp": "mlp", "ln2": "mlp", "attn": "att", "embed": "embed"}
"""Names of sets by what stands in the hook point."""
UNSAID = "not said by the files"


def add_command(commands: Commands) -> None:
    """Adds the command to the parser."""
    check = commands.add_parser(
        "check",
        help="tell what SAE files are, and what serving them needs",
        description="Tells of SAEs what they are, which hook point of which model they read, and what to write into a "
        f"configuration to serve them. Nothing is loaded. Exit status {NOT_UNDERSTOOD} if some are not understood.",
    )
    check.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file or folder of an SAE, a folder of many, a pattern with {layer} or *, or hf://OWNER/NAME/… in the "
        "local hub cache",
    )
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what each path holds; returns the exit status."""
    refusals: list[str] = []
    for i, path in enumerate(options.paths):
        found, refused = _look(path)
        refusals += refused
        if found:
            print(("\n" if i else "") + (_one(*found[0]) if len(found) == 1 else _many(path, found)))
            print(f"\nto serve {'it' if len(found) == 1 else 'them'}:\n\n{_toml(path, [one for _, one in found])}")
    for refusal in refusals:
        print(f"saeserve-server: error: {refusal}", file=sys.stderr)
    return NOT_UNDERSTOOD if refusals else 0


def _look(path: str) -> tuple[list[tuple[Path, Description]], list[str]]:
    """The SAEs at a path that are understood, and a line for each that is not."""
    from saeserve_server.sources.description import complete
    from saeserve_server.sources.formats import describe, recognise, unknown
    from saeserve_server.sources.paths import locate
    from saeserve_server.sources.releases import with_release

    found: list[tuple[Path, Description]] = []
    damaged: list[tuple[Path, str]] = []
    try:
        located = locate(Config(origin="check"), path, None, MOST_LAYERS, damaged)
    except ConfigError as error:
        return [], [str(error)]
    except OSError as error:
        return [], [str(ConfigError(f"{path}: cannot be read: {error.strerror or error}"))]
    refusals = [str(ConfigError(f"{place}: {what}")) for place, what in damaged]
    for one in located:
        try:
            found.append((one.path, complete(with_release(describe(one.path), one.path, None))))
        except ConfigError as error:
            refusals.append(str(error))
    for folder in _passed_over(Path(path), [*(one.path for one in located), *(place for place, _ in damaged)]):
        form = recognise(folder)
        why = (
            unknown(folder).partition(". Known are")[0]
            if form is None
            else (f"{form.NAME}, too far down to be found from {path}: name a folder nearer to it")
        )
        refusals.append(str(ConfigError(f"{folder}: {why}")))
    return found, refusals


def _passed_over(folder: Path, taken: Sequence[Path]) -> list[Path]:
    """Folders below one that hold weights which belong to no SAE that was found."""
    if not folder.is_dir():
        return []
    folders, beside = {path for path in taken if path.is_dir()}, {path.parent for path in taken if path.is_file()}
    holding = {file.parent.absolute() for file in folder.rglob("*") if file.suffix in WEIGHTS and file.is_file()}
    return sorted(place for place in holding - beside if not folders & {place, *place.parents})


def _one(path: Path, sae: Description) -> str:
    """All facts, a line each."""
    from saeserve_server.sources.description import doubts

    inputs = ", ".join(sae.steps) or "as they are"
    size = sum(file.stat().st_size for file in sae.files)
    lines = [
        ("format", sae.format + (f", release {sae.release}" if sae.release else "")),
        ("model", sae.model or UNSAID),
        ("hook point", sae.hook_name or UNSAID),
        ("layer", UNSAID if sae.layer is None else str(sae.layer)),
        ("SAE", f"{sae.architecture}, {sae.d_in:,} inputs, {sae.d_sae:,} latents"),
        ("activation", sae.activation + (f", k = {sae.k}" if sae.k is not None else "")),
        ("inputs", inputs),
        ("texts", {True: "begin with BOS", False: "without BOS", None: f"with or without BOS {UNSAID}"}[sae.bos]),
        ("on disk", f"{readable_bytes(size)}, {sae.dtype}"),
        ("in memory", f'{readable_bytes(sae.memory_bytes(4))}, half of it with dtype = "bfloat16"'),
        *(("warning", warning) for warning in (*sae.warnings, *doubts(sae))),
    ]
    return "\n".join([printable(str(path)), *(f"  {name:<12}{printable(value)}" for name, value in lines)])


def _many(path: str, found: Sequence[tuple[Path, Description]]) -> str:
    """A table, the sums, and each warning once."""
    from saeserve_server.sources.description import doubts

    root = Path(path).absolute()
    rows = [HEADERS]
    for place, sae in found:
        name = str(place.relative_to(root) if place.is_relative_to(root) else place)
        k = "" if sae.k is None else str(sae.k)
        facts = (sae.hook_name or "?", sae.architecture, f"{sae.d_in:,}", f"{sae.d_sae:,}", k, sae.model or "?")
        rows.append((name, sae.format, *facts, readable_bytes(sae.memory_bytes(4))))
    lines = table(rows, NUMBERS)
    latents, memory = sum(sae.d_sae for _, sae in found), sum(sae.memory_bytes(4) for _, sae in found)
    lines.append(f"\n{path}: {len(found)} SAEs, {latents:,} latents, {readable_bytes(memory)} in float32")
    warnings = Counter(warning for _, sae in found for warning in (*sae.warnings, *doubts(sae)))
    return "\n".join([*lines, *(printable(f"warning, of {count}: {warning}") for warning, count in warnings.items())])


def _toml(path: str, saes: Sequence[Description]) -> str:
    """The lines of a configuration; what the files leave open is said in comments."""
    first = saes[0]
    models = {sae.model for sae in saes}
    hooks = {sae.hook_name for sae in saes}
    repeats = [layer for layer, count in Counter(sae.layer for sae in saes).items() if count > 1]
    lines = [f"model = {quoted(_hub_name(first.model) if first.model else '…')}"]
    if len(models) > 1 or first.model is None:
        named = ", ".join(sorted(filter(None, models)))
        lines[0] += f" # one of {named}" if len(models) > 1 and named else f" # {UNSAID}"
    lines += ["", "[[sources]]", f'set = "{_set(first)}"', f"path = {quoted(path)}"]
    if repeats:
        lines[-1] += f" # several of layer {repeats[0]}: a set takes one a layer, name one"
    if None in hooks:
        lines.append(f'hook = "blocks.{{layer}}.…" # {UNSAID}')
    if any(sae.layer is None and "{layer}" not in path for sae in saes):
        lines.append(f'layers = "…" # {UNSAID}')
    if any(sae.expects_scaling and sae.scaling_factor is None for sae in saes):
        lines.append(f"scaling_factor = … # its inputs were scaled in training; by what is {UNSAID}")
    if any(sae.bos is False for sae in saes):
        lines.append('bos = "none" # trained on texts without BOS; without this line, as for the model')
    return "\n".join(lines)


def _hub_name(model: str) -> str:
    """The hub's name of a model, where releases use TransformerLens' short one."""
    owners = {"gemma-": "google", "pythia-": "EleutherAI", "Llama-": "meta-llama", "DeepSeek-": "deepseek-ai"}
    if model == "gpt2-small":
        return "gpt2"
    return next((f"{owner}/{model}" for name, owner in owners.items() if model.startswith(name)), model)


def _set(sae: Description) -> str:
    if "transcoder" in sae.architecture:
        return "transcoder"
    return next((name for part, name in SETS.items() if part in (sae.hook_name or "")), "mine")
