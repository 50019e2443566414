"""``gguf-hub ls``: list the model files on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import json_option

if TYPE_CHECKING:
    from gguf_hub.hub.download.inventory import LocalFile

_COLOURS = {
    "verified": "green",
    "unchecked": None,
    "changed": "yellow",
    "edited": "yellow",
    "gone": "red",
}


@click.command("ls")
@json_option
def command(as_json: bool) -> None:
    """List the model files on this machine.

    Lists files that gguf-hub downloaded or verified, in any directory, GGUF files that other
    programs put into the Hugging Face cache, and those in the folders of Ollama, LM Studio,
    text-generation-webui, Jan and GPT4All, by the names that they have there, and checkpoints that
    were converted to be run. `verified`: the
    SHA-256 matched, and the file has not changed since. `unchecked`: not verified yet. `changed`:
    modified since it was verified. `edited`: that was `gguf-hub edit`. `gone`: recorded but
    missing; `gguf-hub gc` removes the record.
    """
    from gguf_hub.hub.download.inventory import contents_bytes, inventory
    from gguf_hub.hub.resolve import known_roots
    from gguf_hub.hub.store import Store
    from gguf_hub.units import format_size

    store = Store(progress=console.ConsoleProgress())
    files = inventory(store, known_roots(store))
    if as_json:
        total = {"total_bytes": contents_bytes(files)}
        console.print_json({"files": [row_of(file) for file in files]} | total)
        return
    if not files:
        console.note("no model files yet: `gguf-hub download` fetches one")
        return
    console.print_table(
        [_cells(file) for file in files],
        ["quant", "size", "state", "repository", "path"],
        align=["left", "right", "left", "left", "left"],
        expendable=["repository"],
    )
    console.note(f"\n{format_size(contents_bytes(files))} in total")


def row_of(file: LocalFile) -> dict[str, Any]:
    """Return a file as plain data, with stable keys."""
    return {
        "path": str(file.path),
        "repo_id": file.repo_id,
        "commit": file.commit,
        "filename": file.filename,
        "quant": file.quant,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "state": file.condition.value,
        "verified_at": file.verified_at,
        "program": file.foreign.program.key if file.foreign else None,
        "names": list(file.foreign.names) if file.foreign else [],
        "converted_from": file.converted_from,
    }


def _cells(file: LocalFile) -> list[str]:
    from gguf_hub.units import format_size

    state = console.style(file.condition.value, _COLOURS[file.condition.value])
    size = format_size(file.size_bytes)
    place = file.repo_id or "-"
    if file.foreign:
        place = f"{file.foreign.program.title}: {file.foreign.names[0]}"
    elif file.conversion:
        place = f"converted from {file.converted_from or 'a checkpoint'}"
    return [file.quant or "-", size, state, place, str(file.path)]
