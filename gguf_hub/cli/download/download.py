"""``gguf-hub download``: files of a repository, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.download.download_engine import engine_options, mover_for
from gguf_hub.cli.download.download_output import print_plan, print_result
from gguf_hub.cli.download.download_target import find_here, place_from, require_here, target_from
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
    from gguf_hub.cli.models import list_repo, open_hub
    from gguf_hub.hub.catalog import load_catalog
    from gguf_hub.hub.client import default_cache_dir, is_offline
    from gguf_hub.hub.download.fetch import Fetcher
    from gguf_hub.hub.download.plan import select
    from gguf_hub.hub.store import Store

    progress = console.progress_for(options["progress"], is_quiet=options["quiet"])
    _tell_old_habits(options)
    catalog = load_catalog(options["catalog_path"])
    target, place = target_from(repo, filenames, options, catalog), place_from(options)
    hub = open_hub(options["token"], timeout_s=options["timeout_s"])
    store = Store(progress=progress)
    if is_offline():
        listing, files = find_here(target, place, store)
    else:
        listing = list_repo(hub, target, catalog)
        files = select(listing, target.wanted)
    fetcher = Fetcher(
        hub,
        place,
        store,
        progress,
        move=mover_for(options, len(files)),
        is_forced=options["is_forced"],
        max_workers=options["max_workers"],
        caches=(default_cache_dir(),),
    )
    plan = fetcher.plan(listing, files)
    free_bytes = fetcher.free_bytes(fetcher.place.root)
    if options["dry_run"]:
        print_plan(plan, free_bytes, as_json=options["as_json"])
        return
    if is_offline():
        require_here(plan)
    try:
        fetched = fetcher.fetch(listing, files)
    except KeyboardInterrupt:
        console.note("\nwhat came so far is kept: repeat the command to go on from there")
        raise
    print_result(plan, fetched, as_json=options["as_json"], is_quiet=options["quiet"])


def _tell_old_habits(options: dict[str, Any]) -> None:
    """Say what became of things that the model card's readers still type."""
    if options["local_dir_use_symlinks"] is not None:
        console.note("note: --local-dir-use-symlinks is a thing of the past: files are files")
    if options["resume_download"]:
        console.note("note: --resume-download is not needed: downloads always go on")
