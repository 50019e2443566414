"""Output of ``gguf-hub quickstart``: its steps as text, and as data for ``--json``."""

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
    """One step: its name, the seconds it took, and the command for it alone."""

    name: str
    seconds: float
    command: str


class Tour:
    """Numbered steps on stdout, each with its command and duration.

    Args:
        is_silent: Print nothing, only record the steps.
    """

    def __init__(self, *, is_silent: bool = False) -> None:
        self.is_silent = is_silent
        self.steps: list[Step] = []

    @contextlib.contextmanager
    def step(self, name: str, title: str, command: str) -> Iterator[None]:
        """Show and time the step in the ``with`` block.

        Args:
            name: Its name in the JSON output.
            title: Its title in the text output.
            command: The command for this step alone.
        """
        number = len(self.steps) + 1
        self.say(console.style(f"{number}. {title}", bold=True), indent="")
        self.say(console.style(f"$ {command}", "cyan"))
        start_time = time.perf_counter()
        yield
        step = Step(name, time.perf_counter() - start_time, command)
        self.steps.append(step)
        self.say(console.style(f"{format_seconds(step.seconds)}\n", "green"))

    def say(self, text: str, *, indent: str = INDENT) -> None:
        """Print a line of the tour."""
        if not self.is_silent:
            console.say(indent + text)

    def write(self, text: str) -> None:
        """Print text without a newline."""
        if not self.is_silent:
            console.write(text.replace("\n", f"\n{INDENT}"))

    @property
    def seconds(self) -> float:
        """Duration of all steps."""
        return sum(step.seconds for step in self.steps)

    def report(self) -> list[dict[str, Any]]:
        """Return the steps as plain data."""
        return [asdict(step) for step in self.steps]


def machine_lines(hardware: Hardware) -> list[str]:
    """Return a machine's properties as text."""
    from gguf_hub.units import format_gb

    def size(size_bytes: int | None) -> str:
        return "unknown" if size_bytes is None else format_gb(size_bytes)

    limit = f", {size(hardware.ram_limit_bytes)} allowed" if hardware.ram_limit_bytes else ""
    gpus = ", ".join(f"{gpu.name} ({size(gpu.vram_free_bytes)} free)" for gpu in hardware.gpus)
    return [
        f"{hardware.cpu_name}, {hardware.n_threads} threads",
        f"RAM {size(hardware.ram_available_bytes)} available of "
        f"{size(hardware.ram_total_bytes)}{limit}",
        f"GPU {gpus or 'none detected'}",
        f"disk {size(hardware.disk_free_bytes)} free",
    ]


def since(start_time: float) -> str:
    """Return the time since a value of ``time.perf_counter`` as text."""
    return format_seconds(time.perf_counter() - start_time)


def format_seconds(seconds: float) -> str:
    """Return seconds with two decimals below 10."""
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
