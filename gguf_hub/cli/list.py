"""``gguf-hub list``: the files of the catalog, as the model card describes them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import catalog_option, json_option

if TYPE_CHECKING:
    from gguf_hub.catalog import Catalog, CatalogFile


@click.command("list")
@catalog_option
@json_option
def command(catalog_path: Path | None, as_json: bool) -> None:
    """List the GGUF files of the catalog.

    Sizes, memory and words are those of the model card; `gguf-hub pick` judges the files by
    measured quality and exact memory for this machine.
    """
    from gguf_hub.catalog import load_catalog

    catalog = load_catalog(catalog_path)
    if as_json:
        console.print_json(report(catalog))
        return
    about = [catalog.repo_id, catalog.license, " ".join(catalog.languages)]
    console.note(", ".join(part for part in about if part))
    if catalog.notice:
        console.note(catalog.notice)
    console.note("")
    console.print_table(
        [_row(file) for file in catalog.files],
        ["quant", "bits", "size", "max RAM", "file", "use case"],
        align=["left", "right", "right", "right", "left", "left"],
    )
    if any(file.layout == "split" for file in catalog.files):
        console.note(f"\n{SPLIT_NOTE}")


SPLIT_NOTE = (
    "these files store one tensor per expert: llama.cpp since October 2024 cannot load them; "
    "gguf-hub can"
)


def _row(file: CatalogFile) -> list[str]:
    from gguf_hub.units import format_gb

    return [
        file.quant,
        str(file.bits or "-"),
        format_gb(file.size_bytes),
        format_gb(file.max_ram_bytes) if file.max_ram_bytes else "-",
        file.filename,
        file.use_case or "-",
    ]


def report(catalog: Catalog) -> dict[str, Any]:
    """Return the catalog as plain data; tensor types by name."""
    data = asdict(catalog)
    data["path"] = str(catalog.path)
    for file in data["files"]:
        recipe = file["recipe"]
        file["recipe"] = recipe and {role: type_ and type_.name for role, type_ in recipe.items()}
    return data
