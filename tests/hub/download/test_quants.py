"""Which quant and which role a name tells, and which file a wanted quant means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.gguf.raw_parts import RawPart, missing_pieces, parse_raw_part
from gguf_hub.hub.download.names import is_model, piece_of, role_of_name, set_key
from gguf_hub.hub.download.quants import looks_like_quant, nearest, quant_distance, quant_of

MISTRAL = "mistralai_Mistral-Small-3.2-24B-Instruct-2506"
KIMI = "Kimi-K2-Thinking"

# Names as they are published in autumn 2026. In doubt: a trait of the model stands before the
# quant and what the file is itself first or last, so that `X-MTP-Q8_0` is a model with a head and
# `X-Q8_0-MTP` the head; a draft model runs by itself, so it is a model; of `Q8_0.f16` the float is
# the type of a few tensors; `lora` last, or before a type that LoRA files are written in, names an
# adapter, and anywhere else how a model was made.
NAMES: list[tuple[str, str, str | None]] = [
    ("Qwen3-Coder-Next-UD-Q4_K_XL.gguf", "model", "UD-Q4_K_XL"),
    ("UD-Q4_K_XL/Qwen3.5-397B-A17B-UD-Q4_K_XL-00001-of-00006.gguf", "model", "UD-Q4_K_XL"),
    ("BF16/Qwen3.5-397B-A17B-BF16-00001-of-00017.gguf", "model", "BF16"),
    ("MXFP4_MOE/Qwen3.5-397B-A17B-MXFP4_MOE-00001-of-00006.gguf", "model", "MXFP4_MOE"),
    (f"{MISTRAL}-Q4_K_L.gguf", "model", "Q4_K_L"),
    (f"{MISTRAL}-IQ3_XXS.gguf", "model", "IQ3_XXS"),
    (f"{MISTRAL}-bf16/{MISTRAL}-bf16-00001-of-00002.gguf", "model", "bf16"),
    (f"{MISTRAL}-imatrix.gguf", "imatrix", None),
    (f"mmproj-{MISTRAL}-f16.gguf", "projector", "f16"),
    ("Qwen3.6-27B.i1-IQ2_M.gguf", "model", "i1-IQ2_M"),
    ("Qwen3.6-27B.imatrix.gguf", "imatrix", None),
    ("Qwen3.6-27B.mmproj-Q8_0.gguf", "projector", "Q8_0"),
    ("Qwen3.6-27B.i1-Q6_K.gguf.part1of2", "model", "i1-Q6_K"),
    ("llama-2-70b.Q6_K.gguf-split-a", "model", "Q6_K"),
    ("gpt-oss-20b-mxfp4.gguf", "model", "mxfp4"),
    ("gpt-oss-20b-MXFP4.gguf", "model", "MXFP4"),
    ("gpt-oss-120b-mxfp4-00001-of-00003.gguf", "model", "mxfp4"),
    ("mmproj-model-f16.gguf", "projector", "f16"),
    ("mmproj-model-f16-27B.gguf", "projector", "f16"),
    ("mmproj/model-F16.gguf", "projector", "F16"),
    ("gemma-3-4b-it-q4_0.gguf", "model", "q4_0"),
    ("gemma-4-E2B_q4_0-it.gguf", "model", "q4_0"),
    ("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "model", "q4_k_m"),
    ("qwen2.5-7b-instruct-fp16-00001-of-00004.gguf", "model", "fp16"),
    ("Phi-3-mini-4k-instruct-q4.gguf", "model", "q4"),
    ("Phi-3-mini-4k-instruct-fp16.gguf", "model", "fp16"),
    ("Ornith-1.5-9B-MTP-IQ2_M.gguf", "model", "IQ2_M"),
    ("Ornith-1.5-9B-MTP.gguf", "model", None),
    ("Qwen3.6-27B-MTP-Q8_0.gguf", "model", "Q8_0"),
    ("ornith-9b-mtp-kl-Q4_K_M.gguf", "model", "Q4_K_M"),
    ("mtp-ornith-9b-mtp-kl-Q8_0.gguf", "draft", "Q8_0"),
    ("MTP/gemma-4-E2B-it-Q8_0-MTP.gguf", "draft", "Q8_0"),
    ("MTP/gemma-4-E2B-it-Q8_0.gguf", "draft", "Q8_0"),
    ("gemma-4-E2B-it-Q8_0-MTP.gguf", "draft", "Q8_0"),
    ("mtp-gemma-4-12B-it.gguf", "draft", None),
    ("dflash-Muse-Glimmer-30B-Q4_K_M.gguf", "draft", "Q4_K_M"),
    ("Qwen3-8B-eagle3-Q4_K_M.gguf", "draft", "Q4_K_M"),
    ("eagle3-llama3.gguf", "draft", None),
    ("Qwen3-8B-Instruct-draft-Q4_K_M.gguf", "model", "Q4_K_M"),
    ("draft/Qwen3-0.6B-Q4_K_M.gguf", "draft", "Q4_K_M"),
    ("Muse-Glimmer-30B-KQuant-Dynamic-Q4_K_XL.gguf", "model", "Q4_K_XL"),
    ("Muse-Glimmer-30B-KQuant-17GB-Q4_K_M.gguf", "model", "Q4_K_M"),
    ("Muse-Glimmer-30B-KQuant-17GB.gguf", "model", None),
    ("Step-3.7-Flash-APEX-I-Compact.gguf", "model", "APEX-I-Compact"),
    ("Step-3.7-Flash-APEX-Compact.gguf", "model", "APEX-Compact"),
    (f"{KIMI}-smol-IQ2_KS-00001-of-00007.gguf", "model", "smol-IQ2_KS"),
    (f"smol-IQ2_KS/{KIMI}-smol-IQ2_KS-00001-of-00007.gguf", "model", "smol-IQ2_KS"),
    ("Kimi-K2-IQ4_KSS.gguf", "model", "IQ4_KSS"),
    ("DeepSeek-R1-IQ1_S_R4.gguf", "model", "IQ1_S_R4"),
    ("Q4_K_M/model.gguf", "model", "Q4_K_M"),
    ("Q4_K_M/model-00001-of-00003.gguf", "model", "Q4_K_M"),
    ("/srv/Q8_0/models/model.gguf", "model", None),
    ("Gemma4_26B.BF16-00001-of-00002.gguf", "model", "BF16"),
    ("Gemma4_26B.BF16-mmproj.gguf", "projector", "BF16"),
    ("model-iMat-Q4_K_S.gguf", "model", "Q4_K_S"),
    ("command-r-plus-104b-iq4_xs.gguf", "model", "iq4_xs"),
    ("Meta-Llama-3-8B-Instruct-imatrix-Q4_K_M.gguf", "model", "Q4_K_M"),
    ("deepseek-coder-6.7b.Q4_K_M-imat.gguf", "model", "Q4_K_M"),
    ("Meta-Llama-3-70B-Instruct-Q8_0.f16.gguf", "model", "Q8_0"),
    ("model.f16.q6_k.gguf", "model", "q6_k"),
    ("model.q5_k_m.gguf", "model", "q5_k_m"),
    ("model-Q4_K_M_imat.gguf", "model", "Q4_K_M"),
    ("ggml-model-f16.gguf", "model", "f16"),
    ("ggml-model-Q4_K_M.gguf", "model", "Q4_K_M"),
    ("Llama-3.2-1B-Instruct-Q4_0_4_8.gguf", "model", "Q4_0_4_8"),
    ("Llama-3.3-70B-Instruct-Q4_K_M-pure.gguf", "model", "Q4_K_M"),
    ("Qwen3-30B-A3B-Thinking-2507-IQ4_NL.gguf", "model", "IQ4_NL"),
    ("Mistral-Nemo-Instruct-2407-f32.gguf", "model", "f32"),
    ("L3.3-70B-Q4_K-f16.gguf", "model", "Q4_K"),
    ("Q8_K_XL.gguf", "model", "Q8_K_XL"),
    ("DeepSeek-V3.1-UD-TQ1_0.gguf", "model", "UD-TQ1_0"),
    ("x.TQ1_0.gguf", "model", "TQ1_0"),
    ("Qwen3-8B-NVFP4.gguf", "model", "NVFP4"),
    ("Qwen3-8B-FP8.gguf", "model", "FP8"),
    ("Mistral-7B-v0.3.fp16.gguf", "model", "fp16"),
    ("model-fp32.gguf", "model", "fp32"),
    ("BitNet-b1.58-2B-4T/ggml-model-i2_s.gguf", "model", "i2_s"),
    ("phi-4-Q4.gguf", "model", "Q4"),
    ("Llama-3_3-Nemotron-Super-49B-v1_5-Q4_K_M.gguf", "model", "Q4_K_M"),
    ("Q2_K/Q2_K-00001-of-00029.gguf", "model", "Q2_K"),
    ("llama-3-8b.Q4_K_M.GGUF", "model", "Q4_K_M"),
    ("Nous-Hermes-2-Mixtral-8x7B-DPO.Q4_K_M.gguf", "model", "Q4_K_M"),
    ("all-MiniLM-L6-v2-ggml-model-f16.gguf", "model", "f16"),
    ("nomic-embed-text-v1.5.Q8_0.gguf", "model", "Q8_0"),
    ("Qwen3-Embedding-0.6B-f16.gguf", "model", "f16"),
    ("LFM2-1.2B-Q4_0.gguf", "model", "Q4_0"),
    ("gemma-3n-E4B-it-Q4_K_M.gguf", "model", "Q4_K_M"),
    ("Q4_K_M-GGUF-model.gguf", "model", "Q4_K_M"),
    ("my-lora-F16.gguf", "adapter", "F16"),
    ("X-v1.0-F16-LoRA.gguf", "adapter", "F16"),
    ("ggml-adapter-model-f16.gguf", "adapter", "f16"),
    ("alpaca-lora-7B.Q4_0.gguf", "model", "Q4_0"),
    ("X-lora-Q4_K_M.gguf", "model", "Q4_K_M"),
    ("llama-3.2-16.gguf", "model", None),
    ("Hermes-4-14B-2025-08-16.gguf", "model", None),
    ("UQ4_K_M.gguf", "model", None),
    ("imatrix_unsloth.gguf", "imatrix", None),
    ("imatrix_unsloth.gguf_file", "imatrix", None),
    ("imatrix.dat", "imatrix", None),
    (f"imatrix-{KIMI}-Q8_0.dat", "imatrix", None),
    ("ggml-vocab-llama-spm.gguf", "vocab", None),
    ("Qwen3-VL-8B-Instruct-abliterated-v2.0.Q4_K_M.gguf", "model", "Q4_K_M"),
    ("Qwen3.5-27B-PRISM-PRO-DQ-Q4.gguf", "model", "DQ-Q4"),
    ("prompts.gguf", "model", None),
]


@pytest.mark.parametrize(("path", "role", "quant"), NAMES, ids=[row[0][-60:] for row in NAMES])
def test_role_and_quant_are_read_from_the_name(path: str, role: str, quant: str | None) -> None:
    assert role_of_name(path).value == role
    if not path.endswith(".dat"):
        assert quant_of(path) == quant


def test_only_what_says_that_it_is_a_gguf_is_a_model() -> None:
    assert not any(map(is_model, ["README.md", "model.bin", "a.gguf.bak", "a.gguf_file"]))
    assert is_model("a.gguf.part1of2")


@pytest.mark.parametrize(
    ("path", "quant", "distance"),
    [
        ("m.Q4_K_M.gguf", "q4_k_m", 0),
        ("m.Q4_K_M.gguf", "Q4_K", None),
        ("m.IQ4_K_M.gguf", "Q4_K_M", None),
        ("m.Q4_K_M.gguf", "K_M", None),
        ("m.Q4_0.gguf", "0", None),
        ("m_Q4_0.gguf", "Q4_0", 0),
        ("m-UD-Q4_K_XL.gguf", "Q4_K_XL", 1),
        ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL", 0),
        ("m-Q4_K_XL.gguf", "UD-Q4_K_XL", None),
        ("m-smol-IQ2_KS.gguf", "IQ2_KS", 1),
        ("m.i1-Q4_K_M.gguf", "Q4_K_M", 1),
        ("m-APEX-I-Compact.gguf", "I-Compact", 1),
        ("m-APEX-I-Compact.gguf", "compact", 2),
        ("m-APEX-Compact.gguf", "compact", 1),
        ("Q8_0/m-00001-of-00002.gguf", "Q8_0", 0),
        ("m.Q4_0_4_4.gguf", "Q4_0", None),
        ("m-fp16.gguf", "F16", 0),
        ("m-bf16.gguf", "F16", None),
        ("m-MXFP4_MOE.gguf", "MXFP4", None),
        ("m-instruct.gguf", "instruct", 9),
        ("m-17GB-Q4_0.gguf", "17gb", 9),
        ("m.Q4.0.gguf", "Q4_0", None),
        ("m.(x).gguf", "(x)", 9),
    ],
)
def test_exact_comes_before_near(path: str, quant: str, distance: int | None) -> None:
    assert quant_distance(path, quant) == distance


def test_near_files_count_only_where_none_is_exact() -> None:
    paths = ["m-UD-Q4_0.gguf", "m-i1-Q4_0.gguf", "m-Q4_0.gguf", "m-Q8_0.gguf"]
    assert nearest(paths, "Q4_0", str) == ["m-Q4_0.gguf"]
    assert nearest(paths[:2], "Q4_0", str) == paths[:2]
    assert nearest(paths[3:], "Q4_0", str) == []


def test_words_that_look_like_quants() -> None:
    yes = ("Q4_K_M", "q8_0", "F16", "iq3_xs", "BF16", "UD-Q4_K_XL", "fp32", "i1-Q4_0")
    assert [word for word in yes if not looks_like_quant(word)] == []
    assert [w for w in ("model", "Q", "Q4-K", "x.gguf", "", "16") if looks_like_quant(w)] == []


# -- raw parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "index", "count", "following"),
    [
        ("a/X.gguf.part1of2", 1, 2, "a/X.gguf.part2of2"),
        ("X.gguf-split-a", 1, None, "X.gguf-split-b"),
        ("X.gguf.part-az", 26, None, "X.gguf.part-ba"),
        ("X.gguf.partaa", 1, None, "X.gguf.partab"),
        ("X.gguf.part09", 9, None, "X.gguf.part10"),
        ("X.gguf.00001", 1, None, "X.gguf.00002"),
    ],
)
def test_raw_parts_know_their_place(
    path: str, index: int, count: int | None, following: str
) -> None:
    part = parse_raw_part(path)
    assert part is not None
    assert (part.whole.rpartition("/")[2], part.index, part.count) == ("X.gguf", index, count)
    assert part.name(index) == path
    assert part.name(index + 1) == following
    assert set_key(path) == set_key(following)


@pytest.mark.parametrize(
    "path", ["X.gguf", "X.gguf.part", "X.gguf.ab12ab12ab12ab12.part", "X.gguf.part.journal",
             "X.gguf.bak", "X.gguf.metadata", "X.bin.part1of2", "X.gguf.1", "X.gguf.incomplete"],
)  # fmt: skip
def test_other_files_are_no_raw_parts(path: str) -> None:
    assert parse_raw_part(path) is None


@given(st.data())
def test_what_a_set_lacks_is_named(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 30))
    style = data.draw(st.sampled_from(["X.gguf.part{i}of{n}", "m-{i:05d}-of-{n:05d}.gguf"]))
    names = [style.format(i=i, n=count) for i in range(1, count + 1)]
    # the first is there: of part10 alone nobody can tell how part 1 is written
    absent = data.draw(st.sets(st.sampled_from(names[1:]), max_size=count - 1))
    pieces = [piece_of(name) for name in names if name not in absent]
    assert missing_pieces([p for p in pieces if p]) == [name for name in names if name in absent]


def test_without_a_count_gaps_are_named() -> None:
    parts = [parse_raw_part(f"X.gguf-split-{letter}") for letter in "bd"]
    assert missing_pieces([part for part in parts if part]) == ["X.gguf-split-a", "X.gguf-split-c"]
    assert isinstance(parts[0], RawPart)
    assert missing_pieces([p for p in map(parse_raw_part, ["X.gguf.00", "X.gguf.01"]) if p]) == []
