"""Configurations beside the weights, over all formats: what they say is applied or refused, nothing else happens."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from saeserve_server.errors import ConfigError
from saeserve_server.sources.description import complete
from saeserve_server.sources.formats import describe
from tests.sources.hostile import FAMILIES, GOLDEN, Family, Victim, change_json, copy, refusal

WITH_FACTS = [family for family in FAMILIES if family.facts]
ABSURD: dict[str, Any] = {
    "text": "x",
    "no text": "",
    "long text": "x" * 10**5,
    "terminal escapes": "\x1b]0;owned\x07\x1b[2J\n",
    "half a character": "\ud800",
    "digits": "blocks." + "9" * 5000 + ".hook_resid_post",
    "minus one": -1,
    "nothing": 0,
    "a half": 0.5,
    "beyond 64 bits": 10**30,
    "beyond floats": 10**400,
    "not a number": float("nan"),
    "infinity": float("inf"),
    "true": True,
    "null": None,
    "a list": [1, [2, [3]]],
    "a long list": list(range(10**4)),
    "a table": {"k": {"k": {}}},
}


def keys_of(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield above + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{above}{key}.")


def load_facts(path: Path) -> dict[str, Any]:
    text = path.read_text()
    values: dict[str, Any] = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    return values


@pytest.mark.parametrize("family", WITH_FACTS, ids=str)
def test_an_absurd_value_of_any_key_is_taken_or_refused_in_one_line(family: Family, tmp_path: Path) -> None:
    victim = copy(family, tmp_path)
    facts = victim.facts[0]
    whole = load_facts(facts)
    for key, value in itertools.product(keys_of(whole), ABSURD.values()):
        changed = json.loads(json.dumps(whole))
        *above, last = key.split(".")
        table = changed
        for name in above:
            table = table[name]
        table[last] = value
        facts.write_text(json.dumps(changed))  # which is YAML too
        try:
            description = complete(describe(victim.path, family.form))
        except ConfigError:
            assert refusal(victim).startswith((family.facts[0], family.weights))
        else:
            assert description.d_sae == 96
            for name in (description.hook_name, description.model):
                assert name is None or (name.isprintable() and len(name) < 600)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid "),
        (b"\xff\xfe{}", "not UTF-8 text: "),
        (b"\x00" * 100, "not valid "),
        (b"[1, 2]", "expected a "),
        (b'"text"', "expected a "),
        (b"[" * 5000, "not valid "),
        (b'{"a": ' * 5000, "not valid "),
        (b'{"k": ' + b"9" * 10_000 + b"}", "not valid "),
        (b" " * 2**21 + b"{}", "refused: "),
    ],
)
@pytest.mark.parametrize("family", WITH_FACTS, ids=str)
def test_what_is_no_table_of_facts_is_refused(family: Family, content: bytes, message: str, tmp_path: Path) -> None:
    victim = copy(family, tmp_path)
    victim.facts[0].write_bytes(content)
    assert refusal(victim).startswith(f"{family.facts[0]}: {message}")


LAUGHS = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS + "feature_input_hook: *a19\n", "aliases are not supported"),
        (MERGED, "aliases are not supported"),
        ('a: !!python/object/apply:os.system ["touch it-ran"]', "could not determine a constructor"),
        ("[" * 10_000, "recursion"),
        ("- " * 15_000, "recursion"),
        ("a: !!binary aaa", "not valid YAML"),
        ("a: 2020-99-99", "not valid YAML"),
        ("a: !!int x", "not valid YAML"),
        ("feature_input_hook: 0x" + "f" * 20_000, "got a whole number of 80000 bits"),
        ("feature_input_hook: 1" + ":1" * 10_000, "got a whole number of"),
        ("feature_input_hook: [" + "[]," * 2000 + "]", "expected str"),
    ],
)
def test_yaml_that_expands_or_makes_objects_is_refused(text: str, message: str, tmp_path: Path) -> None:
    family = next(one for one in WITH_FACTS if one.facts[0].endswith(".yaml"))
    victim = copy(family, tmp_path)
    victim.facts[0].write_text(text)
    line = refusal(victim)
    assert line.startswith(f"{family.facts[0]}: ")
    assert message in line


def test_a_mark_of_byte_order_does_no_harm(tmp_path: Path) -> None:
    for family in WITH_FACTS:
        victim = copy(family, tmp_path / str(family))
        victim.facts[0].write_bytes(b"\xef\xbb\xbf" + victim.facts[0].read_bytes())
        assert victim.read().d_sae == 96


def family_of(form: str) -> Family:
    return next(one for one in FAMILIES if one.form == form and one.facts)


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("saelens", {"normalize_activations": "covariance_whitening"}, "covariance_whitening is not supported"),
        ("saelens", {"metadata.hook_head_index": 3}, "hook_head_index: expected none"),
        ("saelens", {"is_transcoder": True}, "is_transcoder: expected false"),
        ("saelens", {"reshape_activations": "hook_q"}, "reshape_activations: expected one of none, hook_z"),
        ("saelens", {"architecture": "crosscoder"}, "architecture: expected one of standard"),
        ("sparsify", {"activation": "multi"}, "activation: expected one of topk, groupmax, got 'multi'"),
        ("sparsify", {"signed": True}, "signed: expected false"),
        ("sparsify", {"k": 97}, "k: expected 1 to 96, the number of latents, got 97"),
        ("sparsify", {"num_latents": 97}, "d_sae is 96, but cfg.json says num_latents = 97"),
        (
            "dictionary-learning",
            {"trainer.dict_class": "CrossCoder"},
            "trainer.dict_class: expected one of AutoEncoder",
        ),
        ("dictionary-learning", {"trainer": None}, "trainer: missing"),
        ("dictionary-learning", {"trainer.activation_dim": 63}, "d_in is 64, but config.json says activation_dim = 63"),
        ("llama-scope", {"act_fn": "topk"}, "act_fn: expected one of jumprelu, got 'topk'"),
        ("llama-scope", {"norm_activation": "token-wise"}, "norm_activation: expected one of dataset-wise"),
        ("llama-scope", {"dataset_average_activation_norm.in": -2}, "dataset_average_activation_norm.in: expected"),
        ("gemma-scope", {"architecture": "topk"}, "architecture: expected jump_relu, got 'topk'"),
        ("qwen-scope", {"model_type": "relu_sae"}, "model_type: expected one of topk_sae, got 'relu_sae'"),
        ("qwen-scope", {"hook_point": "mlp_out"}, "hook_point: expected one of resid_post, got 'mlp_out'"),
        ("qwen-scope", {"k": 0}, "k: 0, but the folder's name says 50; set k"),
        ("hook-z", {"dict_size": 95}, "d_sae is 96, but gpt2-small_L2_Hcat_z_lr_cfg.json says dict_size = 95"),
    ],
)
def test_declared_options_that_are_not_served_are_refused(
    form: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    victim = copy(family_of(form), tmp_path)
    change_json(victim.facts[0], change)
    line = refusal(victim)
    assert message in line
    assert line.startswith((victim.family.facts[0], victim.family.weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "Identity"}, "activation: expected ReLU or TopK, got 'Identity'"),
        ({"activation": {"a": [[[]]]}}, "activation: expected ReLU or TopK, got {'a': [[...]]}"),
        ({"activation": "\x1b[2J"}, r"got '\x1b[2J'"),
        ({"activation_state_dict": {"k": torch.tensor(500)}}, "k: expected 1 to 96, the number of latents, got 500"),
        ({"activation_state_dict": {"k": torch.tensor([5, 6])}}, "k: expected a whole number, got "),
        ({"activation_state_dict": {"k": torch.tensor(2.5)}}, "k: expected a whole number, got 2.5"),
        ({"activation_state_dict": {"k": 2**200}}, f"the number of latents, got {2**200}"),
        ({"activation_state_dict": [5]}, "activation_state_dict: missing, expected a table"),
    ],
)
def test_facts_in_a_state_dict_are_held_to_the_same(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    victim = copy(next(one for one in FAMILIES if one.form == "openai"), tmp_path)
    torch.save(victim.tensors() | change, victim.weights)
    line = refusal(victim)
    assert line.startswith(f"{victim.family.weights}: ")
    assert message in line


@pytest.mark.parametrize("k", [torch.tensor(2.5), torch.tensor(torch.nan), torch.tensor([5, 6]), torch.tensor(97)])
def test_k_of_a_dictionary_is_a_whole_number_up_to_its_latents(k: torch.Tensor, tmp_path: Path) -> None:
    victim = copy(family_of("dictionary-learning"), tmp_path)
    change_json(victim.facts[0], {"trainer.k": None})
    victim.write(victim.tensors() | {"k": k})
    assert ": k: expected " in refusal(victim)


def test_every_format_is_among_those_that_are_damaged() -> None:
    from saeserve_server.sources.formats import FORMATS

    assert {family.form for family in FAMILIES} == set(FORMATS)
    for family in FAMILIES:
        assert Victim(family, GOLDEN).read().d_sae == 96
