"""llama.cpp's memory: what it was measured to take, and what its code says of other models.

Headers are made here, in memory: the numbers of a model are all that its memory depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.header import Header, TensorEntry
from gguf_hub.gguf.hparams import CacheHyperParameters, HyperParameters, WholeNumber
from gguf_hub.hub.fit import Constraints, FileFacts, LayerFacts, need_of
from gguf_hub.hub.fit.memory import MemoryEstimate
from gguf_hub.hub.survey.headers import ShardHeader, facts_of_headers

MIB = 2**20
Tensors = dict[str, tuple[int, ...]]

# ---- headers -----------------------------------------------------------------------------------


def facts_of(architecture: str, keys: Mapping[str, Any], tensors: Tensors) -> FileFacts:
    """The facts of a model of F32 tensors."""
    fields = {"general.architecture": Field.of(architecture)}
    fields |= {f"{architecture}.{key}": Field.of(value) for key, value in keys.items()}
    entries, offset = [], 0
    for name, shape in tensors.items():
        entries.append(TensorEntry(name, shape, 0, offset, 0))
        offset += int(np.prod(shape)) * 4
    header = Header(3, "little", fields, tuple(entries), 4, 0, offset, True, ())
    return facts_of_headers([ShardHeader("m.gguf", header)])


def sizes(n_layer: int, n_embd: int, n_head: int, n_head_kv: Any, head_dim: int) -> dict[str, Any]:
    return {
        "block_count": n_layer,
        "embedding_length": n_embd,
        "feed_forward_length": 2 * n_embd,
        "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
    }


def dense(n_layer: int, n_embd: int, n_ff: int, n_vocab: int) -> Tensors:
    """The embeddings, and the tensors of which the feed-forward part is made."""
    tensors: Tensors = {"token_embd.weight": (n_embd, n_vocab)}
    for i in range(n_layer):
        tensors |= {f"blk.{i}.ffn_{part}.weight": (n_embd, n_ff) for part in ("gate", "up")}
        tensors[f"blk.{i}.ffn_down.weight"] = (n_ff, n_embd)
    return tensors


def experts(n_layer: int, n_embd: int, n_ff: int, n_expert: int, n_vocab: int) -> Tensors:
    return {
        name.replace(".weight", "_exps.weight") if "ffn" in name else name: (
            (*shape, n_expert) if "ffn" in name else shape
        )
        for name, shape in dense(n_layer, n_embd, n_ff, n_vocab).items()
    }


def small(architecture: str, n_layer: int = 12, n_head_kv: Any = 4, **keys: Any) -> FileFacts:
    """A model of 8 heads of 32, 256 wide, with more keys; dots in their names are two ``_``."""
    more = {key.replace("__", "."): value for key, value in keys.items()}
    return facts_of(
        architecture,
        sizes(n_layer, 256, 8, n_head_kv, 32) | more,
        dense(n_layer, 256, 512, 512),
    )


def wide(architecture: str, n_layer: int, tensors: Tensors, **keys: Any) -> FileFacts:
    """A model of 8 heads of 64, 512 wide."""
    more = {key.replace("__", "."): value for key, value in keys.items()}
    return facts_of(architecture, sizes(n_layer, 512, 8, 2, 64) | more, tensors)


def uints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint32)


def flags(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


# ---- measured ----------------------------------------------------------------------------------

MODELS = {
    "llama": small("llama", 6),
    "gemma3": small("gemma3", attention__sliding_window=1024),
    "lfm2": small("lfm2", 12, uints(0, 0, 4, 0, 0, 4, 0, 0, 4, 0, 4, 0), shortconv__l_cache=3),
    "gpt-oss": facts_of(
        "gpt-oss",
        sizes(12, 256, 8, 4, 32)
        | {
            "attention.sliding_window": 128,
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 128,
        },
        experts(12, 256, 128, 4, 512),
    ),
    "wide": wide("llama", 2, dense(2, 512, 2048, 2048)),
    "many words": wide("llama", 2, dense(2, 512, 2048, 32000)),
    "all heads keep": wide("llama", 2, dense(2, 512, 1408, 512), attention__head_count_kv=8),
    "as an 8B": facts_of("llama", sizes(2, 1024, 8, 2, 128), dense(2, 1024, 3584, 32064)),
    "many experts": wide(
        "qwen3moe", 2, experts(2, 512, 64, 16, 512), expert_count=16, expert_used_count=8
    ),
    "gemma2": wide("gemma2", 4, dense(4, 512, 1024, 512), attention__sliding_window=1024),
    "mla": wide(
        "deepseek2", 3, dense(3, 512, 1024, 512),
        attention__head_count_kv=1, attention__key_length=160, attention__value_length=128,
        attention__key_length_mla=96, attention__value_length_mla=64,
    ),
    "mamba": wide(
        "mamba", 4, {"token_embd.weight": (512, 512), **{f"blk.{i}.x": (1,) for i in range(4)}},
        attention__head_count=0, attention__head_count_kv=0, feed_forward_length=0,
        ssm__conv_kernel=4, ssm__inner_size=1024, ssm__state_size=16,
    ),
}  # fmt: skip

# Model, context, flash attention: MiB of K/V (and of recurrent state), MiB of the compute buffer;
# as printed by llama.cpp of llama-cpp-python 0.3.36 for files of these sizes on a CPU, n_batch and
# n_ubatch 512, swa_full off.
MEASURED = [
    ("llama", 32768, "on", 96, 36.5),
    ("llama", 131072, "on", 384, 132.5),
    ("llama", 32768, "off", 96, 579.0),
    ("gemma3", 32768, "on", 39.5, 38.0),
    ("gemma3", 131072, "on", 135.5, 134.0),
    ("gemma3", 8192, "off", 15.5, 150.5),
    ("lfm2", 32768, "on", 64.02, 36.5),
    ("lfm2", 131072, "on", 256.02, 132.5),
    ("lfm2", 8192, "off", 16.02, 147.0),
    ("lfm2", 300, "on", 1.02, 2.94),
    ("gpt-oss", 32768, "on", 98.25, 35.8),
    ("gpt-oss", 131072, "on", 386.25, 131.8),
    ("gpt-oss", 8192, "off", 26.25, 149.0),
    ("gpt-oss", 300, "on", 3.0, 2.36),
    ("wide", 8192, "on", 8, 24.0),
    ("wide", 8192, "off", 8, 149.5),
    ("many words", 8192, "on", 8, 64.5),
    ("many words", 8192, "off", 8, 149.5),
    ("all heads keep", 2048, "on", 8, 14.3),
    ("all heads keep", 2048, "off", 8, 43.0),
    ("as an 8B", 8192, "on", 16, 66.6),
    ("as an 8B", 8192, "off", 16, 155.0),
    ("many experts", 8192, "on", 8, 20.0),
    ("many experts", 8192, "off", 8, 149.5),
    ("gemma2", 8192, "on", 9.5, 18.5),
    ("gemma2", 8192, "off", 9.5, 153.0),
    ("mla", 8192, "on", 7.5, 17.5),
    ("mla", 8192, "off", 7.5, 153.5),
    ("mamba", 8192, "on", 0.30, 13.1),
]


def need(facts: FileFacts, n_ctx: int = 4096, **wish: Any) -> MemoryEstimate:
    return need_of(facts, Constraints(n_ctx=n_ctx, engine="llama.cpp", **wish))


@pytest.mark.parametrize(("model", "n_ctx", "flash_attn", "kv_mib", "compute_mib"), MEASURED)
def test_measured(model: str, n_ctx: int, flash_attn: Any, kv_mib: float, compute_mib: float):
    found = need(MODELS[model], n_ctx, flash_attn=flash_attn)
    assert found.kv_bytes / MIB == pytest.approx(kv_mib, abs=0.02)
    assert found.scratch_bytes / MIB == pytest.approx(compute_mib, rel=0.03)


def test_measured_in_q8_0() -> None:
    assert need(MODELS["wide"], 8192, kv_type="q8_0").kv_bytes == 4.25 * MIB
    found = need(MODELS["gemma3"], 8192, kv_type="q8_0").kv_bytes / MIB
    assert found == pytest.approx(4.25 + 3.98, abs=0.01)


# ---- windows -----------------------------------------------------------------------------------

WINDOWS = {
    "gemma3: every 6th is full": (small("gemma3", attention__sliding_window=7), "xxxxx-xxxxx-", 7),
    "gemma2: its own window": (small("gemma2"), "x-x-x-x-x-x-", 4096),
    "gpt-oss": (small("gpt-oss", attention__sliding_window=128), "x-x-x-x-x-x-", 128),
    "no window": (small("gemma3", attention__sliding_window=0), "-" * 12, 0),
    "no key": (small("gemma3"), "-" * 12, 0),
    "the first is full": (
        small("cohere2moe", attention__sliding_window=9), "-xxx-xxx-xxx", 9
    ),
    "a number in the file": (
        small("cohere2", attention__sliding_window=9, attention__sliding_window_pattern=3),
        "xx-xx-xx-xx-", 9,
    ),
    "flags in the file": (
        small("gemma4", attention__sliding_window=9,
              attention__sliding_window_pattern=flags("xx-xx-x-----")),
        "xx-xx-x-----", 9,
    ),
    "flags before the architecture's own": (
        small("gemma3", attention__sliding_window=9,
              attention__sliding_window_pattern=flags("-----------x")),
        "-----------x", 9,
    ),
    "chunks of 8192, whatever the file says": (
        small("llama4", attention__sliding_window=1), "xxx-xxx-xxx-", 8192
    ),
    "chunks of 8192 without a key": (small("llama4"), "xxx-xxx-xxx-", 8192),
    "chunks turned off": (small("llama4", attention__sliding_window=0), "-" * 12, 0),
    "ignored by llama.cpp": (small("phi3", attention__sliding_window=2047), "-" * 12, 0),
    "a key of an architecture without": (
        small("qwen2", attention__sliding_window=4096), "-" * 12, 0
    ),
    "all that attend": (
        small("lfm2", 3, uints(0, 4, 4), attention__sliding_window=9, shortconv__l_cache=3),
        "-xx", 9,
    ),
    "the small EXAONE 4": (small("exaone4", attention__sliding_window=9), "-" * 12, 0),
    "the large EXAONE 4": (small("exaone4", 64), "xxx-" * 16, 4096),
}  # fmt: skip


@pytest.mark.parametrize("case", WINDOWS)
def test_layers_with_a_window(case: str) -> None:
    facts, expected, n_swa = WINDOWS[case]
    found = [layer.n_swa if layer.n_embd_k else 0 for layer in facts.layers]
    assert found == [n_swa * (letter == "x") for letter in expected]


def test_a_window_that_makes_no_sense_is_named() -> None:
    with pytest.raises(UnsupportedGgufError, match=r"gemma3\.attention\.sliding_window"):
        small("gemma3", attention__sliding_window=-1)


def test_a_negative_number_of_heads_is_named() -> None:
    with pytest.raises(UnsupportedGgufError, match="head_count_kv`: expected integers >= 0"):
        small("lfm2", 3, np.array([4, -4, 4], np.int32))


# ---- layers that keep something else -----------------------------------------------------------


def test_mla_keeps_the_latent_keys_alone() -> None:
    """DeepSeek-V3: 512 + 64 numbers a position and layer, values are a part of them."""
    keys = sizes(61, 7168, 128, 1, 576) | {
        "attention.value_length": 512, "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
    }  # fmt: skip
    facts = facts_of("deepseek2", keys, dense(61, 7168, 64, 512))
    assert need(facts, 4096).kv_bytes == 61 * 4096 * 576 * 2
    # a file from before keeps keys and values of every head
    keys |= {"attention.head_count_kv": 128, "attention.key_length": 192,
             "attention.value_length": 128}  # fmt: skip
    before = {key: value for key, value in keys.items() if not key.endswith("_mla")}
    facts = facts_of("deepseek2", before, dense(61, 7168, 64, 512))
    assert need(facts, 4096).kv_bytes == 61 * 4096 * 128 * (192 + 128) * 2


def test_an_indexer_keeps_keys_of_its_own() -> None:
    mla = {"attention__key_length_mla": 24, "attention__value_length_mla": 16}
    facts = small("deepseek32", 3, 1, attention__indexer__key_length=16, **mla)
    assert need(facts, 1024).kv_bytes == 3 * 1024 * (32 + 16) * 2


QWEN36_STATE = 3 * (4096 + 2 * 16 * 128) + 128 * 4096  # convolution, and 32 matrices of 128 x 128
QWEN36 = {
    "ssm__conv_kernel": 4, "ssm__state_size": 128, "ssm__group_count": 16,
    "ssm__inner_size": 4096,
}  # fmt: skip
MAMBA2 = {
    "ssm__conv_kernel": 4,
    "ssm__inner_size": 64,
    "ssm__state_size": 16,
    "ssm__group_count": 2,
}
MAMBA2_STATE = 3 * (64 + 2 * 2 * 16) + 16 * 64
RECURRENT = {
    "every 4th attends": (small("qwen35moe", 8, **QWEN36), "rrrarrra", QWEN36_STATE),
    "an interval in the file": (
        small("qwen3next", 6, full_attention_interval=3, **QWEN36), "rrarra", QWEN36_STATE
    ),
    "flags in the file": (
        small("qwen35", 4, attention__recurrent_layers=flags("-xx-"), **QWEN36),
        "arra", QWEN36_STATE,
    ),
    "every 8th of MiniMax-01": (small("minimax-01", 8), "rrrrrrra", 32 * 32 * 8),
    "no key heads": (small("jamba", 3, uints(0, 4, 0), **MAMBA2), "rar", MAMBA2_STATE),
    "one of three": (
        small("nemotron_h", 4, uints(0, 0, 4, 0), feed_forward_length=uints(0, 9, 0, 0), **MAMBA2),
        "r-ar", MAMBA2_STATE,
    ),
    "both": (small("falcon-h1", 2, **MAMBA2), "bb", MAMBA2_STATE),
    "no attention": (small("mamba2", 2, 0, **MAMBA2), "rr", MAMBA2_STATE),
    "RWKV": (small("rwkv7", 2, 0, wkv__head_size=64), "rr", 256 * (2 + 64)),
    "short convolutions": (small("lfm2", 2, uints(0, 4), shortconv__l_cache=3), "ra", 2 * 256),
    "KDA": (
        small("kimi-linear", 2, uints(0, 4), kda__head_dim=32, ssm__conv_kernel=4),
        "ra", 3 * 3 * 8 * 32 + 32 * 32 * 8,
    ),
    "skipped attention": (small("deci", 3, uints(4, 0, 4)), "a-a", 0),
}  # fmt: skip


@pytest.mark.parametrize("case", RECURRENT)
def test_recurrent_layers_keep_a_state_however_long_the_context(case: str) -> None:
    facts, kinds, n_state = RECURRENT[case]
    kv_bytes = 4096 * 2 * 4 * 32 * 2
    expected = [kv_bytes * (kind in "ab") + 4 * n_state * (kind in "rb") for kind in kinds]
    assert list(need(facts, 4096).layer_kv_bytes) == expected


def test_layers_that_predict_further_tokens_keep_nothing() -> None:
    facts = small("glm4moe", 5, nextn_predict_layers=2)
    assert [layer.n_embd_k > 0 for layer in facts.layers] == [True] * 3 + [False] * 2
    facts = small("qwen35", 5, nextn_predict_layers=1, **QWEN36)
    assert facts.layers[4] == LayerFacts(0, 0, 0)


@pytest.mark.parametrize(
    ("facts", "n_cached"),
    [
        (small("gemma3n", 30, attention__sliding_window=512), 20),
        (small("gemma3n", 35, attention__sliding_window=512, attention__shared_kv_layers=15), 20),
        (small("gemma4", 12, attention__shared_kv_layers=4), 8),
    ],
    ids=["gemma3n", "gemma3n with a key", "gemma4"],
)
def test_layers_that_use_the_cache_of_others(facts: FileFacts, n_cached: int) -> None:
    assert [layer.n_embd_k > 0 for layer in facts.layers].count(True) == n_cached
    assert all(layer.n_embd_k == 0 for layer in facts.layers[n_cached:])
    assert all(layer.n_head == 8 for layer in facts.layers)  # they do attend


def test_an_encoder_keeps_nothing() -> None:
    assert need(small("nomic-bert")).kv_bytes == 0


def test_heads_of_window_layers_may_differ() -> None:
    facts = small(
        "gemma4", 2, uints(4, 2), attention__sliding_window=1024,
        attention__sliding_window_pattern=flags("x-"), attention__key_length_swa=16,
        attention__value_length_swa=8,
    )  # fmt: skip
    found = need(facts, 4096).layer_kv_bytes
    assert found == (1536 * 4 * (16 + 8) * 2, 4096 * 2 * (32 + 32) * 2)
    # values that lie transposed are all as wide as the widest
    found = need(facts, 4096, flash_attn="off").layer_kv_bytes
    assert found == (1536 * (4 * 16 + 2 * 32) * 2, 4096 * 2 * (32 + 32) * 2)


def test_where_flash_attention_cannot_be_it_is_off() -> None:
    facts = small("llama")
    grok = replace(facts, architecture="grok")
    assert need(facts).scratch_bytes < need(facts, flash_attn="off").scratch_bytes
    assert need(grok) == need(grok, flash_attn="off") == need(facts, flash_attn="off")


# ---- what holds of all -------------------------------------------------------------------------

HPARAMS = [*vars(HyperParameters).values(), *vars(CacheHyperParameters).values()]
KEYS = sorted(key.name for key in HPARAMS if isinstance(key, WholeNumber))
VALUES = st.one_of(
    st.integers(-2, 2**32),
    st.floats(),
    st.text(max_size=2),
    st.booleans(),
    st.lists(st.integers(-2, 9), min_size=1, max_size=8).map(lambda n: np.array(n, np.int32)),
    st.lists(st.booleans(), min_size=1, max_size=8).map(np.array),
    st.lists(st.text(max_size=2), min_size=1, max_size=2),
)
ARCHITECTURES = ("llama", "gemma3", "gemma3n", "llama4", "qwen35", "nemotron_h", "falcon-h1",
                 "mamba", "lfm2", "minimax-01", "nomic-bert", "")  # fmt: skip


@given(st.sampled_from(ARCHITECTURES), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
def test_whatever_a_file_says_it_is_judged_or_refused(name: str, keys: dict[str, Any]) -> None:
    try:
        facts = facts_of(name, sizes(4, 256, 8, 4, 32) | keys, dense(4, 256, 512, 512))
    except UnsupportedGgufError:
        return
    assert len(facts.layers) == facts.shape.n_layer
    assert min(need(facts).layer_kv_bytes) >= 0
    assert need(facts, flash_attn="off").scratch_bytes > 0


COUNTS = st.integers(0, 64)
LAYERS = st.lists(
    st.builds(LayerFacts, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS), min_size=1
)


@given(
    layers=LAYERS,
    n_ctx=st.integers(1, 2**20),
    more=st.integers(0, 2**16),
    kv_type=st.sampled_from(["f16", "q8_0", "f32"]),
    flash_attn=st.sampled_from(["on", "off"]),
)
def test_more_context_never_takes_less_and_a_window_never_more(
    layers: list[LayerFacts], n_ctx: int, more: int, kv_type: str, flash_attn: Any
) -> None:
    facts = replace(MODELS["llama"], layers=tuple(layers))
    full = replace(facts, layers=tuple(replace(layer, n_swa=0) for layer in layers))
    wish = {"kv_type": kv_type, "flash_attn": flash_attn}
    found, longer = need(facts, n_ctx, **wish), need(facts, n_ctx + more, **wish)
    assert found.kv_bytes == sum(found.layer_kv_bytes)
    assert found.kv_bytes <= min(longer.kv_bytes, need(full, n_ctx, **wish).kv_bytes)
    assert found.scratch_bytes <= longer.scratch_bytes
