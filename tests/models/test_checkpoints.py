"""Model folders and the hub cache: what is there is read right, what is not is refused with what would bring it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlavaConfig

from saeserve_server.config import load_config
from saeserve_server.errors import ConfigError
from saeserve_server.models.checkpoint import open_checkpoint
from saeserve_server.models.load import outline
from saeserve_server.models.loaded import LoadedModel
from tests.models.shapes import SHAPES, VISION, build, save, save_multimodal
from tests.models.test_shapes import load


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in several files, beside a hub cache that holds it by the name some-org/small-gpt2."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--some-org--small-gpt2"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder = save(repository / "snapshots" / ("0" * 40), build("gpt2"))
    build("gpt2").save_pretrained(folder, max_shard_size="1MB")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def cache(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot's folder in a hub cache of the test's own."""
    shutil.copytree(sharded.parents[2], tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path / sharded.relative_to(sharded.parents[2])


def refused(model: Path | str, **flags: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(Path(model), **flags) if isinstance(model, Path) else load(model, **flags)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_sharded_model_is_taken_from_the_hub_cache(cache: Path) -> None:
    assert len(list(cache.glob("*.safetensors"))) > 1
    model = load("some-org/small-gpt2")  # type: ignore[arg-type]
    assert (model.info.name, model.width("blocks.1.hook_mlp_out")) == ("small-gpt2", 32)


def test_what_the_hub_cache_lacks_is_refused_with_the_command_that_brings_it(cache: Path) -> None:
    message = refused("some-org/another")
    assert "'some-org/another' is neither `demo`" in message
    assert "`saeserve-server fetch some-org/another` brings it" in message
    shard = sorted(cache.glob("*.safetensors"))[1]
    shard.unlink()
    message = refused("some-org/small-gpt2")
    assert f"shards {shard.name} is missing" in message
    assert "`saeserve-server fetch some-org/small-gpt2` brings it" in message
    shard.symlink_to(cache / "blobs" / "gone")  # as the cache has it where a blob was not fetched
    assert f"shards {shard.name} is missing" in refused("some-org/small-gpt2")
    (cache / "config.json").unlink()
    assert "config.json is missing" in refused("some-org/small-gpt2")


def test_an_incomplete_folder_is_refused_by_what_it_lacks(cache: Path) -> None:
    index = cache / "model.safetensors.index.json"
    for shard in sorted(cache.glob("*.safetensors"))[1:]:
        shard.unlink()
    assert "model-00002-of-" in refused(cache)
    index.write_text("{")
    assert "model.safetensors.index.json cannot be read: JSONDecodeError" in refused(cache)
    index.unlink()
    assert "is not complete: model.safetensors is missing" in refused(cache)


def test_tensors_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    """Transformers initialises them at random and warns."""
    folder = save(tmp_path / "holes", build("gemma3"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "lacks 1 tensors of Gemma3ForCausalLM: model.layers.1.mlp.up_proj.weight" in refused(folder)


def test_a_multimodal_model_without_a_language_model_of_its_own_is_refused(tmp_path: Path) -> None:
    LlavaConfig(
        text_config={"model_type": "t5"}, vision_config={"model_type": "siglip_vision_model", **VISION}
    ).save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"is multimodal \(llava\), and its language model \(t5\) cannot be run alone"
    ):
        open_checkpoint(tmp_path, "server.toml: model")


def test_the_language_model_of_other_multimodal_checkpoints_is_found(tmp_path: Path) -> None:
    config = LlavaConfig(
        text_config={"model_type": "llama", **SHAPES["llama2"][2]},
        vision_config={"model_type": "siglip_vision_model", **VISION},
        dtype="bfloat16",
    )
    config.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path, "")
    assert (checkpoint.settings.model_type, checkpoint.multimodal, checkpoint.stated) == ("llama", True, torch.bfloat16)


@pytest.mark.parametrize("layout", ["language_model.model.", "model.language_model."])
def test_both_layouts_of_multimodal_checkpoints_are_read(tmp_path: Path, layout: str) -> None:
    folder = save_multimodal(tmp_path / "gemma")
    weights = load_file(folder / "model.safetensors")
    assert any(name.startswith("language_model.model.") for name in weights)
    renamed = {name.replace("language_model.model.", layout): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    parameters = dict(load(folder).forward._model.named_parameters())
    for name in ("embed_tokens.weight", "layers.1.mlp.up_proj.weight", "norm.weight"):
        assert torch.equal(parameters[f"model.{name}"].cpu(), weights[f"language_model.model.{name}"])


def small(tmp_path: Path, dtype: torch.dtype) -> Path:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=8192, n_positions=32, bos_token_id=0)
    return save(tmp_path / str(dtype).removeprefix("torch."), GPT2LMHeadModel(config).to(dtype))


def test_the_type_in_which_a_model_runs(tmp_path: Path) -> None:
    """float16 runs as float32: it holds the same numbers and does not overflow."""
    single, half, brain = (small(tmp_path, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16))
    silent = json.loads((brain / "config.json").read_text())
    del silent["dtype"]
    (brain / "config.json").write_text(json.dumps(silent))  # then its tensors say it
    ran = {
        (folder.name, asked): load(folder, model_dtype=asked).info.dtype
        for folder in (single, half, brain)
        for asked in ("auto", "float32", "bfloat16")
    }
    assert {key: dtype for key, dtype in ran.items() if key[1] == "auto"} == {
        ("float32", "auto"): "float32",
        ("float16", "auto"): "float32",
        ("bfloat16", "auto"): "bfloat16",
    }
    assert all(dtype == asked for (_, asked), dtype in ran.items() if asked != "auto")


def test_four_bit_weights_of_gpt_oss_are_unpacked_and_other_quantised_ones_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "gpt-oss", build("gpt-oss").to(torch.bfloat16))
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, rows, columns = weights.pop(name).shape
        nibbles = torch.full((experts, columns, -(-rows // 32), 16), 0x22, dtype=torch.uint8)  # 0x2 is 1.0
        weights[f"{name}_blocks"] = nibbles
        weights[f"{name}_scales"] = torch.full(nibbles.shape[:-1], 125, dtype=torch.uint8)  # times 2 ** (125 - 127)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())

    def load_as(method: str) -> LoadedModel:
        quantised = settings | {"quantization_config": {"quant_method": method}}
        (folder / "config.json").write_text(json.dumps(quantised))
        return load(folder)

    model = load_as("mxfp4")
    experts = model.forward._model.get_submodule("model.layers.1.mlp.experts")
    assert experts.gate_up_proj.shape == (4, 32, 128)
    assert (experts.gate_up_proj == 0.25).all()
    count = sum(weights.numel() for weights in model.forward._model.parameters())
    assert outline(load_config(None, {"model": str(folder)}, {})).weight_bytes == 4 * count
    with pytest.raises(ConfigError, match=r"gpt-oss is quantised \(gptq\); take the checkpoint that is not"):
        load_as("gptq")


def test_the_weights_of_a_model_are_counted_without_loading_them(tmp_path: Path) -> None:
    def count(model: str | Path, **flags: str) -> int:
        return outline(load_config(None, {"model": str(model), **flags}, {})).weight_bytes

    for shape in ("gpt2", "gpt-oss"):
        model = build(shape)
        folder = save(tmp_path / shape, model)
        (folder / "model.safetensors").write_bytes(b"")
        parameters = sum(weights.numel() for weights in model.parameters())
        assert count(folder) == 4 * parameters
        assert count(folder, model_dtype="bfloat16") == 2 * parameters
    text = sum(weights.numel() for weights in build("gemma3").parameters())
    assert count(save_multimodal(tmp_path / "gemma3")) == 4 * text  # without the vision tower
    assert count("synthetic:gpt2-small") == 4 * 124_439_808


def with_added_tokens(folder: Path, *tokens: str) -> Path:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for place, token in enumerate(tokens):
        tokenizer["added_tokens"].append({"id": 8192 + place, "content": token, "special": True, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_tokens_beyond_the_embedding_are_named_at_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = with_added_tokens(small(tmp_path, torch.float32), *(f"<image-{number}>" for number in range(7)))
    [warning] = load(folder).info.warnings
    assert warning.startswith("the tokenizer knows 7 tokens beyond the 8192 that the model has embeddings for")
    assert "'<image-0>' (8192)" in warning
    assert warning.endswith(", …")
    assert warning in caplog.text
    assert load(small(tmp_path, torch.float32)).info.warnings == ()


@pytest.mark.parametrize(
    ("asked", "bos_id"), [("auto", 0), ("none", None), ("<|endoftext|>", 0), ("17", 17), ("Ġthe", 263)]
)
def test_the_bos_is_what_is_asked_for(tmp_path: Path, asked: str, bos_id: int | None) -> None:
    model = load(small(tmp_path, torch.float32), bos=asked)
    assert model.info.bos_id == bos_id
    assert model.width("blocks.0.hook_mlp_out") == 16


def test_a_bos_that_is_no_token_is_refused(tmp_path: Path) -> None:
    folder = with_added_tokens(small(tmp_path, torch.float32), "<image>")
    message = refused(folder, bos="<|endoftxt|>")
    assert "bos: expected `auto`, `none`, a token of the vocabulary or its id, got '<|endoftxt|>'" in message
    assert "did you mean <|endoftext|>?" in message
    assert "bos: expected an id from 0 to 8191, got 8192" in refused(folder, bos="8192")
    assert "bos: expected an id from 0 to 8191, got 8192" in refused(folder, bos="<image>")
    assert load(folder, bos="none").info.revision != load(folder).info.revision


def test_a_model_is_named_without_its_revision() -> None:
    with pytest.raises(ConfigError, match=r"got 'owner/name@main'; `saeserve-server fetch owner/name@main` brings"):
        outline(load_config(None, {"model": "owner/name@main"}, {}))
