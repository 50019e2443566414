"""``gguf-hub quickstart``: the whole program at work, with nothing but what is installed."""

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
        report = _take(guide, seed)
    report["kept"] = str(folder) if keep else None
    if as_json:
        console.print_json(report)
    return 0 if report["verified"] is not False else 1


def _take(guide: Guide, seed: int) -> dict[str, Any]:
    """Take all steps and return what came of them."""
    from gguf_hub.cli.start.quickstart_steps import FETCHED_QUANT, why_no_download
    from gguf_hub.hub.store import Store

    seen = guide.look()
    catalog, found = guide.pick(seen)
    made = guide.quantise(catalog, seen.n_threads)
    path = next(file.path for file in made if file.quant == FETCHED_QUANT)
    verification, store = None, Store(guide.folder / "record")
    with guide.serve(made) as mirror:
        skipped = why_no_download()
        if skipped is None:
            path = guide.fetch(mirror, store)
            verification = guide.verify(path, store)
        else:
            console.warn(f"nothing is downloaded: {skipped}\n")
    story = guide.tell(path, seed, PROMPT)
    quant = found.chosen.facts.quant if found.chosen else None
    _say_goodbye(guide, quant)
    return {
        "seconds": guide.tour.seconds,
        "steps": guide.tour.report(),
        "machine": asdict(seen),
        "recommended": quant,
        "model": str(guide.model),
        "files": [asdict(file) | {"path": str(file.path)} for file in made],
        "skipped": skipped,
        "verified": verification and verification.verdict.is_good,
        "story": asdict(story),
    }


def _say_goodbye(guide: Guide, quant: str | None) -> None:
    """Print the sum, and where to go from here."""
    guide.tour.say(f"{guide.tour.seconds:.1f} s for everything. Next, a real model:", indent="")
    for line in [f'gguf-hub run {quant} -p "{PROMPT}"'] if quant else ["gguf-hub list"]:
        guide.tour.say(console.style(f"$ {line}", "cyan"))


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Give the folder to work in; one that is not to be kept is gone afterwards."""
    import tempfile

    from gguf_hub.errors import GgufHubError

    try:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            place: contextlib.AbstractContextManager[Path | str]
            place = contextlib.nullcontext(keep.absolute())
        else:
            place = tempfile.TemporaryDirectory(prefix="gguf-hub-", ignore_cleanup_errors=True)
    except OSError as exc:
        raise GgufHubError(
            f"cannot make a folder for the files: {reason_of(exc)}",
            hint="name one that can be written: `gguf-hub quickstart --keep DIR`",
        ) from exc
    with place as name:
        yield Path(name)
