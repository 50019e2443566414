"""Kernels between pages that nobody may touch: an access outside of an array ends the process.

``python -m tests.guard AT CASE...`` runs cases with file, ``n``, ``f``, ``q`` and ``kv`` that each
end (or begin) at such a page: AT is ``end`` or ``start``, a case is JSON as ``Case`` has it. It is
a program of its own, as the answer to a wrong kernel is SIGSEGV.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import mmap
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gguf_hub.gguf.format import Field
from gguf_hub.gguf.memory.layout import HEADER
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.vm.machine import Memory
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.synth import RECIPES, Shape, write_mixtral

PLACES = ("end", "start")
PAGE = mmap.PAGESIZE
IS_POSSIBLE = sys.platform != "win32"
PROMPTS = (1, 2, 3, 7, 16, 31, 33)
_NO_ACCESS = 0  # PROT_NONE


@dataclass(frozen=True)
class Case:
    """A model, and how it is opened.

    Attributes:
        recipe: One of ``synth.RECIPES``, or a type that all matrices have: ``all Q5_1``.
        layout: Of the experts.
        shape: Of the model.
        n_rot: Dimensions that rotate; 0 for all.
        options: Of ``Transformer.open``.
    """

    recipe: str
    shape: Shape
    layout: str = "split"
    n_rot: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Case:
        values = json.loads(text)
        return cls(**{**values, "shape": Shape(**values["shape"])})

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def guarded(size_bytes: int, at: str) -> NDArray[np.uint8]:
    """Return zeros that end, or start, at a page without access; they are never given back."""
    libc = ctypes.CDLL(None, use_errno=True)
    n_pages = -(-max(size_bytes, 1) // PAGE)
    area = mmap.mmap(-1, (n_pages + 2) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(area, np.uint8)
    base = whole.ctypes.data
    for page in (base, base + (n_pages + 1) * PAGE):
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), _NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect")
    first = PAGE if at == "start" else (n_pages + 1) * PAGE - size_bytes
    return whole[first : first + size_bytes]


def guard_memory(at: str) -> None:
    """Let every ``Memory`` of this process lie between such pages."""

    usual = Memory.allocate

    def array(n: int, dtype: DTypeLike) -> NDArray[Any]:
        return guarded(n * np.dtype(dtype).itemsize, at).view(dtype)

    def allocate(
        cls: type[Memory], *, n: int, f: int, q: int, kv: int, files: Sequence[NDArray[np.uint8]]
    ) -> Memory:
        usual(n=n, f=f, q=q, kv=kv, files=())  # refuses what there is no memory for
        return cls(
            n=array(HEADER + n, np.int64), f=array(f, np.float32), q=array(q, np.int8),
            kv=array(kv, np.uint16), files=tuple(files),
        )  # fmt: skip

    Memory.allocate = classmethod(allocate)  # type: ignore[method-assign, assignment]


def guard_file(file: GgufFile, at: str) -> None:
    """Put a file's bytes between such pages, up to the end of its last tensor."""
    ends = [file.data_offset + info.offset + info.size_bytes for info in file.tensors.values()]
    whole = file.data[: max(ends, default=file.size_bytes)]
    data = guarded(whole.size, at)
    data[:] = whole
    file.data = data


def drive(model: Transformer, rng: np.random.Generator) -> None:
    """Compute prompts of many lengths, to the very last position, in every slot and in all."""
    n_vocab, n_ctx = model.config.n_vocab, model.n_ctx
    for slot in range(model.n_slots):
        for n in PROMPTS:
            n = min(n, n_ctx)
            tokens = rng.integers(0, n_vocab, n).tolist()
            model.forward(tokens, 0, slot=slot)
            if model._n_outputs >= min(n, model.n_batch):
                model.forward(tokens, 0, slot=slot, all_logits=True)
        model.forward(rng.integers(0, n_vocab, n_ctx).tolist(), 0, slot=slot)
        for token in (n_vocab - 1, 0):
            model.forward([token], n_ctx - 1, slot=slot)
    for n_rows in range(2, model.n_slots + 1):
        model.decode([(slot, n_vocab - 1, n_ctx - 1) for slot in range(n_rows)])
        model.decode([(slot, 0, min(slot, n_ctx - 1)) for slot in range(n_rows)])


def run(case: Case, at: str) -> None:
    """Run one case; whoever leaves its memory ends the process."""
    if case.recipe.startswith("all "):
        kind = QuantType[case.recipe.removeprefix("all ")]
        RECIPES[case.recipe] = (kind, kind, kind, kind, 0)
    fields = {"llama.rope.dimension_count": Field.of(case.n_rot)} if case.n_rot else {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        write_mixtral(path, case.shape, layout=case.layout, recipe=case.recipe, fields=fields)
        with GgufFile.open(path, is_mapped=False) as file:
            guard_file(file, at)
            with Transformer.open(file, ModelSettings(**case.options)) as model:
                drive(model, np.random.default_rng(0))


def main(arguments: Sequence[str]) -> None:
    faulthandler.enable()
    at, *cases = arguments
    if cases == ["touch"]:  # what a wrong kernel would do
        array = guarded(5000, at)
        ctypes.string_at(array.ctypes.data + (array.size if at == "end" else -1), 1)
    guard_memory(at)
    for text in cases:
        print(text, flush=True)
        run(Case.parse(text), at)
    print("done", flush=True)


def command(at: str, cases: Sequence[Case | str]) -> list[str]:
    """Return the command line that runs cases; its last line is ``done``."""
    return [sys.executable, "-m", "tests.guard", at, *map(str, cases)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


if __name__ == "__main__":
    main(sys.argv[1:])
