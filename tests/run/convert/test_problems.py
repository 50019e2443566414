"""Checkpoints that cannot be converted: what is said, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import CheckpointError, GgufHubError
from gguf_hub.run.convert import plan_conversion
from tests.run.convert import checkpoints

CONFIG = checkpoints.CONFIG


def plan(folder: Path, **options: Any) -> Any:
    return plan_conversion(folder, **{"contents": "weights", **options})


def refusal(folder: Path, **options: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as found:
        plan(folder, **options)
    return found.value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["T5ForConditionalGeneration"]}, "architecture `T5ForCondit"),
        ({"architectures": None}, "architecture `None`: expected one of `LlamaForCausalLM`"),
        ({"hidden_size": None}, "`hidden_size`: expected a positive integer, found None"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers`: expected a positive integer, found 0"),
        ({"vocab_size": True}, "`vocab_size`: expected a positive integer, found True"),
        ({"rms_norm_eps": "x"}, "`rms_norm_eps`: expected a positive number, found 'x'"),
        ({"num_key_value_heads": 3}, "`num_key_value_heads` 3: expected a divisor of 4 heads"),
        ({"head_dim": 7}, "`head_dim` 7: expected an even number"),
        ({"hidden_act": "gelu"}, "`hidden_act`: expected silu or swish, found 'gelu'"),
        (
            {**checkpoints.MIXTURE, "num_experts_per_tok": 5},
            "`num_experts_per_tok` 5: expected at most 4 experts",
        ),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope scaling: expected linear, yarn or llama3, found 'dynamic'",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 2.0, "high_freq_factor": 0.5}},
            "`high_freq_factor` 0.5: expected at least 1.0",
        ),
    ],
)
def test_a_configuration_that_cannot_be(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = checkpoints.write(tmp_path / "m", tensors={"x": np.zeros((2, 2), "f4")}, **changes)
    assert message in refusal(folder).message


def test_every_problem_of_a_configuration_is_told_at_once(tmp_path: Path) -> None:
    folder = checkpoints.write(
        tmp_path / "m",
        tensors={},
        vocab_size=-1,
        rms_norm_eps=0,
        rope_theta=None,
        hidden_act="gelu",
    )
    error = refusal(folder)
    assert len(error.issues) == 3
    assert error.message.startswith(f"`{folder}/config.json`: 3 problems\n  `vocab_size`")


def test_tensors_that_are_missing_misshapen_or_unknown_are_told_at_once(tmp_path: Path) -> None:
    tensors = checkpoints.arrays(CONFIG)
    del tensors["model.norm.weight"]
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :16].copy()
    tensors["model.layers.0.self_attn.q_norm.weight"] = np.zeros(8, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    issues = refusal(checkpoints.write(tmp_path / "m", tensors=tensors)).issues
    assert issues == (
        "missing tensor `model.norm.weight`",
        "tensor `lm_head.weight`: expected shape [300, 32] from config.json, found [300, 16]",
        "tensor `model.layers.0.self_attn.q_norm.weight` does not belong to a model of this "
        "architecture",
    )


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    error = refusal(checkpoints.write(tmp_path / "m", tensors={}))
    assert len(error.issues) == 3 + 2 * 9
    assert error.message.endswith("... and 1 more")


def test_a_missing_output_matrix_is_no_tied_one(tmp_path: Path) -> None:
    tensors = checkpoints.arrays(CONFIG)
    del tensors["lm_head.weight"]
    folder = checkpoints.write(tmp_path / "m", tensors=tensors)
    assert refusal(folder).issues == ("missing tensor `lm_head.weight`",)


def test_a_stored_type_that_is_not_known(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m")
    path = folder / "model.safetensors"
    raw = path.read_bytes().replace(b'"F32", "shape": [32, 64]', b'"I32", "shape": [32, 64]')
    path.write_bytes(raw)
    assert "down_proj.weight`: expected F32, F16, BF16, found I32" in refusal(folder).message


# -- files ----------------------------------------------------------------------------------------


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m")
    checkpoints.shard(folder, checkpoints.arrays(CONFIG), 4)
    (folder / "model-00002-of-00004.safetensors").unlink()
    (folder / "model-00003-of-00004.safetensors").unlink()
    expected = tuple(f"missing shard `model-0000{i}-of-00004.safetensors`" for i in (2, 3))
    assert refusal(folder).issues == expected
    (folder / "model.safetensors.index.json").unlink()  # the names tell it too
    assert refusal(folder).issues == expected


def test_a_shard_of_another_checkpoint_is_found(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m")
    checkpoints.shard(folder, checkpoints.arrays(CONFIG), 2)
    first, second = sorted(folder.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    error = refusal(folder)
    assert f"`{second.name}` lacks tensor `" in error.message
    assert error.hint == "the shards are not of one checkpoint"


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "..", 7, ""])
def test_an_index_names_files_of_its_folder_only(name: Any, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m")
    index = {"weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is not a file of the folder" in refusal(folder).message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "expected a JSON object, found list"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"a": "\xff"}', "cannot be read as JSON"),
    ],
    ids=["cut", "list", "deep", "latin-1"],
)
def test_json_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert message in refusal(folder).message


def test_an_index_without_a_map(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "expected `weight_map`" in refusal(folder).message


@pytest.mark.parametrize("kept", [0, 5, 100, 20_000])
def test_a_file_that_is_cut_is_found(kept: int, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m")
    os.truncate(folder / "model.safetensors", kept)
    error = refusal(folder)
    assert "not a sound safetensors file" in error.message
    assert error.path == folder / "model.safetensors"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pytorch_model.bin", "the weights are pickled"),
        ("consolidated.00.safetensors", "these are Mistral's own names"),
        ("README.md", "download the repository's"),
    ],
)
def test_other_kinds_of_folders_are_told_apart(name: str, hint: str, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    error = refusal(folder)
    assert "no `model.safetensors` and no `model.safetensors.index.json`" in error.message
    assert hint in (error.hint or "")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "absent").message
    (tmp_path / "empty").mkdir()
    assert "no `config.json`" in refusal(tmp_path / "empty").message


@pytest.mark.parametrize("package", ["safetensors", "sentencepiece"])
def test_an_absent_package_is_asked_for(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.write(tmp_path / "m")
    (folder / "tokenizer.model").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    with pytest.raises(GgufHubError, match=f"needs the package `{package}`") as found:
        plan(folder, contents="all")
    assert found.value.hint == "pip install 'gguf-hub[convert]'"


# -- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("model.layers.1.self_attn.q_proj.weight", (13, 7)),  # its rows change places
        ("model.layers.0.mlp.up_proj.weight", (63, 31)),
        ("model.norm.weight", (5,)),
    ],
)
def test_a_weight_that_is_not_finite_is_named(
    name: str, index: tuple[int, ...], value: float, tmp_path: Path
) -> None:
    tensors = checkpoints.arrays(CONFIG)
    tensors[name][index] = value
    folder = checkpoints.write(tmp_path / "m", tensors=tensors)
    with pytest.raises(CheckpointError) as found:
        plan(folder).write(tmp_path / "out.gguf")
    what = "is not a number (NaN)" if np.isnan(value) else "is infinite"
    assert f"tensor `{name}` {list(index)}: {what}" in found.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_weight_that_does_not_fit_the_type_is_named(tmp_path: Path) -> None:
    tensors = checkpoints.arrays(CONFIG)
    tensors["model.embed_tokens.weight"][299, 3] = 1e5
    folder = checkpoints.write(tmp_path / "m", tensors=tensors, dtype="BF16")
    with pytest.raises(CheckpointError, match="too large for F16") as found:
        plan(folder, outtype="f16").write(tmp_path / "out.gguf")
    assert "`model.embed_tokens.weight` [299, 3]" in found.value.message
    assert "--outtype f32" in (found.value.hint or "")
    plan(folder, outtype="bf16").write(tmp_path / "out.gguf")


def test_layers_and_experts_that_no_tensor_holds_are_refused_before_they_are_named(
    tmp_path: Path,
) -> None:
    for changes in ({"num_hidden_layers": 10**9}, {"num_local_experts": 10**9}):
        folder = checkpoints.write(tmp_path, **checkpoints.MIXTURE, tensors={})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        assert "1,000,000,000" in str(refusal(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": "x"}, "`sliding_window`: expected an integer >= 0, found 'x'"),
        ({"rope_scaling": "x"}, "rope scaling: expected an object, found 'x'"),
        ({"rope_theta": 1e-300}, "`rope_theta` 1e-300: expected more than 1"),
        ({"vocab_size": 2**31 - 1}, "`vocab_size` 2,147,483,647: expected at most"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0,
                              "original_max_position_embeddings": 1e29}},
            "`original_max_position_embeddings`: expected a positive integer, found 1e+29",
        ),
    ],
)  # fmt: skip
def test_numbers_of_the_wrong_kind(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    assert message in str(refusal(folder, contents="vocabulary"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", '{"chat_template": "\\ud800"}', "the chat template is no Unico"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"5": {"content": "\\udc80"}}}',
            "added token 5 is no Unicode text",
        ),
        ("chat_template.jinja", "\udcff", "cannot be read as text"),
    ],
)
def test_texts_that_are_none(name: str, content: str, message: str, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path)
    (folder / "tokenizer.model").write_bytes(checkpoints.tokenizer_model())
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert message in str(refusal(folder, contents="all"))
