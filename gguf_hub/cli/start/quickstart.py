"""``gguf-hub quickstart``: a full demo with the built-in model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import json_option
from gguf_hub.oserrors import reason_of

if TYPE_CHECKING:
    from gguf_hub.cli.start.quickstart_steps import Guide

PROMPT = "Once upon a time"


@click.command("quickstart")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the files in this directory.",
)
@click.option(
    "-s", "--seed", type=click.IntRange(0, 2**32 - 1), help="Seed of the story; default: random."
)
@json_option
def command(keep: Path | None, seed: int | None, as_json: bool) -> int:
    """Run a full demo with a small built-in model.

    Quantizes the small Mixtral that ships with gguf-hub, serves it on loopback, downloads it,
    verifies it and generates text; needs no network. The first run compiles kernels for this CPU,
    which takes up to a minute. Each step shows the command that does it. Files go to a temporary
    directory that is removed at the end.
    """
    import secrets

    from gguf_hub.cli.start.embedded import embedded_model
    from gguf_hub.cli.start.quickstart_output import Tour
    from gguf_hub.cli.start.quickstart_steps import Guide

    model = embedded_model()
    seed = secrets.randbelow(2**31) if seed is None else seed
    with _folder(keep) as folder:
        guide = Guide(Tour(is_silent=as_json), model, folder, console.ConsoleProgress())
        report = _run_steps(guide, seed)
    report["kept"] = str(folder) if keep else None
    if as_json:
        console.print_json(report)
    return 0 if report["verified"] is not False else 1


def _run_steps(guide: Guide, seed: int) -> dict[str, Any]:
    from gguf_hub.cli.start.quickstart_steps import FETCHED_QUANT, why_no_download
    from gguf_hub.hub.store import Store

    hardware = guide.detect()
    catalog, pick = guide.pick(hardware)
    files = guide.quantize(catalog, hardware.n_threads)
    path = next(file.path for file in files if file.quant == FETCHED_QUANT)
    verification, store = None, Store(guide.folder / "record")
    with guide.serve(files) as mirror:
        skipped = why_no_download()
        if skipped is None:
            path = guide.fetch(mirror, store)
            verification = guide.verify(path, store)
        else:
            console.warn(f"the download is skipped: {skipped}\n")
    story = guide.generate(path, seed, PROMPT)
    quant = pick.chosen.facts.quant if pick.chosen else None
    _show_next_step(guide, quant)
    return {
        "seconds": guide.tour.seconds,
        "steps": guide.tour.report(),
        "machine": asdict(hardware),
        "recommended": quant,
        "model": str(guide.model),
        "files": [asdict(file) | {"path": str(file.path)} for file in files],
        "skipped": skipped,
        "verified": verification and verification.verdict.is_good,
        "story": asdict(story),
    }


def _show_next_step(guide: Guide, quant: str | None) -> None:
    guide.tour.say(f"{guide.tour.seconds:.1f} s in total. Next, a real model:", indent="")
    line = f'gguf-hub run {quant} -p "{PROMPT}"' if quant else "gguf-hub list"
    guide.tour.say(console.style(f"$ {line}", "cyan"))


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Yield the folder to work in; a temporary one without ``--keep``."""
    import tempfile

    from gguf_hub.errors import GgufHubError

    try:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            folder: contextlib.AbstractContextManager[Path | str]
            folder = contextlib.nullcontext(keep.absolute())
        else:
            folder = tempfile.TemporaryDirectory(prefix="gguf-hub-", ignore_cleanup_errors=True)
    except OSError as exc:
        raise GgufHubError(
            f"cannot make a folder for the files: {reason_of(exc)}",
            hint="name a writable one: `gguf-hub quickstart --keep DIR`",
        ) from exc
    with folder as path:
        yield Path(path)
