"""``gguf-hub gc``: leftovers of interrupted downloads and removed files."""

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
    dangling links and download metadata, records of missing files, and conversions of checkpoints
    that changed and were converted again. Searches the Hugging Face
    cache, every directory that gguf-hub has downloaded to, and FOLDER. The next `gguf-hub download`
    resumes unfinished downloads; files in use by another process are kept.
    """
    from gguf_hub.hub.download.leftovers import clear, find_leftovers
    from gguf_hub.hub.resolve import known_roots
    from gguf_hub.hub.store import Store
    from gguf_hub.units import format_size

    store = Store(progress=console.ConsoleProgress())
    leftovers = find_leftovers(store, known_roots(store, *folders))
    removed, busy = clear(leftovers, store) if yes else ([], [])
    listed = removed if yes else leftovers
    if as_json:
        console.print_json(_report(listed, busy, is_dry_run=not yes))
        return
    if listed:
        _print(listed)
    total = format_size(sum(leftover.size_bytes for leftover in listed))
    if busy:
        console.note(f"\nin use by another process, not removed: {len(busy)}")
    if yes:
        console.note(f"\nremoved; {total} freed")
    else:
        hint = f"; {console.style('hint:', 'cyan', bold=True)} `gguf-hub gc -y` removes it"
        console.note(f"\n{total} could be freed{hint}" if listed else "nothing to clean up")


def _print(leftovers: Sequence[Leftover]) -> None:
    from gguf_hub.units import format_size

    console.print_table(
        [[format_size(item.size_bytes), item.kind.value, str(item.path)] for item in leftovers],
        ["size", "what", "path"],
        align=["right", "left", "left"],
    )


def _report(leftovers: Sequence[Leftover], busy: Sequence[Leftover], *, is_dry_run: bool) -> Any:
    rows = [
        {
            "kind": item.kind.name.lower(),
            "path": str(item.path),
            "size_bytes": item.size_bytes,
            "is_busy": is_busy,
        }
        for is_busy, items in ((False, leftovers), (True, busy))
        for item in items
    ]
    total = sum(item.size_bytes for item in leftovers)
    return {"dry_run": is_dry_run, "leftovers": rows, "total_bytes": total}
