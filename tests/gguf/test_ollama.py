"""Headers of Ollama's converter under llama.cpp's names; llama.cpp's own stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.inspection import inspect
from gguf_hub.gguf.ollama import as_llama_cpp
from gguf_hub.gguf.ollama.dialects import DIALECTS
from gguf_hub.gguf.reader import GgufFile, map_file
from gguf_hub.gguf.rewrite import Part, Rewrite, detached, range_of
from gguf_hub.gguf.validate import validate_file
from tests.arch_models import letters, write_arch_model
from tests.arch_recipes import RECIPES
from tests.gguf import raw
from tests.ollama_files import OLLAMA_FILES, write_both

GIVEN = {"GGUF-OLLAMA-NAMES", "GGUF-LEFT-OUT"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_of_llama_cpp_is_read_as_it_stands(name: str, tmp_path: Path) -> None:
    with GgufFile.open(write_arch_model(tmp_path / "model.gguf", name)) as file:
        shapes = {info.name: tuple(info.shape) for info in file.tensors.values()}
        assert as_llama_cpp(file.fields, shapes) is None
        assert not GIVEN & {issue.code for issue in file.header.issues}


def test_every_architecture_of_the_table_is_tried() -> None:
    tried = {row.arch or RECIPES[row.recipe].arch for row in OLLAMA_FILES.values()}
    assert DIALECTS.keys() - tried == {"qwen3moe"}  # as `qwen3vlmoe`


@pytest.mark.parametrize("name", OLLAMA_FILES)
def test_tensors_have_llama_cpps_names_and_the_file_runs(name: str, tmp_path: Path) -> None:
    plain, theirs = write_both(tmp_path, name, vocabulary=letters())
    others = OLLAMA_FILES[name].others
    with GgufFile.open(plain) as a, GgufFile.open(theirs) as b:
        assert [each for each in b.tensors if each not in others] == list(a.tensors)
        assert b.hparams.architecture == a.hparams.architecture
    report, seen = validate_file(theirs, "deep"), inspect(map_file(theirs), "ollama.gguf")
    assert {issue.code for issue in report.issues} - GIVEN == set()
    assert report.issues == seen.report.issues
    loads = {loader.name: loader.loads for loader in seen.compatibility.loaders}
    changed = {issue.code for issue in report.issues}
    assert loads == {"gguf-hub": True, "llama.cpp since October 2024": not changed,
                     "llama.cpp before": not changed}  # fmt: skip


@pytest.mark.parametrize("name", OLLAMA_FILES)
def test_a_key_that_nobody_knows_is_named(name: str, tmp_path: Path) -> None:
    row = OLLAMA_FILES[name]
    arch = row.arch or RECIPES[row.recipe].arch
    _, theirs = write_both(tmp_path, name, keys={f"{arch}.rope.squirrel": 1})
    seen = inspect(map_file(theirs), "ollama.gguf")
    reason = seen.compatibility.loaders[0].reason
    assert "unknown key" in reason and "rope.squirrel`" in reason


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("llama4", "use_qk_norm", False), ("llama4-maverick", "use_qk_norm", True),
     ("llama4", "attention.chunk_size", 4096), ("llama4", "attention.head_dim", 64),
     ("qwen3vlmoe", "norm_top_k_prob", False), ("qwen35moe", "norm_top_k_prob", False),
     ("qwen35", "ssm.v_head_reordered", False), ("qwen3next", "ssm.v_head_reordered", True),
     ("mistral3", "rope.scaling.mscale", 0.5), ("gemma3-1b", "rope.scaling.beta_fast", 64.0)],
)  # fmt: skip
def test_a_key_that_says_otherwise_is_named(
    name: str, key: str, value: Any, tmp_path: Path
) -> None:
    arch = RECIPES[OLLAMA_FILES[name].recipe].arch
    _, theirs = write_both(tmp_path, name, keys={f"{arch}.{key}": value})
    reason = inspect(map_file(theirs), "ollama.gguf").compatibility.loaders[0].reason
    assert f"unknown key `{arch}.{key}`" in reason


def test_tokens_for_images_behind_the_embeddings_are_left_out(tmp_path: Path) -> None:
    more = letters()
    more["tokenizer.ggml.tokens"] = [*more["tokenizer.ggml.tokens"], "<image>"]
    for name in ("scores", "token_type"):
        numbers = more[f"tokenizer.ggml.{name}"]
        more[f"tokenizer.ggml.{name}"] = np.append(numbers, numbers[-1])
    _, theirs = write_both(tmp_path, "gemma3-4b", vocabulary=more)
    with GgufFile.open(theirs) as file:
        for name in ("tokens", "scores", "token_type"):
            assert list(file.fields[f"tokenizer.ggml.{name}"].value) == list(
                letters()[f"tokenizer.ggml.{name}"]
            )
        assert file.fields["tokenizer.ggml.add_space_prefix"].value is False


def test_what_a_row_says_of_the_vocabulary_counts_where_the_file_does_not(tmp_path: Path) -> None:
    def of_vocabulary(arch: str, **vocabulary: Any) -> dict[str, Any]:
        fields = {"general.architecture": Field.of(arch), f"{arch}.vision.block_count": Field.of(1)}
        fields |= {f"tokenizer.ggml.{k}": Field.of(v) for k, v in vocabulary.items()}
        shapes = {"blk.0.attn_k_b.weight": (1, 1, 1)}
        reading = as_llama_cpp(fields, shapes)
        read = fields if reading is None else reading.fields
        return {key.removeprefix("tokenizer.ggml."): field.value for key, field in read.items()
                if key.startswith("tokenizer.ggml.")}  # fmt: skip

    assert of_vocabulary("gptoss", pre="default")["pre"] == "gpt-4o"
    assert of_vocabulary("mistral3", pre="default")["pre"] == "tekken"
    assert of_vocabulary("mistral3", pre="llama-bpe")["pre"] == "llama-bpe"
    assert of_vocabulary("llama4") == {"pre": "llama4", "add_bos_token": True}
    assert of_vocabulary("llama4", add_bos_token=False)["add_bos_token"] is False
    assert of_vocabulary("olmo3", pre="default") == {"pre": "dbrx", "add_bos_token": False}
    assert of_vocabulary("gemma4", model="llama", merges=["a b"])["model"] == "gemma4"
    assert of_vocabulary("gemma4", model="llama")["model"] == "llama"
    ids = of_vocabulary("glm4moelite", eos_token_ids=np.array([7, 8, 9], np.int32))
    assert (ids["pre"], ids["eot_token_id"], ids["eom_token_id"]) == ("glm4", 8, 9)


def read(arch: str, shapes: Mapping[str, tuple[int, ...]], **keys: Any) -> dict[str, Any]:
    """Return the keys of a header, without the architecture; a dot stands there as ``__``."""
    fields = {"general.architecture": Field.of(arch)}
    fields |= {f"{arch}.{key.replace('__', '.')}": Field.of(value) for key, value in keys.items()}
    reading = as_llama_cpp(fields, shapes)
    found = fields if reading is None else reading.fields
    return {key.partition(".")[2]: field.value for key, field in found.items()}


def test_heads_of_gemma_3_are_those_of_the_engine_where_the_file_names_none() -> None:
    found = read("gemma3", {}, vision__block_count=1)
    assert (found["attention.key_length"], found["attention.value_length"]) == (256, 256)


@pytest.mark.parametrize("arch", ["qwen3moe", "qwen3vlmoe"])
def test_experts_of_qwen_3_are_as_wide_as_their_matrices(arch: str) -> None:
    shapes = {"blk.1.ffn_gate_exps.weight": (64, 24, 8)}
    found = read(arch, shapes, expert_count=8, feed_forward_length=96, norm_top_k_prob=True)
    assert found["expert_feed_forward_length"] == 24
    assert "norm_top_k_prob" not in found


@pytest.mark.parametrize("arch", ["qwen35", "qwen35moe", "qwen3next"])
def test_layers_that_attend_are_told_by_their_heads(arch: str) -> None:
    shapes, heads = {"blk.0.ssm_dt": (4,)}, np.array([0, 0, 2, 0], np.uint32)
    is_tiled = arch != "qwen3next"
    found = read(arch, shapes, attention__head_count_kv=heads, ssm__v_head_reordered=is_tiled)
    assert found["attention.head_count_kv"] == 2
    assert found["attention.recurrent_layers"].tolist() == [True, True, False, True]
    assert "ssm.v_head_reordered" not in found
    other = read(arch, shapes, ssm__v_head_reordered=not is_tiled)
    assert other["ssm.v_head_reordered"] is not is_tiled


def test_text_of_gemma_4_alone_has_the_vocabulary_of_gemma_4() -> None:
    fields = {"general.architecture": Field.of("gemma4"), "tokenizer.ggml.model":
              Field.of("llama"), "tokenizer.ggml.merges": Field.of(["a b"])}  # fmt: skip
    reading = as_llama_cpp(fields, {})
    assert reading is not None and reading.fields["tokenizer.ggml.model"].value == "gemma4"


@pytest.mark.parametrize("arch", ["lfm2", "lfm2moe"])
def test_lfm2_has_words_and_widths_of_its_own(arch: str) -> None:
    shapes = {"output_norm.weight": (64,), "blk.0.ffn_gate.weight": (64, 96)}
    found = read(arch, shapes, feed_forward_length=144)
    assert (found["feed_forward_length"], found["ggml.pre"]) == (96, "lfm2")


@pytest.mark.parametrize("name", OLLAMA_FILES)
def test_a_file_that_was_written_anew_still_runs(name: str, tmp_path: Path) -> None:
    _, theirs = write_both(tmp_path, name, vocabulary=letters())
    with GgufFile.open(theirs) as file:
        parts = tuple(
            Part(TensorSpec(each, info.shape, info.type), (range_of(file, info),))
            for each, info in file.tensors.items()
        )
        Rewrite(detached(file.fields), parts, ()).write(tmp_path / "new.gguf")
        with GgufFile.open(tmp_path / "new.gguf") as again:
            assert detached(again.fields) == detached(file.fields)
            assert "GGUF-OLLAMA-NAMES" not in {issue.code for issue in again.header.issues}
    assert inspect(map_file(tmp_path / "new.gguf"), "new.gguf").compatibility.loaders[0].loads


def test_the_first_files_of_gpt_oss_are_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    entry = raw.tensor("blk.0.ffn_down_exps.weight", type_id=4)
    arch = raw.string("general.architecture", "gptoss")
    path.write_bytes(raw.gguf(arch, entry, n_kv=1, n_tensors=1, data=bytes(128)))
    assert validate_file(path).verdict == "unsupported"
    with pytest.raises(UnsupportedGgufError, match="MXFP4 in the order of checkpoints") as caught:
        GgufFile.open(path)
    assert caught.value.hint == "`ollama pull` with the model's name fetches today's file"
