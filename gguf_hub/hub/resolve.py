"""From a model argument to files on this machine: parse, locate, list, select, fetch.

Every surface goes through ``Resolver``, so that all of them agree on what an argument means, on
revisions, on shards, on near names, and on what works without a hub:

1. ``target`` parses. A file that exists is itself; of a shard, its whole set.
2. ``locate`` searches this machine: the record, all caches with links and without, and the
   destination. It makes no network requests.
3. ``choose`` lists what the hub has and selects from that. When the hub does not answer, or in
   offline mode, it selects from what is on this machine.
4. ``fetch`` copies or downloads the selected files; without a hub it only copies.

``get`` is all of it, for programs that want a model: local files are used without a network
request, unless a branch or tag is named: only the hub knows its commit of today.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from gguf_hub.errors import (
    DownloadError,
    HubError,
    HubUnreachableError,
    ModelNotFoundError,
    UsageError,
)
from gguf_hub.gguf.raw_parts import sibling_parts
from gguf_hub.gguf.shard_names import find_shards, model_files, parse_shard
from gguf_hub.hub.catalog import Catalog, load_catalog
from gguf_hub.hub.client import (
    HfHub,
    RemoteFile,
    RepoListing,
    default_endpoint,
    is_offline,
)
from gguf_hub.hub.client.near import near_names
from gguf_hub.hub.download.cachedir import COMMIT, commit_of, repo_folder
from gguf_hub.hub.download.destinations import Destination, HfCache, LocalFolder
from gguf_hub.hub.download.digest import sha256_file
from gguf_hub.hub.download.foreign import ForeignModels
from gguf_hub.hub.download.inventory import (
    Condition,
    LocalFile,
    Roots,
    files_in_repo,
    files_of_target,
    find_local_file,
    inventory,
)
from gguf_hub.hub.download.plan import FileSelector, select, select_model
from gguf_hub.hub.download.refs import Target, parse_ref, require_model
from gguf_hub.hub.download.selection import LocalCopy, Selection
from gguf_hub.hub.programs.found import find_models
from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.oserrors import translate_os_errors
from gguf_hub.paths import default_cache_dir, expand_user
from gguf_hub.progress import SILENT, Progress

if TYPE_CHECKING:
    from gguf_hub.hub.download.fetch import FetchedFile, Fetcher, Plan

Select = Callable[[RepoListing, FileSelector], Sequence[RemoteFile]]
Confirm = Callable[["Plan", "Fetcher"], None]
"""Called before anything is fetched; raises to forbid it."""


def _allow(plan: Plan, fetcher: Fetcher) -> None:
    """Fetch without asking anybody."""


@dataclass
class Resolver:
    """Finds models for one caller.

    Args:
        catalog_path: A catalog of the user's own.
        store: The record of verified files.
        connect: Makes the hub's client, when it is needed.
        custom_destination: Where fetched files go; the Hugging Face cache when None.
        progress: Where to report bytes and notes.
        confirm: Asked before a download that ``get`` begins.
    """

    catalog_path: Path | None = None
    store: Store = field(default_factory=Store)
    connect: Callable[[], HfHub] = HfHub
    custom_destination: Destination | None = None
    progress: Progress = SILENT
    confirm: Confirm = _allow

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog; read when it is needed, so that a broken one does no other harm."""
        return load_catalog(self.catalog_path)

    @cached_property
    def hub(self) -> HfHub:
        """The hub's client."""
        return self.connect()

    @cached_property
    def destination(self) -> Destination:
        """Where fetched files go."""
        return self.custom_destination or HfCache(default_cache_dir())

    @cached_property
    def roots(self) -> Roots:
        """Where files may lie: the destination, the cache, and all that was ever fetched to."""
        return known_roots(self.store, self.destination.root)

    @cached_property
    def foreign(self) -> ForeignModels:
        """The models that other programs have on this machine."""
        return ForeignModels(find_models(self.roots.programs), self.progress)

    # -- 1) parse --------------------------------------------------------------------------------

    def target(
        self, argument: str, *, revision: str | None = None, is_remote: bool = False
    ) -> Target | tuple[Path, ...]:
        """Return the target in a repository that an argument names, or the local files.

        Args:
            argument: A path, a catalog quant, ``org/repo:QUANT``, ``org/repo/file.gguf`` or a link.
            revision: Branch, tag or commit, instead of what the argument says.
            is_remote: Something to download is named: local files do not count.

        Raises:
            ModelNotFoundError: It names nothing.
            UsageError: It is a link that leads somewhere else.
            GgufError: It names a shard on this machine of which a sibling is missing.
        """
        # no catalog is needed for a file; the test is False for names that no file can have
        if not is_remote and os.path.isfile(path := expand_user(argument)):  # noqa: PTH113
            return model_files(path)
        try:
            target = parse_ref(
                argument, self.catalog, endpoint=default_endpoint(), is_remote=is_remote
            )
        except ModelNotFoundError:
            if not is_remote and (paths := self.foreign.named(argument)):
                return paths
            raise
        if isinstance(target, Path):
            return model_files(target)
        return replace(target, revision=revision or target.revision)

    # -- 2) locate -------------------------------------------------------------------------------

    def locate(self, target: Target, choose: Select = select) -> list[LocalCopy]:
        """Return the copies of a target on this machine, the best one first.

        Copies whose content is known come before others, ``main`` as the cache knows it before
        other commits, verified copies before others, and what was written last before what is
        older.
        """
        groups: dict[tuple[Path, str], list[LocalFile]] = {}
        for file in self._files_of(target):
            groups.setdefault((file.root, str(file.commit)), []).append(file)
        copies = []
        for (_, commit), files in groups.items():
            listing = self._listing(target, commit, files)
            if chosen := _try_select(listing, target, choose):
                by_name = {file.filename: file for file in files}
                selected = [by_name[file.path] for file in chosen]
                is_verified = all(file.condition is Condition.VERIFIED for file in selected)
                paths = tuple(file.path for file in selected)
                copies.append(LocalCopy(listing, tuple(chosen), paths, is_verified))
        main = self._commits("main", target.repo_id)
        return sorted(copies, key=lambda copy: (
            not (copy.is_verified or copy.has_hashes), copy.listing.commit not in main,
            not copy.is_verified, -_changed_at(copy.paths[0]),
        ))  # fmt: skip

    def local_paths(self, argument: str) -> tuple[Path, ...]:
        """Return the files of this machine that an argument names, verified or not.

        Raises:
            ModelNotFoundError: It names nothing, or what it names is not on this machine.
            UsageError: It names a repository or folder of which several models are here.
        """
        target = self.target(argument)
        if not isinstance(target, Target):
            return target
        self._require_one_model(target)
        for copy in self.locate(target, select_model):
            return copy.paths
        if foreign := self.foreign.of_target(target):
            return foreign
        raise ModelNotFoundError(
            f"`{argument}` is not on this machine",
            hint=f"`gguf-hub download {quote(argument)}` fetches it",
        )

    def _require_one_model(self, target: Target) -> None:
        """Refuse a repository or folder with several models here, in one place or in several."""
        selector = target.selector
        if selector.quant or not all(name.endswith("/") for name in selector.filenames):
            return
        listing = self._listing(target, target.revision or "", self._files_of(target))
        try:
            select_model(listing, selector, is_partial=True)
        except HubError:
            return  # none, or not all of it
        except UsageError as error:
            repo_id = target.repo_id
            hint = f"name one, as `{repo_id}:QUANT` or `{repo_id}/FILE`"
            raise UsageError(error.message, hint=hint) from error

    def local_files(self, argument: str) -> list[LocalFile]:
        """Return all files of this machine that an argument names, of every commit and place.

        Raises:
            ModelNotFoundError: It names nothing, or nothing that was downloaded.
            UsageError: It names a branch or tag.
        """
        path = expand_user(argument)
        if not self.store.find(path):
            self.foreign.refuse(argument, path)
        if find_local_file(path, self.store):
            shards = find_shards(path) if parse_shard(path) else sibling_parts(path)
            return [file for shard in shards if (file := find_local_file(shard, self.store))]
        if os.path.lexists(path):
            raise ModelNotFoundError(
                f"`{path}` was neither downloaded nor verified by gguf-hub or huggingface_hub",
                hint=f"`rm {quote(str(path))}` removes any file",
            )
        target = self.target(argument, is_remote=True)
        assert isinstance(target, Target)
        if target.revision and not COMMIT.fullmatch(target.revision):
            raise UsageError(
                f"`{argument}`: only the hub knows which files `{target.revision}` has",
                hint="name a commit or a path, or drop the revision",
            )
        files = files_of_target(inventory(self.store, self.roots), target)
        if not files:
            raise ModelNotFoundError(
                f"`{argument}` is not on this machine", hint="`gguf-hub ls` shows what is"
            )
        return files

    def _files_of(self, target: Target) -> list[LocalFile]:
        """Return the files of the commits that a target can mean."""
        folder = self.destination.root if isinstance(self.destination, LocalFolder) else None
        files = files_in_repo(target.repo_id, self.store, self.roots, folder=folder)
        if target.revision is None:
            return [file for file in files if file.commit]
        commits = self._commits(target.revision, target.repo_id)
        return [file for file in files if file.commit in commits]

    def _commits(self, revision: str, repo_id: str) -> set[str]:
        """Return the commits that a revision names, as far as caches know."""
        folders = (repo_folder(cache, repo_id) for cache in self.roots.caches)
        return {commit for folder in folders if (commit := commit_of(folder, revision))}

    def _listing(self, target: Target, commit: str, files: Sequence[LocalFile]) -> RepoListing:
        """Return what is here of a commit as a hub would list it, verified files first."""
        remote: dict[str, RemoteFile] = {}
        for file in sorted(files, key=lambda file: file.condition is not Condition.VERIFIED):
            remote.setdefault(file.filename, file.remote)
        revision = target.revision or commit
        return RepoListing(target.repo_id, revision, commit, tuple(remote.values()))

    # -- 3) list and select ----------------------------------------------------------------------

    def list_files(self, target: Target) -> RepoListing:
        """Return what the hub lists.

        Raises:
            HubUnreachableError: It does not answer, or offline mode is on.
            HubError: As the hub says; for an unknown repository with near names.
        """
        if is_offline():
            raise missing_offline(target.text)
        with near_names(self.hub, target.repo_id, (self.catalog.repo_id,)):
            return self.hub.list_files(target.repo_id, target.revision or "main")

    def choose(self, target: Target, choose: Select = select) -> Selection:
        """Return the wanted files as the hub lists them; without it, as this machine knows them.

        Raises:
            HubUnreachableError: No hub answers, and the files are not all on this machine.
            HubError: As the hub says, or the repository has no such file; the hint has near names.
            UsageError: It is not clear which files are meant.
        """
        try:
            listing = self.list_files(target)
        except HubUnreachableError as error:
            return self._choose_here(target, choose, error)
        return Selection(listing, tuple(choose(listing, target.selector)))

    def _choose_here(self, target: Target, choose: Select, error: HubUnreachableError) -> Selection:
        copies = self.locate(target, choose)
        selection = self._select_known(copies, target, choose, error) or self._select_unverified(
            copies, error
        )
        if selection is None:
            here = {file.filename for file in self._files_of(target)}
            names = [name for name in target.selector.filenames if name not in here]
            is_some_here = len(names) < len(target.selector.filenames)
            raise _not_here(target.repo_id, names, error) if names and is_some_here else error
        if not is_offline():
            commit = selection.listing.commit[:10]
            self.progress.note(f"{error.message}; using commit {commit} as this machine knows it")
        return selection

    def _select_known(
        self,
        copies: Sequence[LocalCopy],
        target: Target,
        choose: Select,
        error: HubUnreachableError,
    ) -> Selection | None:
        """Select files whose content is known, wherever on this machine they lie."""
        commits: dict[str, list[LocalFile]] = {copy.listing.commit: [] for copy in copies}
        for file in self._files_of(target):
            if file.remote.etag:
                commits.setdefault(str(file.commit), []).append(file)
        for commit, files in commits.items():  # that of the best copy first
            listing = self._listing(target, commit, files)
            if chosen := _try_select(listing, target, choose):
                return Selection(listing, tuple(chosen), error)
        return None

    def _select_unverified(
        self, copies: Sequence[LocalCopy], error: HubUnreachableError
    ) -> Selection | None:
        """Take files that nobody can check: from the destination, or anywhere if there is none."""
        for copy in copies:
            if self.custom_destination is None or copy.paths[0].is_relative_to(
                self.custom_destination.root
            ):
                return Selection(copy.listing, copy.files, error, copy)
        return None

    # -- 4) fetch --------------------------------------------------------------------------------

    def fetcher(self, **options: object) -> Fetcher:
        """Return what gets files to the destination; ``options`` are for ``Fetcher``."""
        from gguf_hub.hub.download.fetch import Fetcher  # half of all imports: only who fetches

        return Fetcher(
            self.hub, self.destination, self.store, self.progress, caches=self.roots.caches,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip

    def plan(self, selection: Selection, fetcher: Fetcher) -> Plan:
        """Return what fetching would do.

        Raises:
            HubUnreachableError: Bytes would have to come from a hub that does not answer.
        """
        plan = fetcher.plan(selection.listing, selection.files)
        missing = [each.file.path for each in plan.files if not each.is_here]
        if missing and selection.unreachable and selection.unverified is None:
            raise _not_here(selection.listing.repo_id, missing, selection.unreachable)
        return plan

    def fetch(self, selection: Selection, fetcher: Fetcher) -> list[FetchedFile]:
        """Copy or download the selected files that are not here yet.

        Raises:
            HubUnreachableError: No hub answers, and a file is not on this machine.
            GgufHubError: As ``Fetcher.fetch``.
        """
        if selection.unverified is None:
            self.plan(selection, fetcher)
            return fetcher.fetch(selection.listing, selection.files)
        from gguf_hub.hub.download.fetch import FetchedFile, Status

        copy = selection.unverified
        self.progress.note(_unverified_note(copy))
        return [
            FetchedFile(path, file, sha256_file(path, progress=self.progress), Status.UNVERIFIED)
            for path, file in zip(copy.paths, copy.files, strict=True)
        ]

    def get(self, target: Target) -> tuple[Path, ...]:
        """Return the wanted files, fetched and verified where they are not here yet.

        Raises:
            GgufHubError: Whatever stands in the way of getting them, or a file that is no model.
        """
        require_model(target)
        if paths := self._local_paths(target):
            return paths
        selection = self.choose(target, select_model)
        if selection.unverified:
            self.progress.note(_unverified_note(selection.unverified))
            return selection.unverified.paths
        fetcher = self.fetcher()
        if len(selection.files) == 1 and (copy := fetcher.copy_of(selection.files[0])):
            return (copy.path,)  # the same bytes under another name
        plan = self.plan(selection, fetcher)
        if plan.fetch_bytes:
            self.confirm(plan, fetcher)
        done = fetcher.fetch(selection.listing, selection.files)
        return tuple(each.path for each in done)

    def _local_paths(self, target: Target) -> tuple[Path, ...] | None:
        """Return files of this machine that are whole; None where only the hub knows which."""
        if target.revision and not COMMIT.fullmatch(target.revision):
            return None
        copies = self.locate(target, partial(select_model, is_partial=True))
        whole = (copy.paths for copy in copies if copy.is_verified or self._check(copy))
        return next(whole, None) or self.foreign.of_target(target)

    def _check(self, copy: LocalCopy) -> bool:
        """Hash files that another client fetched, and record them when they are whole.

        What ``gguf-hub edit`` made of a download stands for it.
        """
        for path, file in zip(copy.paths, copy.files, strict=True):
            if self.store.find_verified(path) or self._is_edited(path):
                continue
            if not file.sha256:
                return False
            with translate_os_errors(f"cannot read `{path}`", DownloadError, path=path):
                sha256 = sha256_file(path, progress=self.progress)
            if sha256 != file.sha256:
                self.progress.note(f"`{path}` is damaged: its SHA-256 is not the expected one")
                return False
            origin = {"repo_id": copy.listing.repo_id, "commit": copy.listing.commit}
            self.store.add(StoredFile.of(path, sha256, filename=file.path, **origin))
        return True

    def _is_edited(self, path: Path) -> bool:
        known = self.store.find(path)
        return bool(known and known.edited_at)

    def note_changes(self, paths: Sequence[Path]) -> None:
        """Say which files are no longer what they were when they were verified."""
        for path in paths:
            if (known := self.store.find(path)) and known.change:
                hint = "" if known.edited_at else "; `gguf-hub verify` checks it"
                self.progress.note(f"`{path}` {known.change}{hint}")


def known_roots(store: Store, *folders: Path) -> Roots:
    """Return where files of this machine lie: the cache, what was ever fetched to, ``folders``."""
    more = [expand_user(folder).absolute() for folder in folders]
    return Roots.known(store, default_cache_dir().absolute(), *more)


def _try_select(listing: RepoListing, target: Target, choose: Select) -> Sequence[RemoteFile]:
    try:
        return choose(listing, target.selector)
    except (HubError, UsageError, ModelNotFoundError):
        return ()  # not here, or not all of it: the hub may have what this machine has not


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _unverified_note(copy: LocalCopy) -> str:
    return f"{first_of(copy.paths)}: not verified, as its SHA-256 is not known without the hub"


def first_of(names: Sequence[object]) -> str:
    """Return the first of several names, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"`{names[0]}`{more}"


def _not_here(
    repo_id: str, names: Sequence[str], error: HubUnreachableError
) -> HubUnreachableError:
    """Return the error for files that only the hub has, which cannot be asked."""
    what = f"{', '.join(f'`{name}`' for name in names)} of {repo_id}"
    if is_offline():
        return missing_offline(what)
    message = f"{what}: not on this machine, and {error.message}"
    return HubUnreachableError(message, repo_id=repo_id, hint=error.hint)


def missing_offline(what: str) -> HubUnreachableError:
    """Return the error for what offline mode forbids to fetch."""
    return HubUnreachableError(
        f"{what}: not on this machine, and offline mode is on",
        hint="`gguf-hub ls` shows what is here; drop --offline and unset HF_HUB_OFFLINE to "
        "download it",
    )
