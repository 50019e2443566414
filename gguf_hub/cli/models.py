"""From a model argument to verified files on this machine, for every command that takes one."""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.errors import HubUnreachableError
    from gguf_hub.hub.catalog import Catalog, CatalogFile
    from gguf_hub.hub.client import HfHub, Hub, RepoListing
    from gguf_hub.hub.download.fetch import Fetcher, Plan
    from gguf_hub.hub.download.local import Target
    from gguf_hub.hub.store import Store
    from gguf_hub.progress import Progress

ASK_ABOVE_BYTES = 10**9
DEFAULT_N_CTX = 4096


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
    """Return a verified local file for a model argument; download it first if it is missing.

    Args:
        argument: A path, a catalog quant, ``org/repo:QUANT``, ``org/repo/file.gguf`` or a link;
            None for the quant that fits this machine.
        catalog_path: A catalog of the user's own.
        revision: Branch, tag or commit; instead of what the argument says.
        token: Access token for the hub.
        n_ctx: Context that a picked quant must have room for.
        progress: Who is told; the console when None.
        assume_yes: Never ask before a large download.

    Returns:
        The file; of a set of shards the first one.

    Raises:
        ModelNotFoundError: The argument names nothing.
        GgufHubError: Whatever stands in the way of getting it.
    """
    from gguf_hub.hub.catalog import load_catalog
    from gguf_hub.hub.client import is_offline
    from gguf_hub.hub.download.local import find_verified
    from gguf_hub.hub.store import Store

    if argument is not None and os.path.isfile(argument):  # noqa: PTH113 - False for odd names
        return Path(argument)  # needs no catalog, so that a broken one does no harm
    progress = progress or console.ConsoleProgress()
    catalog = load_catalog(catalog_path)
    found = _wanted(argument, catalog, n_ctx)
    if isinstance(found, Path):
        return found
    target = replace(found, revision=revision or found.revision)
    store = Store(progress=progress)
    paths = find_verified(target, store)
    if not paths:
        fetcher = cache_fetcher(open_hub(token), store, progress)
        paths = _check_cached(target, fetcher)
    if not paths:
        if is_offline():
            raise missing_offline(target.text)
        paths = _get(target, fetcher, catalog, assume_yes)
    return paths[0]


def _wanted(argument: str | None, catalog: Catalog, n_ctx: int) -> Target | Path:
    from gguf_hub.hub.download.local import target_of_file

    if argument is not None:
        return target_for(argument, catalog)
    # models run on the CPU: what would fit a graphics card only is no help
    return target_of_file(catalog, pick_file(catalog, n_ctx=n_ctx, with_vram=False))


def target_for(argument: str, catalog: Catalog, *, is_remote: bool = False) -> Target | Path:
    """Return what of a repository a model argument wants, or the local file that it names.

    Args:
        argument: The model argument.
        catalog: Where quants come from.
        is_remote: Something to download is named: local files do not count.

    Raises:
        ModelNotFoundError: It names nothing.
        UsageError: It is a link that leads somewhere else.
    """
    from gguf_hub.hub.client import default_endpoint
    from gguf_hub.hub.download.local import target_of
    from gguf_hub.hub.download.refs import LocalFile, parse_ref

    names = {file.quant: file.filename for file in catalog.files}
    ref = parse_ref(argument, catalog=names, endpoint=default_endpoint(), is_remote=is_remote)
    return ref.path if isinstance(ref, LocalFile) else target_of(ref, catalog)


def pick_file(catalog: Catalog, *, n_ctx: int = DEFAULT_N_CTX, with_vram: bool) -> CatalogFile:
    """Return the file of the catalog that this machine should take, and say why.

    Raises:
        GgufHubError: None fits.
    """
    from gguf_hub.cli.pick.machines import look
    from gguf_hub.cli.pick.on_disk import on_disk
    from gguf_hub.errors import GgufHubError
    from gguf_hub.hub import fit

    machine = look().machine
    engine: fit.EngineName = "llama.cpp" if with_vram and machine.vram_bytes else "gguf-hub"
    files = [fit.facts_from_catalog(catalog, file) for file in catalog.files]
    is_here = on_disk(catalog.repo_id, [facts.filenames for facts in files])
    found = fit.pick(files, machine, fit.Constraints(n_ctx=n_ctx, engine=engine), is_here)
    if found.chosen is None:
        raise GgufHubError(
            found.reason,
            hint="`gguf-hub pick` shows the needs; name a quant to take it all the same",
        )
    console.note(found.reason)
    file = catalog.find(found.chosen.facts.quant)
    assert file is not None
    return file


def _check_cached(target: Target, fetcher: Fetcher) -> list[Path]:
    """Return the files if the Hugging Face cache has all of them and they are whole."""
    from gguf_hub.hub.client import default_cache_dir
    from gguf_hub.hub.download.local import find_cached

    cached = find_cached(target, default_cache_dir())
    return [done.path for done in fetcher.check(*cached)] if cached else []


def missing_offline(what: str) -> HubUnreachableError:
    """Return the error for what offline mode forbids to fetch."""
    from gguf_hub.errors import HubUnreachableError

    return HubUnreachableError(
        f"{what}: not on this machine, and offline mode is on: no hub is asked for it",
        hint="`gguf-hub ls` shows what is here; without --offline and HF_HUB_OFFLINE it would "
        "be fetched",
    )


def locate(argument: str, catalog: Catalog, store: Store) -> list[Path]:
    """Return the files of this machine that a model argument names, verified or not.

    Raises:
        ModelNotFoundError: It names nothing, or what it names was not downloaded.
    """
    from gguf_hub.errors import ModelNotFoundError

    found = target_for(argument, catalog)
    if isinstance(found, Path):
        return [found]
    if paths := find_here(found, store):
        return paths
    raise ModelNotFoundError(
        f"`{argument}` is not on this machine", hint=f"`gguf-hub download {argument}` fetches it"
    )


def find_here(target: Target, store: Store) -> list[Path]:
    """Return the wanted files of this machine, verified or not; nothing if one is missing."""
    from gguf_hub.hub.client import default_cache_dir
    from gguf_hub.hub.download.destinations import HfCache
    from gguf_hub.hub.download.local import find_cached, find_verified

    if paths := find_verified(target, store):
        return paths
    if cached := find_cached(target, default_cache_dir()):
        listing, files = cached
        cache = HfCache(default_cache_dir())
        return [cache.path_of(listing, file) for file in files]
    return []


def open_hub(token: str | None, *, timeout_s: float | None = None) -> HfHub:
    """Return the hub, with a warning when others can read and change what travels."""
    from gguf_hub.hub.client import HfHub

    hub = HfHub(token=token, timeout_s=timeout_s)
    if hub.is_exposed():
        reads = "read the token and change files" if hub.has_token() else "change files unnoticed"
        console.warn(f"`{hub.endpoint}` is plain http: anybody on the way can {reads}")
    return hub


def cache_fetcher(hub: HfHub, store: Store, progress: Progress) -> Fetcher:
    """Return what gets files into the Hugging Face cache."""
    from gguf_hub.hub.client import default_cache_dir
    from gguf_hub.hub.download.destinations import HfCache
    from gguf_hub.hub.download.fetch import Fetcher

    return Fetcher(hub, HfCache(default_cache_dir()), store, progress)


def list_repo(hub: Hub, target: Target, catalog: Catalog) -> RepoListing:
    """Return the listing of a target's repository; name the catalog's when it is a near miss.

    Raises:
        HubError: As the hub says.
    """
    from gguf_hub.errors import RepoNotFoundError

    try:
        return hub.list_files(target.repo_id, target.revision or "main")
    except RepoNotFoundError as error:
        known = {catalog.repo_id.lower(): catalog.repo_id}
        near = difflib.get_close_matches(target.repo_id.lower(), known, n=1, cutoff=0.8)
        if near and known[near[0]] != target.repo_id:
            error.message += f": did you mean `{known[near[0]]}`?"
        raise


def _get(target: Target, fetcher: Fetcher, catalog: Catalog, assume_yes: bool) -> list[Path]:
    """Download what is wanted, after saying what it costs."""
    from gguf_hub.hub.download.plan import select

    listing = list_repo(fetcher.hub, target, catalog)
    files = select(listing, target.wanted)
    if len(files) == 1 and (copy := fetcher.copy_of(files[0])):
        return [copy.path]  # the same bytes under another name
    plan = fetcher.plan(listing, files)
    if plan.fetch_bytes:
        _announce(plan, fetcher)
        if plan.fetch_bytes > ASK_ABOVE_BYTES and not assume_yes:
            _ask()
    return [fetched.path for fetched in fetcher.fetch(listing, files)]


def _announce(plan: Plan, fetcher: Fetcher) -> None:
    from gguf_hub.units import format_size

    names = ", ".join(planned.file.path for planned in plan.files)
    free = format_size(fetcher.free_bytes(fetcher.place.root))
    console.note(
        f"`{names}` of {plan.listing.repo_id} is not on this machine: {plan.fetch_bytes:,} bytes "
        f"({format_size(plan.fetch_bytes)}) to download to {fetcher.place.root}, {free} free there"
    )


def _ask() -> None:
    """Ask on a terminal whether to go on; a script has said so by calling."""
    from gguf_hub.errors import GgufHubError

    if sys.stdin.isatty() and not click.confirm("Download it?", default=True, err=True):
        raise GgufHubError("nothing was downloaded", hint="`gguf-hub pick` shows smaller quants")
