"""From a header to what each layer caches and computes when llama.cpp runs it.

Which layers have a window, a recurrent state or no cache is partly in no file, but in llama.cpp's
code for an architecture: the tables here.

Source: load_hparams and create_memory in src/llama-model.cpp, load_arch_hparams in src/models/,
src/llama-hparams.cpp of llama.cpp (as in llama-cpp-python 0.3.36).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch import ARCHITECTURES, Windows
from gguf_hub.gguf.format import AnyTensor
from gguf_hub.gguf.hparams import CacheHyperParameters, WholeNumber
from gguf_hub.hub.fit.layers import LayerFacts, held_by_ffn

H = CacheHyperParameters


_WINDOWS: Mapping[str, Windows] = {
    "laguna": Windows(4, is_full_first=True),
    "lfm2": Windows(0),
    "muse-glimmer": Windows(4),
    "plamo3": Windows(8),
}
"""Architectures that do not run here and whose windows need no array; of all others, one of flags
has to tell."""

RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
"""Architectures without attention."""
_INTERVALS = {"minimax-01": 8, "qwen35": 4, "qwen35moe": 4, "qwen3next": 4, "qwen4exp": 4}
"""Every so many layers one attends, the others are recurrent; where a file does not tell."""
_BOTH = "falcon-h1"  # attention and a recurrent state in every layer
_WITHOUT_CACHE = frozenset({
    "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada",
    "llada-moe", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1",
    "wavtokenizer-dec",
})  # fmt: skip
_N_CACHED = {"gemma3n": 20}  # further layers use the cache of an earlier one
_FFN = re.compile(r"blk\.(\d+)\.ffn_(gate_up|gate|up|down)(_[a-z]+)?(\.\d+)?\.weight")


def layers_of(hparams: H, tensors: Mapping[str, AnyTensor]) -> tuple[LayerFacts, ...]:
    """Return what each layer of a model caches and computes.

    Args:
        hparams: Its hyper-parameters, read as an estimate.
        tensors: All of them, by name.

    Raises:
        UnsupportedGgufError: A key that counts makes no sense.
    """
    layers, n_ffn = _Layers(hparams), _held_by_ffn(hparams, tensors)
    return tuple(
        layers.facts(i, n_ffn.get(i, 0)) if i < layers.n_graph else LayerFacts(0, 0, 0)
        for i in range(hparams.n_layer)
    )


class _Layers:
    """The hyper-parameters of a model, layer by layer."""

    def __init__(self, hparams: H) -> None:
        n_layer, nextn = hparams.n_layer, hparams.n_layer_nextn
        self.architecture = hparams.architecture
        # those that predict further tokens are outside of the graph
        self.n_graph = n_layer - nextn if nextn < n_layer else n_layer
        usual = max(0, n_layer - _N_CACHED.get(self.architecture, n_layer))
        self._n_cached = n_layer - hparams.get(H.n_layer_kv_shared, usual)
        self._n_head = _counts(hparams, H.n_head)
        self._n_head_kv = self._n_head
        if hparams.has(H.n_head_kv):
            self._n_head_kv = _counts(hparams, H.n_head_kv)
        self._is_recurrent = _recurrent(hparams, self._n_head_kv, self.n_graph)
        self._n_state, self._n_recurrent = 0, 0
        if any(self._is_recurrent):
            self._n_state = _state_length(hparams, self._n_head[0])
            self._n_recurrent = _held_by_recurrence(hparams)
        self._windows = _windows(hparams, self.n_graph)
        self._indexer_head_dim = hparams.indexer_head_dim
        self._has_values = not (hparams.head_dim_mla and hparams.n_embd_head_v_mla)
        n_head = self._n_head[0] or max(1, *self._n_head)
        key = hparams.get(H.head_dim, hparams.n_embd // n_head)
        value = hparams.get(H.n_embd_head_v, hparams.n_embd // n_head)
        self._lengths = {
            False: (key, value),
            True: (hparams.get(H.head_dim_swa, key), hparams.get(H.n_embd_head_v_swa, value)),
        }

    def facts(self, i: int, n_ffn: int) -> LayerFacts:
        n_head, n_head_kv, n_swa = self._n_head[i], self._n_head_kv[i], self._windows[i]
        is_recurrent = self._is_recurrent[i]
        n_attn = self._n_recurrent if is_recurrent else 0
        n_state = self._n_state if is_recurrent else 0
        if not n_head_kv or (is_recurrent and self.architecture != _BOTH):
            return LayerFacts(0, n_attn, n_ffn, n_state=n_state)
        key_length, value_length = self._lengths[n_swa > 0]
        # of MLA, queries of two parts and joined are more than queries and results
        n_results = n_head * (value_length if self._has_values else key_length)
        n_attn = max(n_attn, n_head * key_length + n_results)
        if self.architecture in _WITHOUT_CACHE:
            return LayerFacts(0, n_attn, n_ffn)
        if i >= self._n_cached:
            return LayerFacts(n_head, n_attn, n_ffn, n_swa=n_swa)
        n_embd_k = n_head_kv * key_length + self._indexer_head_dim
        n_embd_v = n_head_kv * value_length if self._has_values else 0
        return LayerFacts(n_head, n_attn, n_ffn, n_embd_k, n_embd_v, n_swa, n_state)


def _counts(hparams: H, hparam: WholeNumber) -> list[int]:
    """Return each layer's number of heads.

    Raises:
        UnsupportedGgufError: One is negative.
    """
    counts = hparams.per_layer(hparam, hparams.n_layer)
    if min(counts) < 0:
        raise UnsupportedGgufError(
            f"metadata `{hparams.key(hparam)}`: expected integers >= 0, found {min(counts)}",
            hint="`gguf-hub verify` checks the file",
        )
    return counts


def _windows(hparams: H, n_layer: int) -> list[int]:
    """Return each layer's window; 0 for the whole context."""
    arch = ARCHITECTURES.get(hparams.architecture)
    window = (arch and arch.windows) or _WINDOWS.get(hparams.architecture, Windows(1))
    if window.only_of not in (None, n_layer):
        window = Windows(1)
    if window.period != 1 or hparams.is_array(H.swa_pattern):
        n_swa = hparams.get(H.n_swa, window.default)
        n_swa = window.fixed if n_swa and window.fixed else n_swa
        return [n_swa * is_swa for is_swa in _pattern(hparams, window, n_layer)]
    return [0] * n_layer


def _pattern(hparams: H, window: Windows, n_layer: int) -> list[bool]:
    """Return which layers have a window."""
    if hparams.is_array(H.swa_pattern):
        return [flag > 0 for flag in hparams.per_layer(H.swa_pattern, n_layer)]
    period = hparams.get(H.swa_pattern, window.period)
    return [window.has_window(i, period) for i in range(n_layer)]


def _recurrent(hparams: H, n_head_kv: Sequence[int], n_layer: int) -> list[bool]:
    """Return which layers have a recurrent state."""
    if hparams.architecture in {_BOTH, *RECURRENT}:
        return [True] * n_layer
    if hparams.has(H.is_recurrent):
        return [flag > 0 for flag in hparams.per_layer(H.is_recurrent, n_layer)]
    usual = _INTERVALS.get(hparams.architecture, 0)
    if interval := hparams.get(H.full_attention_interval, usual):
        return [(i + 1) % interval != 0 for i in range(n_layer)]
    n_ff = [0] * n_layer
    if hparams.architecture.startswith("nemotron_h"):  # a layer is one of three there
        n_ff = hparams.per_layer(H.n_ff, n_layer)
    return [not n_head_kv[i] and not n_ff[i] for i in range(n_layer)]


def _state_length(hparams: H, n_head: int) -> int:
    """Return the numbers of a layer's recurrent state: of its convolution, and of the rest.

    Source: n_embd_r and n_embd_s in src/llama-hparams.cpp.
    """
    n_embd, n_conv = hparams.n_embd, max(0, hparams.ssm_d_conv - 1)
    if hparams.wkv_head_size:
        return n_embd * (hparams.token_shift_count + hparams.wkv_head_size)
    if hparams.n_shortconv_l_cache:
        return n_embd * (hparams.n_shortconv_l_cache - 1)
    if hparams.kda_head_dim:
        n_conv = n_conv if hparams.ssm_d_conv else 3
        return n_head * hparams.kda_head_dim * (3 * n_conv + hparams.kda_head_dim)
    if hparams.architecture == "minimax-01":
        return n_head * hparams.head_dim**2
    n_groups = 2 * hparams.ssm_n_group * hparams.ssm_d_state
    return n_conv * (hparams.ssm_d_inner + n_groups) + hparams.ssm_d_state * hparams.ssm_d_inner


def _held_by_recurrence(hparams: H) -> int:
    """Return the numbers of one token: projections, input and output of the convolution, result."""
    if hparams.n_shortconv_l_cache:
        return 6 * hparams.n_embd
    n_conv = hparams.ssm_d_inner + 2 * hparams.ssm_n_group * hparams.ssm_d_state
    return hparams.ssm_d_inner + 4 * n_conv


def _held_by_ffn(hparams: H, tensors: Mapping[str, AnyTensor]) -> dict[int, int]:
    """Return what each layer's feed-forward part holds of a token at once, by its matrices."""
    widths: dict[tuple[int, str], dict[str, int]] = {}
    for name, info in tensors.items():
        match = _FFN.fullmatch(name)
        if match and len(info.shape) > 1:
            part, kind = match[2], "_exps" if match[4] else match[3] or ""
            width = info.shape[0] if part == "down" else info.shape[1]
            widths.setdefault((int(match[1]), kind), {})[part] = width
    held: dict[int, int] = {}
    for (layer, kind), parts in widths.items():
        n_up = parts.get("up", 0) + parts.get("gate_up", 0)
        n_used = hparams.n_expert_used if kind == "_exps" else 0
        sizes = parts.get("gate", 0), n_up, parts.get("down", 0)
        held[layer] = max(held.get(layer, 0), held_by_ffn(hparams.n_embd, *sizes, n_used=n_used))
    return held
