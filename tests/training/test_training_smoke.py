"""The programs that made the demo model, run end to end on a little text with tiny sizes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from training import corpus, export, report, tokenizer, train_lm, train_sae
from training.streams import DEMO_PASSAGES, read_passages

SIZES = {"layers": 2, "width": 32, "latents": 64, "vocabulary": 512, "context": 24, "positions": 48}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the whole chain has worked in; OUT is `out` in it."""
    folder = tmp_path_factory.mktemp("training")
    texts = read_passages(DEMO_PASSAGES)[:160]
    for number, suffix in enumerate((".txt", ".md")):
        path = folder / "texts" / f"author {number}" / f"title{suffix}"
        path.parent.mkdir(parents=True)
        path.write_text("# A title\n\n" + "\n\n".join(texts[number * 80 : (number + 1) * 80]))
    random_state = torch.get_rng_state()
    work, size = str(folder / "work"), {name: str(value) for name, value in SIZES.items()}
    corpus.main([str(folder / "texts"), work])
    tokenizer.main([work, "--vocabulary", size["vocabulary"], "--held-out", "4"])
    model = ["--layers", size["layers"], "--width", size["width"], "--heads", "2", "--positions", size["positions"]]
    text = ["--context", size["context"], "--vocabulary", size["vocabulary"]]
    train_lm.main([work, "--steps", "30", "--batch", "8", *model, *text])
    sae = ["--latents", size["latents"], "--name", "tiny", "--context", size["context"], "--windows", "16"]
    train_sae.main([work, "--steps", "30", *sae])
    export.main([work, str(folder / "out")])
    torch.set_rng_state(random_state)
    return folder


def test_the_corpus_is_prose_without_headings(chain: Path) -> None:
    documents = [json.loads(line) for line in (chain / "work" / "corpus.jsonl").read_text().splitlines()]
    assert [document["author"] for document in documents] == ["author 0", "author 1"]
    assert not any("# A title" in document["text"] for document in documents)


def test_the_model_loads_from_its_folder_and_runs_in_float32(chain: Path) -> None:
    folder = chain / "out" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)("My favorite color is red.", return_tensors="pt")["input_ids"]
    logits = model(ids).logits
    assert logits.shape == (*ids.shape, SIZES["vocabulary"])
    assert logits.isfinite().all()


def test_the_tokenizer_gives_any_text_back(chain: Path) -> None:
    tokens = Tokenizer.from_file(str(chain / "out" / "model" / "tokenizer.json"))
    text = "Rouge, красный, 赤 and 🟥"
    assert tokens.decode(tokens.encode(text).ids) == text


@pytest.mark.parametrize("layer", range(SIZES["layers"]))
def test_the_saes_are_in_saelens_v6_layout_with_a_threshold_for_every_latent(chain: Path, layer: int) -> None:
    folder = chain / "out" / "saes" / f"{layer}-tiny"
    config = json.loads((folder / "cfg.json").read_text())
    d_in, d_sae = SIZES["width"], SIZES["latents"]
    assert (config["architecture"], config["d_in"], config["d_sae"]) == ("jumprelu", d_in, d_sae)
    assert config["metadata"]["hook_name"] == f"blocks.{layer}.hook_mlp_out"
    weights = load_file(folder / "sae_weights.safetensors")
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    vectors = {"b_enc": (d_sae,), "b_dec": (d_in,), "threshold": (d_sae,)}
    assert shapes == {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), **vectors}
    assert all(weight.dtype == torch.float16 and weight.isfinite().all() for weight in weights.values())
    assert (weights["threshold"] > 0).all()


def test_the_latents_fire_sparsely_and_reconstruct_better_than_the_mean(chain: Path) -> None:
    latents = report.Latents(chain / "out")
    kept, error, variance = 0.0, 0.0, 0.0
    for text in read_passages(DEMO_PASSAGES)[:20]:
        tokens, acts = latents.encode(text)
        kept += (acts > 0).sum().item() / len(tokens) / SIZES["layers"] / 20
        weights = latents.weights[0][1]
        x = latents.caught[0][1:]
        decoded = acts[:, : SIZES["latents"]] @ weights["W_dec"] + weights["b_dec"]
        error += (x - decoded).pow(2).sum().item()
        variance += (x - x.mean(0)).pow(2).sum().item()
    assert 1 < kept < 20  # trained to keep 5
    assert error < variance


def test_the_report_answers_every_search(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(chain / "out"), "--limit", "20"])
    printed = capsys.readouterr().out
    assert "of 128 latents alive" in printed
    assert all(query.text in printed for query in report.QUERIES)


def test_the_same_steps_give_the_same_model(chain: Path) -> None:
    first = load_file(chain / "work" / "lm" / "model.safetensors")
    size = [
        "--layers",
        "2",
        "--width",
        "32",
        "--heads",
        "2",
        "--positions",
        "48",
        "--context",
        "24",
        "--vocabulary",
        "512",
    ]
    train_lm.main([str(chain / "work"), "--steps", "30", "--batch", "8", *size])
    second = load_file(chain / "work" / "lm" / "model.safetensors")
    torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-5)


def test_too_little_text_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Too short.")
    with pytest.raises(SystemExit, match="no document of more than 2000 characters"):
        corpus.main([str(tmp_path), str(tmp_path / "work")])
