"""Opening a model to run it: the options of memory and cache, for every command that computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import together

if TYPE_CHECKING:
    from gguf_hub.gguf.shards import Gguf
    from gguf_hub.progress import Progress
    from gguf_hub.run.model.transformer import Transformer


class CacheType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """``f16`` or ``q8_0``; click's own choice would show dashes for underscores here."""

    name = "f16|q8_0"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what help shows, as for click's own choices."""
        return f"[{self.name}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the type in lower case."""
        found = str(value).lower()
        if found not in self.name.split("|"):
            self.fail(f"`{value}`: expected f16 or q8_0", param, ctx)
        return found


_TYPES = CacheType()
opening_options = together(
    click.option("-ctk", "--cache-type-k", type=_TYPES, default="f16", help="K cache data type."),
    click.option("-ctv", "--cache-type-v", type=_TYPES, default="f16", help="V cache data type."),
    click.option("--mlock", is_flag=True, help="Lock all weights in RAM."),
    click.option(
        "--mlock-dense",
        is_flag=True,
        help="Lock the weights that every token reads in RAM, not the experts.",
    ),
    click.option(
        "--mmap/--no-mmap",
        default=True,
        help="Memory-map the file (default), or read it into memory first.",
    ),
)
"""Add the options that ``open_file`` and ``open_model`` read."""


@contextlib.contextmanager
def open_file(path: Path, options: dict[str, Any], progress: Progress) -> Iterator[Gguf]:
    """Open a GGUF as ``--no-mmap`` says."""
    from gguf_hub.gguf.shards import open_gguf

    with (
        lost_pages_told(f"`{path}`", "; `--no-mmap` reads all of it first"),
        open_gguf(path, is_mapped=options["mmap"], progress=progress) as file,
    ):
        yield file


def lost_pages_told(name: str, hint: str = "") -> contextlib.AbstractContextManager[None]:
    """Within the block, end with a message where a mapped file loses pages that are being read.

    What is lost between two passes is an error like others (``GgufFile.check_size``).
    """
    from gguf_hub.run.kernels.build.bus_error import bus_errors_told

    return bus_errors_told(
        f"error: {name} cannot be read any more: it has become shorter, or its disk fails\n\n"
        f"hint: put another file in its place with `mv`, not over it with `cp`{hint}"
    )


def open_model(file: Gguf, options: dict[str, Any], progress: Progress, **more: Any) -> Transformer:
    """Make the model of an open file ready.

    Args:
        file: The file.
        options: Those of ``opening_options``, and ``batch_size``.
        progress: Told about compiling, and about what memory forbids.
        more: For ``Transformer.open``: ``n_ctx``, ``n_threads``, ``rope``, ``builder``.
    """
    from gguf_hub.hub.hardware import usable_threads
    from gguf_hub.run.model.transformer import Transformer

    return Transformer.open(
        file,
        n_batch=options["batch_size"],
        n_cores=usable_threads(),
        prefetch_experts=options["mmap"] and _is_larger_than_memory(file, progress),
        progress=progress,
        **cache_and_lock(options),
        **more,
    )


def cache_and_lock(options: dict[str, Any]) -> dict[str, Any]:
    """Return what ``Transformer.open`` is told of the K/V cache and of memory."""
    return {
        "key_type": options["cache_type_k"].upper(),
        "value_type": options["cache_type_v"].upper(),
        "lock": "all" if options["mlock"] else "dense" if options["mlock_dense"] else "none",
    }


def _is_larger_than_memory(file: Gguf, progress: Progress) -> bool:
    """Tell whether a file does not fit what memory can be had; say so if it does not."""
    from gguf_hub.hub.hardware import available_ram_bytes
    from gguf_hub.units import format_gb

    free_bytes = available_ram_bytes()
    if free_bytes is None or file.size_bytes <= free_bytes:
        return False
    progress.note(
        f"{format_gb(file.size_bytes)} of weights, {format_gb(free_bytes)} of memory: "
        "experts are read from disk as they are needed"
    )
    return True
