"""The same model once more, in plain numpy and straight from the GGUF file.

Written from the paper and the format, not from the training code, so that an export can be held
against it. Float32 throughout, one text at a time, no cache.

Shapes as in `tools.tiny_mixtral.model`: T tokens, D n_embd, d head_dim, E experts, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Traced:
    """Logits [T, V], and per layer how many tokens chose each expert [L, E]."""

    logits: Array
    counts: NDArray[np.int64]


class Reference:
    """A Mixtral in a GGUF file with F16 or F32 weights and one tensor per expert."""

    def __init__(self, path: Path | str) -> None:
        with GgufFile.open(path) as file:
            self.meta = dict(file.metadata)
            self.weights = {name: _weights(file, name) for name in file.tensors}

    def forward(self, tokens: list[int]) -> Traced:
        """Run ``tokens`` through the model."""
        x = self.weights["token_embd.weight"][tokens]  # [T, D]
        counts = []
        for layer in range(self.meta["llama.block_count"]):
            prefix = f"blk.{layer}."
            x = x + self._attention(prefix, self._norm(x, prefix + "attn_norm"))
            out, count = self._experts(prefix, self._norm(x, prefix + "ffn_norm"))
            x = x + out
            counts.append(count)
        logits = self._norm(x, "output_norm") @ self.weights["output.weight"].T  # [T, V]
        return Traced(logits, np.array(counts))

    def _norm(self, x: Array, name: str) -> Array:
        eps = self.meta["llama.attention.layer_norm_rms_epsilon"]
        normed: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
        return normed * self.weights[name + ".weight"]

    def _attention(self, prefix: str, x: Array) -> Array:
        n_head = self.meta["llama.attention.head_count"]
        group = n_head // self.meta["llama.attention.head_count_kv"]
        q, k, v = (x @ self.weights[f"{prefix}attn_{name}.weight"].T for name in "qkv")
        d = q.shape[1] // n_head
        heads = []
        for head in range(n_head):
            mine = slice(head * d, (head + 1) * d)
            kv = slice(head // group * d, (head // group + 1) * d)
            scores = self._rope(q[:, mine]) @ self._rope(k[:, kv]).T / np.sqrt(d)  # [T, T]
            scores[np.triu_indices(len(x), 1)] = -np.inf
            heads.append(_softmax(scores) @ v[:, kv])  # [T, d]
        mixed: Array = np.concatenate(heads, 1) @ self.weights[prefix + "attn_output.weight"].T
        return mixed

    def _rope(self, x: Array) -> Array:
        """Turn pairs (0,1), (2,3), ... of ``x`` [T, d]."""
        d = x.shape[1]
        speed = float(self.meta["llama.rope.freq_base"]) ** (-np.arange(0, d, 2) / d)  # [d/2]
        turn = np.exp(1j * np.outer(np.arange(len(x)), speed))
        turned = (x[:, 0::2] + 1j * x[:, 1::2]) * turn
        return np.stack((turned.real, turned.imag), -1).reshape(x.shape).astype(np.float32)

    def _experts(self, prefix: str, x: Array) -> tuple[Array, NDArray[np.int64]]:
        probs = _softmax(x @ self.weights[prefix + "ffn_gate_inp.weight"].T)  # [T, E]
        chosen = np.argsort(-probs, axis=1)[:, : self.meta["llama.expert_used_count"]]  # [T, A]
        weights = np.take_along_axis(probs, chosen, 1)
        weights /= weights.sum(1, keepdims=True)  # [T, A]
        out = np.zeros_like(x)
        for expert in range(probs.shape[1]):
            rows, ranks = np.nonzero(chosen == expert)
            gate, up, down = (
                self.weights[f"{prefix}ffn_{name}.{expert}.weight"]
                for name in ("gate", "up", "down")
            )
            hidden = x[rows] @ gate.T
            hidden = hidden / (1 + np.exp(-hidden)) * (x[rows] @ up.T)  # [n, F]
            out[rows] += weights[rows, ranks, None] * (hidden @ down.T)
        return out, np.bincount(chosen.ravel(), minlength=probs.shape[1])


def _softmax(x: Array) -> Array:
    e: Array = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _weights(file: GgufFile, name: str) -> Array:
    """Return a tensor as float32 with rows first."""
    info = file.tensors[name]
    dtype = {QuantType.F16: np.float16, QuantType.F32: np.float32}[info.type]
    return file.tensor_bytes(name).view(dtype).reshape(info.shape[::-1]).astype(np.float32)
