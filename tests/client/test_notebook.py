"""Answers as HTML: what they show, that nothing in them is taken for markup, and that the longest stay small."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import saeserve
from saeserve.answers import contrast as contrasts
from saeserve.answers import explanations, reading, similar
from saeserve.answers.compare import compare
from saeserve.answers.match_table import MatchTable, count
from saeserve.arguments.printable import printable
from saeserve.calls.stream import Ledger
from saeserve.notebook import brief, shading
from saeserve.notebook.markup import tag
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire
from tests.client import fake

EVIL = "\u202e</bdi><script>alert(1)</script><img/src=x/onerror=alert(2)>\"'&\u2066\x1b[31m\x00"
TAGS = {"div", "style", "p", "table", "thead", "tbody", "tr", "th", "td", "span", "b", "bdi"}
ATTRIBUTES = {"class", "title", "style", "scope", "role", "aria-label"}
STYLE = re.compile(r"background:#(e62|48f)[2-9ab]|display:inline-block;[a-zA-Z0-9:;.\-]+")


class Page(HTMLParser):
    """What a browser would make of it; raises AssertionError for what was not made here."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.text, self.titles, self.styles = [], "", [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS, tag
        assert {name for name, _ in attrs} <= ATTRIBUTES
        values = dict(attrs)
        self.titles += [values["title"]] if "title" in values else []
        if "style" in values:
            assert STYLE.fullmatch(values["style"]), values["style"]
            self.styles.append(values["style"])
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if self.open[-1] == "style" else data

    def handle_comment(self, data):
        raise AssertionError(data)


def evil(message):
    """The same answer with the hostile text wherever a text may be."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            if not field.message_type.GetOptions().map_entry:
                for one in value if field.is_repeated else [value]:
                    evil(one)
        elif field.type == field.TYPE_STRING and (message.DESCRIPTOR.name, field.name) != ("FeatureId", "source"):
            name = EVIL.replace(" ", "") if field.name == "source" else EVIL
            if field.is_repeated:
                value[:] = [name] * len(value)
            else:
                setattr(message, field.name, name)
        elif field.type == field.TYPE_BYTES and field.name == "piece":
            setattr(message, field.name, EVIL.encode())
    if isinstance(message, wire.FeatureId):
        message.source = EVIL.replace("\x00", "").replace(" ", "") + "-x"
    return message


FACTS = fake.facts("0-demo", 1633)
FACTS.explanations.add(text="colours", score=0.5, type="t", model="m", origin="o")


def similar_answer():
    made = service.SimilarFeaturesResponse(facts=FACTS, features_compared=9, space="residual stream")
    made.similar.add(facts=FACTS, value=0.5, positions=7, lower=0.25, upper=0.75, contained=0.5, contains=0.25)
    made.left_out.add(sources=["2"], reason="nothing to compare")
    return made


def contrast_answer():
    made = service.ContrastResponse(texts_a=5, texts_b=6, features_tested=7, features_considered=8)
    for side in (service.CONTRAST_SIDE_A, service.CONTRAST_SIDE_B):
        made.results.add(facts=FACTS, side=side, texts_a=5, auc=0.75, q_value=0.01, max_a=3)
    return made


def explained_answer():
    made = service.SearchExplanationsResponse(next_page_token="more")
    made.results.add(facts=FACTS, explanation=FACTS.explanations[0], relevance=2)
    return made


def top_answer():
    made = fake.top_answer(service.TopActivationsRequest(feature=FACTS.feature))
    made.records[0].MergeFrom(wire.ActivationRecord(stands_for=3.5, is_lower_bound=True))
    made.records[0].examples.add(text="a red hat", activation=3)
    made.records[1].MergeFrom(wire.ActivationRecord(origin=wire.RECORD_ORIGIN_IMPORT, import_name="theirs"))
    return made


def search_answer(**asked):
    made = fake.search_answer(service.SearchRequest(**asked))
    made.truncated = True
    if made.results:
        made.results[0].facts.CopyFrom(FACTS)
    return made


def encode_answer(**asked):
    return fake.encode_answer(service.EncodeRequest(inputs=[wire.Input(text="a"), wire.Input(text="b")], **asked))


def stream_item(change, failed):
    """As the ledger reads it from a stream."""
    ledger = Ledger(service.EncodeStreamConfig(features=[wire.FeatureId(source="0-demo", index=1)]), 32, True, None)
    ledger.add("a")
    answer = next(fake.echo(iter([service.EncodeStreamRequest(item={"input": {"text": "a"}})]), None))
    if failed:
        answer = service.EncodeStreamResponse(error=fake.status(fake.grpc.StatusCode.INVALID_ARGUMENT, "too long"))
    ledger.take(change(answer))
    return next(ledger.ready())


def answers(change):
    """One answer of every kind, read from the wire after `change`."""
    sources = service.ListSourcesResponse(sources=fake.SOURCES)
    info = fake.new_service().answers
    found = reading.search(change(search_answer(sort_tokens=[service.SortToken(text="red")])))
    by_token = reading.search(change(search_answer(by_token=True)))
    names = [saeserve.FeatureName("0-demo", 7), saeserve.FeatureName("2", 8)]
    dense = reading.encode(change(encode_answer(features=[{"source": "0-demo", "index": 7}] * 2)), names, [])
    sparse = reading.encode(change(encode_answer(sources=["0-demo"])), [], ["0-demo"])
    top = reading.top_activations(change(top_answer()))
    feature = reading.get_feature(change(info["GetFeature"](service.GetFeatureRequest(feature=FACTS.feature))))
    alike = similar.similar_features(change(similar_answer()))
    apart = contrasts.contrast(change(contrast_answer()))
    said = explanations.search_explanations(change(explained_answer()))
    listed = reading.list_sources(change(sources))
    name = change(wire.Explanation(text="a text")).text
    matches = MatchTable((name, "b"), "raw", 25, (count(0, 0, saeserve.Kind.LATENT, found),))
    return {
        "SearchResult": found,
        "Hit": found[0],
        "by token": by_token,
        "TokenHits": by_token.token_results[4],
        "EncodeResult": dense,
        "EncodedText": dense[0],
        "sparse": sparse,
        "StreamItem": stream_item(change, failed=False),
        "failed StreamItem": stream_item(change, failed=True),
        "Comparison": compare(dense),
        "TopActivations": top,
        "Record": top[0],
        "Statistics": top.statistics,
        "Feature": top.feature,
        "FeatureInfo": feature,
        "SimilarFeatures": alike,
        "Similar": alike[0],
        "Contrast": apart,
        "Distinction": apart[0],
        "ExplanationSearch": said,
        "Explained": said[0],
        "SourceList": listed,
        "Source": listed[0],
        "TokenizeResult": reading.tokenize(change(info["Tokenize"](None))),
        "MatchTable": matches,
        "ServerInfo": reading.server_info(change(info["GetServerInfo"](None))),
    }


PLAIN, HOSTILE = answers(lambda message: message), answers(evil)


@pytest.mark.parametrize("kind", PLAIN)
def test_every_answer_is_drawn(kind):
    page = Page(PLAIN[kind]._repr_html_())
    assert page.text.strip()


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_of_an_answer_is_markup(kind):
    html = HOSTILE[kind]._repr_html_()
    page = Page(html)  # which knows the elements that may be there
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f]", html)
    if kind != "Statistics":  # numbers, and tokens that it peaks on
        assert "<script>" in page.text + "".join(page.titles)
        assert "\\u202e" in page.text


def test_an_attribute_ends_where_it_was_meant_to():
    page = Page(tag("p", EVIL, title=EVIL, class_="n", aria_label=""))
    assert page.titles == [page.text] == [printable(EVIL)]


def test_a_search_shows_where_its_features_fire():
    page = Page(PLAIN["SearchResult"]._repr_html_())
    assert "My favorite color is red." in page.text
    assert {"4.250", "1.500", "0.500", "-0.170"} <= set(page.titles)
    assert page.styles[:2] == ["background:#e625", "background:#e62a"]  # by strength
    assert "background:#48f5" in page.styles  # negative
    assert "✓" in page.text
    assert "“colours” (o, t, m, score 0.50)" in page.text
    assert "sorted by ·red" in page.text
    assert "cut to the token limit" in page.text


def test_asked_by_token_each_token_has_its_features():
    page = Page(PLAIN["by token"]._repr_html_())
    assert re.search(r"·red.*2:553 4.250 ✓.*0-DEMO:1633 1.500 ✗", page.text)
    assert "no feature fires" not in page.text


def test_an_encode_shows_each_feature_on_each_text():
    text = Page(PLAIN["EncodeResult"]._repr_html_()).text
    assert text.count("0-DEMO:7") == text.count("2:8") == 2
    assert "2.200" in text
    assert "0-DEMO:5" in Page(PLAIN["sparse"]._repr_html_()).text


def test_the_shades_of_a_text_are_not_those_of_its_bos():
    values = fake.np.array([[100], [0], [1], [0], [2], [0]], fake.np.float32)
    one = replace(PLAIN["EncodedText"], features=PLAIN["EncodedText"].features[:1], dense=values, bos_included=True)
    page = Page(one._repr_html_())
    assert page.styles == ["background:#e62a", "background:#e626", "background:#e62a"]
    assert "2.000·red" in page.text


def test_of_a_projection_the_largest_value_is_shown_if_it_is_negative_too():
    values = fake.np.array([[-3], [-2], [-1], [-2], [-3], [-4]], fake.np.float32)
    one = replace(PLAIN["EncodedText"], features=(), projections=("blocks.1.hook_mlp_out",), dense=values)
    assert "blocks.1.hook_mlp_out [0]0-1.000·color" in Page(one._repr_html_()).text
    neuron = replace(one, features=PLAIN["EncodedText"].features[1:], projections=())
    assert "2:800.000-" in Page(neuron._repr_html_()).text


def test_a_text_is_cut_between_characters():
    pieces = [bytes([byte]) for byte in "日".encode()] * 60
    tokens = reading.search(service.SearchResponse(tokens=fake.tokens(pieces))).tokens
    activations = fake.np.zeros(len(tokens), fake.np.float32)
    for peak in range(len(tokens)):
        shown = shading.tokens(tokens, activations, 1.0, peak)
        assert re.search(r">日{16,17}<", shown)
        assert "\\x" not in shown
    assert brief.text_of(tokens) == f"'{'日' * 39}…'"
    for peak in range(len(tokens)):
        record = replace(PLAIN["Record"], tokens=tokens, activations=activations, max_position=peak)
        assert re.search(r"in '日{2,5}'>$", repr(record))


def test_a_comparison_marks_where_variants_differ():
    answer = encode_answer(features=[{"source": "0-demo", "index": 7}])
    answer.texts[1].tokens[4].MergeFrom(wire.Token(piece=b" blue", display=" blue"))
    html = compare(reading.encode(answer, [saeserve.FeatureName("0-demo", 7)], []))._repr_html_()
    assert html.count('class="x"') == 2
    assert "·blue" in Page(html).text


def test_an_item_of_a_stream_that_failed_says_why():
    assert "text 0 was not encoded: INVALID_ARGUMENT: too long" in Page(PLAIN["failed StreamItem"]._repr_html_()).text


def test_right_to_left_text_stays_in_its_place():
    answer = search_answer()
    answer.tokens[0].MergeFrom(wire.Token(piece="שלום".encode(), display="שלום"))
    assert re.search(r'<bdi class="t">[^<]*שלום', reading.search(answer)._repr_html_())


def test_a_long_text_is_cut_round_the_peak_and_says_so():
    answer = service.SearchResponse(tokens=fake.tokens([b" word"] * 1000))
    activations = [0.5] * 1000
    activations[700] = 2.0
    answer.results.extend(fake.hit("0-demo", place, activations, wire.MATCH_NONE) for place in range(1000))
    html = reading.search(answer)._repr_html_()
    page = Page(html)
    assert len(html) < 100_000
    assert "676 tokens before … " in page.text
    assert " … 276 tokens more" in page.text
    assert "975 features more not shown here" in page.text
    assert "2.000" in page.titles


def test_long_answers_of_every_kind_stay_small():
    pieces = [b" word"] * 1000
    tokens = fake.tokens(pieces)
    row = service.TokenResult(features=range(100), values=[1.0] * 100, matches=[wire.MATCH_NONE] * 100)
    by_token = service.SearchResponse(tokens=tokens, features=[fake.facts("0-demo", place) for place in range(100)])
    for place in range(1000):
        by_token.token_results.add(position=place).MergeFrom(row)
    different = fake.tokens([b" w%d" % place for place in range(1000)])
    many = fake.np.ones((20_000, 2), fake.np.float32)
    encoded = service.EncodeResponse(text_offsets=range(0, 20_001, 1000), dense=fake.dense(many))
    encoded.texts.extend([service.EncodedText(tokens=different)] * 20)
    wide = fake.np.zeros((20_000, 64), fake.np.float32)
    wide[::10] = 1
    sparse = service.EncodeResponse(text_offsets=range(0, 20_001, 1000), texts=encoded.texts)
    sparse.sparse.append(fake.sparse("0-demo", wide))
    names = [saeserve.FeatureName("0-demo", 1), saeserve.FeatureName("0-demo", 2)]
    dense = reading.encode(encoded, names, [])
    long = fake.facts("0-demo", 1)
    long.explanations.add(text="word " * 10_000)
    alike = similar_answer()
    alike.similar.extend([service.SimilarFeature(facts=long, value=0.5)] * 1000)
    for answer, most in [
        (reading.search(by_token), 100_000),
        (dense, 150_000),
        (reading.encode(sparse, [], ["0-demo"]), 50_000),
        (compare(dense), 200_000),
        (reading.tokenize(service.TokenizeResponse(tokens=tokens)), 40_000),
        (similar.similar_features(alike), 50_000),
    ]:
        html = answer._repr_html_()
        print(type(answer).__name__, len(html))
        assert len(html) < most
        assert re.search("more not shown here|… [0-9]+ tokens more", Page(html).text)


def test_the_demo_is_drawn_in_full(demo):
    text = "My favorite color is red."
    page = Page(demo.search(text, limit=6)._repr_html_())
    assert "0-DEMO:1633" in page.text
    assert "8.191" in page.titles
    for answer in (
        demo.search(text, by_token=True),
        demo.encode([text, "Blue."], features="0-DEMO:1633"),
        demo.encode([text, "Blue."], sources=["0-demo", "1-demo"], omit_tokens=True),
        demo.compare("0-DEMO:1633", [text, "My favorite color is crimson."]),
        demo.top_activations("0-DEMO:1633", diversity="token"),
        demo.get_feature("2:5"),
        demo.similar("0-DEMO:1633"),
        demo.match_table(text),
        demo.list_sources(),
        demo.server_info(),
        next(iter(demo.encode_stream([text], sources=["0-demo", "2"]))),
    ):
        assert Page(answer._repr_html_()).text
