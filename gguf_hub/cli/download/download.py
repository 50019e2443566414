"""``gguf-hub download``: download and verify files of a repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.download.download_engine import backend_for, engine_options
from gguf_hub.cli.download.download_output import print_plan, print_result
from gguf_hub.cli.download.download_target import destination_from, target_from
from gguf_hub.cli.options import (
    catalog_option,
    json_option,
    no_progress_option,
    offline_option,
    progress_option,
)


@click.command("download")
@click.argument("repo", required=False)
@click.argument("filenames", nargs=-1)
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Download only files that match; repeatable."
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="Skip files that match; repeatable.")
@click.option("--revision", help="Branch, tag or commit.")
@click.option(
    "--local-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Save files here under their own names instead of in the Hugging Face cache.",
)
@click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Hugging Face cache directory.",
)
@click.option(
    "--token", help="Hugging Face token; default: HF_TOKEN, or the token of `hf auth login`."
)
@engine_options
@click.option("--dry-run", is_flag=True, help="Show what would be downloaded.")
@click.option("--quiet", "-q", is_flag=True, help="Print only the paths.")
@progress_option
@no_progress_option
@click.option("--local-dir-use-symlinks", hidden=True)
@click.option("--resume-download", is_flag=True, hidden=True)
@offline_option
@catalog_option
@json_option
def command(repo: str | None, filenames: tuple[str, ...], **options: Any) -> None:
    """Download files by name, quant or pattern, and verify them.

    REPO is `org/repo`, `org/repo:QUANT`, a link, or a quant of the catalog like `Q4_K_M`; FILENAMES
    are paths in the repository. Without arguments, downloads the quant that `gguf-hub pick` chooses
    for this machine.

    Every file is checked against the Hub's SHA-256 before it gets its final name. Run the command
    again to resume an interrupted download. Prints the paths.
    """
    from gguf_hub.cli.models import make_resolver

    progress = console.progress_for(options["progress"], is_quiet=options["quiet"])
    _note_obsolete_options(options)
    resolver = make_resolver(
        options["catalog_path"],
        token=options["token"],
        timeout_s=options["timeout_s"],
        destination=destination_from(options),
        progress=progress,
    )
    selection = resolver.choose(target_from(repo, filenames, options, resolver))
    fetcher = resolver.fetcher(
        backend=backend_for(options, len(selection.files)),
        is_forced=options["is_forced"],
        max_workers=options["max_workers"],
    )
    if options["dry_run"]:
        plan = fetcher.plan(selection.listing, selection.files)
        print_plan(plan, fetcher.free_bytes(fetcher.destination.root), as_json=options["as_json"])
        return
    try:
        fetched = resolver.fetch(selection, fetcher)
    except KeyboardInterrupt:
        console.note("\nstopped: repeat the command to resume the download")
        raise
    print_result(selection.listing, fetched, as_json=options["as_json"], is_quiet=options["quiet"])


def _note_obsolete_options(options: dict[str, Any]) -> None:
    """Report the obsolete flags that model cards still mention."""
    if options["local_dir_use_symlinks"] is not None:
        console.note("note: --local-dir-use-symlinks is obsolete and ignored")
    if options["resume_download"]:
        console.note("note: --resume-download is obsolete: downloads always resume")
