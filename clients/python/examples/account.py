"""The two experiments that saeserve grew from, as one program: a concept looked for and tested, a text taken apart.

    python clients/python/examples/account.py                    # on the demo model, by a server of its own
    python clients/python/examples/account.py --target HOST:PORT # on whatever is served there
    python clients/python/examples/account.py --gpt2 FOLDER      # on GPT-2 small with OpenAI's SAEs, lying in FOLDER

The first experiment looks for a feature of red: searches, adds context, sorts by a token, asks neurons instead, opens
the feature that fits, tries it on crimson, and another one on love, like and hate, and reads where they do not fire.
The second takes a sentence about the Odyssey apart, layer by layer. Then what the account found by accident: twins and
triplets; and what it lacked: a ranking that compares layers.

Which features it is about is found by searching, so that the program runs on any model with an index.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import saeserve
from saeserve import Client, Feature, Hit, Match, Record, SearchResult, Token

RED = "My favorite color is red."
VARIANTS = ["My favorite color is red.", "My favorite color is crimson.", "My favorite color is seven."]
LOVE = [f"Do you {verb} me?" for verb in ("love", "like", "hate")]
RANKINGS = ("raw", "relative", "surprisal")
MATCHES = (Match.EXACT, Match.FOLDED)
CHOOSY = 0.05
"""Features that fire on more of all tokens are not said to be about something."""


def main() -> int:
    """Runs all of it; 1 with a reason, and nothing printed, where it cannot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--target", metavar="HOST:PORT", help="a server that runs, with an index")
    where.add_argument(
        "--gpt2", metavar="FOLDER", type=Path, help="where GPT-2 small and OpenAI's SAEs were fetched to"
    )
    arguments = parser.parse_args()
    try:
        with connected(arguments.target, arguments.gpt2) as client:
            if client.server_info().index is None:
                raise Refused("the server has no index, and all of this reads one: saeserve-server index build")
            run(client)
    except (Refused, saeserve.SaeserveError, saeserve.LocalServerError) as error:
        print(f"account.py: {error}", file=sys.stderr)
        return 1
    return 0


class Refused(Exception):
    """What cannot be run here, and how it can."""


@contextmanager
def connected(target: str | None, gpt2: Path | None) -> Iterator[Client]:
    """A client of what was asked for."""
    if target is not None:
        with Client(target) as client:
            client.wait_ready()
            yield client
    elif gpt2 is not None:
        config, index = gpt2 / "gpt2-small-openai-v1.toml", gpt2 / "index"
        if not config.is_file() or not index.is_dir():
            missing = config if not config.is_file() else index
            raise Refused(
                f"{missing} is not there, so nothing was run on GPT-2 small. With a network, in {gpt2}: "
                "`saeserve-server fetch gpt2-small-openai-v1`, then `saeserve-server index build index TEXTS --config "
                "gpt2-small-openai-v1.toml` over texts of yours"
            )
        with saeserve.local(config=config, index=index, timeout=600) as client:
            yield client
    else:
        with saeserve.local(model="demo", timeout=600) as client:
            yield client


def run(client: Client) -> None:
    """Both experiments, in the order of the account."""
    red = find_a_concept(client)
    open_a_feature(client, red)
    test_a_feature(client, red)
    love = variants_side_by_side(client)
    where_they_do_not_fire(client, [red, love])
    take_a_text_apart(client)
    twins(client)
    triplets(client)
    compare_rankings(client)


def find_a_concept(client: Client) -> Feature:
    """Search a word, then a sentence, sort by the word, ask neurons instead. Gives the feature that fits best."""
    title("A word: red")
    hits(client.search("red", limit=5).results)
    title(f"With context: {RED}")
    hits(client.search(RED, limit=5).results)
    title("Sorted by the token red")
    found = client.search(RED, sort="red", limit=25)
    hits(found[:5])
    title("Neurons instead")
    hits(client.search(RED, sort="red", kinds="neuron", limit=5).results)
    chosen = fitting(found)
    say(f"It goes on with {chosen}: the first that usually fires on this token and on few others.")
    return chosen


def open_a_feature(client: Client, feature: Feature) -> None:
    """Its records: the plain top five, then one of a kind with counts, then a sample of all it fires on."""
    title(f"{feature}: the top five")
    page = client.top_activations(feature, page_size=5)
    records(page.records)
    title(f"{feature}: one for each token, and for how many it stands")
    records(client.top_activations(feature, diversity="folded-token", page_size=5).records, counts=True)
    title(f"{feature}: from strong to weak, a sample of each power of two")
    records(client.top_activations(feature, group="quantiles", page_size=8).records, counts=True)
    fires = page.statistics
    say(
        f"It fires on {fires.fires:,} of {fires.tokens:,} tokens, in {fires.fires_in_texts:,} of {fires.texts:,} texts."
    )


def test_a_feature(client: Client, feature: Feature) -> None:
    """The same sentence with another colour, and with what is none."""
    title(f"{feature} on red, crimson, seven")
    say(str(client.compare(feature, VARIANTS)))


def variants_side_by_side(client: Client) -> Feature:
    """A feature of the word love, on love, like and hate."""
    chosen = fitting(client.search(LOVE[0], sort="love", limit=100))
    title(f"{chosen} on love, like, hate")
    say(str(client.compare(chosen, LOVE)))
    return chosen


def where_they_do_not_fire(client: Client, features: list[Feature]) -> None:
    """Occurrences of a feature's usual tokens at which it does not fire."""
    for feature in features:
        title(f"Near misses of {feature}")
        found = client.top_activations(feature, group="near-misses", page_size=3).records
        records(found)
        if not found:
            say("None was found: wherever a usual token was looked at, it fires.")


def take_a_text_apart(client: Client) -> None:
    """How many of the top 25 of each layer fire on a token that they usually fire on."""
    text = saeserve.EXAMPLES["odyssey"]
    title("A text taken apart")
    say(text)
    say(str(client.match_table(text)))


def twins(client: Client) -> None:
    """For the latents of the search the neuron of their layer that writes in the most similar direction."""
    title("Twins: a latent, and the neuron of its layer that writes most nearly the same")
    pairs = []
    for hit in client.search(RED, limit=50):
        near = client.similar(hit, kinds="neuron", layers=hit.feature.layer, limit=1)
        pairs += [(one.value, str(hit.name), one.feature) for one in near]
    for cosine, latent, neuron in sorted(pairs, key=lambda pair: -pair[0])[:5]:
        say(f"{cosine:6.3f}  {latent:<14} {neuron!s:<8} {usual(neuron)}")
    if not pairs:
        say("None of them could be compared.")


def triplets(client: Client) -> None:
    """For the latents of the search those of two other layers that fire at the same places."""
    title("Triplets: latents of three layers that fire at the same places")
    found = []
    for hit in client.search(RED, limit=50, max_density=CHOOSY):
        near = client.similar(hit, by="firing", kinds="latent", exclude_layers=hit.feature.layer, limit=20)
        best: dict[int, saeserve.Similar] = {}
        for one in near:
            best.setdefault(one.feature.layer, one)
        others = list(best.values())[:2]
        if len(others) == 2:
            found.append((others[1].value, hit.feature, others))
    told: set[str] = set()
    for _, feature, others in sorted(found, key=lambda triplet: -triplet[0]):
        names = {str(feature), *(str(one.feature) for one in others)}
        if names & told or len(told) == 9:
            continue
        told |= names
        say(f"{feature}  {usual(feature)}")
        for one in others:
            bounds = "" if one.interval is None else f" ({one.interval[0]:.2f} to {one.interval[1]:.2f})"
            say(f"   {one.value:.2f}{bounds} of {one.positions} places  {one.feature}  {usual(one.feature)}")
    if not found:
        say("None was found.")


def compare_rankings(client: Client) -> None:
    """Of the top 25 on the examples, from which layers they are, and how many fire where they usually do."""
    layers = range(client.server_info().model.n_layers)
    title(f"Which layers the top 25 of {len(saeserve.EXAMPLES)} texts are from, by ranking, in percent")
    say("ranking    " + "  ".join(f"{layer:>3}" for layer in layers) + "   on a usual token")
    for ranking in RANKINGS:
        found: list[Hit] = []
        for text in saeserve.EXAMPLES.values():
            found += client.search(text, ranking=ranking, truncate=True)  # type: ignore[arg-type]
        counts = Counter(hit.feature.layer for hit in found)
        matched = sum(hit.match in MATCHES for hit in found)
        shares = "  ".join(f"{100 * counts[layer] / max(1, len(found)):3.0f}" for layer in layers)
        say(f"{ranking:<10} {shares}   {100 * matched / max(1, len(found)):3.0f}")


def fitting(found: SearchResult) -> Feature:
    """The first that usually fires on the token that was sorted by, and on few others; else the first."""
    if not found:
        raise Refused("no feature fires on that token: the model does not know it")
    here = folded(found.tokens[found.sort_positions[0]])
    for hit in found:
        usually = {folded(usual.token) for usual in hit.feature.usual_tokens}
        if here in usually and (hit.feature.density or 0) < CHOOSY:
            return hit.feature
    return found[0].feature


def folded(token: Token) -> str:
    """A token without case and the space around it."""
    return token.display.strip().casefold()


def title(text: str) -> None:
    """A heading."""
    print(f"\n## {text}\n")


def say(text: str) -> None:
    """A line, or more."""
    print(text)


def hits(found: tuple[Hit, ...]) -> None:
    """What was found, a line each."""
    for hit in found:
        mark = "=" if hit.match in MATCHES else " "
        density = "" if hit.feature.density is None else f"{100 * hit.feature.density:.3g}%"
        say(f"{hit.value:8.3f}  {hit.name!s:<14} {mark} {density:>7}  {usual(hit.feature)}")
    if not found:
        say("No feature fires.")


def records(found: tuple[Record, ...], *, counts: bool = False) -> None:
    """Records: the token at which each is shown in its text, and for how many it stands."""
    for record in found:
        before = b"".join(token.piece for token in record.tokens[: record.max_position][-8:])
        here = record.tokens[record.max_position].piece
        after = b"".join(token.piece for token in record.tokens[record.max_position + 1 :][:8])
        space, word = (" ", here[1:]) if here.startswith(b" ") else ("", here)
        line = f"{readable(before)}{space}«{readable(word)}»{readable(after)}"
        least = "at least " if record.is_lower_bound else ""
        stands = f"  for {f'{least}{record.stands_for:.0f}':<5}" if counts else ""
        say(f"{record.activations[record.max_position]:8.3f}{stands}  …{line}…")


def usual(feature: Feature) -> str:
    """The tokens on which a feature usually fires."""
    return " ".join(repr(token.token.display) for token in feature.usual_tokens) or "(no index, or it never fires)"


def readable(piece: bytes) -> str:
    """Bytes of a text on one line."""
    return " ".join(piece.decode(errors="replace").splitlines())


if __name__ == "__main__":
    sys.exit(main())
