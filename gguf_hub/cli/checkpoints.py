"""Checkpoints in safetensors for commands: found, downloaded, and converted to run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_hub.cli import console
from gguf_hub.conversions import kept_folder
from gguf_hub.errors import GgufHubError, HubError
from gguf_hub.paths import expand_user

if TYPE_CHECKING:
    from gguf_hub.hub.client import RemoteFile, RepoListing
    from gguf_hub.hub.download.fetch import Fetcher, Plan
    from gguf_hub.hub.download.plan import FileSelector
    from gguf_hub.hub.download.refs import Target
    from gguf_hub.hub.resolve import Confirm, Resolver
    from gguf_hub.progress import Progress
    from gguf_hub.run.convert import OutType

_OUTTYPES = ("f32", "f16", "bf16", "q8_0")


def checkpoint_folder(argument: str) -> Path | None:
    """Return the local folder of a checkpoint that an argument names; None if it names none."""
    path = expand_user(argument)
    if not os.path.isfile(path / "config.json"):  # noqa: PTH113 - no name that no file can have
        return None
    return path if any(path.glob("*.safetensors")) else None


def fetch_checkpoint(resolver: Resolver, target: Target, confirm: Confirm | None = None) -> Path:
    """Return the folder with a repository's checkpoint, downloaded and verified if it is not here.

    Args:
        resolver: Finds it.
        target: The repository.
        confirm: Asked before a download, instead of the resolver's own.

    Raises:
        GgufHubError: There is none, or the download failed.
    """
    from gguf_hub.hub.download.checkpoints import select_checkpoint

    def choose(listing: RepoListing, selector: FileSelector) -> Sequence[RemoteFile]:
        return select_checkpoint(listing, selector)

    whole = replace(target, selector=type(target.selector)())
    selection = resolver.choose(whole, choose)
    fetcher = resolver.fetcher()
    plan = resolver.plan(selection, fetcher)
    if plan.fetch_bytes:
        (confirm or resolver.confirm)(plan, fetcher)
    return resolver.fetch(selection, fetcher)[0].path.parent


def model_of_folder(
    folder: Path, progress: Progress, *, assume_yes: bool, name: str | None = None,
    outtype: OutType = "auto",
) -> Path:  # fmt: skip
    """Return the GGUF file of a checkpoint, converted into the cache if it was not yet.

    Args:
        folder: The checkpoint.
        progress: Shows the conversion.
        assume_yes: Skip the question.
        name: Of the model; the folder's by default.
        outtype: Type of matrices.

    Raises:
        GgufHubError: It cannot be converted, or the answer was no.
    """
    from gguf_hub.run.convert.kept import find_kept, plan_kept, write_kept
    from gguf_hub.units import format_size

    if kept := find_kept(folder, outtype):
        return kept
    plan, path = plan_kept(folder, name=name, outtype=outtype)
    console.note(
        f"`{name or folder}` is a checkpoint, no GGUF file: it has to be converted, once, to "
        f"{plan.type.name}, {format_size(plan.size_bytes)}, in {kept_folder()}"
    )
    for note in plan.notes:
        console.note(f"note: {note}")
    _ask("Convert it?", assume_yes)
    write_kept(plan, path, folder, outtype=outtype, progress=progress)
    console.note(f"converted: {path}")
    return path


def _report_cost(plan: Plan, fetcher: Fetcher) -> None:
    """Say what it takes to run a repository that has no GGUF file."""
    from gguf_hub.hub.download.checkpoints import weights_bytes
    from gguf_hub.units import format_size

    size = format_size(weights_bytes([planned.file for planned in plan.files]))
    root = fetcher.destination.root
    console.note(
        f"`{plan.listing.repo_id}` has no GGUF file, but a checkpoint: "
        f"{format_size(plan.fetch_bytes)} to download to {root}, "
        f"{format_size(fetcher.free_bytes(root))} free there; then its weights, {size}, are "
        f"converted, once, in {kept_folder()}"
    )


def _ask(question: str, assume_yes: bool) -> None:
    if assume_yes or not sys.stdin.isatty():
        return
    if not click.confirm(question, default=True, err=True):
        raise GgufHubError(
            "nothing was converted", hint="`gguf-hub convert` writes the file elsewhere"
        )


def model_of_repository(
    resolver: Resolver, target: Target, error: HubError, progress: Progress, *, assume_yes: bool
) -> Path:
    """Return the GGUF file of a repository that has a checkpoint instead of one.

    Args:
        resolver: Finds it.
        target: The repository; a quant is one of the types that a conversion writes.
        error: Why there is no GGUF file; raised where there is no checkpoint either.
        progress: Shows the conversion.
        assume_yes: Skip the questions.

    Raises:
        HubError: ``error``.
        GgufHubError: The checkpoint cannot be had or converted, or the answer was no.
    """
    quant = (target.selector.quant or "auto").lower()
    is_whole = not target.selector.filenames and not target.selector.include
    if not is_whole or quant not in ("auto", *_OUTTYPES):
        raise error
    from gguf_hub.errors import HubUnreachableError, RemoteFileNotFoundError

    answers = []

    def confirm(plan: Plan, fetcher: Fetcher) -> None:
        """Show what it costs and ask once."""
        _report_cost(plan, fetcher)
        _ask("Download and convert it?", assume_yes)
        answers.append(True)

    try:
        folder = fetch_checkpoint(resolver, target, confirm)
    except (RemoteFileNotFoundError, HubUnreachableError) as exc:
        raise error from exc
    name = target.repo_id.rpartition("/")[2]
    return model_of_folder(
        folder, progress, assume_yes=assume_yes or bool(answers), name=name,
        outtype=quant,  # type: ignore[arg-type]
    )  # fmt: skip
