"""Which programs load a file, why not, and what fixes it.

Source: llama.cpp pull requests #1957 (GGUF v2), #4406 (Mixtral), #6387 (merged experts), #10026
(split experts removed), and the tensor types of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from gguf_hub.gguf.arch import ARCHITECTURES
from gguf_hub.gguf.issues import Issue, Severity
from gguf_hub.gguf.roles import Role
from gguf_hub.gguf.runnable import join_obstacles
from gguf_hub.gguf.summary import Summary
from gguf_hub.gguf.types import QuantType

T = QuantType
Remedy = Literal["upgrade", "merge", "download", ""]

_OF_EARLY_2024 = {
    T.IQ2_XXS, T.IQ2_XS, T.IQ3_XXS, T.IQ1_S, T.IQ4_NL, T.IQ3_S, T.IQ2_S, T.IQ4_XS, T.IQ1_M,
    T.BF16, T.TQ1_0, T.TQ2_0, T.F64, T.I64,
}  # fmt: skip
_AFTER_2024 = {T.MXFP4, T.NVFP4, T.Q1_0, T.Q2_0}


@dataclass(frozen=True)
class Loader:
    """A program and whether it loads the file.

    Attributes:
        name: The program.
        loads: Whether it does; None where that is not known.
        reason: Why not, or what it needs; "" when there is nothing to say.
    """

    name: str
    loads: bool | None
    reason: str


@dataclass(frozen=True)
class Compatibility:
    """Who loads a file, and which command fixes it ("" for none)."""

    loaders: tuple[Loader, ...]
    remedy: Remedy


def compatibility(
    summary: Summary, issues: Iterable[Issue], obstacles: Sequence[str], *, is_cut: bool = False
) -> Compatibility:
    """Return which programs load a file, and the command that makes more of them load it.

    Args:
        summary: Of the file.
        issues: What a validation found.
        obstacles: What keeps gguf-hub from running it.
        is_cut: It lies in raw parts.
    """
    issues = list(issues)
    has_vocabulary = all(issue.code != "GGUF-TOKENIZER-MISSING" for issue in issues)
    damages = [issue for issue in issues if issue.severity is Severity.ERROR]
    # gguf-hub reads numbers of any type: where it does not, its own judgement says so
    here = next((issue for issue in damages if issue.code not in _READ_HERE), None)
    there = next((i for i in (*damages, *issues) if i in damages or i.code in _REFUSED_THERE), None)
    rules: tuple[tuple[str, Callable[[Summary], Loader], Issue | None], ...] = (
        ("gguf-hub", partial(_gguf_hub, obstacles, has_vocabulary), here),
        ("llama.cpp since October 2024", _llama_cpp_now, there),
        ("llama.cpp before", _llama_cpp_before, there),
    )
    if is_cut and not damages:
        loaders = tuple(Loader(name, False, "in raw parts") for name, *_ in rules)
        return Compatibility(loaders, "merge")
    loaders = tuple(_refusal(name, problem) or rule(summary) for name, rule, problem in rules)
    if damages:
        return Compatibility(loaders, "download" if damages[0].code in _CUT else "")
    return Compatibility(loaders, _remedy(summary))


def _refusal(name: str, problem: Issue | None) -> Loader | None:
    if problem is None:
        return None
    is_damage = problem.severity is Severity.ERROR
    return Loader(name, False, f"damaged: {problem}" if is_damage else str(problem))


_READ_HERE = {"GGUF-HPARAM-TYPE", "GGUF-TOKENIZER-TYPE"}
_REFUSED_THERE = {
    "GGUF-TENSOR-UNUSED", "GGUF-TOKENIZER-TOKEN-TWINS", "GGUF-TOKENIZER-UNKNOWN",
    "GGUF-TOKENIZER-MISSING", "GGUF-OLLAMA-NAMES", "GGUF-LEFT-OUT",
}  # fmt: skip
"""No damage, but llama.cpp loads no such file (tried with llama-cpp-python 0.3.36)."""
_CUT = {"GGUF-TENSOR-BOUNDS", "GGUF-TRUNCATED", "GGUF-FILE-EMPTY", "GGUF-FILE-ZEROS"}


def _remedy(summary: Summary) -> Remedy:
    needs = summary.layout == "split" or summary.version == 1 or summary.byte_order == "big"
    return "upgrade" if needs and not (summary.shard and summary.n_shards == 1) else ""


def _gguf_hub(obstacles: Sequence[str], has_vocabulary: bool, summary: Summary) -> Loader:
    name = "gguf-hub"
    if summary.shard and summary.n_shards == 1:  # the other tensors are elsewhere
        return Loader(name, False, "only together with the other shards")
    if not obstacles and not has_vocabulary:
        return Loader(name, True, "with token ids for text, as it has no vocabulary")
    return Loader(name, not obstacles, join_obstacles(obstacles))


def _llama_cpp_now(summary: Summary) -> Loader:
    name = "llama.cpp since October 2024"
    if obstacle := _any_llama_cpp(name, summary, has_split_experts=False):
        return obstacle
    if newer := _types_in(summary, _AFTER_2024):
        return Loader(name, True, f"a build that knows {newer}")
    return Loader(name, True, "")


def _llama_cpp_before(summary: Summary) -> Loader:
    name = "llama.cpp before"
    if obstacle := _any_llama_cpp(name, summary, has_split_experts=True):
        return obstacle
    if newer := _types_in(summary, _AFTER_2024):
        return Loader(name, False, f"tensor types {newer}")
    if new := _types_in(summary, _OF_EARLY_2024):
        return Loader(name, True, f"a build of 2024 that knows {new}")
    if summary.layout == "merged":
        return Loader(name, True, "from April 2024 on (merged experts)")
    if summary.layout == "split":
        return Loader(name, True, "from December 2023 on (experts)")
    return Loader(name, True, "")


def _any_llama_cpp(name: str, summary: Summary, *, has_split_experts: bool) -> Loader | None:
    """Return what keeps every version from loading the file as a model, or None."""
    if summary.role is not Role.MODEL:
        return Loader(name, False, f"{summary.role.obstacle}; used {summary.role.usage}")
    if summary.version == 1:
        return Loader(name, False, "GGUF version 1")
    if summary.byte_order == "big":
        return Loader(name, False, "big-endian")
    if not has_split_experts and summary.layout in ("split", "mixed"):
        return Loader(name, False, "one tensor per expert")
    if summary.architecture not in (ARCHITECTURES if not has_split_experts else ("llama",)):
        return Loader(name, None, f"architecture `{summary.architecture}` is not known here")
    if unknown := {share.name for share in summary.types} - QuantType.__members__.keys():
        return Loader(name, None, f"tensor {', '.join(sorted(unknown))}, which is not known here")
    return None


def _types_in(summary: Summary, types: set[QuantType]) -> str:
    names = {share.name for share in summary.types} & {type.name for type in types}
    return ", ".join(sorted(names))
