"""LoRA adapters in GGUF form: small matrices A and B, whose product is added to a weight's.

To what a weight W makes of an activation row x, scale * B (A x) is added; the scale is that of the
user times alpha / rank. Weights stay as they are in their file. The pairs of all adapters lie in
one array, as F32 and with the scale in B. Several pairs of one weight are one pair of their ranks'
sum: [B1 B2] ([A1; A2] x) is B1 (A1 x) + B2 (A2 x).

Shape letters: r rank, E experts. ``NAME.lora_a`` is A, [r, n_in], and ``NAME.lora_b`` is B,
[n_out, r]; of experts there are E of each, one after another. Of the embeddings A has a row of r
for each token, and B is [n_embd, r].

Source: src/llama-adapter.cpp, and build_lora_mm, build_lora_mm_id and build_inp_embd in
src/llama-graph.cpp of llama.cpp.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import ResourceError, UnsupportedGgufError
from gguf_hub.gguf.floats import FLOAT_TYPES, float_tensor
from gguf_hub.gguf.hparams import ARCHITECTURE
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.roles import Role, role_of_header
from gguf_hub.gguf.shards import Gguf, open_gguf
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import QuantType
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.model.settings import AdapterFile
from gguf_hub.units import format_size

_A, _B = ".lora_a", ".lora_b"
_EMBEDDINGS = "token_embd.weight"
_ALIGN = 64  # bytes; and no matrix at 0, which stands for none in tables of experts
_FLOAT = 4
_TYPES = (*FLOAT_TYPES, QuantType.Q8_0)
_MAX_LISTED = 5
_Q8_0 = np.dtype([("scale", "<f2"), ("quants", "i1", 32)])


@dataclass(frozen=True)
class LowRank:
    """What is added to a matrix's products: B (A x).

    Attributes:
        rank: Rows of A.
        a: Byte of the adapters' data where A begins, [rank, n_in].
        b: Byte where B begins, [n_out, rank].
        a_bytes: From the A of one expert to the next.
    """

    rank: int
    a: int
    b: int
    a_bytes: int = 0

    def part(self, first: int, expert: int = 0) -> LowRank:
        """Return what is added to rows from ``first`` on, of the experts' one after another."""
        b = self.b + first * self.rank * _FLOAT
        return replace(self, a=self.a + expert * self.a_bytes, b=b)


@dataclass(frozen=True)
class Adapters:
    """All adapters of a model.

    Attributes:
        data: A and B of every pair, float32, as bytes.
        deltas: Name of a model's tensor -> what is added to its products.
        id: Tells adapters and scales from others; empty without any.
    """

    data: NDArray[np.uint8]
    deltas: Mapping[str, LowRank]
    id: str = ""

    def __bool__(self) -> bool:
        return bool(self.deltas)

    def rank(self, *, of_experts: bool) -> int:
        """Return the largest rank of pairs of experts, or of all others; 0 without any."""
        return max((d.rank for d in self.deltas.values() if bool(d.a_bytes) == of_experts),
                   default=0)  # fmt: skip


NO_ADAPTERS = Adapters(np.zeros(0, np.uint8), {})
"""The model as its file has it."""


@dataclass(frozen=True)
class _Pair:
    """A and B of one weight in one file.

    Attributes:
        file: The adapter.
        name: Of the model's tensor.
        scale: What B is multiplied with.
    """

    file: GgufFile
    name: str
    scale: float

    def ne(self, suffix: str) -> tuple[int, ...]:
        return self.file.tensors[self.name + suffix].shape

    @property
    def rank(self) -> int:
        return self.ne(_B)[0]

    def floats(self, suffix: str) -> NDArray[np.float32]:
        """Return A or B, [E, rows, columns]."""
        name = self.name + suffix
        *experts, rows, columns = self.file.tensors[name].shape[::-1]
        return _decode(self.file, name).reshape(math.prod(experts), rows, columns)


def _decode(file: GgufFile, name: str) -> NDArray[np.float32]:
    if file.tensors[name].type in FLOAT_TYPES:
        return float_tensor(file, name)
    blocks = file.tensor_bytes(name).view(_Q8_0)
    return (blocks["quants"] * blocks["scale"].astype(np.float32)[:, None]).ravel()


def read_adapters(
    file: Gguf, adapters: Sequence[AdapterFile], progress: Progress = SILENT
) -> Adapters:
    """Read the adapters of a model; one with scale 0 changes nothing, as in llama.cpp.

    Args:
        file: The model.
        adapters: Files and scales.
        progress: Notified of what an adapter holds and is not computed with.

    Raises:
        GgufError: A file is damaged.
        ResourceError: Not enough memory.
        UnsupportedGgufError: A file is no LoRA adapter, or one of another model.
    """
    with ExitStack() as opened:
        pairs: dict[str, list[_Pair]] = {}
        for adapter in adapters:
            source = opened.enter_context(_open(adapter.path))
            _check_header(source, file)
            for pair in _pairs_of(source, file, adapter.scale, progress):
                if adapter.scale:
                    pairs.setdefault(pair.name, []).append(pair)
        return _gather(pairs) if pairs else NO_ADAPTERS


def _open(path: Path) -> GgufFile:
    opened = open_gguf(path)
    if isinstance(opened, GgufFile):
        return opened
    opened.close()
    _refuse(path, "is one shard of several: expected a LoRA adapter in one file")


def _check_header(source: GgufFile, model: Gguf) -> None:
    """Refuse what is no LoRA adapter of the model's architecture."""
    path, keys, fields = source.path, source.metadata, source.fields
    role = role_of_header(fields, source.tensors)
    if role is not Role.ADAPTER:
        _refuse(path, f"is {role.description}: expected a LoRA adapter",
                "name the adapter's GGUF; `gguf-hub convert ADAPTER_DIR OUT --base HF_DIR` makes "
                "one of an adapter of PEFT")  # fmt: skip
    if source.byte_order != "little":
        _refuse(path, "is big-endian: expected little-endian",
                f"`gguf-hub upgrade {quote(str(path))} OUT` converts it")  # fmt: skip
    if (kind := keys.get("adapter.type")) != "lora":
        _refuse(path, f"has `adapter.type` {shown(str(kind))}: expected `lora`")
    theirs, own = keys.get(ARCHITECTURE), model.metadata.get(ARCHITECTURE)
    if theirs != own:
        _refuse(path, f"is an adapter of architecture {shown(str(theirs))}, but the model's is "
                f"`{own}`", "name an adapter of this model")  # fmt: skip
    if "adapter.alora.invocation_tokens" in keys:
        _refuse(path, "is an activated LoRA (`adapter.alora.invocation_tokens`), which works from "
                "certain tokens on: expected one that works on all tokens")  # fmt: skip
    alpha = keys.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        _refuse(path, f"has `adapter.lora.alpha` {shown(str(alpha))}: expected a number")


def _pairs_of(source: GgufFile, model: Gguf, scale: float, progress: Progress) -> Iterator[_Pair]:
    """Yield the pairs of an adapter, each with the shapes of its weight."""
    names = _paired_names(source, progress)
    alpha = source.metadata.get("adapter.lora.alpha", 0.0)
    problems = []
    for name in names:
        pair = _Pair(source, name, 1.0)
        problem = _shape_problem(pair, model) or _type_problem(pair)
        if problem:
            problems.append(problem)
        else:
            yield replace(pair, scale=scale * alpha / pair.rank if alpha else scale)
    if problems:
        _refuse(source.path, f"does not fit the model: {_some(problems)}",
                "is it an adapter of another model? "
                f"`gguf-hub inspect --tensors {quote(str(source.path))}` lists its tensors",
        )  # fmt: skip


def _paired_names(source: GgufFile, progress: Progress) -> list[str]:
    """Return the names of the weights that an adapter changes."""
    stems: dict[str, set[str]] = {}
    others, norms = list[str](), list[str]()
    for name in source.tensors:
        stem, suffix = name[: -len(_A)], name[-len(_A) :]
        if suffix in (_A, _B):
            stems.setdefault(stem, set()).add(suffix)
        else:
            (norms if name.endswith("_norm.weight") else others).append(name)
    problems = [f"tensor `{name}` is no part of a LoRA pair" for name in others]
    for stem, suffixes in stems.items():
        problems += [f"tensor `{stem}{suffix}` is missing" for suffix in {_A, _B} - suffixes]
    if not stems:
        problems.append("no LoRA pairs")
    if problems:
        _refuse(source.path, f"is no complete LoRA adapter: {_some(problems)}",
                f"`gguf-hub verify {quote(str(source.path))}` lists every problem")  # fmt: skip
    if norms:
        progress.note(f"`{source.path.name}`: {len(norms)} norms of the adapter are not used, as "
                      "in llama.cpp: " + _some([f"`{name}`" for name in norms]))  # fmt: skip
    return list(stems)


def _shape_problem(pair: _Pair, model: Gguf) -> str:
    """Return what is wrong with the shapes of a pair; "" for nothing."""
    shape = _shape_in(model, pair.name)
    if shape is None:
        return f"the model has no tensor `{pair.name}`"
    a, b = pair.ne(_A), pair.ne(_B)
    n_in, n_out, *experts = shape if len(shape) > 1 else (*shape, 1)
    if pair.name == _EMBEDDINGS:
        expected: tuple[object, object] = ("r", n_out), ("r", n_in)
        fits = (a[1:], b[1:]) == ((n_out,), (n_in,)) and a[0] == b[0]
    else:
        expected = (n_in, "r", *experts), ("r", n_out, *experts)
        fits = len(a) == len(b) == 2 + len(experts) and a[1] == b[0]
        fits = fits and (a[0], *a[2:]) == (n_in, *experts) and b[1:] == (n_out, *experts)
    if fits:
        return ""
    found = " and ".join(_brackets(shape) for shape in (a, b))
    return (f"`{pair.name}`: expected A and B of shapes "
            f"{' and '.join(map(_brackets, expected))}, found {found}")  # fmt: skip


def _brackets(shape: object) -> str:
    assert isinstance(shape, tuple)
    return f"[{', '.join(map(str, shape))}]"


def _shape_in(model: Gguf, name: str) -> tuple[int, ...] | None:
    """Return the shape of a model's tensor; of experts with a tensor each that of all."""
    if name in model.tensors:
        return model.tensors[name].shape
    stem, is_experts, _ = name.partition("_exps.")
    first = f"{stem}.0.weight"
    if not is_experts or first not in model.tensors:
        return None
    n_expert = sum(f"{stem}.{e}.weight" in model.tensors for e in range(len(model.tensors)))
    return (*model.tensors[first].shape, n_expert)


def _type_problem(pair: _Pair) -> str:
    for suffix in (_A, _B):
        type_ = pair.file.tensors[pair.name + suffix].type
        if type_ not in _TYPES:
            expected = ", ".join(t.name for t in _TYPES)
            return f"`{pair.name}{suffix}` is of type {type_.name}: expected one of {expected}"
    return ""


def _gather(pairs: Mapping[str, Sequence[_Pair]]) -> Adapters:
    """Lay out the pairs of all adapters, and put them there."""
    deltas, end = {}, _ALIGN
    for name, own in pairs.items():
        rank = sum(pair.rank for pair in own)
        n_a, n_b = (own[0].ne(suffix) for suffix in (_A, _B))
        a_size = math.prod(n_a) // own[0].rank * rank * _FLOAT
        b_size = math.prod(n_b) // own[0].rank * rank * _FLOAT
        a_bytes = a_size // n_a[2] if len(n_a) > 2 else 0
        b = end + -(-a_size // _ALIGN) * _ALIGN
        deltas[name] = LowRank(rank, end, b, a_bytes)
        end = b + -(-b_size // _ALIGN) * _ALIGN
    try:
        data = np.zeros(end + _ALIGN, np.uint8)
    except MemoryError as exc:
        raise ResourceError(
            f"not enough memory: the adapters take {format_size(end)}", hint="leave `--lora` out"
        ) from exc
    data = data[-data.ctypes.data % _ALIGN :][:end]
    for name, own in pairs.items():
        _put(data, deltas[name], own)
    return Adapters(data, deltas, hashlib.sha256(data.data).hexdigest())


def _put(data: NDArray[np.uint8], delta: LowRank, pairs: Sequence[_Pair]) -> None:
    """Write the pairs of one weight as one pair."""
    axis = 2 if pairs[0].name == _EMBEDDINGS else 1
    a = np.concatenate([pair.floats(_A) for pair in pairs], axis)
    with np.errstate(over="ignore", invalid="ignore"):
        b = np.concatenate([pair.floats(_B) * np.float32(pair.scale) for pair in pairs], 2)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        _refuse(pairs[-1].file.path, f"has numbers that are not finite in the pair of "
                f"`{pairs[0].name}`, or the scale makes them so")  # fmt: skip
    for offset, matrix in ((delta.a, a), (delta.b, b)):
        data[offset : offset + matrix.nbytes] = np.ascontiguousarray(matrix).view(np.uint8).ravel()


def _some(problems: Sequence[str]) -> str:
    more = len(problems) - _MAX_LISTED
    return "; ".join(problems[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")


def refuse_unused(adapters: Sequence[AdapterFile], names: Sequence[str]) -> NoReturn:
    """Refuse pairs of weights that no product is computed with.

    Raises:
        UnsupportedGgufError: Names them.
    """
    which = _some([f"`{name}`" for name in names])
    _refuse(adapters[0].path, f"changes tensors that adapters cannot change here: {which}",
            "`gguf-hub convert HF_DIR OUT --merge-lora ADAPTER_DIR` merges an adapter of PEFT "
            "into its model")  # fmt: skip


def _refuse(path: Path, problem: str, hint: str = "") -> NoReturn:
    raise UnsupportedGgufError(f"`{path}` {problem}", path=path, hint=hint or None)
