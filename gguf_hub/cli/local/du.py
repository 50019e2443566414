"""``gguf-hub du``: disk usage of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import json_option

if TYPE_CHECKING:
    from gguf_hub.hub.download.inventory import LocalFile


@click.command("du")
@json_option
def command(as_json: bool) -> None:
    """Show disk usage by repository.

    Files with several names in the Hugging Face cache count once. What `gguf-hub gc` could free is
    shown separately.
    """
    from gguf_hub.hub.download.inventory import contents_bytes, inventory
    from gguf_hub.hub.download.leftovers import find_leftovers
    from gguf_hub.hub.resolve import known_roots
    from gguf_hub.hub.store import Store
    from gguf_hub.units import format_size

    store = Store(progress=console.ConsoleProgress())
    roots = known_roots(store)
    files = inventory(store, roots)
    leftover_bytes = sum(leftover.size_bytes for leftover in find_leftovers(store, roots))
    rows, total_bytes = _rows(files), contents_bytes(files)
    if as_json:
        sums = {"total_bytes": total_bytes, "leftover_bytes": leftover_bytes}
        console.print_json({"repositories": rows} | sums)
        return
    console.print_table(
        [
            [format_size(r["size_bytes"]), str(r["n_files"]), r["repo_id"] or r["program"] or "-"]
            for r in rows
        ],
        ["size", "files", "repository"],
        align=["right", "right", "left"],
    )
    console.note(f"\n{format_size(total_bytes)} in total")
    if leftover_bytes:
        console.note(f"{format_size(leftover_bytes)} more can be freed: `gguf-hub gc`")


def _rows(local_files: Sequence[LocalFile]) -> list[dict[str, Any]]:
    """Return a row for each repository, the largest first."""
    from gguf_hub.hub.download.inventory import Condition, contents_bytes

    groups: dict[tuple[str | None, str | None], list[LocalFile]] = {}
    for file in local_files:
        if file.condition is not Condition.GONE:
            program = file.foreign.program.key if file.foreign else None
            groups.setdefault((file.repo_id, program), []).append(file)
    rows = [
        {
            "repo_id": repo_id,
            "program": program,
            "n_files": len({file.content for file in local_files}),
            "size_bytes": contents_bytes(local_files),
        }
        for (repo_id, program), local_files in groups.items()
    ]
    return sorted(rows, key=lambda row: -int(str(row["size_bytes"])))
