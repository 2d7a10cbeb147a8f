"""SAEs of every family and kind in SAELens' directory, by hand: the directory is not at hand in tests."""

from __future__ import annotations

from typing import Any

from tests.sources.trees import Published

CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
HOOK_Z_0 = "gpt2-small_L0_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_bs4096_dc1.00e-06_rsanthropic_rie25000_nr4_v9.pt"


def scope(kind: str, path: str, model: str = "gemma-2-2b", size: str = "2b-pt") -> Published:
    layout = "gemma_2_transcoder" if kind == "transcoders" else "gemma_2"
    return Published(layout, f"google/gemma-scope-{size}-{kind}", path, model)


def scope2(path: str, size: str = "1b-pt") -> Published:
    return Published("gemma_3", f"google/gemma-scope-2-{size}", path, f"google/gemma-3-{size}")


def learned(repository: str, path: str, model: str = "gemma-2-2b") -> Published:
    return Published("dictionary_learning_1", repository, path, model)


def native(repository: str, path: str, hook: str, model: str = "gpt2-small", **facts: Any) -> Published:
    return Published("sae_lens", repository, path, model, hook, **facts)


def qwen(name: str) -> Published:
    model = "Qwen/" + name.partition("-W")[0]
    return Published("qwen_scope", f"Qwen/SAE-Res-{name}", "layer11.sae.pt", model)


def llama(kind: str, size: int) -> Published:
    names = (f"fnlp/Llama3_1-8B-Base-LX{kind}-{size}x", f"Llama3_1-8B-Base-L15{kind}-{size}x")
    return Published("llama_scope", *names, "meta-llama/Llama-3.1-8B")


def mwhanna(name: str, model: str) -> Published:
    return Published("mwhanna_transcoder", f"mwhanna/{name}", "layer_10.safetensors", model)


def sparsify(path: str) -> Published:
    return Published("sparsify", "EleutherAI/sae-pythia-70m-32k", path, "EleutherAI/pythia-70m")


L0 = "layer_{layer}/width_16k/average_l0_*"
SWEEP = "canrager/saebench_gemma-2-2b_width-2pow12_date-1109"
OPENAI = "jbloom/GPT2-Small-OAI-v5-32k-{}-SAEs"
SMALL = "canrager/lm_sae"
GROUPS = "canrager/saebench_gemma-2-2b_width-2pow14_date-0107"
R1 = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"

RELEASES: list[tuple[Published, str]] = [
    (scope("res", "layer_12/width_16k/average_l0_82"), L0),
    (scope("res", "layer_5/width_1m/average_l0_114"), "layer_{layer}/width_1m/average_l0_114"),
    (scope("res", "embedding/width_4k/average_l0_6"), "embedding/width_4k/average_l0_6"),
    (scope("res", "layer_9/width_131k/average_l0_121", "gemma-2-9b-it", "9b-it"), "layer_{layer}/width_131k/*"),
    (scope("res", "layer_34/width_131k/average_l0_72", "gemma-2-27b", "27b-pt"), ""),
    (scope("mlp", "layer_41/width_16k/average_l0_50", "gemma-2-9b", "9b-pt"), L0),
    (scope("att", "layer_0/width_16k/average_l0_104"), L0),
    (scope("transcoders", "layer_3/width_16k/average_l0_54"), L0),
    (scope2("resid_post/layer_22_width_16k_l0_medium"), "resid_post/layer_{layer}_width_16k_l0_medium"),
    (scope2("resid_post/layer_17_width_262k_l0_medium_seed_1", "4b-it"), "resid_post/layer_{layer}_*_seed_1"),
    (scope2("resid_post_all/layer_10_width_262k_l0_small", "270m-pt"), "resid_post_all"),
    (scope2("attn_out_all/layer_11_width_16k_l0_small", "12b-pt"), "attn_out_all/layer_{layer}_width_16k_l0_small"),
    (scope2("mlp_out/layer_13_width_1m_l0_big"), "mlp_out/layer_{layer}_width_1m_l0_big"),
    (scope2("transcoder/layer_40_width_65k_l0_small", "27b-it"), "transcoder/layer_{layer}_width_65k_l0_small"),
    (scope2("transcoder_all/layer_5_width_16k_l0_big_affine", "270m-it"), "transcoder_all/layer_{layer}_*_affine"),
    (
        scope2("clt/width_262k_l0_medium_affine/params_layer_3"),
        "clt/width_262k_l0_medium_affine/params_layer_{layer}.*",
    ),
    (learned(SWEEP, "gemma-2-2b_topk_width-2pow12_date-1109/resid_post_layer_12/trainer_0"), ""),
    (
        learned(SWEEP, "gemma-2-2b_vanilla_width-2pow12_date-1109/resid_post_layer_5_checkpoints/trainer_5_step_9765"),
        "",
    ),
    (learned(SMALL, "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_0", "pythia-70m-deduped"), ""),
    (learned(SMALL, "pythia70m_sweep_gated_ctx128_0730/resid_post_layer_4/trainer_7", "pythia-70m-deduped"), ""),
    (learned(SMALL, "pythia70m_sweep_panneal_ctx128_0730/resid_post_layer_3/trainer_16", "pythia-70m-deduped"), ""),
    (learned(SMALL, "pythia70m_sweep_standard_ctx128_0712/resid_post_layer_4/trainer_19", "pythia-70m-deduped"), ""),
    (learned(GROUPS, "gemma-2-2b_matryoshka_batch_top_k_width-2pow14_date-0107/resid_post_layer_12/trainer_5"), ""),
    (learned(GROUPS, "MatryoshkaBatchTopK_gemma-2-2b__0108/resid_post_layer_12/trainer_0"), ""),
    (learned(GROUPS, "JumpRelu_gemma-2-2b__0108/resid_post_layer_12/trainer_0"), ""),
    (
        learned("andyrdt/saes-llama-3.1-8b-instruct", "resid_post_layer_27/trainer_1", LLAMA),
        "resid_post_layer_{layer}/*",
    ),
    (learned("andyrdt/saes-gpt-oss-20b", "resid_post_layer_3/trainer_0", "openai/gpt-oss-20b"), "."),
    (qwen("Qwen3-1.7B-Base-W32K-L0_50"), "layer{layer}.sae.pt"),
    (qwen("Qwen3.5-35B-A3B-Base-W128K-L0_100"), "."),
    (
        native("jbloom/GPT2-Small-SAEs-Reformatted", *["blocks.3.hook_resid_pre"] * 2, overrides=CENTRED),
        "blocks.{layer}.*",
    ),
    (
        native(
            "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8",
            *["blocks.8.hook_resid_pre_768"] * 2,
            overrides=CENTRED,
        ),
        "blocks.8.hook_resid_pre_768",
    ),
    (
        native(
            "tommmcgrath/gpt2-small-mlp-out-saes",
            "sae_group_gpt2_blocks.1.hook_mlp_out_24576:v0",
            "blocks.1.hook_mlp_out",
            factor=2.3693984005104283,
            overrides=CENTRED,
        ),
        "sae_group_gpt2_blocks.{layer}.hook_mlp_out_24576:v*",
    ),
    (native(OPENAI.format("resid-mid"), "v5_32k_layer_7", "blocks.7.hook_resid_mid"), "v5_32k_layer_{layer}"),
    (native(OPENAI.format("resid-post"), "v5_32k_layer_0.pt", "blocks.0.hook_resid_post"), "v5_32k_layer_{layer}.pt"),
    (native("neuronpedia/gpt2-small__res_sce-ajt", "6-res_sce-ajt", "blocks.6.hook_resid_pre"), "{layer}-res_sce-ajt"),
    (
        native(
            "Juliushanhanhan/llama-3-8b-it-res",
            *["blocks.25.hook_resid_post"] * 2,
            model="meta-llama/Meta-Llama-3-8B-Instruct",
        ),
        "blocks.{layer}.hook_resid_post",
    ),
    (
        native(
            "JoshEngels/Mistral-7B-Residual-Stream-SAEs",
            "mistral_7b_layer_8",
            "blocks.8.hook_resid_pre",
            model="mistral-7b",
            overrides={"normalize_activations": "constant_norm_rescale"},
        ),
        "mistral_7b_layer_{layer}",
    ),
    (
        native(
            "ctigges/pythia-70m-deduped__res-sm_processed",
            "e-res-sm",
            "blocks.0.hook_resid_pre",
            model="pythia-70m-deduped",
        ),
        "e-res-sm",
    ),
    (
        native(
            "jbloom/Gemma-2b-Residual-Stream-SAEs",
            "gemma_2b_blocks.12.hook_resid_post_16384",
            "blocks.12.hook_resid_post",
            model="gemma-2b",
            factor=0.21381938399317255,
        ),
        "gemma_2b_blocks.{layer}.hook_resid_post_16384",
    ),
    (
        native(
            "chanind/gemma-2-2b-batch-topk-matryoshka-saes-w-32k-l0-40",
            "snap/blocks.24.hook_resid_post",
            "blocks.24.hook_resid_post",
            model="gemma-2-2b",
        ),
        "snap/blocks.{layer}.hook_resid_post",
    ),
    (
        Published("connor_rob_hook_z", "ckkissane/attn-saes-gpt2-small-all-layers", HOOK_Z_0, "gpt2-small"),
        "gpt2-small_L{layer}_Hcat_z_*.pt",
    ),
    (llama("R", 8), "Llama3_1-8B-Base-L{layer}R-8x"),
    (llama("A", 32), "Llama3_1-8B-Base-L{layer}A-32x"),
    (llama("M", 8), "."),
    (
        Published(
            "llama_scope_r1_distill",
            "fnlp/Llama-Scope-R1-Distill",
            "400M-Slimpajama-400M-OpenR1-Math-220k/L5R",
            R1,
            factor=13.902529211394633,
        ),
        "400M-Slimpajama-400M-OpenR1-Math-220k/L{layer}R",
    ),
    (mwhanna("qwen3-1.7b-transcoders-lowl0", "Qwen/Qwen3-1.7B"), "layer_{layer}.safetensors"),
    (mwhanna("qwen3-14b-transcoders", "Qwen/Qwen3-14B"), "layer_{layer}.safetensors"),
    (
        Published("mntss_clt_layer_transcoder", "mntss/clt-gemma-2-2b-2.5M", "25", "google/gemma-2-2b"),
        "W_enc_{layer}.safetensors",
    ),
    (Published("goodfire", f"Goodfire/{LLAMA[11:]}-SAE-l19", f"{LLAMA[11:]}-SAE-l19.pth", LLAMA), ""),
    (
        Published(
            "goodfire",
            "Goodfire/Llama-3.3-70B-Instruct-SAE-l50",
            "Llama-3.3-70B-Instruct-SAE-l50.pt",
            "meta-llama/Llama-3.3-70B-Instruct",
        ),
        ".",
    ),
    (Published("deepseek_r1", f"qresearch/{R1[12:]}-SAE-l19", f"{R1[12:]}-SAE-l19.pt", R1), ""),
    (sparsify("layers.3"), "layers.{layer}"),
    (sparsify("layers.0.mlp"), "layers.{layer}.mlp"),
    (sparsify("embed_tokens"), "embed_tokens"),
    (
        Published("sparsify", "EleutherAI/skip-transcoder-Llama-3.2-1B-131k", "layers.5.mlp", "Llama-3.2-1B"),
        "layers.{layer}.mlp",
    ),
]
"""SAEs of every family and kind in SAELens' directory, and what a person writes after the repository's name; nothing
for the path itself, a point for the repository as a whole."""
