"""Writes the tiny models of ``tests/arch_recipes.py`` as Ollama's converter writes such models.

Each row undoes what ``gguf_hub.gguf.ollama`` does, from what the converter's source says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import plan_file
from tests.arch_models import group_of, write_arch_model

VISION = {"vision.block_count": 2, "vision.image_size": 896, "vision.patch_size": 14}
AUDIO = {"audio.block_count": 2}
IMAGES = ("v.blk.0.attn_q.weight", "v.patch_embd.weight", "mm.input_projection.weight")
SOUND = ("a.blk.0.attn_q.weight", "mm.a.fc.weight")


@dataclass(frozen=True)
class OllamaFile:
    """A file of Ollama's converter.

    Attributes:
        recipe: The model; its tensors have the same values.
        base: Keys of the recipe that have another value in both files.
        arch: What it is called there; empty for the same.
        keys: llama.cpp's key -> Ollama's; empty for none.
        more: Keys that llama.cpp's file does not have, or other values.
        tensors: llama.cpp's tensor -> Ollama's, without the block.
        others: Tensors for images or sound.
    """

    recipe: str
    base: Mapping[str, Any] = field(default_factory=dict)
    arch: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()


_GPTOSS = OllamaFile(
    "gpt-oss",
    arch="gptoss",
    keys={"rope.scaling.type": "", "expert_feed_forward_length": ""},
    tensors={"attn_output.weight": "attn_out.weight", "attn_output.bias": "attn_out.bias",
             "attn_sinks.weight": "attn_sinks", "post_attention_norm.weight": "ffn_norm.weight"},
)  # fmt: skip
_STRETCHED = {
    "context_length": 131_072, "rope.scaling.factor": 8.0, "rope.freq_base": 1e6,
    "attention.layer_norm_rms_epsilon": 1e-6,
}  # fmt: skip
_SILENT = dict.fromkeys(
    ("rope.scaling.type", "rope.scaling.factor", "rope.freq_base",
     "attention.layer_norm_rms_epsilon", "rope.dimension_count", "vocab_size"), ""
)  # fmt: skip
_MSCALE = {"rope.scaling.mscale": 1.0}

OLLAMA_FILES: dict[str, OllamaFile] = {
    "gptoss": _GPTOSS,
    "gemma3-1b": OllamaFile(
        "gemma3-pattern",
        keys={"rope.freq_base": "rope.global.freq_base", "rope.freq_base_swa":
              "rope.local.freq_base"}),
    "gemma3-4b": OllamaFile(
        "gemma3", _STRETCHED, keys=_SILENT, more={**VISION, "mm.tokens_per_image": 256},
        others=IMAGES),
    "qwen25vl": OllamaFile(
        "qwen2vl", arch="qwen25vl", keys={"rope.dimension_sections": ""},
        more={**VISION, "rope.mrope_section": [4, 2, 2]}, others=IMAGES),
    "mistral3": OllamaFile(
        "mistral3",
        keys={"rope.scaling.yarn_beta_fast": "rope.scaling.beta_fast",
              "rope.scaling.yarn_beta_slow": "rope.scaling.beta_slow",
              "rope.scaling.yarn_log_multiplier": "rope.scaling.mscale_all_dim",
              "attention.temperature_scale": "rope.scaling_beta"},
        more={**VISION, **_MSCALE, "image_token_index": 10, "spatial_merge_size": 2,
              "mm.projector_bias": False, "mm.projector_hidden_act": "gelu"},
        others=IMAGES),
    "llama4": OllamaFile(
        "llama4",
        more={**VISION, "use_qk_norm": True, "attention.chunk_size": 8192,
              "attention.head_dim": 32}, others=IMAGES),
    "llama4-maverick": OllamaFile(
        "llama4-maverick", more={**VISION, "use_qk_norm": False}, others=IMAGES),
    "qwen3vl": OllamaFile(
        "qwen3vl", keys={"rope.dimension_sections": "", "n_deepstack_layers": ""},
        more={**VISION, "rope.mrope_section": [6, 5, 5]}, others=IMAGES),
    "qwen3vlmoe": OllamaFile(
        "qwen3vlmoe",
        keys={"rope.dimension_sections": "", "n_deepstack_layers": "",
              "expert_feed_forward_length": ""},
        more={**VISION, "norm_top_k_prob": True}, others=IMAGES),
    "gemma4-e": OllamaFile("gemma4-e", more={**VISION, **AUDIO}, others=(*IMAGES, *SOUND)),
    "gemma4-moe": OllamaFile(
        "gemma4-moe", more=VISION,
        tensors={"ffn_down_exps.scale": "ffn_gate_inp.per_expert_scale"}, others=IMAGES),
    "qwen35": OllamaFile(
        "qwen35",
        keys={"full_attention_interval": ""},
        more={**VISION, "attention.head_count_kv": [0, 0, 0, 2], "ssm.v_head_reordered": True,
              "image_token_id": 5, "vision_start_token_id": 6, "vision_end_token_id": 7,
              "mrope_sections": [3, 3, 2], "rope.mrope_interleaved": True},
        tensors={"ssm_dt.bias": "ssm_dt"}, others=(*IMAGES, "mtp.fc.weight")),
    "qwen35moe": OllamaFile(
        "qwen35moe-fused", more={**VISION, "feed_forward_length": 0, "norm_top_k_prob": True},
        tensors={"ssm_dt.bias": "ssm_dt"}, others=IMAGES),
    "qwen3next": OllamaFile("qwen3next", tensors={"ssm_dt.bias": "ssm_dt"}),
    "lfm2": OllamaFile(
        "lfm2", more={"feed_forward_length": 144},
        tensors={"token_embd_norm.weight": "output_norm.weight"}),
    "lfm2moe": OllamaFile(
        "lfm2moe", tensors={"token_embd_norm.weight": "output_norm.weight"}),
    "glm4moelite": OllamaFile(
        "deepseek2", arch="glm4moelite",
        keys={"attention.key_length_mla": "", "attention.value_length_mla": ""},
        more={"attention.key_length": 32, "attention.value_length": 24,
              "attention.head_count_kv": 4}),
    "olmo3": OllamaFile("olmo3", arch="olmo3"),
    "nemotron_h_moe": OllamaFile(
        "nemotron_h_moe-latents", keys={"moe_latent_size": ""},
        tensors={"ffn_latent_down.weight": "ffn_latent_in.weight",
                 "ffn_latent_up.weight": "ffn_latent_out.weight"},
        others=("mtp.layers.0.eh_proj.weight",)),
    "nemotron_h_omni": OllamaFile(
        "nemotron_h_moe", arch="nemotron_h_omni", more={**VISION, **AUDIO},
        others=(*IMAGES, *SOUND)),
    "nemotron_h_omni-dense": OllamaFile(
        "nemotron_h", arch="nemotron_h_omni", more=VISION, others=IMAGES),
}  # fmt: skip
"""Name -> what Ollama's converter makes of a recipe."""


def write_both(
    folder: Path,
    name: str,
    *,
    vocabulary: dict[str, Any] | None = None,
    keys: Mapping[str, Any] | None = None,
    rename: Callable[[str], str] = str,
    biases: QuantType = QuantType.F32,
) -> tuple[Path, Path]:
    """Write a model as llama.cpp's converter does, and as Ollama's.

    Args:
        folder: Where.
        name: The row of ``OLLAMA_FILES``.
        vocabulary: Its keys, in both.
        keys: Further keys of Ollama's file alone.
        rename: Gives its tensors other names.
        biases: Type of the experts' biases there.
    """
    row = OLLAMA_FILES[name]
    plain = write_arch_model(
        folder / "llama.gguf", row.recipe, keys=dict(row.base), vocabulary=vocabulary
    )
    with GgufFile.open(plain) as file:
        old = f"{file.hparams.architecture}."
        arch = row.arch or old[:-1]
        fields = {"general.architecture": Field.of(arch)}
        for key, value in file.fields.items():
            there = row.keys.get(key.removeprefix(old), key.removeprefix(old))
            if key.startswith(old) and there:
                fields[f"{arch}.{there}"] = value
            elif not key.startswith(old) and key != "general.architecture":
                fields[key] = value
        more = {f"{arch}.{key}": value for key, value in row.more.items()} | dict(keys or {})
        fields |= {key: _field(value) for key, value in more.items()}
        data = {_name(row, rename, each): file.tensor_bytes(each) for each in file.tensors}
        specs = [
            TensorSpec(_name(row, rename, info.name), info.shape, info.type)
            for info in file.tensors.values()
        ]
        data |= {other: np.zeros(64 * 4 * 4, np.uint8) for other in row.others}
        specs += [TensorSpec(other, (64, 4), QuantType.F32) for other in row.others]
        for i, spec in enumerate(specs):
            if spec.name.endswith("_exps.bias") and biases is QuantType.BF16:
                specs[i] = TensorSpec(spec.name, spec.shape, biases)
                data[spec.name] = data[spec.name].reshape(-1, 4)[:, 2:].ravel()
        return plain, _write(folder / "ollama.gguf", fields, specs, data)


def _name(row: OllamaFile, rename: Callable[[str], str], name: str) -> str:
    rest = group_of(name)
    return rename(name.removesuffix(rest) + row.tensors.get(rest, rest))


def _field(value: Any) -> Field:
    return Field.of(np.array(value, np.int32) if isinstance(value, list) else value)


def _write(
    path: Path, fields: dict[str, Field], specs: list[TensorSpec], data: Mapping[str, np.ndarray]
) -> Path:
    plan = plan_file(fields, specs)
    content = bytearray(plan.size_bytes)
    content[: len(plan.header)] = plan.header
    for info in plan.tensors:
        start = plan.data_offset + info.offset
        content[start : start + info.size_bytes] = data[info.name].tobytes()
    path.write_bytes(content)
    return path
