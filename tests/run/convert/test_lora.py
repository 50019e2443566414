"""LoRA adapters: merged, and as GGUF adapters that say the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.validate import validate_file
from gguf_hub.run.convert import plan_adapter, plan_conversion
from tests.run.convert import checkpoints, packing

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": False,
          "fan_in_fan_out": False, "base_model_name_or_path": "x"}  # fmt: skip
MODULES = {
    "model.layers.0.self_attn.q_proj": (32, 32), "model.layers.0.self_attn.k_proj": (16, 32),
    "model.layers.1.mlp.down_proj": (32, 64), "model.layers.1.self_attn.v_proj": (16, 32),
    "lm_head": (300, 32),
}  # fmt: skip
NAMES = {
    "model.layers.0.self_attn.q_proj": "blk.0.attn_q",
    "model.layers.0.self_attn.k_proj": "blk.0.attn_k",
    "model.layers.1.mlp.down_proj": "blk.1.ffn_down",
    "model.layers.1.self_attn.v_proj": "blk.1.attn_v",
    "lm_head": "output",
}


def adapter(
    folder: Path,
    modules: dict[str, tuple[int, int]] = MODULES,
    change: Callable[[packing.Arrays], object] = lambda arrays: None,
    **config: Any,
) -> Path:
    rng = np.random.default_rng(5)
    rank = {**CONFIG, **config}["r"]
    arrays: packing.Arrays = {}
    for name, (n_out, n_in) in modules.items():
        prefix = f"base_model.model.{name}"
        arrays[f"{prefix}.lora_A.weight"] = rng.normal(0, 0.3, (rank, n_in)).astype("<f4")
        arrays[f"{prefix}.lora_B.weight"] = rng.normal(0, 0.3, (n_out, rank)).astype("<f4")
    change(arrays)
    packing.save(folder, arrays, {})
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return checkpoints.write(tmp_path / "base")


def floats(file: GgufFile, name: str) -> np.ndarray:
    shape = file.tensors[name].shape[::-1]
    return file.tensor_bytes(name).view(np.float32).reshape(shape)


def written(plan: Any, path: Path) -> GgufFile:
    plan.write(path)
    return GgufFile.open(path)


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"r": 2}], ids=str)
def test_an_adapter_says_what_merging_adds(
    config: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    lora = adapter(tmp_path / "lora", **config)
    plain = written(plan_conversion(base, contents="weights"), tmp_path / "plain.gguf")
    merged = written(
        plan_conversion(base, contents="weights", adapters=[lora]), tmp_path / "merged.gguf"
    )
    alone = written(plan_adapter(lora, base), tmp_path / "adapter.gguf")
    assert alone.metadata["general.type"] == "adapter"
    assert alone.metadata["adapter.type"] == "lora"
    rank = config.get("r", 4)
    scale = alone.metadata["adapter.lora.alpha"] / rank
    assert scale == pytest.approx(8 / (rank**0.5 if config.get("use_rslora") else rank))
    assert len(alone.tensors) == 2 * len(NAMES)
    for name in plain.tensors:
        added = floats(merged, name) - floats(plain, name)
        if f"{name}.lora_a" not in alone.tensors:
            assert not added.any()
            continue
        product = floats(alone, f"{name}.lora_b") @ floats(alone, f"{name}.lora_a")
        np.testing.assert_allclose(added, scale * product, atol=2e-6)
    assert {f"{name}.weight.lora_a" for name in NAMES.values()} <= set(alone.tensors)


def test_merging_is_the_sum_that_peft_computes(base: Path, tmp_path: Path) -> None:
    lora = adapter(tmp_path / "lora")
    plan = plan_conversion(base, contents="weights", adapters=[lora, lora])
    file = written(plan, tmp_path / "merged.gguf")
    rng = np.random.default_rng(5)
    arrays = checkpoints.arrays(checkpoints.CONFIG)
    for name, (n_out, n_in) in MODULES.items():
        a, b = rng.normal(0, 0.3, (4, n_in)), rng.normal(0, 0.3, (n_out, 4))
        expected = arrays[f"{name}.weight"] + 2 * (8 / 4) * (b @ a)
        if name.endswith("v_proj") or name == "lm_head":  # rows that stay in their places
            np.testing.assert_allclose(floats(file, f"{NAMES[name]}.weight"), expected, atol=1e-5)


def test_what_is_quantised_becomes_floats_where_an_adapter_is_added(tmp_path: Path) -> None:
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    packing.write(
        tmp_path / "m",
        lambda prefix, q: packing.gptq(prefix, q, 4),
        quantization,
        lambda shape, seed: packing.quantised(shape, 4, 32, 8, seed),
    )
    lora = adapter(tmp_path / "lora", {"model.layers.0.self_attn.v_proj": (32, 64)})
    plan = plan_conversion(tmp_path / "m", contents="weights", adapters=[lora])
    assert any("an adapter is added to them" in note for note in plan.notes)
    file = written(plan, tmp_path / "merged.gguf")
    assert file.tensors["blk.0.attn_v.weight"].type is QuantType.F16
    assert file.tensors["blk.1.attn_v.weight"].type is QuantType.Q4_0


def test_the_file_is_sound_and_known_as_an_adapter(base: Path, tmp_path: Path, gguf_hub) -> None:
    adapter(tmp_path / "lora")
    code, out, _ = gguf_hub("convert", tmp_path / "lora", tmp_path, "--base", base)
    path = tmp_path / "lora.F32.gguf"
    assert (code, out) == (0, f"{path}\n")
    assert validate_file(path).issues == ()
    code, _, err = gguf_hub("run", path, "-p", "a")
    assert (code, "is a LoRA adapter, not a model" in err) == (1, True)


def test_an_adapter_without_its_model_says_how(base: Path, tmp_path: Path, gguf_hub) -> None:
    adapter(tmp_path / "lora")
    code, _, err = gguf_hub("convert", tmp_path / "lora", tmp_path)
    assert (code, "is a LoRA adapter, not a model" in err, "--base" in err) == (1, True, True)
    code, _, err = gguf_hub(
        "convert", base, tmp_path / "m.gguf", "--no-vocab", "--merge-lora", tmp_path / "lora"
    )
    assert code == 0, err


def _only_a(arrays: packing.Arrays) -> None:
    del arrays["base_model.model.lm_head.lora_B.weight"]


def _another(arrays: packing.Arrays) -> None:
    arrays["base_model.model.lm_head.weight"] = np.zeros((2, 2), "<f4")


@pytest.mark.parametrize(
    ("config", "modules", "change", "message"),
    [
        ({"use_dora": True}, {}, None, "`use_dora`: expected False, found True"),
        ({"peft_type": "IA3"}, {}, None, "`peft_type`: expected LORA, found 'IA3'"),
        ({"lora_alpha": 0}, {}, None, "`lora_alpha`: expected a positive number, found 0"),
        ({"modules_to_save": ["lm_head"]}, {}, None, "`modules_to_save`: expected []"),
        ({}, {"model.layers.9.mlp.up_proj": (64, 32)}, None, "the model has no such weight"),
        ({}, {"lm_head": (300, 30)}, None, "expected shape [300, 32], found [300, 30]"),
        ({}, {}, _only_a, "expected lora_A [rank, n_in] and lora_B [n_out, rank]"),
        ({}, {}, _another, "lm_head.weight` is not a matrix of floats of a LoRA pair"),
        ({}, {}, lambda arrays: arrays.clear(), "no LoRA pairs"),
    ],
    ids=range(9),
)
def test_adapters_that_cannot_be_merged_say_why(
    config: Any, modules: Any, change: Any, message: str, base: Path, tmp_path: Path
) -> None:
    lora = adapter(tmp_path / "lora", modules or MODULES, change or (lambda a: None), **config)
    with pytest.raises(CheckpointError) as found:
        plan_conversion(base, contents="weights", adapters=[lora])
    assert message in str(found.value)


def test_weights_that_no_gguf_adapter_changes_are_named(base: Path, tmp_path: Path) -> None:
    lora = adapter(tmp_path / "lora", {**MODULES, "model.embed_tokens": (300, 32)})
    with pytest.raises(CheckpointError, match=r"`model\.embed_tokens\.weight`: no GGUF adapter"):
        plan_adapter(lora, base)
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no `adapter_model\.safetensors`"):
        plan_adapter(lora, base)
