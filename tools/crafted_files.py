"""Small models with something wrong in each: files that somebody crafted, or that got damaged.

    python tools/crafted_files.py FOLDER -n 60 --seed 1

Every kind of wrong value comes once: wrong types under every key that programs read, numbers that
are no numbers, texts that steer terminals, tensors of NaN, vocabularies that contradict
themselves, tables that lie. What is left of the files has two to four of these at random, some of
them with flipped bytes or a cut besides. ``tools/crafted_runs.py`` runs commands on them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gguf_hub.gguf.format import Field, TensorSpec, ValueType, tensor_size_bytes
from gguf_hub.gguf.strings import StringArray
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import plan_file
from tests.synth import SCALES, Shape, metadata, random_blocks, tensors

V, T = ValueType, QuantType
DENSE = Shape(1, 64, 4, 2, 96, 0, 0, 263, 64)
EXPERTS = Shape(1, 64, 4, 2, 96, 4, 2, 263, 64)


@dataclass
class Model:
    """A model under construction.

    Attributes:
        fill: Data of single tensors: a number for all weights, or bytes.
        written: For ``plan_file``: ``version``, ``byte_order``, ``alignment``.
        bytes_changes: Applied to the whole file, last.
    """

    shape: Shape
    fields: dict[str, Field]
    specs: list[TensorSpec]
    fill: dict[str, float | bytes] = field(default_factory=dict)
    written: dict[str, Any] = field(default_factory=dict)
    bytes_changes: list[Callable[[bytearray], None]] = field(default_factory=list)

    @classmethod
    def of(cls, shape: Shape, layout: str = "merged", recipe: str = "F32") -> Model:
        """Return a sound model."""
        return cls(shape, metadata(shape, recipe), tensors(shape, layout, recipe))

    def encode(self) -> bytes:
        """Return the file."""
        if any(n >= 2**32 for spec in self.specs for n in spec.shape):
            self.written.pop("version", None)  # version 1 has 32 bits for a dimension
        plan = plan_file(self.fields, self.specs, **self.written)
        data = bytearray(plan.header.ljust(plan.data_offset, b"\0"))
        for info in plan.tensors:
            data += self._data(info).ljust(-len(data) % plan.alignment, b"\0")
            data += bytes(-len(data) % plan.alignment)
        for change in self.bytes_changes:
            change(data)
        return bytes(data)

    def _data(self, spec: Any) -> bytes:
        filling = self.fill.get(spec.name)
        size_bytes = tensor_size_bytes(spec.shape, spec.type)
        if isinstance(filling, bytes):
            return (filling * (size_bytes // max(1, len(filling)) + 1))[:size_bytes]
        if filling is not None and spec.type is T.F32:
            return np.full(size_bytes // 4, filling, np.float32).tobytes()
        return _weights(spec.shape, spec.type)


@cache
def _weights(shape: tuple[int, ...], type: QuantType) -> bytes:
    if type not in SCALES and type not in (T.F32, T.F16, T.BF16):
        return bytes(tensor_size_bytes(shape, type))
    spec = TensorSpec("", shape if shape and shape[0] else (1,), type)
    n = tensor_size_bytes(shape, type) // type.type_size
    return random_blocks(spec, n, np.random.default_rng(0)).tobytes()


Change = Callable[[Model], None]


@dataclass(frozen=True)
class Case:
    """A file: a name that says what is wrong with it, and the changes that make it so."""

    name: str
    changes: tuple[Change, ...]
    shape: Shape = DENSE

    def encode(self) -> bytes:
        """Return the file."""
        model = Model.of(self.shape)
        for change in self.changes:
            change(model)
        return model.encode()


# -- single changes --------------------------------------------------------------------------


def put(key: str, value: Field) -> Change:
    """Give a key a value."""
    return lambda model: model.fields.__setitem__(key, value)


def drop(prefix: str) -> Change:
    """Leave out the keys that begin so."""

    def change(model: Model) -> None:
        model.fields = {k: f for k, f in model.fields.items() if not k.startswith(prefix)}

    return change


def fill(name: str, value: float | bytes) -> Change:
    """Give a tensor's weights one value."""
    return lambda model: model.fill.__setitem__(name, value)


def retype(type: QuantType, blocks: bytes | None = None) -> Change:
    """Store the matrices in another type, of random or of given blocks."""

    def change(model: Model) -> None:
        model.specs = [
            replace(spec, type=type)
            if len(spec.shape) > 1 and spec.shape[0] % type.block_size == 0
            else spec
            for spec in model.specs
        ]
        if blocks is not None:
            model.fill |= {spec.name: blocks for spec in model.specs if spec.type is type}

    return change


def respec(name: str, **changes: Any) -> Change:
    """Change the name, shape or type of a tensor."""

    def change(model: Model) -> None:
        model.specs = [
            replace(spec, **changes) if spec.name == name else spec for spec in model.specs
        ]

    return change


def add_tensor(name: str, shape: tuple[int, ...], type: QuantType = T.F32) -> Change:
    """Add a tensor."""
    return lambda model: model.specs.append(TensorSpec(name, shape, type))


def write_as(**written: Any) -> Change:
    """Write another version, byte order or alignment."""
    return lambda model: model.written.update(written)


def cut(share: float) -> Change:
    """Keep a share of the file."""

    def change(data: bytearray) -> None:
        del data[int(len(data) * share) :]

    return lambda model: model.bytes_changes.append(change)


def flip(seed: int, n: int, within: int) -> Change:
    """Set some of the first bytes at random."""

    def change(data: bytearray) -> None:
        rng = Random(seed)
        for _ in range(n if data else 0):
            data[rng.randrange(min(within, len(data)))] = rng.randrange(256)

    return lambda model: model.bytes_changes.append(change)


# -- values ----------------------------------------------------------------------------------


def text(value: str) -> Field:
    """A text."""
    return Field(V.STRING, value)


def texts(*values: str) -> Field:
    """An array of texts."""
    return Field(V.ARRAY, StringArray.of(values), V.STRING)


def number(value: float, type: ValueType = V.UINT32) -> Field:
    """A number of one type."""
    return Field(type, value)


def array(values: list[Any], type: ValueType = V.INT32) -> Field:
    """An array of numbers."""
    return Field(V.ARRAY, np.array(values, type.dtype), type)


ODD_FLOATS = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "3e38": 3e38, "0": 0.0, "-1": -1.0}
HOSTILE = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x9b1m\u202etxt\r\n\0"
NOT_UTF8 = b"\xff\xfe\x80".decode("utf-8", "surrogateescape")
ODD_VALUES: dict[str, Field] = {
    "int": number(7),
    "zero": number(0),
    "one": number(1),
    "negative": number(-1, V.INT32),
    "2^31": number(2**31),
    "5e7": number(50_000_000),
    "2^63": number(2**63, V.UINT64),
    "2^64-1": number(2**64 - 1, V.UINT64),
    "f64": number(64.0, V.FLOAT32),
    "1.5": number(1.5, V.FLOAT64),
    "1e-300": number(1e-300, V.FLOAT64),
    "nan": number(np.nan, V.FLOAT32),
    "inf": number(np.inf, V.FLOAT32),
    "true": number(True, V.BOOL),
    "ints": array([64, 64]),
    "one-int": array([64]),
    "no-ints": array([]),
    "floats": array([1.0, np.nan], V.FLOAT32),
    "bools": array([True, False], V.BOOL),
    "texts": texts("a", "b"),
    "no-texts": texts(),
    "empty": text(""),
    "word": text("64"),
    "hostile": text(HOSTILE),
    "not-utf8": text(NOT_UTF8),
    "hostile-texts": texts(HOSTILE, NOT_UTF8),
    "long": text("A" * 300_000),
}
HPARAMS = (
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.layer_norm_rms_epsilon", "expert_count",
    "expert_used_count", "rope.dimension_count", "pooling_type",
)  # fmt: skip
ROPE = (
    "freq_base", "scale_linear", "scaling.factor", "scaling.attn_factor",
    "scaling.yarn_attn_factor", "scaling.yarn_ext_factor", "scaling.yarn_beta_fast",
    "scaling.yarn_beta_slow", "scaling.original_context_length",
)  # fmt: skip
OTHER_KEYS = (
    "general.architecture", "general.name", "general.license", "general.file_type",
    "general.quantization_version", "general.size_label", "llama.rope.scaling.type",
    "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_space_prefix", "tokenizer.chat_template", "split.count", "split.no",
)  # fmt: skip


# -- kinds -----------------------------------------------------------------------------------


def kinds() -> list[Case]:
    """Return a case of every kind, in a fixed order."""
    return [*_weights_kinds(), *_key_kinds(), *_rope_kinds(), *_vocabulary_kinds(),
            *_text_kinds(), *_table_kinds()]  # fmt: skip


def _weights_kinds() -> Iterator[Case]:
    """Weights that are no numbers, and types of every block."""
    yield Case("sound", ())
    yield Case("sound-experts", (), EXPERTS)
    names = ("output_norm.weight", "blk.0.attn_norm.weight", "token_embd.weight", "output.weight")
    for word, value in ODD_FLOATS.items():
        for name in names:
            yield Case(f"{name}={word}", (fill(name, value),))
        yield Case(f"router={word}", (fill("blk.0.ffn_gate_inp.weight", value),), EXPERTS)
        freqs = add_tensor("rope_freqs.weight", (8,))
        yield Case(f"rope_freqs={word}", (freqs, fill("rope_freqs.weight", value)))
    for type in QuantType:
        wide = replace(DENSE, n_embd=256, n_ff=256)
        yield Case(f"type={type.name}", (retype(type),), wide)
        noise = np.random.default_rng(type).integers(0, 256, 5000, np.uint8).tobytes()
        yield Case(f"noise={type.name}", (retype(type, noise),), wide)
    # 64 experts cost as much for each token as a file of this size may
    many = replace(EXPERTS, n_embd=32, n_head=2, n_head_kv=1, n_ff=1, n_expert=64, n_expert_used=64)
    yield Case("64-experts", (), many)
    yield Case("one-expert", (), replace(EXPERTS, n_expert=1, n_expert_used=1))


def _key_kinds() -> Iterator[Case]:
    """Every key that programs read, with every odd value, and without."""
    keys = [f"llama.{name}" for name in HPARAMS] + list(OTHER_KEYS)
    for key in keys:
        yield Case(f"{key} left out", (drop(key),))
        for word, value in ODD_VALUES.items():
            yield Case(f"{key}={word}", (put(key, value),))
    for word in ("2^63", "2^64-1", "5e7", "2^31"):
        yield Case(f"experts={word}", (put("llama.expert_count", ODD_VALUES[word]),), EXPERTS)
    yield Case("tokenizer left out", (drop("tokenizer."),))
    yield Case("everything left out", (drop(""),))


def _rope_kinds() -> Iterator[Case]:
    """Position embedding: every number that makes no sense, under each way of stretching."""
    odd = {word: number(value, V.FLOAT32) for word, value in ODD_FLOATS.items()}
    odd |= {word: ODD_VALUES[word] for word in ("1e-300", "texts", "ints", "word")}
    for kind in ("linear", "yarn", "none", "longrope"):
        scaling = put("llama.rope.scaling.type", text(kind))
        yield Case(f"scaling={kind}", (scaling,))
        for name in ROPE if kind in ("linear", "yarn") else ():
            for word, value in odd.items():
                yield Case(f"{kind} {name}={word}", (scaling, put(f"llama.rope.{name}", value)))


def _vocabulary_kinds() -> Iterator[Case]:
    """Vocabularies of every strange size, type, score and text."""
    words = metadata(DENSE)["tokenizer.ggml.tokens"].value[:]
    tokens, n = "tokenizer.ggml.tokens", len(words)
    for count in (0, 1, 3, 262, 264, 600):
        yield Case(f"{count} rows", tuple(
            respec(f"{name}.weight", shape=(64, count)) for name in ("token_embd", "output")
        ))  # fmt: skip
        some = [*words, *(f"w{i}" for i in range(400))][:count]
        yield Case(f"{count} tokens", (put(tokens, texts(*some)),))
    for kind in (-1, 0, 2, 3, 4, 5, 6, 99):
        types = put("tokenizer.ggml.token_type", array([kind] * n))
        yield Case(f"all types {kind}", (types,))
        yield Case(f"no text, types {kind}", (types, put(tokens, texts(*[""] * n))))
    for word, value in ODD_FLOATS.items():
        scores = array([value] * n, V.FLOAT32)
        yield Case(f"scores={word}", (put("tokenizer.ggml.scores", scores),))
    for word, odd in {"hostile": HOSTILE, "not-utf8": NOT_UTF8, "huge": "Z" * 200_000}.items():
        yield Case(f"token={word}", (put(tokens, texts(*words[:-1], odd)),))
    many = texts(*words, *(f"w{i}" for i in range(100_000)))
    for id in (263, 100_000):  # a token of the vocabulary that has no row
        bos = put("tokenizer.ggml.bos_token_id", number(id))
        yield Case(f"100,263 tokens, begin {id}", (put(tokens, many), bos))
        lists = (
            put("tokenizer.ggml.scores", array([0.0] * 100_263, V.FLOAT32)),
            put("tokenizer.ggml.token_type", array([1] * 100_263)),
        )
        yield Case(f"100,263 tokens with scores, begin {id}", (put(tokens, many), bos, *lists))
    yield Case("same tokens", (put(tokens, texts(*["a"] * n)),))
    for word, id in {"beyond": 263, "far": 2**32 - 1}.items():
        for name in ("bos", "eos", "unknown", "eot"):
            key = f"tokenizer.ggml.{name}_token_id"
            yield Case(f"{name} {word}", (put(key, number(id)),))


def _text_kinds() -> Iterator[Case]:
    """Texts that steer terminals, that are no text, and templates that do harm."""
    for word, odd in {"hostile": HOSTILE, "not-utf8": NOT_UTF8, "bidi": "\u202egpj.exe"}.items():
        yield Case(f"key {word}", (put(f"x.{odd}", text(odd)),))
        yield Case(f"tensor {word}", (add_tensor(f"x{odd}", (32,)),))
        yield Case(f"name {word}", (put("general.name", text(odd * 50)),))
    for word, source in {
        "raises": "{{ raise_exception('" + HOSTILE[:-2] + "') }}",
        "endless": "{% for i in range(10**9) %}x{% endfor %}",
        "syntax": "{% if %}\x1b[31m{{",
        "attributes": "{{ ''.__class__.__mro__ }}",
        "open": "{{" * 20_000,
        "large": "{{ 1 }}" * 100_000,
    }.items():
        yield Case(f"template {word}", (put("tokenizer.chat_template", text(source)),))


def _table_kinds() -> Iterator[Case]:
    """Tables of tensors, layouts and files that lie."""
    for shape in ((), (0,), (64, 0), (0, 2**40), (32, 2**40, 0), (1, 1, 1, 1)):
        yield Case(f"shape {shape}", (add_tensor("x", shape),))
        yield Case(f"gate {shape}", (respec("blk.0.ffn_gate.weight", shape=shape),))
    merged = "blk.0.ffn_gate_exps.weight"
    yield Case("merged, 2^40 experts", (respec(merged, shape=(0, 96, 2**40)),), EXPERTS)
    yield Case("split and merged", (add_tensor("blk.0.ffn_gate.0.weight", (64, 96)),), EXPERTS)
    yield Case("block 999999", (add_tensor("blk.999999.attn_q.weight", (64, 64)),))
    for alignment in (1, 2, 8, 2**20):
        yield Case(f"alignment {alignment}", (write_as(alignment=alignment),))
    for version in (1, 2):
        yield Case(f"version {version}", (write_as(version=version),))
    yield Case("big-endian", (write_as(byte_order="big"),))
    for share in (0, 0.00005, 0.001, 0.02, 0.5, 0.999):
        yield Case(f"cut at {share}", (cut(share),))
    for seed in range(40):
        yield Case(f"flipped {seed}", (flip(seed, 1 + seed % 4, 5000),))


# -- all together ----------------------------------------------------------------------------


def cases(n: int, seed: int) -> Iterator[Case]:
    """Yield ``n`` cases: every kind once, in random order, among as many mixtures or more."""
    single = kinds()
    Random(seed).shuffle(single)
    for i in range(n):
        rng = Random(f"{seed}/{i}")
        if i % 2 == 0 and i // 2 < len(single):
            yield single[i // 2]
        else:
            yield _mixture(i, single, rng)


def _mixture(i: int, single: list[Case], rng: Random) -> Case:
    """Put two to four cases together; one in five is damaged besides."""
    parts = rng.sample(single, rng.randint(2, 4))
    changes = [change for part in parts for change in part.changes]
    name = " + ".join(part.name for part in parts)
    if rng.random() < 0.2:
        changes.append(flip(rng.randrange(2**32), rng.randint(1, 8), 4000))
        name += " + flipped"
    return Case(f"{i}: {name}", tuple(changes), rng.choice([part.shape for part in parts]))


def main() -> None:
    """Write files into a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-n", type=int, default=60, help="how many files")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for i, case in enumerate(cases(arguments.n, arguments.seed)):
        path = arguments.folder / f"{i:05}.gguf"
        path.write_bytes(case.encode())
        print(f"{path.name}  {case.name!r}")


if __name__ == "__main__":
    main()
