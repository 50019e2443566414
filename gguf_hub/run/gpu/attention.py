"""Attention on a GPU: positions cut into parts, a workgroup each, and their sums joined.

A workgroup takes four or eight rows of queries that share a key/value head over the positions of a
part. Of few tokens there are many parts, so that there is work for the whole GPU (flash-decoding);
with many tokens there is one part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gguf_hub.gguf.gpu_memory import ATTENTION_PARTS, attention_scratch_floats
from gguf_hub.gguf.memory.cache import CACHE_TYPES
from gguf_hub.run.gpu.device import Grid
from gguf_hub.run.gpu.kernels import Header, Operation, module
from gguf_hub.run.kernels.vm.ops import ARGUMENTS, N_TOKENS, POSITION, Step

SPAN = 128
"""Positions whose scores are computed at once; of a part a multiple."""

SPLIT_TOKENS = 32
"""Most tokens of a call whose positions are cut into parts."""

_WIDE_HEAD = 256  # above, eight rows of queries would take more than 16 KB of a workgroup's memory


def parts(at: Mapping[str, int], header: Header) -> int:
    """Return into how many parts the positions are cut that the tokens of a call see.

    At 1000 positions these are 8 of 128 for one token; at 100,000 positions 112 of 7 x 128. The
    kernels say the same (``parts.wgsl``).
    """
    tokens, position = header[N_TOKENS], header[POSITION]
    n_spans = -(-(position + tokens) // SPAN) - first_seen(at, position) // SPAN
    size = -(-n_spans // max(1, ATTENTION_PARTS // tokens))
    return -(-n_spans // size)


def first_seen(at: Mapping[str, int], position: int) -> int:
    """Return the first position that a query at ``position`` sees."""
    first = max(0, position - at["window"] + 1) if at["window"] else 0
    return max(first, position // at["chunk"] * at["chunk"]) if at["chunk"] else first


def attention(step: Step) -> list[Operation]:
    """Return attention for one token and for more, one of which runs; then what joins parts."""
    at = step.named
    group = at["n_head"] // at["n_head_kv"]
    few_fours = 1 if group <= 4 or at["head_dim"] > _WIDE_HEAD else 2
    fours = 1 if at["head_dim"] > _WIDE_HEAD else 2

    def grid_of(header: Header, fours: int) -> Grid:
        n_parts = parts(at, header) if header[N_TOKENS] <= SPLIT_TOKENS else 1
        return -(-header[N_TOKENS] * group // (4 * fours)), n_parts, at["n_head_kv"]

    def one_token(header: Header) -> Grid:
        """Return the grid for one token, an empty one for more."""
        return grid_of(header, few_fours) if header[N_TOKENS] == 1 else (0, 0, 0)

    def more_tokens(header: Header) -> Grid:
        """Return the grid for several tokens, an empty one for one."""
        return grid_of(header, fours) if header[N_TOKENS] > 1 else (0, 0, 0)

    def join(header: Header) -> Grid:
        """Return the grid of what adds up the parts: a workgroup for each row of a head."""
        is_split = header[N_TOKENS] <= SPLIT_TOKENS
        return (header[N_TOKENS] * at["n_head"] if is_split else 0), 1, 1

    def operation(file: str, grid: Callable[[Header], Grid], fours: int) -> Operation:
        """Return a dispatch of a kernel whose workgroups take ``fours`` times four rows."""
        constants = (
            *_shape(step),
            ("N_PARTS", f"{ATTENTION_PARTS}u"),
            ("SPLIT_TOKENS", f"{SPLIT_TOKENS}u"),
            ("FOURS", f"{fours}u"),
        )
        return Operation(
            module(file, _FIELDS["attention"], constants),
            _in_buffers(step),
            grid,
            scratch_floats=attention_scratch_floats(at["n_head"], at["value_dim"]),
            is_checked=False,
        )

    return [
        operation("attention.wgsl", one_token, few_fours),
        operation("attention.wgsl", more_tokens, fours),
        operation("join_parts.wgsl", join, 1),
    ]


def rope_store(step: Step) -> list[Operation]:
    """Return what rotates queries and keys and fills the cache, four places of it at a time."""
    at = step.named

    def grid(header: Header) -> Grid:
        place = header[POSITION] % at["n_ctx"]
        n_fours = min(-(-(place % 4 + header[N_TOKENS]) // 4), at["n_ctx"] // 4)
        return at["n_head"] + 2 * at["n_head_kv"], n_fours if header[N_TOKENS] else 0, 1

    source = module("rope_store.wgsl", _FIELDS["rope_store"], _shape(step))
    return [Operation(source, _in_buffers(step), grid)]


_FIELDS = {name: (*ARGUMENTS[name], "k_slot", "v_slot") for name in ("rope_store", "attention")}


def _shape(step: Step) -> tuple[tuple[str, str], ...]:
    """Return what kernels are compiled for: the lengths of heads, the types of the cache."""
    at = step.named
    key_type, value_type = step.types.split(".")
    return (
        ("HEAD_DIM", f"{at['head_dim']}u"),
        ("VALUE_DIM", f"{at['value_dim']}u"),
        ("KEY_TYPE", f"{CACHE_TYPES.index(key_type)}u"),
        ("VALUE_TYPE", f"{CACHE_TYPES.index(value_type)}u"),
    )


def _in_buffers(step: Step) -> tuple[int, ...]:
    """Return the arguments; keys and values begin where their buffers do."""
    return step.with_arguments(k_cache=0, v_cache=0).arguments
