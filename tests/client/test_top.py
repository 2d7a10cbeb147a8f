"""Records that stand for others: what is asked, what comes back, how it is shown."""

from __future__ import annotations

import grpc
import pytest

from saeserve import RecordExample, RecordOrigin
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire
from tests.client.fake import STATISTICS, Failure, facts, status, tokens


def record(**changes: object) -> wire.ActivationRecord:
    whole: dict[str, object] = {
        "tokens": tokens([b" the", b" red", b" door"]),
        "activations": [0, 4.5, 0],
        "max_activation": 4.5,
        "max_position": 1,
        "origin": wire.RECORD_ORIGIN_INDEX,
        "stands_for": 1.0,
        "least_activation": 4.5,
        "most_activation": 4.5,
    }
    return wire.ActivationRecord(**(whole | changes))  # type: ignore[arg-type]


KIND = record(
    stands_for=12.0,
    is_lower_bound=True,
    least_activation=1.25,
    examples=[wire.RecordExample(text="a red\x1b[2J car", activation=3.5, text_index=9)],
    active_features=[1633, 7],
)
SAMPLED = record(stands_for=208.5, least_activation=4.0, most_activation=8.0)
IMPORTED = record(origin=wire.RECORD_ORIGIN_IMPORT, import_name="neuronpedia")


@pytest.fixture
def answers(fake):
    """What TopActivations answers with: a list to be filled."""
    records: list[wire.ActivationRecord] = []
    fake.answers["TopActivations"] = lambda request: service.TopActivationsResponse(
        facts=facts("0-demo", 1633), statistics=STATISTICS, records=records, next_page_token=f"{request.page_token}x$"
    )
    return records


def test_what_is_asked_reaches_the_server(client, fake, answers):
    client.top_activations("0-demo:1633", diversity="phrase", threshold=0.25, origin="index")
    client.top_activations("0-demo:1633", group="near-misses")
    client.top_activations("0-demo:1633")
    first, second, third = (seen.request for seen in fake.seen)
    assert (first.diversity, first.threshold, first.origin) == (wire.DIVERSITY_PHRASE, 0.25, wire.RECORD_ORIGIN_INDEX)
    assert (second.group, second.HasField("threshold")) == (wire.RECORD_GROUP_NEAR_MISSES, False)
    assert third == service.TopActivationsRequest(feature=wire.FeatureId(source="0-demo", index=1633))


def test_following_pages_ask_the_same(client, fake, answers):
    answers.append(KIND)
    records = client.iter_top_activations("0-demo:1633", diversity="semantic", threshold=0.5)
    next(records)
    next(records)
    first, second = (seen.request for seen in fake.seen)
    assert (first.page_token, second.page_token) == ("", "x$")
    assert (second.diversity, second.threshold) == (wire.DIVERSITY_SEMANTIC, 0.5)


def test_a_record_says_what_it_stands_for(client, answers):
    answers += [KIND, IMPORTED]
    kind, imported = client.top_activations("0-demo:1633")
    assert (kind.stands_for, kind.is_lower_bound, kind.least_activation, kind.most_activation) == (12, True, 1.25, 4.5)
    assert kind.examples == (RecordExample("a red\x1b[2J car", 3.5, 9),)
    assert (kind.active_features, kind.origin) == ((1633, 7), RecordOrigin.INDEX)
    assert (imported.origin, imported.import_name) == (RecordOrigin.IMPORT, "neuronpedia")


@pytest.mark.parametrize("wrong", [{"group": "best"}, {"diversity": "words"}, {"origin": "there"}])
def test_names_are_checked_before_anything_is_sent(client, fake, wrong):
    with pytest.raises(ValueError, match="is none of"):
        client.top_activations("0-demo:1633", **wrong)
    assert not fake.seen


def test_errors_are_told_in_options(run, fake, answers):
    said = "diversity: DIVERSITY_FOLDED_TOKEN is taken with RECORD_GROUP_TOP only: leave one of both out"
    fake.failures.append(Failure(status(grpc.StatusCode.INVALID_ARGUMENT, said)))
    _, _, err = run("top", "0-DEMO:1633", "--group", "random", "--diversity", "folded-token")
    assert "--diversity: --diversity folded-token is taken with --group top only: leave one of both out" in err


def lines(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines()]


def test_the_command_says_for_how_many_a_record_stands(run, fake, answers):
    answers += [KIND, record()]
    code, out, _ = run("top", "0-DEMO:1633", "--diversity", "semantic", "--threshold", "0.3")
    assert code == 0
    assert (fake.seen[0].request.diversity, fake.seen[0].request.threshold) == (wire.DIVERSITY_SEMANTIC, 0.3)
    assert "stands for at least 12 blocks, 1.250 to 4.500" in lines(out)
    assert "also 3.500 …a red\\x1b[2J car…" in lines(out)
    assert "stands for 1 block" in lines(out)
    again = "more: saeserve top 0-DEMO:1633 --diversity semantic --threshold 0.3 --page-token 'x$'"
    assert again in lines(out)


def test_the_command_shows_samples_near_misses_and_imports(run, answers):
    answers.append(SAMPLED)
    assert "stands for 208.5 blocks, 4.000 to 8.000" in lines(run("top", "0-DEMO:1633", "--group", "quantiles")[1])
    assert not any("stands for" in line for line in lines(run("top", "0-DEMO:1633")[1]))
    answers[:] = [record(activations=[0, 0, 0], max_activation=0.5)]
    shown = lines(run("top", "0-DEMO:1633", "--group", "near-misses")[1])
    assert "does not fire there; in the block at most 0.500" in shown
    answers[:] = [IMPORTED]
    assert "from import neuronpedia" in lines(run("top", "0-DEMO:1633", "--origin", "import")[1])
    answers[:] = []
    assert "no records" in lines(run("top", "0-DEMO:1633")[1])
