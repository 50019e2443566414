"""Quantised checkpoints: codes are kept where a GGUF type holds them, and nothing else is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import FileType, QuantType
from gguf_hub.run.convert import plan_conversion
from gguf_hub.run.convert.encode import decode
from gguf_hub.run.convert.stored.bits import pick, unpack
from gguf_hub.run.convert.stored.mxfp4 import Mxfp4
from tests.naive import dequantize
from tests.run.convert import checkpoints, packing

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}


def compressed(format: str, bits: int, size: int | None, **weights: Any) -> dict[str, Any]:
    strategy = "group" if size else "channel"
    stated = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": size, **weights}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": stated}},
    }


def gptq(bits: int = 4, **changes: Any) -> tuple[Any, dict[str, Any]]:
    quantization = {**GPTQ, "bits": bits, **changes}
    is_v2 = quantization.get("checkpoint_format") == "gptq_v2"
    return partial(packing.gptq, bits=bits, v2=is_v2), quantization


def convert(folder: Path, **options: Any) -> GgufFile:
    path = folder.with_suffix(".gguf")
    plan_conversion(folder, contents="weights", **options).write(path)
    return GgufFile.open(path)


def permuted(weights: np.ndarray, n_head: int) -> np.ndarray:
    """Rows of q and k: halves of a head become neighbours."""
    order = np.arange(len(weights)).reshape(n_head, 2, -1).swapaxes(1, 2).reshape(-1)
    return weights[order]


NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_down": "mlp.down_proj",
    "ffn_up": "mlp.up_proj",
}  # fmt: skip
N_HEAD = {"attn_q": 4, "attn_k": 2}


def pairs(file: GgufFile, expected: dict[str, np.ndarray]) -> list[tuple[str, Any, Any, Any]]:
    """(name, type, found, expected) of every quantised matrix of a dense model."""
    rows = []
    for i in range(2):
        for name, source in NAMES.items():
            info = file.tensors[f"blk.{i}.{name}.weight"]
            wanted = expected[f"model.layers.{i}.{source}.weight"]
            if n_head := N_HEAD.get(name):
                wanted = permuted(wanted, n_head)
            found = dequantize(info.type, file.tensor_bytes(info.name)).reshape(wanted.shape)
            rows.append((info.name, info.type, found, wanted))
    return rows


def exact_in(pack: Any, quantization: Any, bits: int, zero: int, type: str, **shape: Any) -> Any:
    return pack, quantization, {"bits": bits, "zero": zero, "size": 32, **shape}, type


EXACT = {
    "gptq": exact_in(*gptq(), 4, 8, "Q4_0"),
    "gptq v2": exact_in(*gptq(checkpoint_format="gptq_v2"), 4, 8, "Q4_0"),
    "gptq without groups": exact_in(*gptq(group_size=-1), 4, 8, "Q4_0", size=-1),
    "gptq groups of 64": exact_in(*gptq(group_size=64), 4, 8, "Q4_0", size=64),
    "gptq of 2 bits": exact_in(*gptq(2), 2, 2, "Q4_0"),
    "gptq of 3 bits": exact_in(*gptq(3), 3, 4, "Q4_0"),
    "gptq of 2 bits, any zero": exact_in(*gptq(2), 2, None, "Q4_0"),
    "gptq of 3 bits, any zero": exact_in(*gptq(3), 3, None, "Q4_0"),
    "gptq of 8 bits": exact_in(*gptq(8), 8, 128, "Q8_0"),
    "awq with a middle zero": exact_in(packing.awq_gemm, AWQ, 4, 8, "Q4_0"),
    "compressed": exact_in(
        partial(packing.compressed, bits=4, symmetric=True),
        compressed("pack-quantized", 4, 32), 4, 8, "Q4_0",
    ),
    "compressed rows": exact_in(
        partial(packing.compressed, bits=4, symmetric=True),
        compressed("pack-quantized", 4, None), 4, 8, "Q4_0", size=-1,
    ),
    "compressed of 8 bits": exact_in(
        partial(packing.compressed, bits=8, symmetric=True),
        compressed("pack-quantized", 8, None), 8, 128, "Q8_0", size=-1,
    ),
    "int8": exact_in(packing.int8, compressed("int-quantized", 8, None), 8, 128, "Q8_0", size=-1),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_codes_are_kept_to_the_bit(name: str, tmp_path: Path) -> None:
    pack, quantization, options, type = EXACT[name]
    make = lambda shape, seed: packing.quantised(shape, seed=seed, **options)  # noqa: E731
    expected = packing.write(tmp_path / "m", pack, quantization, make)
    file = convert(tmp_path / "m")
    assert file.metadata["general.file_type"] == FileType[type]
    assert file.tensors["token_embd.weight"].type is QuantType.F16
    for tensor, found_type, found, wanted in pairs(file, expected):
        assert found_type is QuantType[type], tensor
        np.testing.assert_array_equal(found, wanted.astype(np.float32), tensor)


ROUNDED = {
    "awq": (packing.awq_gemm, AWQ, {}),
    "awq exllama": (packing.awq_gemm, {**AWQ, "version": "exllama"}, {}),
    "awq gemv": (packing.awq_gemv, {**AWQ, "version": "gemv"}, {}),
    "gptq": (*gptq(), {}),
    "gptq v2": (*gptq(checkpoint_format="gptq_v2"), {}),
    "compressed": (
        partial(packing.compressed, bits=4, symmetric=False),
        compressed("pack-quantized", 4, 32, symmetric=False), {},
    ),
    "compressed, zero points as bytes": (
        partial(packing.compressed, bits=4, symmetric=False, has_packed_zeros=False),
        compressed("pack-quantized", 4, 32, symmetric=False), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROUNDED)
def test_offsets_are_off_by_no_more_than_a_half_of_them_is(name: str, tmp_path: Path) -> None:
    pack, quantization, options = ROUNDED[name]
    make = lambda shape, seed: packing.quantised(  # noqa: E731
        shape, 4, 32, None, seed, **options
    )
    expected = packing.write(tmp_path / "m", pack, quantization, make)
    plan = plan_conversion(tmp_path / "m", contents="weights")
    assert any("become Q4_1: every code and scale is kept" in note for note in plan.notes)
    names = list(NAMES)
    for i, (tensor, type, found, wanted) in enumerate(pairs(convert(tmp_path / "m"), expected)):
        assert type is QuantType.Q4_1, tensor
        q = make(wanted.shape, list(expected).index(_source(i, names)))
        scales, zeros = q.scales.astype(float), q.zeros.astype(float)
        if n_head := N_HEAD.get(names[i % len(names)]):
            scales, zeros = permuted(scales, n_head), permuted(zeros, n_head)
        bound = np.maximum(scales * zeros * 2.0**-11, 2.0**-25)[:, q.groups]
        assert (np.abs(found - wanted) <= bound).all(), tensor
        # all weights of a block are off by the same
        off = (found.astype(float) - wanted).reshape(len(wanted), -1, 32)
        assert (np.abs(off - off[..., :1]) < 1e-7).all(), tensor


def _source(i: int, names: list[str]) -> str:
    return f"model.layers.{i // len(names)}.{NAMES[names[i % len(names)]]}.weight"


ELSE = {
    "act-order": (*gptq(desc_act=True), {"zero": 8, "order": True}, "act-order"),
    "groups of 16": (*gptq(group_size=16), {"zero": 8, "size": 16}, "do not fill blocks of 32"),
    "8 bits with zero points": (*gptq(8), {"bits": 8, "zero": None}, "other zero points than 128"),
}


@pytest.mark.parametrize("outtype", ["auto", "f32", "q8_0"])
@pytest.mark.parametrize("name", ELSE)
def test_what_no_block_holds_becomes_floats(name: str, outtype: Any, tmp_path: Path) -> None:
    pack, quantization, options, note = ELSE[name]
    options = {"bits": 4, "size": 32, **options}
    make = lambda shape, seed: packing.quantised(shape, seed=seed, **options)  # noqa: E731
    expected = packing.write(tmp_path / "m", pack, quantization, make)
    assert any(note in text for text in plan_conversion(tmp_path / "m", contents="weights").notes)
    file = convert(tmp_path / "m", outtype=outtype)
    relative = {"auto": 2**-11, "f32": 0, "q8_0": 1 / 220}[outtype]
    for tensor, type, found, wanted in pairs(file, expected):
        assert type is QuantType["F16" if outtype == "auto" else outtype.upper()], tensor
        limit = relative * np.abs(wanted) if outtype != "q8_0" else relative * np.abs(wanted).max()
        assert (np.abs(found - wanted) <= limit + 2.0**-25).all(), tensor


@pytest.mark.parametrize("layout", ["merged", "split"])
def test_experts_of_a_mixtral_keep_their_codes(layout: Any, tmp_path: Path) -> None:
    """As TheBloke/Mixtral-8x7B-v0.1-GPTQ: every expert is a module of its own; empty biases."""
    pack, quantization = gptq()

    def with_bias(prefix: str, q: packing.Quantised) -> packing.Arrays:
        return {**pack(prefix, q), f"{prefix}.bias": np.zeros(len(q.codes), "<f2")}

    def make(shape: tuple[int, int], seed: int) -> packing.Quantised:  # one expert is asymmetric
        return packing.quantised(shape, 4, 32, None if seed == 6 else 8, seed)

    changes = checkpoints.MIXTURE
    expected = packing.write(tmp_path / "m", with_bias, quantization, make, **changes)
    file = convert(tmp_path / "m", layout=layout)
    kinds = set()
    for i in range(2):
        for name, source in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
            wanted = np.stack([
                expected[f"model.layers.{i}.block_sparse_moe.experts.{e}.{source}.weight"]
                for e in range(4)
            ])  # fmt: skip
            merged = [f"blk.{i}.ffn_{name}_exps.weight"]
            split = [f"blk.{i}.ffn_{name}.{e}.weight" for e in range(4)]
            names = merged if layout == "merged" else split
            kinds |= {file.tensors[n].type for n in names}
            found = [dequantize(file.tensors[n].type, file.tensor_bytes(n)) for n in names]
            np.testing.assert_allclose(np.concatenate(found), wanted.reshape(-1), atol=2e-4)
    assert kinds == {QuantType.Q4_0, QuantType.Q4_1}
    assert file.tensors["blk.0.ffn_gate_inp.weight"].type is QuantType.F32


def test_old_checkpoints_state_it_in_a_file_of_its_own(tmp_path: Path) -> None:
    pack, quantization = gptq()
    make = lambda shape, seed: packing.quantised(shape, 4, 32, 8, seed)  # noqa: E731
    packing.write(tmp_path / "m", pack, quantization, make)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    stated = config.pop("quantization_config")
    del stated["quant_method"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "quantize_config.json").write_text(json.dumps(stated))
    assert convert(tmp_path / "m").tensors["blk.0.attn_q.weight"].type is QuantType.Q4_0


def test_modules_may_differ_where_the_configuration_says_so(tmp_path: Path) -> None:
    _, quantization = gptq(dynamic={"+:.*down.*": {"bits": 8}})

    def bits(prefix: str) -> int:
        return 8 if "down" in prefix else 4

    def make(shape: tuple[int, int], seed: int) -> packing.Quantised:
        is_down = shape == (64, 128)
        return packing.quantised(shape, 8 if is_down else 4, 32, 128 if is_down else 8, seed)

    def pack(prefix: str, q: packing.Quantised) -> packing.Arrays:
        return packing.gptq(prefix, q, bits(prefix))

    packing.write(tmp_path / "m", pack, quantization, make)
    file = convert(tmp_path / "m")
    assert file.tensors["blk.0.ffn_down.weight"].type is QuantType.Q8_0
    assert file.tensors["blk.0.ffn_up.weight"].type is QuantType.Q4_0


# -- bits and floats ------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_elements_come_out_of_words_in_order(bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 1 << bits, (3, 64))
    words = packing.words(values, bits)
    np.testing.assert_array_equal(unpack(words, bits, 64), values)
    rows = np.array([63, 0, 10, 21, 31, 32])
    np.testing.assert_array_equal(pick(words, rows * bits, bits), values[:, rows])


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("F8_E4M3", {0: 0, 1: 2**-9, 7: 7 * 2**-9, 8: 2**-6, 0x38: 1, 0x7E: 448, 0xB8: -1}),
        ("F8_E5M2", {0: 0, 1: 2**-16, 4: 2**-14, 0x3C: 1, 0x7B: 57344, 0xBC: -1, 0x7C: np.inf}),
    ],
)
def test_floats_of_eight_bits(dtype: str, values: dict[int, float]) -> None:
    found = decode(np.array(list(values), np.uint8), dtype)
    np.testing.assert_array_equal(found, np.array(list(values.values()), np.float32))
    assert np.isnan(decode(np.array([0x7F, 0xFF], np.uint8), dtype)).all()


# -- problems -------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as found:
        plan_conversion(folder, contents="weights").write(folder.with_suffix(".gguf"))
    assert not list(folder.parent.glob("*.gguf*"))
    return str(found.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "`quant_method`: expected gptq, awq, compressed-tens"),
        ({"bits": 5}, "`bits`: expected 2, 3, 4 or 8, found 5"),
        ({"bits": None}, "`bits`: expected 2, 3, 4 or 8, found None"),
        ({"bits": 8}, "from `bits` 8 and `group_size` 32, found"),
        ({"group_size": 0}, "`group_size`: expected columns, or -1 for all, found 0"),
        ({"group_size": 64}, "self_attn.q_proj.scales`: expected shape [1, 64] from `bits` 4"),
        ({"checkpoint_format": "marlin"}, "`checkpoint_format`: expected gptq or gptq_v2, found"),
        ({"is_marlin_format": True}, "`is_marlin_format`: expected False"),
        ({"rotation": "hadamard"}, "`rotation`: expected"),
        ({"quant_method": "awq", "version": "gemv_fast"}, "`version`: expected gemm, exllama or"),
        ({"quant_method": "compressed-tensors"}, "`config_groups`: expected one way"),
        ({**compressed("pack-quantized", 4, 32), "sparsity_config": [1]}, "`sparsity_config`: exp"),
        ({**compressed("pack-quantized", [4], 32)}, "`num_bits`: expected 2, 3, 4 or 8"),
        ({**compressed("pack-quantized", 4, [32])}, "`group_size`: expected a number of columns"),
        (
            {**compressed("pack-quantized", 4, 32), "transform_config": {"R1": {}}},
            "`transform_config`: expected",
        ),
        (
            {**compressed("nvfp4-pack-quantized", 4, 16)},
            "`format`: expected pack-quantized, int-quantized or float-quantized",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_cannot_be_are_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pack, quantization = gptq()
    make = lambda shape, seed: packing.quantised(shape, 4, 32, 8, seed)  # noqa: E731
    packing.write(tmp_path / "m", pack, {**quantization, **changes}, make)
    assert message in refusal(tmp_path / "m")


def change(suffix: str, to: Callable[[np.ndarray], np.ndarray | None]) -> Any:
    """Change one tensor of the first module."""
    name = f"model.layers.0.self_attn.k_proj.{suffix}"

    def apply(tensors: packing.Arrays) -> None:
        value = to(tensors.pop(name))
        if value is not None:
            tensors[name] = value

    return apply


def _nan(scales: np.ndarray) -> np.ndarray:
    scales = scales.copy()
    scales[1, 5] = np.nan
    return scales


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (change("scales", lambda a: None), "missing tensor `model.layers.0.self_attn.k_proj.scal"),
        (change("qzeros", lambda a: None), "missing tensor `model.layers.0.self_attn.k_proj.qzer"),
        (change("qzeros", lambda a: a[:1]), "k_proj.qzeros`: expected shape [2, 4]"),
        (change("qweight", lambda a: a[:4]), "k_proj.scales`: expected shape [1, 32]"),
        (change("qweight", lambda a: a.astype("<i8")), "k_proj.qweight`: expected I32, found I64"),
        (change("scales", lambda a: a[0]), "k_proj.scales`: expected 2 dimensions, found shape"),
        (change("g_idx", lambda a: a + 1), "`g_idx` holds a group beyond the 2 of `scales`"),
        (change("g_idx", lambda a: a[1:]), "k_proj.g_idx`: expected shape [64]"),
        (change("scales", _nan), "k_proj.weight` [5, 32]: has a scale that is not finite (nan)"),
        (change("scales", lambda a: np.full_like(a, 7e4, "<f4")), "70000 is too large for Q4_0"),
    ],
    ids=range(10),
)
def test_tensors_that_do_not_go_together_are_named(
    changed: Any, message: str, tmp_path: Path
) -> None:
    _, quantization = gptq()
    config = {**checkpoints.CONFIG, **packing.SIZES, "quantization_config": quantization}
    tensors: packing.Arrays = {}
    for name, array in checkpoints.arrays(config).items():
        if array.ndim < 2 or ".layers." not in name:
            tensors[name] = array
        else:
            q = packing.quantised(array.shape, 4, 32, 8, 0)
            tensors |= packing.gptq(name.removesuffix(".weight"), q, 4)
    changed(tensors)
    packing.save(tmp_path / "m", tensors, config)
    assert message in refusal(tmp_path / "m")


def test_a_bias_that_counts_is_not_dropped(tmp_path: Path) -> None:
    pack, quantization = gptq()

    def with_bias(prefix: str, q: packing.Quantised) -> packing.Arrays:
        return {**pack(prefix, q), f"{prefix}.bias": np.ones(len(q.codes), "<f2")}

    make = lambda shape, seed: packing.quantised(shape, 4, 32, 8, seed)  # noqa: E731
    packing.write(tmp_path / "m", with_bias, quantization, make, **checkpoints.MIXTURE)
    assert "w1.bias` does not belong to a model" in refusal(tmp_path / "m")


# -- floats of eight and of four bits -------------------------------------------------------------


def eight_bits(shape: tuple[int, ...], seed: int) -> np.ndarray:
    codes = np.random.default_rng(seed).integers(0, 256, shape).astype("u1")
    return np.where(codes & 127 == 127, codes & 0x80, codes).astype("u1")


def write_fp8(folder: Path, quantization: dict[str, Any], scales: Any) -> dict[str, np.ndarray]:
    """Matrices of layers as codes of F8_E4M3 and ``scales(shape)``; return what they stand for."""
    config = {**checkpoints.CONFIG, **packing.SIZES, "quantization_config": quantization}
    tensors: packing.Arrays = {}
    expected = {}
    for seed, (name, array) in enumerate(checkpoints.arrays(config).items()):
        if array.ndim < 2 or ".layers." not in name:
            tensors[name] = array.astype("<f2")
            continue
        codes, (key, stored, spread) = eight_bits(array.shape, seed), scales(array.shape)
        tensors[name] = codes
        tensors[name.removesuffix("weight") + key] = stored
        expected[name] = decode(codes, "F8_E4M3").astype(np.float64) * spread
    packing.save(folder, tensors, config, dict.fromkeys(expected, "F8_E4M3"))
    return expected


def of_tensor(shape: tuple[int, int]) -> tuple[str, np.ndarray, Any]:
    return "weight_scale_inv", np.array(2.0**-9, "<f4"), 2.0**-9


def of_rows(shape: tuple[int, int]) -> tuple[str, np.ndarray, Any]:
    scales = np.random.default_rng(0).uniform(1e-3, 1e-2, (shape[0], 1)).astype("<f4")
    return "weight_scale", scales, scales.astype(np.float64)


def of_blocks(shape: tuple[int, int]) -> tuple[str, np.ndarray, Any]:
    blocks = (-(-shape[0] // 48), -(-shape[1] // 48))  # which the last ones do not fill
    scales = np.random.default_rng(0).uniform(1e-3, 1e-2, blocks).astype("<f4")
    spread = np.repeat(np.repeat(scales, 48, 0), 48, 1)[: shape[0], : shape[1]]
    return "weight_scale_inv", scales, spread.astype(np.float64)


FP8 = {
    "tensor": (of_tensor, {"quant_method": "fp8"}),
    "rows": (of_rows, {"quant_method": "fbgemm_fp8"}),
    "blocks": (of_blocks, {"quant_method": "fp8", "weight_block_size": [48, 48]}),
    "compressed rows": (of_rows, compressed("float-quantized", 8, None, type="float")),
}


@pytest.mark.parametrize("outtype", ["auto", "f32"])
@pytest.mark.parametrize("name", FP8)
def test_scaled_floats_of_eight_bits(name: str, outtype: Any, tmp_path: Path) -> None:
    scales, quantization = FP8[name]
    expected = write_fp8(tmp_path / "m", quantization, scales)
    for tensor, type, found, wanted in pairs(convert(tmp_path / "m", outtype=outtype), expected):
        assert type is (QuantType.F32 if outtype == "f32" else QuantType.BF16), tensor
        relative = 2**-24 if outtype == "f32" or name == "tensor" else 2**-8
        assert (np.abs(found - wanted) <= relative * np.abs(wanted)).all(), tensor


def test_scales_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_fp8(tmp_path / "m", {"quant_method": "fp8", "weight_block_size": [32, 32]}, of_blocks)
    message = "down_proj.weight_scale_inv`: expected shape [2, 4] from blocks of 32 x 32"
    assert message in refusal(tmp_path / "m")
    write_fp8(tmp_path / "n", {"quant_method": "fp8", "weight_block_size": [32]}, of_blocks)
    assert "`weight_block_size`: expected rows and columns" in refusal(tmp_path / "n")


def test_blocks_of_four_bits_are_those_of_gguf() -> None:
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (2, 5, 3, 16)).astype("u1")
    exponents = rng.integers(100, 140, (2, 5, 3)).astype("u1")
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    # the first of two elements is the lower nibble
    pairs_of = values[np.stack([blocks & 15, blocks >> 4], axis=-1)].reshape(2, 5, 3, 32)
    wanted = (pairs_of * 2.0 ** (exponents.astype(int) - 127)[..., None]).reshape(10, 96)

    class Fixed:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def open(self) -> np.ndarray:
            return self.array

    matrix = Mxfp4("x", Path(), (2, 5, 96), "MXFP4", Fixed(blocks), Fixed(exponents))  # type: ignore[arg-type]
    np.testing.assert_array_equal(matrix.floats(slice(None)), wanted)
    raw = matrix.encoded(slice(3, 7), QuantType.MXFP4)
    np.testing.assert_array_equal(dequantize(QuantType.MXFP4, raw).reshape(4, 96), wanted[3:7])
