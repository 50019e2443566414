"""``gguf-hub inspect``: the content of a GGUF file, local or on a hub."""

from __future__ import annotations

from pathlib import Path

import click

from gguf_hub.cli.options import catalog_option, json_option, offline_option


@click.command("inspect")
@click.argument("model", required=False, metavar="FILE|MODEL")
@click.option("--metadata", is_flag=True, help="Print the metadata.")
@click.option(
    "--tensors",
    "pattern",
    is_flag=False,
    flag_value="*",
    metavar="[GLOB]",
    help="Print the tensors, or those whose names match.",
)
@click.option("--full", is_flag=True, help="Print long arrays and texts in full.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the repository.")
@click.option("--token", metavar="TOKEN", help="Hugging Face token (also HF_TOKEN).")
@offline_option
@catalog_option
@json_option
def command(
    model: str | None,
    metadata: bool,
    pattern: str | None,
    full: bool,
    revision: str | None,
    token: str | None,
    catalog_path: Path | None,
    as_json: bool,
) -> int:
    """Show what a GGUF file contains.

    MODEL is a path, a quant of the catalog (Q4_K_M), org/repo:QUANT, org/repo/file.gguf or hf://...;
    for a file on the Hub only the header is downloaded. Shards are added up. Exit code 1 if
    the file is damaged.
    """
    from gguf_hub.cli import console
    from gguf_hub.cli.files import inspect_output as output
    from gguf_hub.cli.files.sources import open_sources
    from gguf_hub.cli.models import make_resolver
    from gguf_hub.gguf.inspection import inspect_set

    if model is None and pattern not in (None, "*"):
        # `--tensors FILE` without a pattern
        model, pattern = pattern, "*"
    if model is None:
        raise click.UsageError("missing argument FILE")
    sources = open_sources(model, make_resolver(catalog_path, token=token), revision)
    from gguf_hub.gguf.metadata import Metadata
    from gguf_hub.hub.programs.conversations import choose_chat_format

    inspection = inspect_set(sources)
    if as_json:
        console.print_json(
            output.as_dict(inspection, metadata=metadata, pattern=pattern, full=full)
        )
    elif metadata or pattern:
        if metadata:
            output.print_metadata(inspection, full=full)
        if pattern:
            output.print_tensors(inspection, pattern)
    else:
        fields = Metadata(inspection.header.fields)
        output.print_summary(inspection, choose_chat_format(Path(sources[0][1]), fields, None))
    output.print_issues(inspection)
    return 0 if inspection.report.is_sound else 1
