"""``gguf-hub gc``: what interrupted downloads and removed files have left behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import json_option

if TYPE_CHECKING:
    from gguf_hub.hub.download.leftovers import Leftover


@click.command("gc")
@click.argument(
    "folders",
    nargs=-1,
    metavar="[FOLDER]...",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "-y", "--yes", is_flag=True, help="Remove what is listed; otherwise it is only shown."
)
@json_option
def command(folders: tuple[Path, ...], yes: bool, as_json: bool) -> None:
    """Show or remove unfinished downloads and unreferenced files.

    Covers unfinished downloads and their journals, unreferenced blobs in the Hugging Face cache,
    dangling links and download metadata, and records of missing files. Searches the Hugging Face
    cache, every directory that gguf-hub has downloaded to, and FOLDER. The next `gguf-hub download`
    resumes unfinished downloads; files in use by another process are kept.
    """
    from gguf_hub.hub.download.leftovers import clear, find_leftovers
    from gguf_hub.hub.resolve import known_roots
    from gguf_hub.hub.store import Store
    from gguf_hub.units import format_size

    store = Store(progress=console.ConsoleProgress())
    found = find_leftovers(store, known_roots(store, *folders))
    gone, busy = clear(found, store) if yes else ([], [])
    shown = gone if yes else found
    if as_json:
        console.print_json(_report(shown, busy, is_dry_run=not yes))
        return
    if shown:
        _print(shown)
    total = format_size(sum(left.size_bytes for left in shown))
    if busy:
        console.note(f"\nleft alone, another process is at work on it: {len(busy)}")
    if yes:
        console.note(f"\nremoved; {total} freed")
    else:
        hint = f"; {console.style('hint:', 'cyan', bold=True)} `gguf-hub gc -y` removes it"
        console.note(f"\n{total} could be freed{hint}" if shown else "nothing is left behind")


def _print(leftovers: Sequence[Leftover]) -> None:
    from gguf_hub.units import format_size

    console.print_table(
        [[format_size(left.size_bytes), left.kind.value, str(left.path)] for left in leftovers],
        ["size", "what", "path"],
        align=["right", "left", "left"],
    )


def _report(shown: Sequence[Leftover], busy: Sequence[Leftover], *, is_dry_run: bool) -> Any:
    rows = [_row(left, is_busy=False) for left in shown] + [_row(b, is_busy=True) for b in busy]
    total = sum(left.size_bytes for left in shown)
    return {"dry_run": is_dry_run, "leftovers": rows, "total_bytes": total}


def _row(left: Leftover, *, is_busy: bool) -> dict[str, Any]:
    return {
        "kind": left.kind.name.lower(),
        "path": str(left.path),
        "size_bytes": left.size_bytes,
        "is_busy": is_busy,
    }
