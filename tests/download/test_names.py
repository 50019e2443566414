"""What names of files tell."""

from __future__ import annotations

import pytest

from gguf_hub.download.names import (
    Shard,
    check_safe,
    has_quant,
    is_model,
    looks_like_quant,
    quant_of,
    shard_of,
)
from gguf_hub.errors import HubError


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("mixtral-8x7b-v0.1.Q4_K_M.gguf", "Q4_K_M"),
        ("mixtral-8x7b-v0.1.q2_k.gguf", "q2_k"),
        ("Qwen3-8B-Q8_0.gguf", "Q8_0"),
        ("model_q4_0.gguf", "q4_0"),
        ("a-IQ2_XXS.gguf", "IQ2_XXS"),
        ("a-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Q6_K/a-Q6_K-00001-of-00002.gguf", "Q6_K"),
        ("BF16/model.gguf", "BF16"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("stories.f16.gguf", "f16"),
        ("plain.gguf", None),
        ("UQ4_K_M.gguf", None),
    ],
)
def test_quant_is_read_from_the_name(path: str, quant: str | None) -> None:
    assert quant_of(path) == quant


@pytest.mark.parametrize(
    ("path", "quant", "is_match"),
    [
        ("m.Q4_K_M.gguf", "q4_k_m", True),
        ("m.Q4_K_M.gguf", "Q4_K", False),
        ("m.IQ4_K_M.gguf", "Q4_K_M", False),
        ("m.Q4_K_M.gguf", "K_M", False),
        ("m.Q4_0.gguf", "0", False),
        ("m_Q4_0.gguf", "Q4_0", True),
        ("m-UD-Q4_K_XL.gguf", "Q4_K_XL", True),
        ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL", True),
        ("Q8_0/m-00001-of-00002.gguf", "Q8_0", True),
        ("m.Q4_0_4_4.gguf", "Q4_0", False),
        ("m-instruct.gguf", "instruct", True),
        ("m.Q4.0.gguf", "Q4_0", False),
        ("m.(x).gguf", "(x)", True),
    ],
)
def test_a_quant_matches_exactly(path: str, quant: str, is_match: bool) -> None:
    assert has_quant(path, quant) is is_match


def test_shards_know_their_place() -> None:
    assert shard_of("a/m-00002-of-00005.gguf") == Shard("a/m", 2, 5)
    assert shard_of("m-2-of-5.gguf") is None
    assert shard_of("m.gguf") is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("m.Q8_0.gguf", True),
        ("mmproj-m-Q8_0.gguf", False),
        ("m-mmproj.gguf", False),
        ("m.imatrix.gguf", False),
        ("mtp-m.gguf", False),
        ("README.md", False),
        ("prompts.gguf", True),
    ],
)
def test_sidecars_are_no_models(path: str, expected: bool) -> None:
    assert is_model(path) is expected


def test_words_that_look_like_quants() -> None:
    assert [w for w in ("Q4_K_M", "q8_0", "F16", "iq3_xs", "BF16") if not looks_like_quant(w)] == []
    assert [w for w in ("model", "Q", "Q4-K", "x.gguf", "") if looks_like_quant(w)] == []


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/x", "C:/x", "a/c:x", "a\\b", "..", "", "a//b", "./a", "a\0b",
     "a\nb", "a\x9b2Jb", "a\udc80b", "NUL", "con.gguf", "a/Com1.tar.gz", "lpt9", "aux .txt",
     "a./b", "a/b ", ".. /x", "//server/share/x", "\\\\?\\C:\\x", "a/",
     ".git/config", ".cache/huggingface/download/x.metadata", ".GIT/hooks/x"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(HubError, match="refused"):
        check_safe(path, "org/evil")


@pytest.mark.parametrize(
    "path",
    [
        "console.gguf",
        "com10",
        "nullable/a.gguf",
        "a.con",
        "a.gguf",
        "a/b/c.gguf",
        "..a",
        "a..b",
        ".gitattributes",
        "ü ö.gguf",
        "a/.cache/x",
    ],
)
def test_ordinary_names_are_safe(path: str) -> None:
    check_safe(path, "org/good")
