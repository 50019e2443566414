"""Opening a model: the options of memory and cache, for every command that computes."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import together
from gguf_hub.cli.run.offload import offload_options
from gguf_hub.progress import SILENT, Progress

if TYPE_CHECKING:
    from gguf_hub.run.generation.engine import Drafter
    from gguf_hub.run.model.settings import ModelSettings


class CacheType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """``f16`` or ``q8_0``; click's own choice would show dashes for underscores here."""

    name = "f16|q8_0"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows, as for click's own choices."""
        return f"[{self.name}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the type in lower case."""
        name = str(value).lower()
        if name not in self.name.split("|"):
            self.fail(f"`{value}`: expected f16 or q8_0", param, ctx)
        return name


_TYPES = CacheType()
opening_options = together(
    click.option("-ctk", "--cache-type-k", type=_TYPES, default="f16", help="K cache data type."),
    click.option("-ctv", "--cache-type-v", type=_TYPES, default="f16", help="V cache data type."),
    click.option(
        "--override-kv",
        multiple=True,
        metavar="KEY=TYPE:VALUE",
        help="Read a key of the metadata as this value, of type int, float, bool or str; commas "
        "separate several.",
    ),
    click.option(
        "--swa-full",
        is_flag=True,
        help="Full-size K/V cache in layers with a sliding window, too.",
    ),
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
    offload_options,
)
"""Add the options that ``model_settings`` reads."""

lookup_option = click.option(
    "--lookup",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Prompt lookup decoding: draft up to N tokens from the text so far and check them in one "
    "pass.",
)


def model_settings(
    options: dict[str, Any], path: Path, progress: Progress = SILENT, **more: Any
) -> ModelSettings:
    """Return the model settings of the options.

    Args:
        options: Those of ``opening_options`` and ``rope_options``, ``batch_size`` and ``threads``.
        path: The model.
        progress: Notified of what GPUs compute.
        more: Other settings of ``ModelSettings``.
    """
    from gguf_hub.cli.run.offload import gpu_settings
    from gguf_hub.cli.run.rope import rope_change
    from gguf_hub.gguf.overrides import parse_overrides
    from gguf_hub.run.model.settings import ModelSettings

    settings = ModelSettings(
        n_batch=options["batch_size"],
        n_threads=max(0, options["threads"]),
        key_type=options["cache_type_k"].upper(),
        value_type=options["cache_type_v"].upper(),
        is_mapped=options["mmap"],
        lock="all" if options["mlock"] else "dense" if options["mlock_dense"] else "none",
        rope=rope_change(options),
        swa_full=options["swa_full"] or options.get("prompt_cache") is not None,
        overrides=parse_overrides(options["override_kv"]) if options["override_kv"] else (),
        **more,
    )
    if options.get("cluster") is not None:  # machines of a cluster compute on their CPUs
        return settings
    return replace(settings, gpu=gpu_settings(path, settings, options, progress))


def drafter_of(options: dict[str, Any]) -> Drafter | None:
    """Return the drafter of ``--lookup``."""
    from gguf_hub.run.generation.lookup import PromptLookup

    return PromptLookup(options["lookup"]) if options["lookup"] else None


NO_MMAP = "; `--no-mmap` reads all of it first"


def report_lost_pages(name: str, hint: str = "") -> contextlib.AbstractContextManager[None]:
    """Within the block, exit with a message if a memory-mapped file loses pages while it is read.

    Pages that are lost between two passes raise an error (``GgufFile.check_size``).
    """
    from gguf_hub.run.kernels.build.bus_error import report_bus_errors

    return report_bus_errors(
        f"error: {name} cannot be read any more: it has become shorter, or its disk fails\n\n"
        f"hint: put another file in its place with `mv`, not over it with `cp`{hint}"
    )
