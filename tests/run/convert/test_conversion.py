"""Whole conversions: against given files and logits, another reader, and each other."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import FileType, QuantType
from gguf_hub.gguf.upgrade import plan_upgrade
from gguf_hub.gguf.validate import validate_file
from gguf_hub.run.convert import plan_conversion
from gguf_hub.run.model.config import read_config, read_graph
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.naive import dequantize
from tests.run.convert import checkpoints

Convert = Callable[..., GgufFile]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Convert a folder, weights alone unless told otherwise, and open the result."""

    def run(folder: Path, **options: Any) -> GgufFile:
        path = tmp_path / f"{folder.name}-{len(list(tmp_path.glob('*.gguf')))}.gguf"
        plan = plan_conversion(folder, **{"contents": "weights", **options})
        plan.write(path)
        assert path.stat().st_size == plan.size_bytes
        return GgufFile.open(path)

    return run


@pytest.fixture
def tiny(data: Path) -> Path:
    return data / "models" / "tiny-mixtral"


# -- a real checkpoint ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["merged", "split"])
def test_a_real_mixtral_has_the_expected_logits(layout: str, tiny: Path, convert: Convert) -> None:
    expected = json.loads((tiny / "expected.json").read_text())
    logits = np.array(expected["logits"])
    file = convert(tiny, layout=layout, outtype="f32")
    with Transformer.open(file, ModelSettings(n_logits=None, n_threads=2)) as model:
        found = model.forward(expected["tokens"], 0, all_logits=True)
    assert np.abs(found - logits).max() < 0.01
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).sum() == 22


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_a_real_mixtral_has_the_tensors_of_its_given_file(
    kind: str, tiny: Path, convert: Convert
) -> None:
    given = GgufFile.open(tiny / f"tiny-mixtral.{kind}.gguf")
    file = convert(tiny, outtype=kind)
    assert set(file.tensors) == set(given.tensors)
    for name, info in given.tensors.items():
        assert (file.tensors[name].shape, file.tensors[name].type) == (info.shape, info.type)
        np.testing.assert_array_equal(file.tensor_bytes(name), given.tensor_bytes(name), name)
    said = {key: file.metadata[key] for key in given.metadata}
    assert said == dict(given.metadata)


def test_experts_by_their_names_in_transformers_5_are_the_same(
    tmp_path: Path, convert: Convert
) -> None:
    new = {".w1.": ".gate_proj.", ".w2.": ".down_proj.", ".w3.": ".up_proj.",
           "block_sparse_moe": "mlp"}  # fmt: skip
    tensors = checkpoints.arrays({**checkpoints.CONFIG, **checkpoints.MIXTURE})
    renamed = {}
    for name, array in tensors.items():
        for old, other in new.items():
            name = name.replace(old, other)
        renamed[name] = array
    assert renamed.keys() != tensors.keys()
    files = [
        convert(checkpoints.write(tmp_path / kind, tensors=each, **checkpoints.MIXTURE))
        for kind, each in (("old", tensors), ("new", renamed))
    ]
    for name in files[0].tensors:
        np.testing.assert_array_equal(*(file.tensor_bytes(name) for file in files), name)


def test_auto_stores_what_is_stored(tiny: Path, convert: Convert) -> None:
    file = convert(tiny)
    assert file.metadata["general.file_type"] == FileType.BF16
    raw = convert(tiny, outtype="f32").tensor_bytes("blk.1.attn_q.weight").view(np.uint32)
    found = file.tensor_bytes("blk.1.attn_q.weight").view(np.uint16)
    np.testing.assert_array_equal(found.astype(np.uint32) << 16, raw)


# -- invariants -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outtype", ["auto", "f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("changes", [{}, checkpoints.MIXTURE], ids=["llama", "mixtral"])
@pytest.mark.parametrize("layout", ["merged", "split"])
def test_files_are_sound(
    outtype: str, changes: dict[str, Any], layout: str, tmp_path: Path, convert: Convert
) -> None:
    folder = checkpoints.write(tmp_path / "model", **changes)
    file = convert(folder, outtype=outtype, layout=layout)
    assert validate_file(file.path).issues == ()


def test_another_reader_sees_the_same(tmp_path: Path, convert: Convert) -> None:
    gguf = pytest.importorskip("gguf")
    folder = checkpoints.write(tmp_path / "model", **checkpoints.MIXTURE)
    file = convert(folder, outtype="q8_0")
    other = gguf.GGUFReader(file.path)
    for key, value in file.metadata.items():
        assert other.get_field(key).contents() == value, key
    assert [tensor.name for tensor in other.tensors] == list(file.tensors)
    for tensor in other.tensors:
        assert tuple(tensor.shape) == file.tensors[tensor.name].shape
        raw = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
        np.testing.assert_array_equal(raw, file.tensor_bytes(tensor.name))


def test_merging_the_split_layout_gives_the_merged_one(tmp_path: Path, convert: Convert) -> None:
    folder = checkpoints.write(tmp_path / "model", **checkpoints.MIXTURE)
    merged = convert(folder, outtype="q8_0")
    split = convert(folder, outtype="q8_0", layout="split")
    assert len(split.tensors) == len(merged.tensors) + 2 * 3 * (4 - 1)
    plan_upgrade(split.path).write(tmp_path / "upgraded.gguf")
    upgraded = GgufFile.open(tmp_path / "upgraded.gguf")
    for name in merged.tensors:
        np.testing.assert_array_equal(upgraded.tensor_bytes(name), merged.tensor_bytes(name))


@pytest.mark.parametrize("has_index", [True, False])
def test_shards_give_the_file_of_the_whole(
    has_index: bool, tmp_path: Path, convert: Convert
) -> None:
    whole = checkpoints.write(tmp_path / "whole")
    sharded = checkpoints.write(tmp_path / "sharded")
    checkpoints.shard(sharded, checkpoints.arrays(checkpoints.CONFIG), 3)
    if not has_index:
        (sharded / "model.safetensors.index.json").unlink()
    found = convert(sharded, name="model")
    np.testing.assert_array_equal(found.data, convert(whole, name="model").data)


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0"])
def test_weights_come_back_within_the_precision_of_the_type(
    outtype: str, tmp_path: Path, convert: Convert
) -> None:
    folder = checkpoints.write(tmp_path / "model")
    file = convert(folder, outtype=outtype)
    arrays = checkpoints.arrays(checkpoints.CONFIG)
    # half a step of the type, relative to the largest weight of a block
    precision = {"f32": 0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 1.01 / 254}[outtype]
    for name, source in (("ffn_gate", "mlp.gate_proj"), ("ffn_down", "mlp.down_proj")):
        info = file.tensors[f"blk.1.{name}.weight"]
        found = dequantize(info.type, file.tensor_bytes(info.name))
        expected = arrays[f"model.layers.1.{source}.weight"].reshape(-1)
        assert np.abs(found - expected).max() <= precision * np.abs(expected).max()


def test_norms_and_the_router_stay_exact(tmp_path: Path, convert: Convert) -> None:
    folder = checkpoints.write(tmp_path / "model", **checkpoints.MIXTURE)
    file = convert(folder, outtype="q8_0")
    arrays = checkpoints.arrays({**checkpoints.CONFIG, **checkpoints.MIXTURE})
    for name, source in (
        ("blk.0.ffn_gate_inp", "model.layers.0.block_sparse_moe.gate"),
        ("blk.1.ffn_norm", "model.layers.1.post_attention_layernorm"),
        ("output_norm", "model.norm"),
    ):
        assert file.tensors[f"{name}.weight"].type is QuantType.F32
        found = file.tensor_bytes(f"{name}.weight").view(np.float32)
        np.testing.assert_array_equal(found, arrays[f"{source}.weight"].reshape(-1))


def test_rows_change_places_so_that_neighbours_turn_together(
    tmp_path: Path, convert: Convert
) -> None:
    """Rotating halves of a head (transformers) or neighbours (GGUF) gives the same scores."""
    folder = checkpoints.write(tmp_path / "model")
    file = convert(folder)
    arrays = checkpoints.arrays(checkpoints.CONFIG)
    head, x = 8, np.random.default_rng(1).normal(size=32)
    angles = 5 * 20000.0 ** (-2 * np.arange(head // 2) / head)

    def turn(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)

    for name, source in (("attn_q", "q_proj"), ("attn_k", "k_proj")):
        theirs = (arrays[f"model.layers.0.self_attn.{source}.weight"] @ x).reshape(-1, 2, head // 2)
        raw = file.tensor_bytes(f"blk.0.{name}.weight").view(np.float32)
        ours = (raw.reshape(-1, 32) @ x).reshape(-1, head // 2, 2)
        expected = np.stack(turn(theirs[:, 0], theirs[:, 1]), axis=2)
        found = np.stack(turn(ours[:, :, 0], ours[:, :, 1]), axis=2)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_tied_embeddings_need_no_output_matrix(tmp_path: Path, convert: Convert) -> None:
    folder = checkpoints.write(tmp_path / "model", tie_word_embeddings=True)
    assert "output.weight" not in convert(folder).tensors


def test_rows_that_do_not_fill_blocks_stay_f16(tmp_path: Path, convert: Convert) -> None:
    folder = checkpoints.write(tmp_path / "model", intermediate_size=48)
    file = convert(folder, outtype="q8_0")
    assert file.tensors["blk.0.ffn_down.weight"].type is QuantType.F16
    assert file.tensors["blk.0.ffn_up.weight"].type is QuantType.Q8_0
    (note,) = plan_conversion(folder, outtype="q8_0", contents="weights").notes
    assert "2 tensors stay F16" in note
    assert "`blk.0.ffn_down.weight`" in note


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    # an embedding of 13 MB in float32, and an output matrix like it
    folder = checkpoints.write(
        tmp_path / "model", dtype="BF16", vocab_size=100_000, num_hidden_layers=1
    )
    plan = plan_conversion(folder, contents="weights", outtype="q8_0")
    tracemalloc.start()
    plan.write(tmp_path / "out.gguf")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


# -- what the configuration says ------------------------------------------------------------------


def test_sizes_are_read_back_as_they_were_stated(tmp_path: Path, convert: Convert) -> None:
    folder = checkpoints.write(tmp_path / "model", head_dim=16, **checkpoints.MIXTURE)
    config = read_config(read_graph(convert(folder).hparams))
    assert (config.n_layer, config.n_embd, config.n_ff) == (2, 32, 64)
    assert (config.n_head, config.n_head_kv, config.head_dim) == (4, 2, 16)
    assert (config.n_expert, config.n_expert_used) == (4, 2)
    assert (config.n_ctx_train, config.epsilon) == (128, pytest.approx(1e-6))
    assert (config.rope.freq_base, config.rope.n_rot) == (20000.0, 16)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_theta": None}, ("linear", 10000.0, 1.0, 128)),
        ({"rope_theta": None, **checkpoints.MIXTURE}, ("linear", 1e6, 1.0, 128)),
        (
            {"rope_theta": None, "rope_parameters": {"rope_theta": 7e4, "rope_type": "default"}},
            ("linear", 7e4, 1.0, 128),
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            ("linear", 20000.0, 4.0, 128),
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 2,
                    "original_max_position_embeddings": 64,
                }
            },
            ("yarn", 20000.0, 2.0, 64),
        ),
    ],
    ids=["default", "mixtral", "transformers-5", "linear", "yarn"],
)
def test_rope_is_read_back_as_it_was_stated(
    changes: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path, convert: Convert
) -> None:
    file = convert(checkpoints.write(tmp_path / "m", **changes))
    rope = read_config(read_graph(file.hparams)).rope
    assert (rope.scaling, rope.freq_base, rope.factor, rope.n_ctx_orig) == expected


def test_llama3_scaling_becomes_a_tensor(tmp_path: Path, convert: Convert) -> None:
    # a head of 8 turns at 1, 1/10, 1/100, 1/1000 per token: wavelengths of 2 pi times 1 to 1000
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1000,
    }
    folder = checkpoints.write(tmp_path / "m", rope_theta=10000.0, rope_scaling=scaling)
    file = convert(folder, outtype="q8_0")
    found = file.tensor_bytes("rope_freqs.weight").view(np.float32)
    turns = 1000 / (2 * np.pi * 100)  # 1.59: between 1 and 4
    plain = (turns - 1) / 3
    np.testing.assert_allclose(found, [1, 1, 1 / (plain + (1 - plain) / 8), 8], rtol=1e-6)


def test_a_window_that_is_lost_is_noted(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m", sliding_window=64)
    (note,) = plan_conversion(folder, contents="weights").notes
    assert "sliding window of 64 tokens" in note
    folder = checkpoints.write(tmp_path / "m", sliding_window=None)
    assert plan_conversion(folder, contents="weights").notes == ()


def test_sizes_are_called_as_llama_cpp_calls_them(tmp_path: Path, convert: Convert) -> None:
    dense = convert(checkpoints.write(tmp_path / "dense"))
    assert dense.metadata["general.size_label"] == "38K"
    mixture = convert(checkpoints.write(tmp_path / "moe", **checkpoints.MIXTURE))
    assert mixture.metadata["general.size_label"] == "4x38K"
    assert mixture.metadata["general.name"] == "moe"
