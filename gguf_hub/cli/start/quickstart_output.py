"""How ``gguf-hub quickstart`` shows its steps, and what it keeps of them for ``--json``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.hub.hardware import Hardware


INDENT = "   "


@dataclass(frozen=True)
class Step:
    """One step that was taken: what it is called, what it took, what does it by itself."""

    name: str
    seconds: float
    command: str


class Tour:
    """Numbered steps on stdout, each with the command that does it and the time that it took.

    Args:
        is_silent: Print nothing; the steps are kept all the same.
    """

    def __init__(self, *, is_silent: bool = False) -> None:
        self.is_silent = is_silent
        self.steps: list[Step] = []

    @contextlib.contextmanager
    def step(self, name: str, title: str, command: str) -> Iterator[None]:
        """Take a step inside the ``with`` block.

        Args:
            name: For programs.
            title: For people.
            command: What one would type for this step alone.
        """
        number = len(self.steps) + 1
        self.say(console.style(f"{number}. {title}", bold=True), indent="")
        self.say(console.style(f"$ {command}", "cyan"))
        began = time.perf_counter()
        yield
        step = Step(name, time.perf_counter() - began, command)
        self.steps.append(step)
        self.say(console.style(f"{format_seconds(step.seconds)}\n", "green"))

    def say(self, text: str, *, indent: str = INDENT) -> None:
        """Print a line of the tour."""
        if not self.is_silent:
            console.say(indent + text)

    def write(self, text: str) -> None:
        """Print text as it comes, without an end of line."""
        if not self.is_silent:
            console.write(text.replace("\n", f"\n{INDENT}"))

    @property
    def seconds(self) -> float:
        """What all steps took."""
        return sum(step.seconds for step in self.steps)

    def report(self) -> list[dict[str, Any]]:
        """Return the steps as plain data."""
        return [asdict(step) for step in self.steps]


def machine_lines(seen: Hardware) -> list[str]:
    """Return what matters of a machine, in words."""
    from gguf_hub.units import format_gb

    def size(size_bytes: int | None) -> str:
        return "unknown" if size_bytes is None else format_gb(size_bytes)

    limit = f", {size(seen.ram_limit_bytes)} allowed" if seen.ram_limit_bytes else ""
    gpus = ", ".join(f"{gpu.name} ({size(gpu.vram_free_bytes)} free)" for gpu in seen.gpus)
    return [
        f"{seen.cpu_name}, {seen.n_threads} threads",
        f"RAM {size(seen.ram_available_bytes)} available of {size(seen.ram_total_bytes)}{limit}",
        f"GPU {gpus or 'none seen'}",
        f"disk {size(seen.disk_free_bytes)} free",
    ]


def since(began: float) -> str:
    """Return the time since a reading of ``time.perf_counter``, for people."""
    return format_seconds(time.perf_counter() - began)


def format_seconds(seconds: float) -> str:
    """Return seconds with two places while these matter."""
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
