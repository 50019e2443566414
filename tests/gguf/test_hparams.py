"""Hyper-parameters: strict values, what a file states, numbers for each layer, one vocabulary."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gguf_hub
from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.format import AnyTensor, Field, TensorInfo
from gguf_hub.gguf.header import read_header
from gguf_hub.gguf.hparams import (
    HPARAMS,
    CacheHyperParameters,
    HyperParameter,
    HyperParameters,
    Number,
    WholeNumber,
    Word,
)
from gguf_hub.gguf.layout import read_table
from gguf_hub.gguf.reader import GgufFile, map_file
from gguf_hub.gguf.summary import summarize
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub.survey.headers import facts_of_file
from gguf_hub.run.model.weights import read_model
from tests.gguf.test_properties import fields
from tests.synth import TINY, metadata, vocabulary, write_mixtral

H = HyperParameters
PACKAGE = Path(gguf_hub.__file__).parent
DENSE = {"general.architecture": "llama", "llama.embedding_length": 64, "llama.block_count": 3,
         "llama.attention.head_count": 4}  # fmt: skip
ATTRIBUTES = {name: key for name, key in vars(H).items() if isinstance(key, HyperParameter)}
WRONG: dict[type, list[Any]] = {
    WholeNumber: ["7", True, 1.5, -1, math.nan, 2**32, [1], np.array([7, 7])],
    Number: ["7", True, math.nan, math.inf, np.array([1.0])],
    Word: [7, True, "squirrel", np.array([], np.int32)],
}


def of(**values: Any) -> HyperParameters:
    return H(DENSE | {f"llama.{ATTRIBUTES[name].name}": value for name, value in values.items()})


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, key in ATTRIBUTES.items() for value in WRONG[type(key)]],
)
def test_a_value_of_another_type_or_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedGgufError) as caught:
        getattr(of(**{name: value}), name)
    assert caught.value.message.startswith(f"metadata `llama.{ATTRIBUTES[name].name}`: expected ")
    assert ", found " in caught.value.message


@pytest.mark.parametrize("name", [n for n, key in ATTRIBUTES.items() if not isinstance(key, Word)])
def test_the_bounds_are_part_of_the_range_or_not(name: str) -> None:
    key = ATTRIBUTES[name]
    if isinstance(key, WholeNumber):
        right, wrong = [key.least, key.most], [key.least - 1, key.most + 1]
    else:
        least, above = key.least, key.above
        right = [max(least, math.nextafter(above, math.inf)), 1e6] if above > -math.inf else [1e6]
        wrong = [above] if above > -math.inf else [least - 1]
    for value in right:
        assert getattr(of(**{name: value}), name) == value
    for value in wrong:
        with pytest.raises(UnsupportedGgufError, match="expected"):
            getattr(of(**{name: value}), name)


NEEDED = H({"general.architecture": "llama"}).missing


@pytest.mark.parametrize("key", NEEDED, ids=lambda key: key.name)
def test_a_key_that_must_be_there(key: HyperParameter[Any]) -> None:
    hparams = H({"general.architecture": "llama"})
    with pytest.raises(UnsupportedGgufError, match=f"metadata has no `llama.{key.name}`"):
        hparams.get(key)
    assert hparams.stated(key) is None
    assert (hparams.get(key, 5), hparams.has(key)) == (5, False)
    assert key in hparams.missing


def test_a_mixture_without_dense_layers_needs_no_width_of_them() -> None:
    own = {key.name for key in NEEDED}
    assert {"embedding_length", "block_count", "feed_forward_length"} <= own
    hparams = H({"general.architecture": "llama", "llama.expert_feed_forward_length": 512})
    assert hparams.n_ff == 512
    assert own - {key.name for key in hparams.missing} == {"feed_forward_length"}


@given(fields(), st.sampled_from(sorted(ATTRIBUTES)), st.booleans())
def test_whatever_a_file_holds_lenient_readers_get_a_value_or_none(
    field: Field, name: str, is_estimate: bool
) -> None:
    key = ATTRIBUTES[name]
    hparams = H(
        {"general.architecture": Field.of("llama"), f"llama.{key.name}": field},
        is_estimate=is_estimate,
    )
    stated = hparams.stated(key)
    assert stated is None or type(stated) in (int, float, str)
    assert hparams.n_vocab >= 0
    if isinstance(key, WholeNumber):
        assert [type(n) for n in hparams.per_layer(key, 3)] == [int] * 3
    try:
        strict = hparams.get(key)
    except UnsupportedGgufError as error:
        assert f"`llama.{key.name}`" in error.message
    else:
        assert strict == stated


def test_what_is_stated_may_be_out_of_range() -> None:
    assert (of(n_layer=0).stated(H.n_layer), of(rms_epsilon=-1.0).stated(H.rms_epsilon)) == (0, -1)
    assert of(n_layer=math.nan).stated(H.n_layer) is None


def test_defaults_follow_from_other_keys() -> None:
    hparams = of(n_ff=96, n_ctx_train=128, rope_scale_linear=2.0)
    assert (hparams.n_head_kv, hparams.head_dim, hparams.n_embd_head_v, hparams.n_rot) == (
        4, 16, 16, 16,
    )  # fmt: skip
    assert (hparams.n_ff_exp, hparams.n_ctx_orig, hparams.rope_factor) == (96, 128, 2.0)
    with pytest.raises(UnsupportedGgufError, match=r"key_length`: expected an integer >= 1"):
        _ = of(n_head=65).head_dim


def test_another_architecture_has_keys_of_its_own() -> None:
    hparams = H({"general.architecture": "gpt-oss", "gpt-oss.block_count": 24})
    assert (hparams.architecture, hparams.n_layer) == ("gpt-oss", 24)
    assert hparams.key(H.n_head) == "gpt-oss.attention.head_count"
    for value in (7, ["llama"], np.array([1, 2])):
        assert H({"general.architecture": value, "llama.block_count": 24}).architecture == ""


# -- numbers for each layer -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["n_head", "n_head_kv", "n_ff"])
@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_an_array_has_a_number_for_each_layer(name: str, dtype: Any) -> None:
    key = ATTRIBUTES[name]
    assert any(kind.startswith("array") for kind in key.types)
    values = of(**{name: np.array([4, 8, 2], dtype)})
    assert values.per_layer(key, 3) == [4, 8, 2]
    assert (values.per_layer(key, 2), values.per_layer(key, 5)) == ([4, 8], [4, 8, 2, 0, 0])
    assert values.stated(key) == 8
    with pytest.raises(
        UnsupportedGgufError, match="one number for all layers, found an array of 3"
    ):
        values.get(key)


def test_one_number_stands_for_all_layers() -> None:
    assert of(n_ff=96).per_layer(H.n_ff, 3) == [96] * 3
    assert of().per_layer(H.n_ff, 2, 7) == [7, 7]


def test_estimates_take_the_largest() -> None:
    hparams = H(
        DENSE | {"llama.attention.head_count": np.array([2, 8], np.uint32)}, is_estimate=True
    )
    assert (hparams.n_head, hparams.n_head_kv, hparams.head_dim) == (8, 8, 8)


# -- the vocabulary -------------------------------------------------------------------------------


def embeddings(n_rows: int) -> dict[str, AnyTensor]:
    name = "token_embd.weight"
    return {name: TensorInfo(name, (64, n_rows), QuantType.F32, 0, 256 * n_rows)}


@pytest.mark.parametrize(
    ("tokens", "stated", "n_rows", "expected"),
    [
        (["a"] * 5, 7, 9, 5),
        (["a"] * 5, "many", 0, 5),
        ([], 7, 9, 7),
        (None, 7, 9, 7),
        (None, 0, 9, 0),
        (None, None, 9, 9),
        (None, "many", 9, 9),
        ("abc", None, 9, 9),
        (None, None, 0, 0),
    ],
)
def test_tokens_are_those_of_the_vocabulary_or_the_key_or_the_rows(
    tokens: Any, stated: Any, n_rows: int, expected: int
) -> None:
    values = {"tokenizer.ggml.tokens": tokens, "llama.vocab_size": stated}
    found = DENSE | {key: value for key, value in values.items() if value is not None}
    tensors = embeddings(n_rows) if n_rows else {}
    assert H(found, tensors).n_vocab == expected
    if tokens != []:  # of which nobody can tell the type
        written = {key: Field.of(value) for key, value in found.items()}
        assert H(written, tensors).n_vocab == expected


@pytest.mark.parametrize("n_tokens", [None, 263, TINY.n_vocab])
@pytest.mark.parametrize("stated", [None, 281])
def test_all_who_count_tokens_agree(
    n_tokens: int | None, stated: int | None, tmp_path: Path
) -> None:
    whole = GgufFile.open(write_mixtral(tmp_path / "whole.gguf", TINY))
    values = {k: v for k, v in whole.fields.items() if not k.startswith("tokenizer.")}
    if n_tokens is not None:
        tokens, scores, types = vocabulary(n_tokens)
        lists = {"tokens": tokens, "scores": scores, "token_type": types}
        values |= {f"tokenizer.ggml.{name}": Field.of(found) for name, found in lists.items()}
        values["tokenizer.ggml.model"] = Field.of("llama")
    if stated is not None:
        values["llama.vocab_size"] = replace(values["llama.block_count"], value=stated)
    path = tmp_path / "m.gguf"
    write_gguf(path, values, [(info, whole.tensor_bytes(n)) for n, info in whole.tensors.items()])
    expected = n_tokens or stated or TINY.n_vocab
    header = read_header(map_file(path))
    with GgufFile.open(path) as file:
        assert file.hparams.n_vocab == expected
        assert read_model(file)[0].n_vocab == expected
    assert summarize(header, read_table(header)).n_vocab == expected
    assert facts_of_file(path).shape.n_vocab == expected


# -- one place ------------------------------------------------------------------------------------

SPELLERS = {
    "api/server/ollama/description.py": "`context_length` is a field of Ollama's /api/ps, too",
    "gguf/hparams.py": "the keys themselves",
    "gguf/ollama/dialects.py": "Ollama's `rope.local.freq_base` is no key of llama.cpp's",
    "gguf/issues.py": "the meaning of a check's code, for people",
}
WRITER = "run/convert/"
"""It writes the keys, from those of config.json, some of which have the same names."""
WORDS = {"pooling_type"}  # arguments of llama-cpp-python, too


@pytest.mark.slow
def test_no_other_file_spells_a_key() -> None:
    cache_keys = (k.name for k in vars(CacheHyperParameters).values() if isinstance(k, WholeNumber))
    names = {*HPARAMS, *cache_keys}
    bare = {name.removeprefix("rope.").removeprefix("attention.") for name in names} - WORDS
    pattern = re.compile(rf"(?<![a-z_])({'|'.join(map(re.escape, sorted(bare)))})(?![a-z_])")
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        words = sorted({word for text in texts(path) for word in pattern.findall(text)})
        if words:
            found[path.relative_to(PACKAGE).as_posix()] = words
    readers = {path: words for path, words in found.items() if not path.startswith(WRITER)}
    assert {path: words for path, words in readers.items() if path not in SPELLERS} == {}
    assert set(readers) == set(SPELLERS)


def texts(path: Path) -> Iterator[str]:
    """Yield the texts of a module that are no docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


def test_the_keys_of_our_own_models_are_all_known() -> None:
    keys = {key.removeprefix("llama.") for key in metadata(TINY) if key.startswith("llama.")}
    assert keys <= set(HPARAMS)
