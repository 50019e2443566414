"""Which tensors of a checkpoint become which of a GGUF file, in the order of the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch import ARCHITECTURES
from gguf_hub.gguf.arch.graph import Graph
from gguf_hub.gguf.arch.graph_tensors import GraphTensor, tensors_of
from gguf_hub.gguf.experts import is_merged, parse_split, split_name
from gguf_hub.gguf.format import TensorInfo
from gguf_hub.gguf.hparams import GraphHyperParameters
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.convert.checkpoint import DTYPES
from gguf_hub.run.convert.families.family import NAMES, Source
from gguf_hub.run.convert.keys import ModelKeys
from gguf_hub.run.convert.stored import Matrix, Plain

Layout = Literal["split", "merged"]

_FLOATS = ("F32", "F16", "BF16")
_ROUTERS = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")
_EXPERT_PART = re.compile(r"ffn_(gate|down|up)_exps\.weight")
_SUFFIXES = ("weight", "bias")
_BARE = ("ssm_a", "ssm_d")
"""Names that nothing stands behind."""
_OF_OTHER_PARTS = re.compile(
    r"(model\.)?(vision_tower|vision_model|visual|multi_modal_projector|vision_embed_tokens|"
    r"audio_tower|embed_vision|embed_audio|mtp(_\w+)?)\..*"
)
"""What a model for images or sounds, or one that predicts further tokens, has beside its text."""
_FREQUENCIES = re.compile(r"model\.(layers\.\d+\.\w+\.)?rotary_emb\.inv_freq")
"""What older checkpoints hold of the rotation, which config.json tells."""


@dataclass(frozen=True)
class Part:
    """One tensor of the GGUF file.

    Attributes:
        name: Its name there.
        ne: Its shape there: row length first, experts last.
        matrices: What it is made of, one after another: one, or one for each expert.
        is_exact: Kept in F32, whatever the file's type.
    """

    name: str
    ne: tuple[int, ...]
    matrices: tuple[Matrix, ...]
    is_exact: bool = False


class Parts:
    """The tensors of a file, and what is wrong with those of the checkpoint.

    Args:
        keys: What the configuration says.
        matrices: Of the checkpoint, by their names as Llama's would be called.
        layout: One tensor for all experts, as llama.cpp expects, or one for each.
    """

    def __init__(self, keys: ModelKeys, matrices: Mapping[str, Matrix], layout: Layout) -> None:
        self.family, self.layout = keys.family, layout
        self.matrices, self.is_tied = matrices, keys.is_tied
        n_layer = keys.number("block_count")
        self.predicting = range(n_layer, n_layer + keys.n_predicting)
        n_vocab = keys.number("vocab_size")
        embeddings = _info("token_embd.weight", (keys.number("embedding_length"), n_vocab))
        self.hparams = GraphHyperParameters(
            {"general.architecture": self.family.arch, **keys.values}, {embeddings.name: embeddings}
        )
        self.issues: list[str] = []
        self.used: set[str] = set()

    def read(self) -> list[Part]:
        """Return the tensors; problems are in ``issues``."""
        try:
            parts = list(self._parts())
        except UnsupportedGgufError as exc:
            self.issues.append(f"the sizes in config.json do not go together: {exc.message}")
            return []
        for name in sorted(self.matrices.keys() - self.used):
            if not self._is_ignored(name):
                self.issues.append(
                    f"tensor `{name}` does not belong to a model of this architecture"
                )
        return parts

    def _parts(self) -> Iterator[Part]:
        graph = Graph(ARCHITECTURES[self.family.arch], self.hparams)
        there = self._there(graph)
        for spec in tensors_of(graph, there):
            yield from self._part(spec)

    def _there(self, graph: Graph) -> dict[str, TensorInfo]:
        """Return what the checkpoint has, by the names in the file."""
        found = {}
        for name, source, first in self.found(graph):
            rows = first.shape[-2:-1] or first.shape
            shape = (first.n_in, *(n // source.make.share for n in rows))
            found[name] = _info(name, shape)
            if graph.ignored(name):
                self.used.add(first.name)
        if "output.weight" in found or not self.is_tied:
            found["output.weight"] = _info("output.weight", ())
        return found

    def found(self, graph: Graph) -> Iterator[tuple[str, Source, Matrix]]:
        """Yield what there is: the name in the file, the source, and the first matrix of it."""
        keys = (*NAMES, *self.family.names)
        stems = {key.removesuffix(".weight").removesuffix(".bias") for key in keys}
        stems = {stem for stem in stems if not stem.endswith(".scale")}
        names = sorted(f"{stem}.{suffix}" for stem in stems for suffix in _SUFFIXES)
        names += sorted(key for key in self.family.names if key in _BARE or key.endswith(".scale"))
        for prefix in ("", *(f"blk.{i}." for i in range(graph.n_layer))):
            for name in names:
                if found := self._find(prefix, name):
                    yield prefix + name, *found

    def _find(self, prefix: str, name: str) -> tuple[Source, Matrix] | None:
        """Return the first source of a tensor that the checkpoint has."""
        for source in self.family.sources(name):
            matrix = self.matrices.get(self._full_name(source, prefix, 0))
            if matrix is not None:
                return source, matrix
        return None

    def _full_name(self, source: Source, prefix: str, expert: int) -> str:
        name = source.name.replace("{e}", str(expert))
        return f"model.layers.{prefix.split('.')[1]}.{name}" if prefix else name

    def _part(self, spec: GraphTensor) -> Iterator[Part]:
        prefix, name = _cut(spec.name)
        found = self._find(prefix, name)
        candidates = self.family.sources(name)
        if found is None and not candidates:
            self.issues.append(f"no tensor is known that `{spec.name}` could be made of")
            return
        source = found[0] if found else candidates[0]
        shape = tuple(spec.shape[::-1])
        is_exact = spec.is_vector or name in _ROUTERS or len(shape) == 1
        if "{e}" not in source.name:
            if (matrix := self._made(source, prefix, 0, shape)) is not None:
                yield from self._whole_or_split(Part(spec.name, spec.shape, (matrix,), is_exact))
            return
        experts = [self._made(source, prefix, e, shape[1:]) for e in range(shape[0])]
        if all(matrix is not None for matrix in experts):
            made = tuple(matrix for matrix in experts if matrix is not None)
            yield from self._whole_or_split(Part(spec.name, spec.shape, made, is_exact))

    def _made(
        self, source: Source, prefix: str, expert: int, shape: tuple[int, ...]
    ) -> Matrix | None:
        """Return a tensor of the file; None, and what is wrong noted, where there is none."""
        name = self._full_name(source, prefix, expert)
        self.used.add(name)
        matrix = self.matrices.get(name)
        if matrix is None:
            self.issues.append(f"missing tensor `{name}`")
            return None
        expected = source.make.expects(shape, self.hparams)
        if matrix.shape != expected:
            self.issues.append(
                f"tensor `{name}`: expected shape {list(expected)} from config.json, "
                f"found {list(matrix.shape)}"
            )
            return None
        if isinstance(matrix, Plain) and matrix.kind not in DTYPES:
            self.issues.append(
                f"tensor `{name}`: expected {', '.join(_FLOATS)}, found {matrix.kind}"
            )
            return None
        return source.make.build(matrix, shape, self.hparams)

    def _whole_or_split(self, part: Part) -> Iterator[Part]:
        """Yield a tensor, or one for each expert if so they are to be stored."""
        prefix, name = _cut(part.name)
        match = _EXPERT_PART.fullmatch(name)
        if self.layout == "merged" or match is None or len(part.matrices) < 2:
            yield part
            return
        layer = int(prefix.split(".")[1])
        for e, matrix in enumerate(part.matrices):
            yield Part(split_name(layer, match[1], e), part.ne[:-1], (matrix,), part.is_exact)

    def _is_ignored(self, name: str) -> bool:
        if _OF_OTHER_PARTS.fullmatch(name) or _FREQUENCIES.fullmatch(name):
            return True
        if self.is_tied and name == "lm_head.weight":
            return True
        layer = re.match(r"model\.layers\.(\d{1,9})\.", name)
        if layer and int(layer[1]) in self.predicting:
            return True
        return bool(self.family.ignored) and re.fullmatch(self.family.ignored, name) is not None


def _info(name: str, shape: tuple[int, ...]) -> TensorInfo:
    """Return what a header says of a tensor of which only the shape counts."""
    return TensorInfo(name, shape, QuantType.F32, 0, 0)


def _cut(name: str) -> tuple[str, str]:
    """Return ``blk.N.`` and the rest of a name."""
    if not name.startswith("blk."):
        return "", name
    _, number, rest = name.split(".", 2)
    return f"blk.{number}.", rest


def is_expert(name: str) -> bool:
    """Return whether a tensor of a GGUF file holds experts, one or all."""
    return is_merged(name) or parse_split(name) is not None


_PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("backbone.layers.", "model.layers."),
    ("backbone.embeddings.", "model.embed_tokens."),
    ("backbone.norm_f.", "model.norm."),
    ("model.embeddings.", "model.embed_tokens."),
    ("model.norm_f.", "model.norm."),
)


def text_name(name: str) -> str:
    """Return the name that a tensor has in models of text alone."""
    for prefix, plain in _PREFIXES:
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name
