"""``gguf-hub download``: files of a repository, verified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.download_engine import engine_options, mover_for
from gguf_hub.cli.download_output import print_plan, print_result
from gguf_hub.cli.options import catalog_option, json_option

if TYPE_CHECKING:
    from gguf_hub.catalog import Catalog
    from gguf_hub.download.local import Target
    from gguf_hub.download.places import Place


@click.command("download")
@click.argument("repo", required=False)
@click.argument("filenames", nargs=-1)
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Only files that match one of these."
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="No files that match one of these.")
@click.option("--revision", help="Branch, tag or commit.")
@click.option(
    "--local-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Put the files there under their own names, instead of the Hugging Face cache.",
)
@click.option(
    "--cache-dir", type=click.Path(file_okay=False, path_type=Path), help="Another cache."
)
@click.option("--token", help="Access token; else HF_TOKEN or the one of `hf auth login`.")
@engine_options
@click.option("--dry-run", is_flag=True, help="Show what would come, fetch nothing.")
@click.option("--quiet", "-q", is_flag=True, help="Print the paths only.")
@click.option("--no-progress", is_flag=True, help="Draw no bars.")
@click.option("--local-dir-use-symlinks", hidden=True)
@click.option("--resume-download", is_flag=True, hidden=True)
@catalog_option
@json_option
def command(repo: str | None, filenames: tuple[str, ...], **options: Any) -> None:
    """Download files, verified, by name, quant or pattern.

    REPO is `org/repo`, `org/repo:QUANT`, a link, or a quant of the catalog like `Q4_K_M`; FILENAMES
    are paths in the repository. Without anything, the quant that `gguf-hub pick` chooses for this
    machine.

    Every file is checked against the hub's SHA-256 before it takes its name. What was interrupted
    goes on where it stopped when the command is repeated. Prints the paths.
    """
    from gguf_hub.catalog import load_catalog
    from gguf_hub.cli.models import list_repo, open_hub
    from gguf_hub.download.fetch import Fetcher
    from gguf_hub.download.plan import select
    from gguf_hub.hub import default_cache_dir
    from gguf_hub.progress import SILENT
    from gguf_hub.store import Store

    _tell_old_habits(options)
    catalog = load_catalog(options["catalog_path"])
    target = _target(repo, filenames, options, catalog)
    has_bars = not (options["quiet"] or options["no_progress"])
    progress = SILENT if options["quiet"] else console.ConsoleProgress(enabled=has_bars)
    hub = open_hub(options["token"], timeout_s=options["timeout_s"])
    listing = list_repo(hub, target, catalog)
    files = select(listing, target.wanted)
    fetcher = Fetcher(
        hub,
        _place(options),
        Store(progress=progress),
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
    try:
        fetched = fetcher.fetch(listing, files)
    except KeyboardInterrupt:
        console.note("\nwhat came so far is kept: repeat the command to go on from there")
        raise
    print_result(plan, fetched, as_json=options["as_json"], is_quiet=options["quiet"])


def _target(
    repo: str | None, filenames: tuple[str, ...], options: dict[str, Any], catalog: Catalog
) -> Target:
    """Return what is wanted, from the arguments and options together."""
    from gguf_hub.cli.models import pick_file
    from gguf_hub.download.local import Target, target_of_file
    from gguf_hub.download.plan import Wanted

    patterns = {"include": options["include"], "exclude": options["exclude"]}
    if repo is not None:
        target = _with_names(_remote(repo, catalog), repo, filenames, catalog)
    elif any(patterns.values()):
        target = Target(catalog.repo_id, Wanted(), catalog.revision)
    else:
        target = target_of_file(catalog, pick_file(catalog, with_vram=True))
    target = replace(target, wanted=replace(target.wanted, **patterns))
    if target.wanted.has_idle_patterns:
        console.warn("--include and --exclude do nothing beside file names, as in `hf download`")
    return replace(target, revision=options["revision"] or target.revision)


def _with_names(target: Target, repo: str, filenames: tuple[str, ...], catalog: Catalog) -> Target:
    """Add the file names to what the first argument wants."""
    from gguf_hub.errors import UsageError

    if not filenames:
        return target
    if target.wanted.quant is not None:
        raise UsageError(
            f"`{repo}` names a quant and {len(filenames)} file names follow: which is meant?",
            hint=f"either `{repo}`, or `{target.repo_id} {filenames[0]}`",
        )
    if target.wanted.filenames and target.repo_id == catalog.repo_id and "/" not in repo:
        # the first was a quant of the catalog: so are the others
        others = [_remote(name, catalog) for name in filenames]
        filenames = tuple(name for other in others for name in other.wanted.filenames)
    names = target.wanted.filenames + filenames
    return replace(target, wanted=replace(target.wanted, filenames=names))


def _remote(argument: str, catalog: Catalog) -> Target:
    """Read an argument that must name something to download."""
    from gguf_hub.cli.models import target_for

    target = target_for(argument, catalog, is_remote=True)
    assert not isinstance(target, Path)
    return target


def _place(options: dict[str, Any]) -> Place:
    from gguf_hub.download.places import HfCache, LocalFolder
    from gguf_hub.hub import default_cache_dir

    if options["local_dir"] is not None:
        return LocalFolder(options["local_dir"].expanduser().absolute())
    return HfCache((options["cache_dir"] or default_cache_dir()).expanduser().absolute())


def _tell_old_habits(options: dict[str, Any]) -> None:
    """Say what became of things that the model card's readers still type."""
    if options["local_dir_use_symlinks"] is not None:
        console.note("note: --local-dir-use-symlinks is a thing of the past: files are files")
    if options["resume_download"]:
        console.note("note: --resume-download is not needed: downloads always go on")
