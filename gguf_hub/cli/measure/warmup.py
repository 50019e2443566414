"""``gguf-hub warmup``: compile kernels ahead of the first run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import CONTEXT, catalog_option, json_option
from gguf_hub.cli.run.opening import CacheType

if TYPE_CHECKING:
    from gguf_hub.progress import Progress

_ANOTHER_FOLDER = "`GGUF_HUB_KERNEL_CACHE=FOLDER` keeps kernels in another folder"


@click.command("warmup", context_settings=CONTEXT)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("-ctk", "--cache-type-k", type=CacheType(), default="f16", help="K cache data type.")
@click.option("-ctv", "--cache-type-v", type=CacheType(), default="f16", help="V cache data type.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@catalog_option
@json_option
def command(models: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Compile kernels ahead of the first run.

    MODEL is a file, or a quant of the catalog (Q4_K_M), which need not be on this machine; default:
    all quants of the catalog. Kernels that are already compiled are skipped.
    """
    from gguf_hub.cli import console
    from gguf_hub.errors import GgufHubError
    from gguf_hub.run.kernels.build.build import KernelBuilder
    from gguf_hub.units import format_duration

    progress = console.ConsoleProgress(enabled=not options["no_progress"])
    names = _kernel_names(models, options, progress)
    builder = KernelBuilder()
    if builder.folder is None:
        raise GgufHubError("; ".join(builder.problems()), hint=_ANOTHER_FOLDER)
    start_time = time.perf_counter()
    n_compiled = builder.compile(names, progress)
    seconds = time.perf_counter() - start_time
    if builder.n_unsaved:
        raise GgufHubError(
            f"{builder.n_unsaved} of {len(names)} kernels could not be written to"
            f" `{builder.folder}`: the next start compiles them again",
            hint=_ANOTHER_FOLDER,
        )
    if as_json:
        data = {"n_kernels": len(names), "n_compiled": n_compiled, "seconds": round(seconds, 3),
                 "folder": str(builder.folder), "isa": builder.cpu.isa}  # fmt: skip
        console.print_json(data)
        return
    console.say(
        f"{len(names)} kernels are ready for {builder.cpu.isa}: {n_compiled} compiled in "
        f"{format_duration(seconds)}, {len(names) - n_compiled} were ready"
    )


def _kernel_names(
    models: tuple[str, ...], options: dict[str, Any], progress: Progress
) -> list[str]:
    from gguf_hub.hub.catalog import load_catalog

    cache_types = options["cache_type_k"].upper(), options["cache_type_v"].upper()
    arguments = models or [file.quant for file in load_catalog(options["catalog_path"]).files]
    names: dict[str, None] = {}
    for model in arguments:
        names |= dict.fromkeys(_kernel_names_of(model, cache_types, options, progress))
    return list(names)


def _kernel_names_of(
    model: str, cache_types: tuple[str, str], options: dict[str, Any], progress: Progress
) -> list[str]:
    """Return the kernels of one model; the name of a type needs no file."""
    from gguf_hub.cli.models import resolve_model
    from gguf_hub.gguf.shards import open_gguf
    from gguf_hub.gguf.types import FileType
    from gguf_hub.run.model.warmup import kernels_of_card, kernels_of_file

    name = model.upper()
    if name in FileType.__members__ and not os.path.exists(model):  # noqa: PTH110
        return kernels_of_card(FileType[name], cache_types)
    path: Path = resolve_model(model, catalog_path=options["catalog_path"], progress=progress)
    with open_gguf(path) as file:
        return kernels_of_file(file, cache_types)
