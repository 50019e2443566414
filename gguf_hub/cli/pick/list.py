"""``gguf-hub list``: the files of the catalog as in the model card, or of a repository."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import catalog_option, json_option, offline_option

if TYPE_CHECKING:
    from gguf_hub.hub.catalog import Catalog, CatalogFile
    from gguf_hub.hub.client import RepoListing
    from gguf_hub.hub.resolve import Resolver


@click.command("list")
@click.argument("repo", required=False, metavar="[ORG/REPO]")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the repository.")
@click.option("--token", metavar="TOKEN", help="Hugging Face token (also HF_TOKEN).")
@offline_option
@catalog_option
@json_option
def command(
    repo: str | None,
    revision: str | None,
    token: str | None,
    catalog_path: Path | None,
    as_json: bool,
) -> None:
    """List the GGUF files of the catalog or of a repository.

    The catalog's sizes, RAM figures and descriptions are those of the model card; `gguf-hub pick`
    judges the files by measured quality and exact memory needs on this machine.
    """
    from gguf_hub.cli.models import make_resolver
    from gguf_hub.hub.catalog import load_catalog

    if repo is not None:
        listing = _listing(repo, make_resolver(catalog_path, token=token), revision)
        console.print_json(repo_report(listing)) if as_json else _print_repo(listing)
        return
    catalog = load_catalog(catalog_path)
    console.print_json(report(catalog)) if as_json else _print_catalog(catalog)


def _listing(repo: str, resolver: Resolver, revision: str | None) -> RepoListing:
    """Return the files of the repository that an argument names.

    Raises:
        UsageError: It names one model, or nothing on a hub.
        HubError: The hub refuses; the hint has similar names for an unknown repository.
    """
    from gguf_hub.errors import UsageError
    from gguf_hub.hub.download.plan import inside

    target = resolver.target(repo, revision=revision, is_remote=True)
    assert not isinstance(target, tuple)
    names = target.selector.filenames
    folders = tuple(name for name in names if name.endswith("/"))
    if target.selector.quant is not None or names != folders:
        raise UsageError(
            f"`{repo}` names one model: expected a repository, `org/repo`",
            hint=f"`gguf-hub inspect {quote(repo)}` shows its content",
        )
    listing = resolver.list_files(target)
    return inside(listing, folders) if folders else listing


def _print_repo(listing: RepoListing) -> None:
    from gguf_hub.units import format_size

    rows = repo_report(listing)["files"]
    console.note(f"{listing.repo_id}, {listing.revision} ({listing.commit[:10]})\n")
    if not rows:
        console.note("no GGUF models")
        _note_others(listing)
        return
    console.print_table(
        [
            [row["quant"] or "-", format_size(row["size_bytes"]), row["n_shards"], row["filename"]]
            for row in rows
        ],
        ["quant", "size", "files", "file"],
        align=["left", "right", "right", "left"],
    )
    _note_others(listing)


def _note_others(listing: RepoListing) -> None:
    """Name the files beside the models, and sets that are not whole."""
    report = repo_report(listing)
    for other in report["others"]:
        console.note(f"also: {other['filename']}, {other['description']}")
    for name in report["incomplete"]:
        console.note(f"not whole: {name}; `gguf-hub download` names what is missing")


def repo_report(listing: RepoListing) -> dict[str, Any]:
    """Return the models of a repository as plain data; the shards of one together."""
    from gguf_hub.gguf.roles import Role
    from gguf_hub.hub.download.names import holds_gguf, role_of_name
    from gguf_hub.hub.download.plan import incomplete_models_of, models_of
    from gguf_hub.hub.download.quants import quant_of

    models = models_of(listing)
    shown = {file.path for model in models for file in model}
    incomplete = [model[0].path for model in incomplete_models_of(listing)]
    others = [
        (file, role_of_name(file.path))
        for file in listing.files
        if holds_gguf(file.path) and file.path not in shown
    ]
    return {
        "repo_id": listing.repo_id,
        "revision": listing.revision,
        "commit": listing.commit,
        "files": [
            {
                "quant": quant_of(model[0].path),
                "filename": model[0].path,
                "filenames": [file.path for file in model],
                "n_shards": len(model),
                "size_bytes": sum(file.size_bytes for file in model),
            }
            for model in models
        ],
        "others": [
            {
                "filename": file.path,
                "role": role.value,
                "description": role.description,
                "size_bytes": file.size_bytes,
            }
            for file, role in others
            if role is not Role.MODEL
        ],
        "incomplete": incomplete,
    }


def _print_catalog(catalog: Catalog) -> None:
    properties = [catalog.repo_id, catalog.license, " ".join(catalog.languages)]
    console.note(", ".join(part for part in properties if part))
    if catalog.notice:
        console.note(catalog.notice)
    console.note("")
    console.print_table(
        [_row(file) for file in catalog.files],
        ["quant", "bits", "size", "max RAM", "file", "use case"],
        align=["left", "right", "right", "right", "left", "left"],
        expendable=["max RAM", "bits", "file"],
    )
    if any(file.layout == "split" for file in catalog.files):
        console.note(f"\n{SPLIT_NOTE}")
    console.note("\n`gguf-hub ls` lists the model files on this machine")


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
