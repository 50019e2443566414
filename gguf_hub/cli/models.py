"""``hub.resolve`` for commands: console output, confirmation of large downloads, picking."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.hub.catalog import Catalog, CatalogFile
    from gguf_hub.hub.client import HfHub
    from gguf_hub.hub.download.destinations import Destination
    from gguf_hub.hub.download.fetch import Fetcher, Plan
    from gguf_hub.hub.resolve import Resolver
    from gguf_hub.progress import Progress

ASK_ABOVE_BYTES = 10**9
DEFAULT_N_CTX = 4096


def make_resolver(
    catalog_path: Path | None = None,
    *,
    token: str | None = None,
    timeout_s: float | None = None,
    destination: Destination | None = None,
    progress: Progress | None = None,
    assume_yes: bool = False,
) -> Resolver:
    """Return a resolver that reports to the console.

    Args:
        catalog_path: A catalog of the user's own.
        token: Access token for the hub.
        timeout_s: How long the hub may be silent.
        destination: Where files go; the Hugging Face cache when None.
        progress: The console when None.
        assume_yes: Skip the confirmation of large downloads.
    """
    from gguf_hub.hub.resolve import Resolver
    from gguf_hub.hub.store import Store

    progress = progress or console.ConsoleProgress()
    return Resolver(
        catalog_path,
        Store(progress=progress),
        partial(open_hub, token, timeout_s=timeout_s),
        destination,
        progress,
        partial(_confirm, assume_yes),
    )


def resolve_model(
    argument: str | None,
    *,
    catalog_path: Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    n_ctx: int = DEFAULT_N_CTX,
    progress: Progress | None = None,
    assume_yes: bool = False,
) -> Path:
    """Return the local file of a model argument; download and verify it first if it is missing.

    Args:
        argument: A path, a catalog quant, ``org/repo:QUANT``, ``org/repo/file.gguf`` or a link;
            None for the quant that fits this machine. A folder or repository that holds a
            checkpoint in safetensors is converted first.
        catalog_path: A catalog of the user's own.
        revision: Branch, tag or commit; overrides the argument's.
        token: Access token for the hub.
        n_ctx: Context that a picked quant must fit.
        progress: The console when None.
        assume_yes: Skip the confirmation of large downloads.

    Returns:
        The file; of a set of shards the first one.

    Raises:
        ModelNotFoundError: The argument names nothing.
        GgufHubError: The download failed.
    """
    from gguf_hub.cli.checkpoints import checkpoint_folder, model_of_folder, model_of_repository
    from gguf_hub.errors import HubUnreachableError, RemoteFileNotFoundError
    from gguf_hub.hub.download.refs import Target

    resolver = make_resolver(catalog_path, token=token, progress=progress, assume_yes=assume_yes)
    shown = progress or resolver.progress
    if argument is None:
        argument = pick_file(resolver.catalog, n_ctx=n_ctx, is_run_here=True).filename
    elif folder := checkpoint_folder(argument):
        return model_of_folder(folder, shown, assume_yes=assume_yes)
    target = resolver.target(argument, revision=revision)
    if not isinstance(target, Target):
        paths = target
    else:
        try:
            paths = resolver.get(target)
        except (RemoteFileNotFoundError, HubUnreachableError) as error:
            return model_of_repository(resolver, target, error, shown, assume_yes=assume_yes)
    resolver.note_changes(paths)
    return paths[0]


def pick_file(catalog: Catalog, *, n_ctx: int = DEFAULT_N_CTX, is_run_here: bool) -> CatalogFile:
    """Pick a file of the catalog for this machine, and report the reason.

    Args:
        catalog: The catalog.
        n_ctx: Context that it must fit.
        is_run_here: Whether gguf-hub runs it, so that VRAM counts only where it can use the GPU;
            otherwise llama.cpp may.

    Raises:
        GgufHubError: None fits.
    """
    from gguf_hub.cli.pick.machines import detect_machine
    from gguf_hub.cli.pick.on_disk import on_disk
    from gguf_hub.errors import GgufHubError
    from gguf_hub.hub import fit

    machine = detect_machine().machine
    is_ours = is_run_here or machine.can_offload or not machine.vram_bytes
    engine: fit.EngineName = "gguf-hub" if is_ours else "llama.cpp"
    files = [fit.facts_from_catalog(catalog, file) for file in catalog.files]
    are_on_disk = on_disk(catalog.repo_id, [candidate.filenames for candidate in files])
    pick = fit.pick(files, machine, fit.Constraints(n_ctx=n_ctx, engine=engine), are_on_disk)
    if pick.chosen is None:
        raise GgufHubError(
            pick.reason,
            hint="`gguf-hub pick` shows how much memory each needs; name a quant to use it anyway",
        )
    console.note(pick.reason)
    file = catalog.find(pick.chosen.facts.quant)
    assert file is not None
    return file


def open_hub(token: str | None, *, timeout_s: float | None = None) -> HfHub:
    """Return the hub; warn about an unencrypted connection."""
    from gguf_hub.hub.client import HfHub

    hub = HfHub(token=token, timeout_s=timeout_s, note=console.note)
    if hub.is_exposed():
        sent = hub.sent_secret()
        risk = f"read the {sent} and change files" if sent else "change files unnoticed"
        console.warn(f"`{hub.endpoint}` is plain http: others on the network can {risk}")
    return hub


def _confirm(assume_yes: bool, plan: Plan, fetcher: Fetcher) -> None:
    """Report the size of a download; ask for confirmation on a terminal if it is large."""
    from gguf_hub.errors import GgufHubError
    from gguf_hub.hub.resolve import first_of
    from gguf_hub.units import format_size

    names = first_of([planned.file.path for planned in plan.files])
    free = format_size(fetcher.free_bytes(fetcher.destination.root))
    console.note(
        f"{names} of {plan.listing.repo_id}: not on this machine; {plan.fetch_bytes:,} bytes "
        f"({format_size(plan.fetch_bytes)}) to download to {fetcher.destination.root}, "
        f"{free} free there"
    )
    if plan.fetch_bytes <= ASK_ABOVE_BYTES or assume_yes or not sys.stdin.isatty():
        return
    if not click.confirm("Download it?", default=True, err=True):
        raise GgufHubError("nothing was downloaded", hint="`gguf-hub pick` shows smaller quants")
