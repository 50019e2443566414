"""Models by their tensors alone, those that llama.cpp's snapshots of its mixes are of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.quants.recipes import ModelShape

_ATTENTION = "attn_q attn_k attn_v attn_output"
_DENSE = "ffn_gate ffn_up ffn_down"
_EXPERTS = "ffn_gate_exps ffn_up_exps ffn_down_exps"
_SHARED = "ffn_gate_shexp ffn_up_shexp ffn_down_shexp"
_LATENTS = "attn_q_a attn_q_b attn_kv_a_mqa attn_k_b attn_v_b attn_output"
_DELTA = "attn_qkv attn_gate ssm_out"
_NEMOTRON = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"


@dataclass(frozen=True)
class MixModel:
    """A model.

    Attributes:
        shape: What mixes ask for.
        layers: Names of each layer's matrices.
        width: Length of rows, if not in ``widths``.
        widths: Parts of names -> length of rows.
        is_tied: Whether there is no output matrix.
    """

    shape: ModelShape
    layers: tuple[str, ...]
    width: int = 4096
    widths: tuple[tuple[str, int], ...] = ()
    is_tied: bool = False

    def tensors(self) -> list[TensorSpec]:
        return list(self._tensors())

    def _tensors(self) -> Iterator[TensorSpec]:
        for name in ["token_embd"] + ["output"] * (not self.is_tied):
            yield self._spec(f"{name}.weight", name)
        for i, names in enumerate(self.layers):
            for name in names.split():
                yield self._spec(f"blk.{i}.{name}.weight", name)

    def _spec(self, name: str, part: str) -> TensorSpec:
        width = dict(self.widths).get(part, self.width)
        has_many = part.endswith("_exps") or part in ("attn_k_b", "attn_v_b")
        return TensorSpec(name, (width, 64, 8) if has_many else (width, 64), QuantType.F32)


def _delta(n_layer: int, rates: str, feed_forward: str) -> tuple[str, ...]:
    """Every fourth layer attends."""
    kinds = (f"{_DELTA} {rates}", _ATTENTION)
    return tuple(f"{kinds[i % 4 == 3]} {feed_forward}" for i in range(n_layer))


def _shape(n_layer: int, n_head: int, n_head_kv: int, arch: str, n_expert: int = 0) -> ModelShape:
    return ModelShape(n_layer, n_head, n_head_kv, n_expert, arch)


MODELS = {
    "deepseek-v3.1": MixModel(
        _shape(61, 128, 1, "deepseek2", 256),
        (f"{_LATENTS} {_DENSE}",) * 3 + (f"{_LATENTS} {_EXPERTS} {_SHARED}",) * 58,
        widths=(("attn_k_b", 128),),
    ),
    "gemma-3-4b-it": MixModel(
        _shape(34, 8, 4, "gemma3"), (f"{_ATTENTION} {_DENSE}",) * 34, is_tied=True
    ),
    "glm-4.6v": MixModel(
        _shape(46, 96, 8, "glm4moe", 128),
        (f"{_ATTENTION} {_DENSE}", *(f"{_ATTENTION} {_EXPERTS} {_SHARED}",) * 45),
        widths=(("ffn_down_exps", 1408), ("ffn_down_shexp", 1408), ("ffn_down", 10944)),
    ),
    "gpt-oss-120b": MixModel(
        _shape(36, 64, 8, "gpt-oss", 128),
        (f"{_ATTENTION} {_EXPERTS}",) * 36,
        width=2880,
        widths=(("attn_output", 4096),),
    ),
    "meta-llama-3.1-70b-instruct": MixModel(
        _shape(80, 64, 8, "llama"), (f"{_ATTENTION} {_DENSE}",) * 80
    ),
    "nvidia-nemotron-3-nano-30b-a3b": MixModel(
        _shape(52, 32, 0, "nemotron_h_moe", 128),
        tuple(
            {
                "M": "ssm_in ssm_out",
                "E": "ffn_up_exps ffn_down_exps ffn_up_shexp ffn_down_shexp",
                "*": _ATTENTION,
            }[kind]
            for kind in _NEMOTRON
        ),
        width=2688,
        widths=(("attn_output", 4096), ("ssm_out", 4096), ("ffn_down_exps", 1856),
                ("ffn_down_shexp", 3712)),
    ),
    "qwen3-0.6b": MixModel(_shape(28, 16, 8, "qwen3"), (f"{_ATTENTION} {_DENSE}",) * 28),
    "qwen3-14b": MixModel(_shape(40, 40, 8, "qwen3"), (f"{_ATTENTION} {_DENSE}",) * 40),
    "qwen3-coder-next": MixModel(
        _shape(48, 16, 2, "qwen3next", 512), _delta(48, "ssm_ba", f"{_EXPERTS} {_SHARED}")
    ),
    "qwen3.5-397b-a17b": MixModel(
        _shape(60, 32, 2, "qwen35moe", 512),
        _delta(60, "ssm_alpha ssm_beta", f"{_EXPERTS} {_SHARED}"),
    ),
    "qwen3.6-27b": MixModel(
        _shape(64, 24, 4, "qwen35"), _delta(64, "ssm_alpha ssm_beta", _DENSE)
    ),
}  # fmt: skip
