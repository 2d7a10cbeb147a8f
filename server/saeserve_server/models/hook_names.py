"""Names of hook points, as far as they can be judged without a model: what could not be one of any."""

from __future__ import annotations

import difflib
import re

from saeserve_server.layers import LAYER

_ENDS = """
hook_attn_in hook_attn_out hook_attn_scores hook_audio_features hook_beta hook_beta_logit hook_block_bias
hook_channel_mix_in hook_channel_mix_out hook_comb hook_conv hook_cos hook_cross_attn_out hook_cross_pattern
hook_dsa_mask hook_dt_proj hook_embed hook_expert_indices hook_expert_weights hook_gate hook_gate_input hook_gated
hook_hidden_states hook_in hook_in_proj hook_inner_norm hook_k hook_k_input hook_k_normed hook_k_pre_conv hook_kv
hook_kv_latent hook_linear_attn_in hook_linear_attn_out hook_log_decay hook_mixer_in hook_mixer_out hook_mlp_in
hook_mlp_out hook_normalized hook_out hook_patch_embed hook_pattern hook_pooler_out hook_pos_embed hook_post hook_pre
hook_pre_linear hook_projected hook_q hook_q_gate hook_q_input hook_q_latent hook_q_normed hook_q_pre_conv hook_qkv
hook_recurrence_out hook_resid_mid hook_resid_mid2 hook_resid_post hook_resid_pre hook_result hook_rot_k hook_rot_q
hook_router_scores hook_scale hook_sin hook_ssm_decay hook_ssm_dt hook_ssm_out hook_ssm_state hook_ssm_write
hook_time_mix_in hook_time_mix_out hook_tokens hook_topk_indices hook_unembed hook_v hook_v_input hook_v_pre_conv
hook_vision_embed hook_vision_out hook_vision_proj_in hook_vision_proj_out hook_x_proj hook_z
"""
ENDS = frozenset(_ENDS.split())
"""Last parts of TransformerLens' names, over all architectures."""
OF_HUGGING_FACE = ("block", "layer", "layers", "model", "transformer", "h", "gpt_neox")
"""How names do not begin that end as TransformerLens' do."""
AS_WIDE_AS_THE_STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Within a block."""
_FORM = re.compile(r"[\w-]+(\.[\w-]+)*")
_STREAM = re.compile(rf"blocks\.\d+\.({'|'.join(AS_WIDE_AS_THE_STREAM)})")
EXAMPLES = f"blocks.{LAYER}.hook_resid_post or model.layers.{LAYER}.output"


def misnamed(name: str) -> str | None:
    """What is wrong with the name of a hook point that no model has; None for one that some model may have."""
    plain = name.replace(LAYER, "0")
    if not _FORM.fullmatch(plain):
        return f"expected a hook point such as {EXAMPLES}, got {name!r}"
    first, _, _ = plain.partition(".")
    end = plain.rpartition(".")[2]
    if not end.startswith("hook"):
        return None  # a module of the model's own
    if end not in ENDS:
        near = difflib.get_close_matches(end, sorted(ENDS), n=1, cutoff=0.6)
        hint = f"; did you mean {name.removesuffix(end)}{near[0]}?" if near else ""
        return f"no model has a hook point {name}{hint}"
    if first in OF_HUGGING_FACE or (first == "blocks" and not re.match(r"blocks\.\d+\.", plain)):
        return f"expected a hook point such as {EXAMPLES}, got {name!r}"
    return None


def is_stream_wide(name: str) -> bool:
    """Whether the hook point has as many numbers as the residual stream, in every model."""
    return _STREAM.fullmatch(name) is not None
