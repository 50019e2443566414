"""Tokens per second of prompts and of generation, measured as llama-bench does.

Tokens are random, nothing is sampled: what is timed is the model alone. Each test is repeated;
one pass that does not count goes before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.generation.engine import Forward


class _Config(Protocol):
    @property
    def n_vocab(self) -> int: ...


class Model(Forward, Protocol):
    """A model to measure."""

    @property
    def config(self) -> _Config:
        """Sizes of the model."""
        ...


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        n_prompt: Tokens of the prompt test; 0 for none.
        n_gen: Tokens of the generation test, one after another; 0 for none.
        n_depth: Tokens that stand in the cache before either test.
        repetitions: How often each test is timed.
    """

    n_prompt: int = 512
    n_gen: int = 128
    n_depth: int = 0
    repetitions: int = 5

    @property
    def n_ctx(self) -> int:
        """Positions that the cache must have."""
        return self.n_depth + max(self.n_prompt, self.n_gen, 1)


@dataclass(frozen=True)
class Speed:
    """One test.

    Attributes:
        n_tokens: Tokens of one repetition.
        seconds: Of each repetition.
    """

    n_tokens: int
    seconds: tuple[float, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """Tokens per second of each repetition."""
        return tuple(self.n_tokens / seconds for seconds in self.seconds)

    @property
    def tok_per_s(self) -> float:
        """Mean of the repetitions."""
        return statistics.fmean(self.rates)

    @property
    def deviation(self) -> float:
        """Standard deviation of the repetitions; 0 for a single one."""
        return statistics.stdev(self.rates) if len(self.seconds) > 1 else 0.0


@dataclass(frozen=True)
class Measurement:
    """Both tests of a plan; None for one of no tokens."""

    prompt: Speed | None
    generation: Speed | None


def measure(model: Model, plan: Plan, progress: Progress = SILENT, *, seed: int = 0) -> Measurement:
    """Time a model.

    Args:
        model: With a cache of ``plan.n_ctx`` positions at least.
        plan: What to measure.
        progress: Shows the repetitions.
        seed: Of the random tokens.
    """
    rng = np.random.default_rng(seed)

    def tokens(n: int) -> list[int]:
        """Return random token ids."""
        ids: list[int] = rng.integers(model.config.n_vocab, size=n).tolist()
        return ids

    if plan.n_depth:
        model.forward(tokens(plan.n_depth), 0)
        model.checkpoint(plan.n_depth)

    def prompt() -> None:
        """Read a prompt behind what is in the context."""
        model.forward(tokens(plan.n_prompt), plan.n_depth)

    def generate() -> None:
        """Read one token after the other, as generating does."""
        for i, token in enumerate(tokens(plan.n_gen)):
            model.forward([token], plan.n_depth + i)

    tests: Sequence[tuple[str, int, Callable[[], None]]] = (
        ("prompt", plan.n_prompt, prompt),
        ("generation", plan.n_gen, generate),
    )
    return Measurement(
        *(_time(name, n, run, plan, progress) if n else None for name, n, run in tests)
    )


def _time(
    name: str, n_tokens: int, run: Callable[[], None], plan: Plan, progress: Progress
) -> Speed:
    """Run a test once to warm up, then as often as the plan says."""
    seconds = []
    with progress.task(f"{name} of {n_tokens}", plan.repetitions + 1, unit="runs") as task:
        for _ in range(plan.repetitions + 1):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
            task.advance(1)
    return Speed(n_tokens, tuple(seconds[1:]))
