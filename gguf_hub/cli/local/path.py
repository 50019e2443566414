"""``gguf-hub path``: print the path of a model, for scripts."""

from __future__ import annotations

from pathlib import Path

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import catalog_option, json_option, offline_option


@click.command("path")
@click.argument("model")
@click.option("--all", "with_all", is_flag=True, help="Print all shards, not only the first.")
@offline_option
@catalog_option
@json_option
def command(model: str, with_all: bool, catalog_path: Path | None, as_json: bool) -> None:
    """Print the path of a model on this machine.

    MODEL is a quant of the catalog (Q4_K_M), org/repo:QUANT, org/repo/file.gguf or a path. For a
    set of shards it prints the first one, which is what programs expect. Makes no network requests
    and downloads nothing: exit code 1 if the model is not on this machine.
    """
    from gguf_hub.cli.models import make_resolver

    paths = [path.absolute() for path in make_resolver(catalog_path).local_paths(model)]
    if as_json:
        console.print_json({"paths": [str(path) for path in paths]})
        return
    for path in paths if with_all else paths[:1]:
        console.say_path(str(path))
