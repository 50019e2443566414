"""Every architecture that is converted has the logits that transformers computes of its checkpoint.

``tools/transformers_logits.py`` made them; keys and values were rounded to halves there, too.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.arch import ARCHITECTURES
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.validate import validate_file
from gguf_hub.run.convert import plan_conversion
from gguf_hub.run.convert.families import FAMILIES
from gguf_hub.run.convert.keys import family_of, read_keys
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.naive import dequantize
from tests.reference import reference_data
from tests.run.convert import packing
from tests.run.convert.random_checkpoints import POSITIONS, TOKENS, values, write


@cache
def archive() -> tuple[dict[str, Any], np.ndarray]:
    folder = reference_data() / "transformers"
    return json.loads((folder / "models.json").read_text()), np.load(folder / "logits.npy")


NAMES = list(archive()[0])
# latents are cached as halves before they become keys; GELU is read from a table of halves
_LATENT, _GELU = 5e-3, 4e-3
_TOLERANCES = {"deepseek2": _LATENT, "deepseek3": _LATENT, "mistral4": _LATENT,
               "gemma": _GELU, "gemma2": _GELU, "gemma3": _GELU}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    models, logits = archive()
    folder = write(tmp_path / name, models[name]["config"], models[name]["shapes"])
    plan = plan_conversion(folder, contents="weights")
    plan.write(tmp_path / "model.gguf")
    assert validate_file(tmp_path / "model.gguf").issues == ()
    # contexts of 64: phi3's factors are those of short ones
    settings = ModelSettings(n_ctx=64, n_logits=None, n_threads=1)
    with Transformer.open(GgufFile.open(tmp_path / "model.gguf"), settings) as model:
        found = model.forward(list(TOKENS), 0, all_logits=True)[list(POSITIONS)]
    expected = logits[NAMES.index(name)]
    assert np.abs(found - expected).max() <= _TOLERANCES.get(name, 1e-3)


def test_every_record_is_compared_and_runs() -> None:
    assert {family.arch for family in FAMILIES} <= set(ARCHITECTURES)
    compared = [family_of(model["config"], Path("config.json")) for model in archive()[0].values()]
    assert {id(family) for family in compared} == {id(family) for family in FAMILIES}


_ODD = (None, "x", -1, 0, 1e30, True, [], {}, [1], {"a": 1}, 10**12, 0.5, ["x"] * 4, float("nan"),
        float("inf"), 3, 2**31 - 1)  # fmt: skip


def _paths(config: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        yield (*before, key)
        if isinstance(value, dict) and key != "vision_config":
            yield from _paths(value, (*before, key))


@pytest.mark.parametrize("name", NAMES)
def test_values_of_any_kind_are_read_or_refused(name: str) -> None:
    config = archive()[0][name]["config"]
    for path in _paths(config):
        for value in _ODD:
            changed = copy.deepcopy(config)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            with contextlib.suppress(CheckpointError):
                read_keys(changed, Path("config.json"))


def test_experts_of_four_bits_are_kept_as_they_are_published(tmp_path: Path) -> None:
    """gpt-oss: blocks of MXFP4 whose rows are gate and up in turn."""
    config, shapes = (archive()[0]["gpt-oss"][key] for key in ("config", "shapes"))
    rng = np.random.default_rng(0)
    arrays = {name: values(name, shape) for name, shape in shapes.items()}
    expected: dict[str, np.ndarray] = {}
    for name in [name for name in shapes if name.endswith(("gate_up_proj", "down_proj"))]:
        n_expert, n_in, n_out = arrays.pop(name).shape  # of the plain ones: columns first
        arrays[f"{name}_blocks"] = rng.integers(0, 256, (n_expert, n_out, n_in // 32, 16), "u1")
        arrays[f"{name}_scales"] = rng.integers(120, 126, (n_expert, n_out, n_in // 32), "u1")
        expected[name] = _mxfp4(arrays[f"{name}_blocks"], arrays[f"{name}_scales"])
    stated = {**config, "quantization_config": {"quant_method": "mxfp4"}}
    packing.save(tmp_path / "packed", arrays, stated)
    plan_conversion(tmp_path / "packed", contents="weights").write(tmp_path / "model.gguf")
    file = GgufFile.open(tmp_path / "model.gguf")
    assert validate_file(file.path).issues == ()
    for i in range(config["num_hidden_layers"]):
        gate_up = expected[f"model.layers.{i}.mlp.experts.gate_up_proj"]
        down = expected[f"model.layers.{i}.mlp.experts.down_proj"]
        for part, wanted in (("gate", gate_up[:, ::2]), ("up", gate_up[:, 1::2]), ("down", down)):
            name = f"blk.{i}.ffn_{part}_exps.weight"
            assert file.tensors[name].type is QuantType.MXFP4
            found = dequantize(QuantType.MXFP4, file.tensor_bytes(name))
            np.testing.assert_array_equal(found.reshape(wanted.shape), wanted, name)


def _mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return what blocks stand for, [experts, rows, columns]."""
    of_code = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    pairs = of_code[np.stack([blocks & 15, blocks >> 4], axis=-1)]
    weights = pairs.reshape(*scales.shape, 32) * 2.0 ** (scales.astype(int) - 127)[..., None]
    return weights.reshape(*scales.shape[:2], -1)


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    """They are published as layers behind the last, as of DeepSeek V3 and GLM 4.5."""
    config, shapes = (archive()[0]["glm4moe"][key] for key in ("config", "shapes"))
    n_layer = config["num_hidden_layers"]
    more = {
        name.replace(f"layers.{n_layer - 1}.", f"layers.{n_layer}."): shape
        for name, shape in shapes.items()
    }
    more |= {f"model.layers.{n_layer}.eh_proj.weight": [64, 128], **shapes}
    plain = plan_conversion(write(tmp_path / "a", config, shapes), contents="weights")
    stated = {**config, "num_nextn_predict_layers": 1}
    plan = plan_conversion(write(tmp_path / "b", stated, more), contents="weights")
    assert [part.spec for part in plan.tensors] == [part.spec for part in plain.tensors]
    assert any("num_nextn_predict_layers" in note for note in plan.notes)
    stated = {**config, "num_nextn_predict_layers": 0}
    with pytest.raises(CheckpointError, match=f"model.layers.{n_layer}"):
        plan_conversion(write(tmp_path / "c", stated, more), contents="weights")


def test_sparse_attention_of_long_contexts_is_noted(tmp_path: Path) -> None:
    config, shapes = (archive()[0]["minicpm"][key] for key in ("config", "shapes"))
    stated = {**config, "sparse_config": {"dense_len": 8192}}
    (note,) = plan_conversion(write(tmp_path / "m", stated, shapes), contents="weights").notes
    assert "`dense_len` 8192" in note


def keys_of(name: str, **changes: Any) -> dict[str, Any]:
    """The keys of a model whose configuration is changed; None leaves one out."""
    stated = {**archive()[0][name]["config"], **changes}
    stated = {key: value for key, value in stated.items() if value is not None}
    return dict(read_keys(stated, Path("config.json")).values)


def test_what_published_configurations_say_otherwise() -> None:
    """As they stand on the Hub, where transformers' own files differ."""
    # Gemma 3 with images leaves out what is the default of the text model's class
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}
    gemma = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    values = read_keys(gemma, Path("config.json")).values
    assert values["gemma3.context_length"] == 131072
    assert values["gemma3.attention.key_length"] == 256
    assert values["gemma3.attention.layer_norm_rms_epsilon"] == 1e-6
    # a mixture without dense layers has no width of them
    assert keys_of("qwen35moe", intermediate_size=None)["qwen35moe.feed_forward_length"] == 32
    # Command R7B names the rotation of neighbours so
    found = keys_of("cohere2", position_embedding_type="rope_gptj")
    np.testing.assert_equal(found, keys_of("cohere2"))
    # LFM2 named the layers that attend first
    layers = {"layer_types": None, "full_attn_idxs": [1, 3]}
    np.testing.assert_equal(keys_of("lfm2", **layers), keys_of("lfm2"))
    # a window that no layer has, as of EXAONE 4 1.2B
    assert keys_of("exaone4", sliding_window=4096)["exaone4.attention.sliding_window"] == 0
    # Llama 1
    found = keys_of("llama", max_position_embeddings=None, max_sequence_length=2048)
    assert found["llama.context_length"] == 2048
    # LFM2's class takes two thirds of the width where nothing is said
    found = keys_of("lfm2", block_auto_adjust_ff_dim=None)
    assert found["lfm2.feed_forward_length"] == 256  # of 96
    # Ling tells the rotated part by its length, or not at all
    shares = {"partial_rotary_factor": None}
    assert keys_of("bailingmoe2", **shares)["bailingmoe2.rope.dimension_count"] == 8
    found = keys_of("bailingmoe2", **shares, rotary_dim=4)
    assert found["bailingmoe2.rope.dimension_count"] == 4
    # layers behind the last have experts, too
    found = keys_of("ernie4_5-moe", moe_layer_end_index=9)
    np.testing.assert_equal(found, keys_of("ernie4_5-moe"))
    # Hunyuan's context is longer than it says where its base is raised
    assert keys_of("hunyuan-dense")["hunyuan-dense.context_length"] == 262144
    # no number stands for infinity in JSON
    states = {"time_step_limit": [0.0, 1e308]}
    np.testing.assert_equal(keys_of("nemotron_h", **states), keys_of("nemotron_h"))


@pytest.mark.parametrize(
    "name",
    ["model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq",
     "model.mtp_block.0.mlp.gate.weight", "model.mtp_emb_norm.0.weight", "mtp.fc.weight"],
)  # fmt: skip
def test_tensors_that_no_text_needs_are_left_out(name: str, tmp_path: Path) -> None:
    config, shapes = (archive()[0]["ernie4_5-moe"][key] for key in ("config", "shapes"))
    plan = plan_conversion(write(tmp_path, config, {**shapes, name: [8]}), contents="weights")
    assert not any("mtp" in part.spec.name or "freq" in part.spec.name for part in plan.tensors)
