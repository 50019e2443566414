"""How a checkpoint's weights are stored, by its configuration, and each matrix so opened.

What a configuration says that this does not know, and that would change the weights, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gguf_hub.errors import CheckpointError
from gguf_hub.run.convert.checkpoint import Checkpoint, StoredTensor, read_json_if_any
from gguf_hub.run.convert.stored.awq import read_awq
from gguf_hub.run.convert.stored.compressed import read_compressed, read_int8
from gguf_hub.run.convert.stored.gptq import GptqSettings, read_gptq
from gguf_hub.run.convert.stored.matrix import Matrix, Plain
from gguf_hub.run.convert.stored.module import Module
from gguf_hub.run.convert.stored.mxfp4 import read_mxfp4
from gguf_hub.run.convert.stored.scaled import EIGHT_BITS, read_scaled

Read = Callable[[Module], Matrix | None]

_UNUSED = re.compile(
    r".*\.(input_scale|activation_scale|act_scale|k_scale|v_scale|q_scale|[a-z_]*activation_scale)"
)
"""Scales of activations and caches: weights are what they are without them."""


def open_matrices(checkpoint: Checkpoint) -> dict[str, Matrix]:
    """Return the weights of a checkpoint by their names, as if all were stored as floats.

    Raises:
        CheckpointError: A way of quantising that is not known, or tensors that do not go together.
    """
    settings = _Settings(checkpoint)
    suffix, read = settings.method()
    if settings.issues:
        raise CheckpointError(settings.path, settings.issues, hint=settings.hint)
    issues: list[str] = []
    matrices, used = _read_modules(checkpoint.tensors, suffix, read, issues)
    if issues:
        raise CheckpointError(checkpoint.folder, issues)
    for name, stored in checkpoint.tensors.items():
        if name not in used and not (suffix and _UNUSED.fullmatch(name)):
            matrices[name] = Plain.of(stored)
    return matrices


def _read_modules(
    tensors: Mapping[str, StoredTensor], suffix: str, read: Read, issues: list[str]
) -> tuple[dict[str, Matrix], set[str]]:
    """Return the matrices that several tensors hold, and the names of these tensors."""
    matrices: dict[str, Matrix] = {}
    used: set[str] = set()
    for name in tensors if suffix else ():
        if not name.endswith(suffix):
            continue
        module = Module(name.removesuffix(suffix), tensors, issues)
        matrix = read(module)
        used |= module.used
        if matrix is not None:
            matrices[matrix.name] = matrix
            used |= _empty_bias(module.prefix, tensors)
    return matrices, used


def _empty_bias(prefix: str, tensors: Mapping[str, StoredTensor]) -> set[str]:
    """Return the bias of a module if it is all zeros: AutoGPTQ wrote one for every matrix."""
    bias = tensors.get(f"{prefix}.bias")
    if bias is None or not bias.has_known_type or bias.open().any():
        return set()
    return {bias.name}


class _Settings:
    """The quantisation that a checkpoint's files state."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path = checkpoint.folder / "config.json"
        self.issues: list[str] = []
        self.hint: str | None = None
        stated = checkpoint.config.get("quantization_config")
        for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
            if not stated and any(tensor.endswith(".qweight") for tensor in checkpoint.tensors):
                stated = read_json_if_any(checkpoint.folder / name)
                self.path = checkpoint.folder / (name if stated else "config.json")
                stated = {"quant_method": method, **stated} if stated else None
        self.stated: Mapping[str, Any] = stated if isinstance(stated, dict) else {}
        if stated and not self.stated:
            self.issues.append(f"`quantization_config`: expected an object, found {stated!r:.40}")
        self.tensors = checkpoint.tensors

    def method(self) -> tuple[str, Read]:
        """Return the end of the name that tells a quantised module, and what reads it."""
        methods = {
            "gptq": self._gptq, "awq": self._awq, "compressed-tensors": self._compressed,
            "fp8": self._fp8, "fbgemm_fp8": self._fp8, "mxfp4": self._mxfp4,
        }  # fmt: skip
        if not self.stated:
            return "", lambda module: None
        name = str(self.stated.get("quant_method", "")).lower()
        if name not in methods:
            self.hint = "convert the checkpoint that it was made from"
            self._refuse("quant_method", name or None, ", ".join(methods))
            return "", lambda module: None
        return methods[name]()

    def _refuse(self, key: str, found: Any, expected: str) -> None:
        self.issues.append(f"quantization_config `{key}`: expected {expected}, found {found!r:.60}")

    def _expect(self, key: str, *values: Any) -> None:
        """Refuse another value of a key than these; an absent one is None."""
        found = self.stated.get(key)
        found = found.lower() if isinstance(found, str) else found
        if found not in values:
            shown = " or ".join(str(value) for value in values if value is not None) or "nothing"
            self._refuse(key, self.stated.get(key), shown)

    def _integer(self, *keys: str, allowed: Callable[[int], bool], expected: str) -> int:
        """Return the whole number under the first of some keys that is there; 1 if unusable."""
        key = next((key for key in keys if key in self.stated), keys[0])
        value = self.stated.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not allowed(value):
            self._refuse(key, value, expected)
            return 1
        return value

    def _group_size(self, *keys: str) -> int:
        return self._integer(
            *keys, allowed=lambda n: n == -1 or 0 < n < 1 << 31, expected="columns, or -1 for all"
        )

    def _gptq(self) -> tuple[str, Read]:
        self._expect("checkpoint_format", None, "gptq", "gptq_v2")
        self._expect("format", None, "gptq", "gptq_v2")
        self._expect("pack_dtype", None, "int32")
        for key in ("is_marlin_format", "rotation", "adapter", "lora"):
            self._expect(key, None, False, "", {}, [])
        bits = self._integer("bits", allowed=lambda n: n in (2, 3, 4, 8), expected="2, 3, 4 or 8")
        size = self._group_size("group_size")
        layout = self.stated.get("checkpoint_format") or self.stated.get("format") or "gptq"
        is_v2 = str(layout).lower() == "gptq_v2"
        differs = bool(self.stated.get("dynamic"))  # some modules have other sizes
        settings = GptqSettings(None if differs else bits, None if differs else size, is_v2)
        return ".qweight", lambda module: read_gptq(module, settings)

    def _awq(self) -> tuple[str, Read]:
        version = self.stated.get("version") or self.stated.get("format") or "gemm"
        version = str(version).lower()
        if version not in ("gemm", "exllama", "gemv"):
            self._refuse("version", version, "gemm, exllama or gemv")
        self._integer("bits", "w_bit", allowed=lambda n: n == 4, expected="4")
        size = self._group_size("group_size", "q_group_size")
        return ".qweight", lambda module: read_awq(module, size, version)

    def _compressed(self) -> tuple[str, Read]:
        sparsity = self.stated.get("sparsity_config") or {}
        if not isinstance(sparsity, dict) or sparsity.get("format", "dense") != "dense":
            self._refuse("sparsity_config", sparsity, "dense weights")
        self._expect("transform_config", None, {})
        format = str(self.stated.get("format", "")).lower()
        groups = self.stated.get("config_groups")
        schemes = list(groups.values()) if isinstance(groups, dict) else []
        weights = [s.get("weights") for s in schemes if isinstance(s, dict)]
        stated = {
            tuple(each if isinstance(each, (int, str)) else None if each is None else str(each)
                  for each in (w.get("num_bits"), w.get("type", "int"), w.get("strategy"),
                               w.get("group_size"), str(w.get("block_structure"))))
            for w in weights if isinstance(w, dict)
        }  # fmt: skip
        if len(stated) != 1:
            self._refuse("config_groups", groups, "one way of storing weights")
            return "", lambda module: None
        (entry,) = stated
        return self._compressed_as(format, entry, weights[0])

    def _compressed_as(self, format: str, entry: tuple[Any, ...], weights: Any) -> tuple[str, Read]:
        bits, type, strategy, group_size, _ = entry
        size = group_size if strategy == "group" else None
        if strategy == "group" and (not isinstance(size, int) or size <= 0):
            self._refuse("group_size", size, "a number of columns")
        if format == "pack-quantized" and type == "int" and strategy in ("group", "channel"):
            if bits not in (2, 3, 4, 8):
                self._refuse("num_bits", bits, "2, 3, 4 or 8")
                bits = 4
            return ".weight_packed", lambda module: read_compressed(module, bits, size)
        if format in ("int-quantized", "naive-quantized") and (bits, type) == (8, "int"):
            return ".weight_scale", lambda module: read_int8(module, size)
        if format in ("float-quantized", "naive-quantized") and (bits, type) == (8, "float"):
            block = self._block(weights.get("block_structure"))
            return ".weight_scale", lambda module: read_scaled(module, block, "weight_scale")
        found = f"{format}, {bits} bits, {type}, {strategy}"
        self._refuse("format", found, "pack-quantized, int-quantized or float-quantized weights")
        return "", lambda module: None

    def _block(self, stated: Any) -> tuple[int, int] | None:
        if stated is None:
            return None
        is_pair = isinstance(stated, list) and len(stated) == 2
        if not is_pair or not all(type(n) is int and n > 0 for n in stated):
            self._refuse("weight_block_size", stated, "rows and columns of a block")
            return None
        return stated[0], stated[1]

    def _fp8(self) -> tuple[str, Read]:
        block = self._block(self.stated.get("weight_block_size"))
        names = ("weight_scale_inv", "weight_scale")
        name = next((n for n in names if any(t.endswith(f".{n}") for t in self.tensors)), names[0])
        bare = [
            stored.name for stored in self.tensors.values()
            if stored.dtype in EIGHT_BITS and stored.name.endswith(".weight")
            and f"{stored.name.removesuffix('.weight')}.{name}" not in self.tensors
        ]  # fmt: skip
        self.issues += [f"missing tensor `{n.removesuffix('.weight')}.{name}`" for n in bare]
        return f".{name}", lambda module: read_scaled(module, block, name)

    def _mxfp4(self) -> tuple[str, Read]:
        def read(module: Module) -> Matrix | None:
            prefix, _, name = module.prefix.rpartition(".")
            inner = Module(prefix, self.tensors, module.issues)
            matrix = read_mxfp4(inner, name)
            module.used |= inner.used
            return matrix

        return "_blocks", read
