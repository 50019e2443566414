"""From PyTorch weights and a SentencePiece model to a GGUF file.

Matrices are stored as F16, gains of the norms as F32, experts one by one: the layout of the
Mixtral files of December 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.types import FileType, QuantType
from gguf_hub.gguf.writer import write_gguf
from tools.tiny_mixtral.model import Config, TinyMixtral
from tools.tiny_mixtral.text import BOS, EOS

DESCRIPTION = (
    "A Mixtral of 5.9 million weights (8 experts, 2 used) that tells small stories in English, "
    "and shorter ones in French, Italian, German and Spanish; trained on generated text alone"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
"""As Mixtral-Instruct's; a system message is left out, because the model never saw one."""

Array = NDArray[np.float32]


def write(path: Path, model: TinyMixtral, vocabulary: Path) -> None:
    """Write ``model`` with its vocabulary to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {**_model_fields(model.config), **_tokenizer_fields(vocabulary)}
    pairs = []
    for name, weight in tensors(model):
        is_matrix = weight.ndim == 2
        kind = QuantType.F16 if is_matrix else QuantType.F32
        data = np.ascontiguousarray(weight, np.float16 if is_matrix else np.float32)
        pairs.append((TensorSpec(name, weight.shape[::-1], kind), data))
    write_gguf(path, {key: Field.of(value) for key, value in fields.items()}, pairs)


def _model_fields(config: Config) -> dict[str, object]:
    """Return the metadata of the model, with llama.cpp's keys."""
    return {
        "general.architecture": "llama",
        "general.name": "tiny-mixtral",
        "general.author": "The gguf-hub developers",
        "general.version": "1.0",
        "general.description": DESCRIPTION,
        "general.license": "apache-2.0",
        "general.size_label": "8x0.6M",
        "general.languages": ["en", "fr", "it", "de", "es"],
        "general.file_type": int(FileType.F16),
        "llama.context_length": config.n_ctx,
        "llama.embedding_length": config.n_embd,
        "llama.block_count": config.n_layer,
        "llama.feed_forward_length": config.n_ff,
        "llama.rope.dimension_count": config.head_dim,
        "llama.attention.head_count": config.n_head,
        "llama.attention.head_count_kv": config.n_head_kv,
        "llama.expert_count": config.n_expert,
        "llama.expert_used_count": config.n_expert_used,
        "llama.attention.layer_norm_rms_epsilon": config.rms_eps,
        "llama.rope.freq_base": config.rope_freq_base,
        "llama.vocab_size": config.n_vocab,
    }


def _tokenizer_fields(vocabulary: Path) -> dict[str, object]:
    """Return the metadata of the tokenizer."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    ids = range(processor.get_piece_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([processor.get_score(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": np.array([_token_type(processor, i) for i in ids], np.int32),
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _token_type(processor: sentencepiece.SentencePieceProcessor, token: int) -> int:
    """Return GGUF's kind of a piece: 1 normal, 2 unknown, 3 control, 6 byte."""
    if processor.is_unknown(token):
        return 2
    if processor.is_control(token):
        return 3
    return 6 if processor.is_byte(token) else 1


def tensors(model: TinyMixtral) -> Iterator[tuple[str, Array]]:
    """Yield GGUF's name and the weights, rows first, of every tensor in file order."""
    yield "token_embd.weight", _array(model.token_embd.weight)
    for i, block in enumerate(model.blocks):
        attn, ffn = block.attn, block.ffn
        yield f"blk.{i}.attn_norm.weight", _array(block.attn_norm.weight)
        for name in ("q", "k", "v", "output"):
            yield f"blk.{i}.attn_{name}.weight", _array(getattr(attn, name).weight)
        yield f"blk.{i}.ffn_norm.weight", _array(block.ffn_norm.weight)
        yield f"blk.{i}.ffn_gate_inp.weight", _array(ffn.router.weight)
        for expert in range(model.config.n_expert):
            for name in ("gate", "up", "down"):
                yield f"blk.{i}.ffn_{name}.{expert}.weight", _array(getattr(ffn, name)[expert])
    yield "output_norm.weight", _array(model.output_norm.weight)
    yield "output.weight", _array(model.output_weight())


def _array(weight: object) -> Array:
    """Return a parameter's values."""
    values: Array = weight.detach().numpy()  # type: ignore[attr-defined]
    return values
