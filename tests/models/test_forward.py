"""The forward pass against TransformerLens, and what it leaves out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from saeserve_server.config import load_config
from saeserve_server.errors import ConfigError
from saeserve_server.models.forward import ATTENTION_BYTES, HookedForward, group_by_length
from saeserve_server.models.hooks import HookPlace
from saeserve_server.models.load import load_model
from saeserve_server.models.loaded import LoadedModel
from tests.conftest import DEVICE
from tests.reference import MODEL

pytestmark = pytest.mark.device

HOOKS = [
    "blocks.{}.mlp.hook_post",
    "blocks.{}.hook_mlp_out",
    "blocks.{}.hook_attn_out",
    "blocks.{}.hook_resid_pre",
    "blocks.{}.hook_resid_mid",
    "blocks.{}.hook_resid_post",
    "blocks.{}.attn.hook_z",
]
SEQUENCES = [[0, 5, 6, 7], [0, *range(200, 290)], [0, 9], [0, *range(30, 38)], [0, 5, 6, 8]]


def load(model: str, **flags: str) -> LoadedModel:
    return load_model(load_config(None, {"model": model, "device": DEVICE, **flags}, {}), torch.device(DEVICE))


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load("demo")


@pytest.fixture(scope="module")
def bridge() -> Any:
    return TransformerBridge.boot_transformers(str(MODEL), device="cpu")


@pytest.mark.parametrize("hook", HOOKS)
def test_batched_activations_equal_run_with_cache(demo: LoadedModel, bridge: Any, hook: str) -> None:
    names = [hook.format(layer) for layer in range(4)]
    demo.prepare(names)
    assert all(demo.width(name) for name in names)
    read = demo.forward.run(SEQUENCES, {name: demo.place(name) for name in names})
    for ids, ours in zip(SEQUENCES, read, strict=True):
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(torch.tensor([ids]), names_filter=names, prepend_bos=False)
        for name in names:
            theirs = cache[name][0].flatten(1)
            assert ours[name].shape == theirs.shape
            scale = max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(ours[name].cpu(), theirs, atol=3e-5 * scale, rtol=0)


def test_nothing_beyond_the_deepest_hook_is_computed(demo: LoadedModel) -> None:
    demo.width("blocks.1.hook_mlp_out")
    model = demo.forward._model
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda module, args, name=name: ran.append(name))
        for name, module in model.named_modules()
        if name in ("lm_head", "transformer.ln_f", *(f"transformer.h.{layer}" for layer in range(4)))
    ]
    demo.forward.run([[0, 1, 2]], {"blocks.1.hook_mlp_out": demo.place("blocks.1.hook_mlp_out")})
    for handle in handles:
        handle.remove()
    assert ran == ["transformer.h.0", "transformer.h.1"]


def test_no_hooks_are_left_behind_after_an_error(demo: LoadedModel) -> None:
    demo.width("blocks.0.hook_mlp_out")
    places = {"blocks.0.hook_mlp_out": demo.place("blocks.0.hook_mlp_out"), "head": HookPlace("lm_head", "in")}
    with pytest.raises(RuntimeError, match="the forward pass never reached head"):
        demo.forward.run([[0, 1, 2]], places)
    for place in places.values():
        module = demo.forward._model.get_submodule(place.module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_an_unknown_hook_has_no_width_and_the_known_are_listed(demo: LoadedModel) -> None:
    assert demo.width("blocks.9.hook_mlp_out") is None
    assert demo.width("blocks.0.hook_nothing") is None
    assert {"blocks.0.hook_mlp_out", "blocks.3.mlp.hook_post"} <= set(demo.known())


def save(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)
    return folder


def test_a_local_folder_of_another_architecture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
    )
    model = load(str(save(tmp_path / "my-llama", LlamaForCausalLM(config))))
    assert model.info.name == "my-llama"
    assert (model.info.n_layers, model.info.d_model, model.info.context_tokens) == (2, 32, 64)
    assert model.width("blocks.1.mlp.hook_post") == 48
    assert model.width("blocks.1.hook_resid_post") == 32
    assert model.width("blocks.1.attn.hook_z") == 32


def test_a_block_that_writes_into_its_own_activations_does_not_change_what_was_read(tmp_path: Path) -> None:
    """Falcon's parallel block adds the attention to the MLP's output in place."""
    torch.manual_seed(0)
    config = FalconConfig(
        vocab_size=8192,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        alibi=False,
        parallel_attn=True,
        multi_query=True,
        new_decoder_architecture=False,
    )
    model = load(str(save(tmp_path / "falcon", FalconForCausalLM(config))))
    names = ["blocks.0.hook_mlp_out", "blocks.1.hook_resid_post"]
    assert all(model.width(name) for name in names)
    alone = model.forward.run([[1, 2, 3]], {names[0]: model.place(names[0])})[0][names[0]]
    together = model.forward.run([[1, 2, 3]], {name: model.place(name) for name in names})[0][names[0]]
    assert torch.equal(alone, together)


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8192,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        is_decoder=False,
    )
    folder = save(tmp_path / "bert", BertLMHeadModel(config))
    with pytest.raises(ConfigError, match="only causal models"):
        load(str(folder)).width("blocks.0.hook_mlp_out")


def test_a_mixture_of_experts_has_no_neurons(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=8192,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
    )
    model = load(str(save(tmp_path / "mixtral", MixtralForCausalLM(config))))
    assert model.neuron_hook(0) is None
    assert model.width("blocks.0.hook_mlp_out") == 32


def test_models_that_lay_all_tokens_end_to_end_are_read_by_text(tmp_path: Path) -> None:
    """OPT flattens its MLP's input to two dimensions."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=8192,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
    )
    model = load(str(save(tmp_path / "opt", OPTForCausalLM(config))))
    assert model.width("blocks.1.hook_resid_post") == 32
    assert "blocks.1.hook_resid_post" in model.known()
    neurons = model.neuron_hook(1)
    assert neurons is None or model.width(neurons) == 48


def test_a_model_without_bos_gets_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=8192, n_positions=32))
    folder = save(tmp_path / "plain", small)
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"bos_token": "<|endoftext|>",', ""))
    assert load(str(folder)).info.bos_id is None


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=8192, n_positions=32))
    small.transformer.h[0].mlp.c_fc.weight.data[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"c_fc\.weight holds NaN"):
        load(str(save(tmp_path / "broken", small)))


def test_synthetic_shapes_are_the_same_from_the_same_seed() -> None:
    one, two = load("synthetic:tiny"), load("synthetic:tiny")
    assert one.info.revision == two.info.revision
    ids = [[0, 1, 2, 3]]
    for model in (one, two):
        assert model.width("blocks.1.hook_mlp_out") == 32
    read = [model.forward.run(ids, {"x": model.place("blocks.1.hook_mlp_out")})[0]["x"] for model in (one, two)]
    assert torch.equal(*read)


MANY = 2**62


def test_groups_hold_every_text_once_and_little_padding() -> None:
    lengths = [5, 100, 7, 1, 101, 5, 64, 90, 6, 1]
    groups = group_by_length(lengths, MANY)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    for group in groups:
        widest = max(lengths[place] for place in group)
        assert sum(lengths[place] for place in group) >= 0.75 * widest * len(group)
    assert len(groups) < len(lengths)
    assert group_by_length([], MANY) == []


def test_groups_of_long_texts_are_cut_by_the_scores_of_their_attention() -> None:
    lengths = [2048] * 5 + [1800] * 3 + [16] * 50
    assert len(group_by_length(lengths, MANY)) == 2
    groups = group_by_length(lengths, 2 * 2048**2)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    assert all(len(group) * max(lengths[place] for place in group) ** 2 <= 2 * 2048**2 for group in groups)
    assert sorted(map(len, groups)) == [2, 2, 2, 2, 50]
    assert [len(group) for group in group_by_length([2048] * 3, 1)] == [1, 1, 1]  # a text alone is always run


@pytest.mark.parametrize("key_heads", [1, 4, 32], ids="{} heads of keys".format)
def test_the_bound_follows_from_the_heads_of_queries(key_heads: int) -> None:
    """Four texts of 2,048 tokens and 32 heads would be 2 GiB of scores in one layer."""
    shape = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=32,
        num_key_value_heads=key_heads,
        head_dim=2,
    )
    forward = HookedForward(LlamaForCausalLM(shape), torch.device("cpu"))
    ran: list[int] = []

    def read(ids: torch.Tensor, places: object) -> dict[str, torch.Tensor]:
        ran.append(len(ids))
        assert len(ids) * 32 * ids.shape[1] ** 2 * 4 <= ATTENTION_BYTES
        return {}

    forward._read = read  # type: ignore[method-assign]
    forward.run([[1] * 2048] * 4 + [[1] * 16] * 64, {})
    assert sorted(ran) == [1, 1, 1, 1, 64]
