"""The models that a router can load: those that are named to it, or all of this machine.

Knows files and names, and nothing of processes or requests.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gguf_hub.errors import GgufHubError
from gguf_hub.gguf.raw_parts import parse_raw_part
from gguf_hub.gguf.shard_names import model_files, model_name
from gguf_hub.hub.catalog import Catalog, CatalogFile
from gguf_hub.hub.download.inventory import Condition, LocalFile, find_local_file, inventory
from gguf_hub.hub.download.names import set_key
from gguf_hub.hub.download.quants import nearest, quant_of
from gguf_hub.hub.download.refs import Target, parse_ref
from gguf_hub.hub.resolve import Resolver

LATEST = ":latest"
"""The tag of Ollama's names that have none."""
_SCAN_S = 2.0  # a list of models is not older than this
_COMMIT_LETTERS = 10
_MOST_NAMED = 5


class UnknownModelError(GgufHubError):
    """A name of no model of this server, or of several."""


@dataclass(frozen=True)
class ListedModel:
    """A model that can be loaded.

    Attributes:
        name: What clients call it: ``ORG/REPO:QUANT``, or the file's name.
        path: The file; of a set of shards the first one.
        size_bytes: All files together.
        modified_time: When the file was written, in seconds since 1970.
        repo_id: Repository it came from; None when nobody knows.
        commit: Commit in that repository; None likewise.
        filename: Path inside the repository, or the file's own name.
        other_names: Names besides, such as the one by which it was given to the server.
        known_as: What the program calls it whose file it is; None when no other program's.
    """

    name: str
    path: Path
    size_bytes: int
    modified_time: float
    repo_id: str | None = None
    commit: str | None = None
    filename: str = ""
    other_names: tuple[str, ...] = ()
    known_as: str | None = None

    @property
    def key(self) -> tuple[str, int, float]:
        """What tells whether the file is still the same."""
        return str(self.path), self.size_bytes, self.modified_time

    def all_names(self) -> Iterator[str]:
        """Yield every name but the first."""
        yield from self.other_names
        yield self.filename.rpartition("/")[2] or self.path.name
        yield self.path.name
        yield model_name(self.path)
        yield str(self.path)


class Library:
    """The models of a router.

    Args:
        resolver: Knows the catalog, the record and the caches of this machine.
        named: The models that were named: (argument, file); None for all of this machine.
        alias: What the only one of these is called.
    """

    def __init__(
        self,
        resolver: Resolver,
        named: Sequence[tuple[str, Path]] | None = None,
        alias: str | None = None,
    ) -> None:
        self._resolver = resolver
        self._named, self._alias = named, alias
        self._lock = threading.Lock()
        self._models: list[ListedModel] = []
        self._scan_time = -_SCAN_S

    @property
    def is_fixed(self) -> bool:
        """Whether the models were named, so that no others are served."""
        return self._named is not None

    def models(self, *, is_fresh: bool = False) -> list[ListedModel]:
        """Return the models whose files are there; may read folders of this machine.

        Args:
            is_fresh: Look again, however short ago that was done.
        """
        with self._lock:
            if is_fresh or time.monotonic() - self._scan_time >= _SCAN_S:
                self._models = self._scan()
                self._scan_time = time.monotonic()
            return self._models

    @property
    def catalog(self) -> Catalog:
        """The catalog that quants are named after."""
        return self._resolver.catalog

    def find(self, name: str) -> ListedModel:
        """Return the model of a name.

        Args:
            name: As in lists, in any case, with ``:latest`` or without; the name of its file, or
                its path; a quant of the catalog, ``hf.co/ORG/REPO:QUANT``, or a link to it.

        Raises:
            UnknownModelError: No model of this server has it, or several have.
        """
        models = self.models()
        found = self._matches(name, models)
        if not found:  # it may have been downloaded a moment ago
            models = self.models(is_fresh=True)
            found = self._matches(name, models)
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownModelError(
                f"model '{name:.200}': several files have this name{_near(found)}",
                hint="use a name that `/v1/models` lists",
            )
        raise UnknownModelError(
            f"model '{name:.200}' not found{_near(models)}",
            hint="`/v1/models` lists the models of this server"
            + ("" if self.is_fixed else "; `/api/pull` and `gguf-hub download` get others"),
        )

    def quants_to_download(self) -> list[CatalogFile]:
        """Return the files of the catalog that are not on this machine."""
        if self.is_fixed:
            return []
        catalog = self._resolver.catalog
        here = {(model.repo_id, model.filename) for model in self.models()}
        return [file for file in catalog.files
                if (catalog.repo_id, file.filename) not in here]  # fmt: skip

    # -- names -----------------------------------------------------------------------------------

    def _matches(self, name: str, models: Sequence[ListedModel]) -> list[ListedModel]:
        wanted = name.strip().removesuffix(LATEST).lower()
        for names_of in (_first_name, ListedModel.all_names):
            if found := [model for model in models
                         if any(each.lower() == wanted for each in names_of(model))]:  # fmt: skip
                return found
        return self._of_target(name.strip().removesuffix(LATEST), models)

    def _of_target(self, name: str, models: Sequence[ListedModel]) -> list[ListedModel]:
        """Return the models that a model argument means, by its text alone."""
        try:
            target = parse_ref(name, self._resolver.catalog, is_remote=True)
        except GgufHubError:
            return []
        if not isinstance(target, Target):
            return []
        repo_id, revision = target.repo_id.lower(), target.revision
        found = [
            model
            for model in models
            if (model.repo_id or "").lower() == repo_id
            and (not revision or (model.commit or "").startswith(revision))
        ]
        selector = target.selector
        if selector.filenames:
            keys = {set_key(filename) for filename in selector.filenames}
            found = [model for model in found if set_key(model.filename) in keys]
        elif selector.quant:
            found = nearest(found, selector.quant, lambda model: model.filename)
        # the same file of several commits: the one that comes first is the one that lists name so
        first = {set_key(model.filename): model for model in reversed(found)}
        return list(first.values())

    # -- files -----------------------------------------------------------------------------------

    def _scan(self) -> list[ListedModel]:
        if self._named is not None:
            models = list(_distinct(self._describe_named()))
            return [replace(model, name=self._alias or model.name) for model in models]
        files = inventory(self._resolver.store, self._resolver.roots)
        return list(_distinct(_models_of(files)))

    def _describe_named(self) -> Iterator[ListedModel]:
        for path, argument in {path: argument for argument, path in self._named or ()}.items():
            file = find_local_file(path, self._resolver.store)
            foreign = None if file else self._resolver.foreign.at(path)
            origin = (file.repo_id, file.commit, file.filename) if file else (None, None, path.name)
            if (model := _model(path, *origin)) is not None:
                known_as = foreign.names[0] if foreign else None
                yield replace(model, other_names=(argument,), known_as=known_as)


def _first_name(model: ListedModel) -> Iterable[str]:
    return (model.name,)


def _near(models: Sequence[ListedModel]) -> str:
    names = [model.name for model in models]
    if len(names) > _MOST_NAMED:
        return f": this server has {len(names)} others"
    return f": this server has {', '.join(f'`{name}`' for name in names)}" if names else ""


def _models_of(files: Iterable[LocalFile]) -> Iterator[ListedModel]:
    """Yield one model for each file or whole set of shards; what was verified comes first."""
    seen: set[object] = set()
    for file in sorted(files, key=_rank):
        key = (file.path.parent, set_key(file.path.name))
        if key in seen or file.content in seen or not _is_loadable(file):
            continue
        seen |= {key, file.content}
        if (model := _model(file.path, file.repo_id, file.commit, file.filename)) is not None:
            names = file.foreign.names if file.foreign else ()
            yield replace(model, other_names=names[1:], known_as=next(iter(names), None))


def _rank(file: LocalFile) -> tuple[object, ...]:
    """Order files by repository and name; of several commits what was written last comes first."""
    is_verified = file.condition is Condition.VERIFIED
    try:
        written = file.path.stat().st_mtime_ns
    except OSError:
        written = 0
    return (file.repo_id or "~", file.filename, not is_verified, -written, str(file.path))


def _is_loadable(file: LocalFile) -> bool:
    is_here = file.condition is not Condition.GONE
    return is_here and file.is_model and not parse_raw_part(file.path.name)


def _model(
    path: Path, repo_id: str | None, commit: str | None, filename: str
) -> ListedModel | None:
    """Describe a model, without a name yet; None if files of it are missing."""
    try:
        files = model_files(path)
        stats = [os.stat(each) for each in files]  # noqa: PTH116 (of a tuple of paths)
    except (GgufHubError, OSError):
        return None
    size_bytes = sum(stat.st_size for stat in stats)
    return ListedModel("", files[0], size_bytes, stats[0].st_mtime, repo_id, commit, filename)


def _distinct(models: Iterable[ListedModel]) -> Iterator[ListedModel]:
    """Yield the models with a name each, the shortest that no other model has."""
    models = list(models)
    # several commits of a file count once: the first keeps the short name
    files = {(model.repo_id, set_key(model.filename)): model for model in models}
    uses = Counter(_short_name(model).lower() for model in files.values())
    taken: set[str] = set()
    for model in models:
        short = _short_name(model)
        names = [*([short] if uses[short.lower()] == 1 else []), *_long_names(model)]
        name = next((each for each in names if each.lower() not in taken), str(model.path))
        taken.add(name.lower())
        yield replace(model, name=name)


def _short_name(model: ListedModel) -> str:
    if model.known_as:
        return model.known_as
    quant = quant_of(model.filename)
    return f"{model.repo_id}:{quant}" if model.repo_id and quant else model_name(model.path)


def _long_names(model: ListedModel) -> Iterator[str]:
    if model.repo_id:
        yield f"{model.repo_id}/{model.filename}"
        yield f"{model.repo_id}/{model.filename}@{(model.commit or '')[:_COMMIT_LETTERS]}"
    yield str(model.path)
