"""What callers ask: always something that the server can answer."""

from loadtests.questions import Asker, Served
from loadtests.texts import Distinct, Popular, caller

SERVED = Served(4, (("0-demo", 2048), ("1-demo", 8)), ("0-demo",))


def test_later_questions_are_about_the_text_just_searched() -> None:
    asker = Asker(SERVED, Distinct(), caller(0, 0))
    for _ in range(50):
        text = asker.search().request.input.text
        asked_again = [asker.sort(), asker.narrow(), asker.by_token()]
        assert {question.request.input.text for question in asked_again} == {text}
        (token,) = asked_again[0].request.sort_tokens
        assert token.text in text.split()
        (layers,) = asked_again[1].request.filter.include.layers
        assert layers.first <= layers.last == 3


def test_features_exist_and_are_named_once() -> None:
    asker = Asker(SERVED, Popular(50), caller(0, 0))
    sizes = dict(SERVED.sources)
    for _ in range(200):
        features = [(feature.source, feature.index) for feature in asker.encode_features().request.features]
        assert features
        assert len(set(features)) == len(features)
        assert all(index < sizes[source] for source, index in features)
        assert asker.encode_source().request.sources[0] in sizes


def test_top_activations_are_asked_of_indexed_sources_only() -> None:
    asker = Asker(SERVED, Distinct(), caller(0, 0))
    assert {asker.top().request.feature.source for _ in range(50)} == {"0-demo"}
    bare = Asker(Served(4, SERVED.sources, ()), Distinct(), caller(0, 0))
    assert bare.top().method == "Search"


def test_each_kind_has_a_name_of_its_own() -> None:
    asker = Asker(SERVED, Distinct(), caller(0, 0))
    asks = [
        asker.search,
        asker.sort,
        asker.narrow,
        asker.by_token,
        asker.encode_features,
        asker.encode_source,
        asker.top,
    ]
    assert len({ask().kind for ask in asks}) == len(asks)
