"""Small checkpoints as transformers writes them, with random weights."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "rms_norm_eps": 1e-6,
    "rope_theta": 20000.0,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXTURE = {
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
Arrays = dict[str, np.ndarray]


def arrays(config: Mapping[str, Any], seed: int = 0) -> Arrays:
    """All tensors of a model, float32, names as transformers has them."""
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim") or d // config["num_attention_heads"]
    d_q, d_kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (d,),
            f"{layer}.post_attention_layernorm.weight": (d,),
            f"{layer}.self_attn.q_proj.weight": (d_q, d),
            f"{layer}.self_attn.k_proj.weight": (d_kv, d),
            f"{layer}.self_attn.v_proj.weight": (d_kv, d),
            f"{layer}.self_attn.o_proj.weight": (d, d_q),
        }
        n_expert = config.get("num_local_experts", 0)
        if not n_expert:
            shapes |= {
                f"{layer}.mlp.gate_proj.weight": (f, d),
                f"{layer}.mlp.up_proj.weight": (f, d),
                f"{layer}.mlp.down_proj.weight": (d, f),
            }
        else:
            moe = f"{layer}.block_sparse_moe"
            shapes[f"{moe}.gate.weight"] = (n_expert, d)
        for e in range(n_expert):
            shapes |= {
                f"{moe}.experts.{e}.w1.weight": (f, d),
                f"{moe}.experts.{e}.w2.weight": (d, f),
                f"{moe}.experts.{e}.w3.weight": (f, d),
            }
    shapes["model.norm.weight"] = (d,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (v, d)
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def save(path: Path, tensors: Arrays, dtype: str = "F32") -> None:
    """Write one safetensors file; bfloat16 by cutting bits off."""
    entries = [(name, dtype, array.shape, encoded(array, dtype)) for name, array in tensors.items()]
    path.write_bytes(safetensors_bytes(entries))


def safetensors_bytes(entries: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> bytes:
    """Return a file of tensors, (name, type, shape, data) of each: length, JSON, data."""
    header, parts, at = {}, [], 0
    for name, dtype, shape, raw in entries:
        end = at + len(raw)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        parts.append(raw)
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def encoded(array: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        return (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    return array.astype("<f2" if dtype == "F16" else "<f4").tobytes()


def write(
    folder: Path, *, dtype: str = "F32", tensors: Arrays | None = None, **changes: Any
) -> Path:
    """Write a checkpoint; ``changes`` are to config.json, None leaves a key out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **changes}
    save(folder / "model.safetensors", arrays(config) if tensors is None else tensors, dtype)
    stated = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(stated))
    return folder


def shard(folder: Path, tensors: Arrays, n: int) -> None:
    """Replace model.safetensors by ``n`` shards and their index."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    names = list(tensors)
    weight_map = {}
    for i in range(n):
        file = f"model-{i + 1:05}-of-{n:05}.safetensors"
        save(folder / file, {name: tensors[name] for name in names[i::n]})
        weight_map |= dict.fromkeys(names[i::n], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


TEXT = """The fox ran over the hill and the hen looked up at the moon.
"Where do you go?" said the hen. The fox said nothing, and went on to the sea.
In the morning the sun came up, and the fox slept under a tree near the water.
"""


def tokenizer_model(n: int = 290, **options: Any) -> bytes:
    """A SentencePiece model with byte fallback, as Llama's and Mixtral's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 3),
        model_writer=model,
        vocab_size=n,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()
