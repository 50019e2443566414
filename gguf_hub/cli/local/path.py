"""``gguf-hub path``: where a model lies, for scripts."""

from __future__ import annotations

from pathlib import Path

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import catalog_option, json_option, offline_option


@click.command("path")
@click.argument("model")
@click.option("--all", "with_all", is_flag=True, help="All shards, not only the first.")
@offline_option
@catalog_option
@json_option
def command(model: str, with_all: bool, catalog_path: Path | None, as_json: bool) -> None:
    """Print where a model lies on this machine, and nothing else.

    MODEL is a quant of the catalog (Q4_K_M), org/repo:QUANT, org/repo/file.gguf or a path. Of a set
    of shards it is the first, which is what programs take. No hub is asked and nothing is fetched:
    exit code 1 when the model is not here.
    """
    from gguf_hub.cli.models import locate
    from gguf_hub.hub.catalog import load_catalog
    from gguf_hub.hub.store import Store

    store = Store(progress=console.ConsoleProgress())
    paths = [path.absolute() for path in locate(model, load_catalog(catalog_path), store)]
    if as_json:
        console.print_json({"paths": [str(path) for path in paths]})
        return
    for path in paths if with_all else paths[:1]:
        console.say_path(str(path))
