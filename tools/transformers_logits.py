"""Computes logits of tiny random models with transformers: the archive ``transformers``.

Run by hand where torch and transformers are installed, from the root of the repository:

    python -m tools.transformers_logits tests/data/transformers.tar.xz

Keys and values are rounded to halves before they are attended to, as caches of GGUF programs are,
so that what is left is float32's own rounding. Names of models as arguments limit it to these.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from gguf_hub.files import write_atomically
from tests.run.convert import packing
from tests.run.convert.random_checkpoints import N_VOCAB, POSITIONS, TOKENS, values, write

_SIZES = {
    "vocab_size": N_VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32}
_SCALES = {"embedding_multiplier": 12.0, "logits_scaling": 4.0, "residual_multiplier": 0.22,
           "attention_multiplier": 0.1}  # fmt: skip
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64}  # fmt: skip
_YARN = {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0}
_LATENTS = {"num_key_value_heads": 4, "kv_lora_rank": 32, "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 16, "v_head_dim": 24, "num_experts_per_tok": 2,
            "moe_intermediate_size": 32, "n_shared_experts": 1,
            "first_k_dense_replace": 1}  # fmt: skip
_CONVOLUTIONS = {"layer_types": ["conv", "full_attention", "conv", "full_attention"],
                 "conv_L_cache": 3}  # fmt: skip
_DELTA_NET = {"head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
              "linear_key_head_dim": 16, "linear_value_head_dim": 16,
              "linear_conv_kernel_dim": 4}  # fmt: skip
_SHARED = {"shared_expert_intermediate_size": 32}

_MAMBA = {"layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 8, "mamba_d_head": 16,
          "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2}  # fmt: skip
_NEMOTRON_H = {"head_dim": 16, "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2,
               "ssm_state_size": 16, "conv_kernel": 4}  # fmt: skip
_FULL = "full_attention"
_TWO_AND_ONE = ("sliding_attention", "sliding_attention", _FULL)
_GEMMA4 = {"head_dim": 16, "global_head_dim": 32, "sliding_window": 8, "num_hidden_layers": 3,
           "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
           "layer_types": list(_TWO_AND_ONE)}  # fmt: skip
_SECTIONS = {"head_dim": 32, "rope_parameters": {
    "rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5],
    "mrope_interleaved": True}}  # fmt: skip
_QWEN_IMAGES = {
    "vision_config": {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2,
                      "out_hidden_size": 64, "deepstack_visual_indexes": [0], "patch_size": 4,
                      "num_position_embeddings": 16},
    "image_token_id": 63, "video_token_id": 62, "vision_start_token_id": 61,
    "vision_end_token_id": 60,
}  # fmt: skip
_PIXTRAL = {
    "vision_config": {"model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8,
                      "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
                      "patch_size": 4, "head_dim": 4},
    "image_token_index": 63,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"rope_scaling": _LLAMA3, "attention_bias": True}),
    "mistral": ("MistralConfig", {"head_dim": 32}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "ministral3": ("Ministral3Config", {"head_dim": 32, "rope_parameters": {
        **_YARN, "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16,
        "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}}),
    "llama4": ("Llama4TextConfig", {"head_dim": 16, **_LOCAL_EXPERTS, "num_experts_per_tok": 1,
                                    "intermediate_size_mlp": 64}),
    "llama4-maverick": ("Llama4TextConfig", {
        "head_dim": 16, **_LOCAL_EXPERTS, "num_local_experts": 128, "num_experts_per_tok": 1,
        "intermediate_size_mlp": 64, "interleave_moe_layer_step": 2, "use_qk_norm": False,
        "rope_parameters": {**_LLAMA3, "rope_theta": 500000.0, "high_freq_factor": 1.0}}),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 5}),
    "seed-oss": ("SeedOssConfig", {"head_dim": 32, "residual_dropout": 0.0}),
    "granite": ("GraniteConfig", _SCALES),
    "granitemoe": ("GraniteMoeConfig", {**_LOCAL_EXPERTS, **_SCALES}),
    "granitemoeshared": ("GraniteMoeSharedConfig",
                         {**_LOCAL_EXPERTS, **_SCALES, "shared_intermediate_size": 64}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2moe": ("Qwen2MoeConfig", {**_EXPERTS, "shared_expert_intermediate_size": 64,
                                    "norm_topk_prob": False}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "qwen3moe": ("Qwen3MoeConfig", {**_EXPERTS, "head_dim": 32, "norm_topk_prob": True}),
    "qwen3next": ("Qwen3NextConfig", {**_DELTA_NET, **_EXPERTS, **_SHARED}),
    "qwen35": ("Qwen3_5TextConfig", _DELTA_NET),
    "qwen35moe": ("Qwen3_5MoeTextConfig", {**_DELTA_NET, **_EXPERTS, **_SHARED}),
    "gemma": ("GemmaConfig", {"head_dim": 32}),
    "gemma2": ("Gemma2Config", {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 32}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 32, "sliding_window": 8,
                                    "query_pre_attn_scalar": 32, "num_hidden_layers": 7}),
    "phi3": ("Phi3Config", {
        "partial_rotary_factor": 0.5, "original_max_position_embeddings": 256,
        "max_position_embeddings": 512, "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.0, 2.0, 3.0, 4.0]}}),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", {"sliding_window": 8, "num_hidden_layers": 5}),
    "olmoe": ("OlmoeConfig", {**_EXPERTS, "intermediate_size": 32}),
    "gpt-oss": ("GptOssConfig", {
        **_LOCAL_EXPERTS, "head_dim": 32, "intermediate_size": 64, "sliding_window": 8,
        "rope_parameters": {**_YARN, "rope_theta": 150000.0, "factor": 8.0, "truncate": True,
                            "original_max_position_embeddings": 32}}),
    "cohere2": ("Cohere2Config", {"sliding_window": 8, "logit_scale": 0.25,
                                  "num_hidden_layers": 5}),
    "glm4": ("Glm4Config", {"head_dim": 16, "attention_bias": True}),
    "glm4moe": ("Glm4MoeConfig", {
        "head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1,
        "attention_bias": True, "use_qk_norm": True, "routed_scaling_factor": 1.5, "n_group": 1,
        "topk_group": 1}),
    "minicpm": ("GraniteConfig", {
        "embedding_multiplier": 12.0, "residual_multiplier": 0.7, "logits_scaling": 4.0,
        "attention_multiplier": 0.25, "tie_word_embeddings": True}),
    "bailingmoe2": ("Glm4MoeConfig", {
        "head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1,
        "use_qk_norm": True, "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2,
        "num_nextn_predict_layers": 0}),
    "minimax-m2": ("MiniMaxM2Config", {**_LOCAL_EXPERTS, "head_dim": 32, "rotary_dim": 16}),
    "ernie4_5": ("Ernie4_5Config", {"head_dim": 16}),
    "ernie4_5-moe": ("Ernie4_5_MoeConfig", {
        "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32,
        "moe_num_shared_experts": 1, "moe_layer_start_index": 1}),
    "hunyuan-dense": ("HunYuanDenseV1Config", {"head_dim": 16, "rope_scaling": {
        "rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0}}),
    "nemotron": ("NemotronConfig", {"partial_rotary_factor": 0.5}),
    "hunyuan-moe": ("HunYuanMoEV1Config", {"head_dim": 16, "num_experts": 4, "moe_topk": 2}),
    "exaone4": ("Exaone4Config", {"sliding_window": None, "sliding_window_pattern": 4,
                                  "layer_types": ["full_attention"] * 4}),
    "deepseek2": ("DeepseekV2Config", {
        **_LATENTS, "q_lora_rank": None, "head_dim": 16, "n_routed_experts": 4,
        "routed_scaling_factor": 1.0, "topk_method": "greedy", "n_group": 1, "topk_group": 1}),
    "deepseek3": ("DeepseekV3Config", {
        **_LATENTS, "q_lora_rank": 24, "n_routed_experts": 8, "n_group": 4, "topk_group": 2,
        "routed_scaling_factor": 2.5, "rope_parameters": {
            **_YARN, "rope_theta": 10000.0, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 64}}),
    "granitehybrid": ("GraniteMoeHybridConfig", {
        **_LOCAL_EXPERTS, **_SCALES, **_MAMBA, "mamba_n_groups": 2,
        "shared_intermediate_size": 64}),
    "granitehybrid-dense": ("GraniteMoeHybridConfig", {
        **_MAMBA, "mamba_n_groups": 1, "num_local_experts": 0, "shared_intermediate_size": 64,
        "position_embedding_type": "rope"}),
    "granite4": ("GraniteMoeHybridConfig", {
        **_SCALES, **_MAMBA, "layer_types": ["attention"] * 4, "num_local_experts": 0,
        "shared_intermediate_size": 64, "position_embedding_type": "rope"}),
    "granite4-moe": ("GraniteMoeHybridConfig", {
        **_LOCAL_EXPERTS, **_SCALES, **_MAMBA, "layer_types": ["attention"] * 4,
        "shared_intermediate_size": 64, "position_embedding_type": "rope"}),
    "nemotron_h": ("NemotronHConfig", {
        **_NEMOTRON_H, "layers_block_type": ["mamba", "mlp", "attention", "mlp"]}),
    "nemotron_h_moe": ("NemotronHConfig", {
        **_NEMOTRON_H, "layers_block_type": ["mamba", "moe", "attention", "moe"],
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 48, "n_shared_experts": 1,
        "routed_scaling_factor": 2.5, "norm_topk_prob": True, "n_group": 1, "topk_group": 1}),
    "nemotron_h_moe-latents": ("NemotronHConfig", {
        **_NEMOTRON_H, "layers_block_type": ["mamba", "moe", "attention", "moe"],
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 48, "n_shared_experts": 1, "moe_latent_size": 32,
        "routed_scaling_factor": 5.0, "norm_topk_prob": True, "n_group": 1, "topk_group": 1}),
    "arcee": ("ArceeConfig", {}),
    "starcoder2": ("Starcoder2Config", {"sliding_window": None, "tie_word_embeddings": True}),
    "phi2": ("PhiConfig", {"partial_rotary_factor": 0.5}),
    "stablelm": ("StableLmConfig", {"use_qkv_bias": True}),
    "command-r": ("CohereConfig", {"logit_scale": 0.25}),
    "command-r-plus": ("CohereConfig", {"logit_scale": 0.25, "use_qk_norm": True}),
    "olmo": ("OlmoConfig", {"clip_qkv": 0.5}),
    "gemma4": ("Gemma4TextConfig", {**_GEMMA4, "num_global_key_value_heads": 1,
                                    "attention_k_eq_v": True, "final_logit_softcapping": 30.0}),
    "gemma4-e": ("Gemma4TextConfig", {
        **_GEMMA4, "num_hidden_layers": 7, "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": N_VOCAB, "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True, "layer_types": [*_TWO_AND_ONE, *_TWO_AND_ONE, _FULL]}),
    "gemma4-moe": ("Gemma4TextConfig", {
        **_GEMMA4, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2,
        "moe_intermediate_size": 32}),
    "lfm2": ("Lfm2Config", {**_CONVOLUTIONS, "block_auto_adjust_ff_dim": False}),
    "lfm2moe": ("Lfm2MoeConfig", {**_CONVOLUTIONS, **_EXPERTS, "num_dense_layers": 1}),
    "qwen3vl": ("Qwen3VLConfig", {"text_config": _SECTIONS, **_QWEN_IMAGES}),
    "qwen3vlmoe": ("Qwen3VLMoeConfig", {
        "text_config": {**_SECTIONS, **_EXPERTS, "moe_intermediate_size": 24}, **_QWEN_IMAGES}),
    "mistral3": ("Mistral3Config", {
        "text_config": {"model_type": "mistral", "head_dim": 16}, **_PIXTRAL}),
    "mistral4": ("Mistral3Config", {
        "text_config": {
            **_LATENTS, "model_type": "mistral4", "q_lora_rank": 24, "n_routed_experts": 4,
            "n_group": 1, "topk_group": 1, "rope_parameters": {
                **_YARN, "rope_theta": 10000.0, "factor": 4.0, "mscale": 1.0,
                "mscale_all_dim": 1.0, "original_max_position_embeddings": 16,
                "llama_4_scaling_beta": 0.1, "partial_rotary_factor": 0.5}},
        **_PIXTRAL}),
}  # fmt: skip
"""Name -> class of the configuration in transformers, and what differs from ``_SIZES``."""
PUBLISHED: dict[str, tuple[dict[str, Any], tuple[tuple[str, str], ...]]] = {
    "minicpm": (
        {"architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm", "scale_emb": 12,
         "scale_depth": 1.4, "dim_model_base": 16, "embedding_multiplier": None,
         "residual_multiplier": None, "logits_scaling": None, "attention_multiplier": None}, ()),
    "bailingmoe2": (
        {"architectures": ["BailingMoeV2ForCausalLM"], "model_type": "bailing_moe",
         "num_experts": 8, "n_routed_experts": None, "num_shared_experts": 1,
         "n_shared_experts": None, "score_function": "sigmoid", "attention_bias": None,
         "rope_parameters": None, "partial_rotary_factor": 0.5, "rope_theta": 10000.0},
        (("model.word_embeddings", "model.embed_tokens"), ("attention.dense", "self_attn.o_proj"),
         ("attention.query_layernorm", "self_attn.q_norm"),
         ("attention.key_layernorm", "self_attn.k_norm"),
         ("mlp.gate.expert_bias", "mlp.gate.e_score_correction_bias"))),
}  # fmt: skip
"""Models whose code is not in transformers, and that compute what another one does that is: what
config.json says instead, None for nothing, and what tensors are called instead.

Ling 2 has one tensor for queries, keys and values, too. Both were compared once with the code that
is published beside their weights (modeling_minicpm.py, modeling_bailing_moe_v2.py)."""
DROPPED = ("transformers_version", "dtype", "use_cache", "initializer_range")


def main(target: Path, names: list[str]) -> None:
    """Write the archive."""
    torch.set_num_threads(1)
    models: dict[str, Any] = {}
    logits = []
    for name in names or MODELS:
        config, shapes, found = logits_of(name)
        models[name] = {"config": config, "shapes": shapes}
        logits.append(found[list(POSITIONS)].astype(np.float32))
        print(name, f"{found.std():.2f}", file=sys.stderr)
    raw = io.BytesIO()
    np.save(raw, np.stack(logits))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        files = {"models.json": json.dumps(models).encode(), "logits.npy": raw.getvalue()}
        for file, data in files.items():
            info = tarfile.TarInfo(f"transformers/{file}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    write_atomically(target, packed.getvalue())


def logits_of(name: str) -> tuple[dict[str, Any], dict[str, list[int]], np.ndarray]:
    """Return a model's configuration, the shapes of its tensors and its logits, [T, V]."""
    kind, changes = MODELS[name]
    loader = transformers.AutoModelForCausalLM
    if text := changes.get("text_config"):  # a model that sees: its text alone is computed
        loader = transformers.AutoModelForImageTextToText
        config = getattr(transformers, kind)(**{**changes, "text_config": {**_SIZES, **text}})
    else:
        config = getattr(transformers, kind)(**{**_SIZES, **changes})
    with tempfile.TemporaryDirectory() as folder:
        loader.from_config(config).save_pretrained(folder)
        header = (Path(folder) / "model.safetensors").read_bytes()
        stored = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
        stored.pop("__metadata__", None)
        shapes = {tensor: entry["shape"] for tensor, entry in stored.items()}
        if name == "qwen3vlmoe":  # published with rows and columns exchanged
            shapes = {
                tensor: [s[0], s[2], s[1]] if ".mlp.experts." in tensor else s
                for tensor, s in shapes.items()
            }
        stated = json.loads((Path(folder) / "config.json").read_text())
        stated = {key: value for key, value in stated.items() if key not in DROPPED}
        write(Path(folder), stated, shapes)
        if name in PUBLISHED:
            stated, shapes = as_published(name, stated, shapes, Path(folder))
        model = loader.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
        _round_keys(model)
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    return stated, shapes, logits


def as_published(
    name: str, stated: dict[str, Any], shapes: dict[str, list[int]], folder: Path
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return configuration and shapes of a checkpoint under its own names.

    Its values are written under those of transformers, into ``folder``.
    """
    changes, names = PUBLISHED[name]
    published: dict[str, list[int]] = {}
    arrays: dict[str, np.ndarray] = {}
    for tensor, shape in shapes.items():
        own = tensor
        for theirs, ours in names:
            own = own.replace(ours, theirs)
        if match := re.fullmatch(r"(.*)self_attn\.([qkv])_proj\.weight", tensor) if names else None:
            own = f"{match[1]}attention.query_key_value.weight"
            parts = [shapes[f"{match[1]}self_attn.{part}_proj.weight"] for part in "qkv"]
            published[own] = [sum(rows for rows, _ in parts), shape[1]]
            first = sum(rows for rows, _ in parts[: "qkv".index(match[2])])
            arrays[tensor] = values(own, published[own])[first : first + shape[0]]
        else:
            published[own] = shape
            arrays[tensor] = values(own, shape)
    packing.save(folder, arrays, stated)
    config = {key: value for key, value in {**stated, **changes}.items() if value is not None}
    return config, published


def _round_keys(model: Any) -> None:
    """Round keys and values to halves; latent attention caches something else."""
    config = model.config.get_text_config()
    module = sys.modules[type(config).__module__.replace("configuration", "modeling")]
    plain = module.eager_attention_forward
    if hasattr(config, "kv_lora_rank") or hasattr(plain, "is_rounded"):
        return

    def rounded(layer: Any, query: Any, key: Any, value: Any, *args: Any, **options: Any) -> Any:
        return plain(layer, query, key.half().float(), value.half().float(), *args, **options)

    rounded.is_rounded = True  # type: ignore[attr-defined]
    module.eager_attention_forward = rounded


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
