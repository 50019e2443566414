"""Whether a model finds room beside those that are loaded, by the estimates of ``fit``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from gguf_hub.errors import GgufHubError
from gguf_hub.hub.fit import Constraints, FileFacts, Machine, Verdict, need_of, placement_of
from gguf_hub.hub.survey.headers import facts_of_file
from gguf_hub.units import format_size

PROCESS_BYTES = 36_000_000
"""What a process with a server takes beyond ``fit.memory.RUNNER_BYTES``: FastAPI, uvicorn and
what they import, measured as memory of its own (RssAnon)."""


@dataclass(frozen=True)
class Demand:
    """What a model takes.

    Attributes:
        ram_bytes: Memory that it takes in all.
        mapped_bytes: The part of it that other programs see as free: pages of the mapped file.
        vram_bytes: Memory of GPUs.
        is_alone: It runs from disk, and takes whatever memory there is.
        problem: Why it cannot be loaded, even alone; empty if it can.
        verdict: Where it can be run from.
    """

    ram_bytes: int = 0
    mapped_bytes: int = 0
    vram_bytes: int = 0
    is_alone: bool = False
    problem: str = ""
    verdict: Verdict = Verdict.UNKNOWN


@dataclass(frozen=True)
class OpeningFacts:
    """How models are opened, as far as their memory depends on it.

    Attributes:
        n_ctx: Positions of each slot; None for the trained context, at most ``default_n_ctx``.
        default_n_ctx: See there.
        n_slots: Requests that are decoded at once.
        kv_type: Type of keys and values, a key of ``KV_TYPES``.
        is_mapped: Whether the file's pages can be dropped and read again.
        uses_gpu: Whether GPUs compute, where there are any.
    """

    n_ctx: int | None = None
    default_n_ctx: int = 4096
    n_slots: int = 4
    kv_type: str = "f16"
    is_mapped: bool = True
    uses_gpu: bool = True

    def n_ctx_of(self, n_ctx_train: int) -> int:
        """Return the context that a model is opened with; 0 stands for all that it was trained on.

        As long as it was not asked for, it is no longer than that.
        """
        if self.n_ctx is None:
            return min(self.default_n_ctx, n_ctx_train or self.default_n_ctx)
        return self.n_ctx or n_ctx_train


class Room:
    """The memory of this machine.

    Args:
        opening: How models are opened.
        machine: Detects the machine, without any of the models; called once, when it is needed.
        available_bytes: Tells how much memory is free now, page cache included; None for unknown.
    """

    def __init__(
        self,
        opening: OpeningFacts,
        machine: Callable[[], Machine],
        available_bytes: Callable[[], int | None],
    ) -> None:
        self._opening = opening
        self._detect = machine
        self._available_bytes = available_bytes
        self._machine: Machine | None = None
        self._lock = threading.Lock()

    def demand_of(self, path: Path, others: Iterable[Demand] = ()) -> Demand:
        """Return what a model takes of what others leave; reads its header.

        A file that cannot be judged demands nothing: the process that opens it says why.

        Args:
            path: The file.
            others: The models that are loaded and stay.
        """
        try:
            facts = _facts_of(path)
            machine = self._left_by(list(others))
        except (GgufHubError, OSError):
            return Demand()
        return self._judge(facts, machine)

    def judge_alone(self, model: Path | FileFacts) -> Demand:
        """Return what a model takes when no other is loaded.

        Args:
            model: The file, or the facts of one that is not on this machine yet.
        """
        with self._lock:
            if self._machine is None:
                self._machine = self._detect()
            machine = self._machine
        try:
            facts = model if isinstance(model, FileFacts) else _facts_of(model)
        except (GgufHubError, OSError):
            return Demand()
        return self._judge(facts, machine)

    def _left_by(self, others: list[Demand]) -> Machine:
        """Return the machine with the memory that is left for one more model."""
        available = self._available_bytes()
        with self._lock:
            if self._machine is None:
                self._machine = self._detect()
            if not others and available is not None:
                self._machine = replace(self._machine, ram_bytes=available)
            machine = self._machine
        # what they will take, as caches that nobody has written to count as free by now
        free = machine.ram_bytes - sum(each.ram_bytes for each in others)
        if available is not None:
            # what is mapped counts as free, but is not: the others would read it again and again
            free = min(free, available - sum(each.mapped_bytes for each in others))
        vram_bytes = machine.vram_bytes - sum(each.vram_bytes for each in others)
        return replace(
            machine,
            ram_bytes=max(0, free),
            vram_bytes=max(0, vram_bytes) if self._opening.uses_gpu else 0,
        )

    def _judge(self, facts: FileFacts, machine: Machine) -> Demand:
        opening = self._opening
        constraints = Constraints(
            n_ctx=opening.n_ctx_of(facts.shape.n_ctx_train), kv_type=opening.kv_type,
            reserve_bytes=Constraints().reserve_of(machine),
        )  # fmt: skip
        need = need_of(facts, constraints, n_threads=machine.n_threads)
        more_bytes = (opening.n_slots - 1) * need.kv_bytes + PROCESS_BYTES
        rest = replace(machine, ram_bytes=max(0, machine.ram_bytes - more_bytes))
        placement = placement_of(facts, constraints, rest)
        if placement.verdict.is_hopeless:
            return Demand(verdict=placement.verdict)
        ram_bytes = placement.ram_bytes + more_bytes
        if placement.verdict is Verdict.TOO_BIG:
            limit = format_size(constraints.limit_of(machine))
            taken = format_size(need.total_bytes + more_bytes)
            problem = f"it takes {taken} of memory, {limit} can be used"
            return Demand(ram_bytes, problem=problem, verdict=placement.verdict)
        own_bytes = need.own_bytes + more_bytes
        mapped_bytes = max(0, ram_bytes - own_bytes) if opening.is_mapped else 0
        is_alone = placement.verdict is Verdict.DISK
        return Demand(
            ram_bytes, mapped_bytes, placement.vram_bytes, is_alone, verdict=placement.verdict
        )


def _facts_of(path: Path) -> FileFacts:
    stat = path.stat()
    return _facts(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(64)
def _facts(path: Path, size_bytes: int, mtime_ns: int) -> FileFacts:
    """Return the facts of a file, read once for each state of it."""
    return facts_of_file(path)
