"""Which files of a listing are meant, decided from names alone.

This module sees no disk and no network: it takes a listing and returns files of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from shlex import quote

from gguf_hub.errors import HubError, RemoteFileNotFoundError, UsageError, did_you_mean
from gguf_hub.gguf.raw_parts import missing_pieces, parse_raw_part
from gguf_hub.gguf.shard_names import missing_text
from gguf_hub.hub.client import RemoteFile, RepoListing
from gguf_hub.hub.download.names import (
    check_distinct,
    check_safe,
    holds_gguf,
    is_model,
    piece_of,
    set_key,
)
from gguf_hub.hub.download.quants import nearest, quant_distance, quant_of
from gguf_hub.units import format_size


@dataclass(frozen=True)
class FileSelector:
    """What a user asked for; all empty means "whatever there is, if that is clear".

    Attributes:
        filenames: Exact paths in the repository; a shard or raw part stands for its set, as does
            the name of the file that was cut into raw parts; one that ends with ``/`` is a whole
            folder.
        include: Globs of which one must match, as in ``hf download``: ``*`` matches ``/`` too.
        exclude: Globs of which none may match.
        quant: This quant, in any case, all its shards; where no file has exactly this one, the
            nearest (see ``quants.quant_distance``).
    """

    filenames: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    quant: str | None = None

    @property
    def has_idle_patterns(self) -> bool:
        """Whether there are patterns that filenames make idle, as in ``hf download``."""
        return bool(self.filenames and (self.include or self.exclude))


def select(
    listing: RepoListing, selector: FileSelector, *, is_partial: bool = False
) -> tuple[RemoteFile, ...]:
    """Return the files of ``listing`` that are wanted, in its order.

    Args:
        listing: What there is.
        selector: What is wanted.
        is_partial: The repository may have more: a quant that is only near counts for nothing, nor
            do files that are no models.

    Raises:
        RemoteFileNotFoundError: Nothing matches; the hint names what is near.
        UsageError: It is not clear which files are meant; the message lists them.
        HubError: A name would lead out of the target folder, or do harm in it; two names are
            one; or shards are missing.
    """
    if selector.filenames:
        files = _by_names(listing, selector.filenames)
    else:
        files = _by_patterns(listing, selector)
        if selector.quant is not None:
            files = _by_quant(listing, files, selector.quant, is_partial=is_partial)
        elif not selector.include and not selector.exclude:
            files = _the_only_model(listing, is_partial=is_partial)
    for file in files:
        check_safe(file.path, listing.repo_id)
    check_distinct((file.path for file in files), listing.repo_id)
    return tuple(files)


def select_model(
    listing: RepoListing, selector: FileSelector, *, is_partial: bool = False
) -> tuple[RemoteFile, ...]:
    """Return the files of one model: as ``select``, but of a folder the only model in it.

    Raises:
        HubError: As ``select``.
        UsageError: As ``select``.
    """
    folders = tuple(name for name in selector.filenames if name.endswith("/"))
    if not folders:
        return select(listing, selector, is_partial=is_partial)
    return select(inside(listing, folders), FileSelector(), is_partial=is_partial)


def inside(listing: RepoListing, folders: tuple[str, ...]) -> RepoListing:
    """Return what a listing has in folders, each with ``/`` at the end.

    Raises:
        RemoteFileNotFoundError: There is nothing.
    """
    files = tuple(file for file in listing.files if file.path.startswith(folders))
    if not files:
        raise _no_such_file(listing, folders[0])
    return replace(listing, files=files)


def _by_names(listing: RepoListing, names: Sequence[str]) -> list[RemoteFile]:
    chosen: dict[RemoteFile, None] = {}  # in order, each once
    for name in names:
        is_folder = name.endswith("/")
        matches = [
            f for f in listing.files if f.path == name or (is_folder and f.path.startswith(name))
        ] or [f for f in listing.files if (p := parse_raw_part(f.path)) and p.whole == name]
        if not matches:
            raise _no_such_file(listing, name)
        chosen |= dict.fromkeys(matches if is_folder else _set_of(listing, matches[0]))
    return list(chosen)


def _set_of(listing: RepoListing, file: RemoteFile) -> list[RemoteFile]:
    """Return a file, or the whole set of shards that it belongs to."""
    key = set_key(file.path)
    return _whole_set(listing, [other for other in listing.files if set_key(other.path) == key])


def _by_patterns(listing: RepoListing, selector: FileSelector) -> list[RemoteFile]:
    include, exclude = _globs(selector.include), _globs(selector.exclude)
    files = [
        file
        for file in listing.files
        if (not include or any(fnmatchcase(file.path, glob) for glob in include))
        and not any(fnmatchcase(file.path, glob) for glob in exclude)
    ]
    if not files and (include or exclude):
        options = [f"--include '{glob}'" for glob in selector.include]
        options += [f"--exclude '{glob}'" for glob in selector.exclude]
        raise RemoteFileNotFoundError(
            f"no file of `{listing.repo_id}` matches {' '.join(options)}",
            repo_id=listing.repo_id,
            hint=_what_it_has(listing),
        )
    return files


def _globs(patterns: Iterable[str]) -> list[str]:
    """Read patterns as huggingface_hub does: case matters, a folder means all that is in it."""
    clean = (pattern.replace("\\", "/") for pattern in patterns)
    return [f"{pattern}*" if pattern.endswith("/") else pattern for pattern in clean]


def _by_quant(
    listing: RepoListing, files: Sequence[RemoteFile], quant: str, *, is_partial: bool
) -> list[RemoteFile]:
    matches = nearest(_model_files(files, is_partial=is_partial), quant, _path_of)
    if is_partial:
        matches = [file for file in matches if quant_distance(file.path, quant) == 0]
    groups = _groups(matches)
    if not groups:
        raise RemoteFileNotFoundError(
            f"repository `{listing.repo_id}` has no quant `{quant}`{_near_quant(listing, quant)}",
            repo_id=listing.repo_id,
            hint=_what_it_has(listing),
        )
    if len(groups) > 1:
        raise UsageError(
            f"`{listing.repo_id}:{quant}` could be any of\n{_table(groups)}",
            hint=f"`gguf-hub download {quote(_argument_of(listing.repo_id, groups))}` names one; "
            "`run` and the others take it too",
        )
    return _whole_set(listing, groups[0])


def _the_only_model(listing: RepoListing, *, is_partial: bool) -> list[RemoteFile]:
    groups = _groups(_model_files(listing.files, is_partial=is_partial))
    if not groups:
        raise RemoteFileNotFoundError(
            f"repository `{listing.repo_id}` has no GGUF file",
            repo_id=listing.repo_id,
            hint="name files or use --include to fetch others",
        )
    if len(groups) > 1:
        raise UsageError(
            f"which of the {len(groups)} models of `{listing.repo_id}`?\n{_table(groups)}",
            hint=f"for example `gguf-hub download {quote(_argument_of(listing.repo_id, groups))}`; "
            "--include '*' fetches everything",
        )
    return _whole_set(listing, groups[0])


def _model_files(files: Iterable[RemoteFile], *, is_partial: bool = False) -> list[RemoteFile]:
    """Return the files of models; of a repository that has none, as of heads alone, every GGUF."""
    ggufs = [file for file in files if holds_gguf(file.path)]
    models = [file for file in ggufs if is_model(file.path)]
    return models if models or is_partial else ggufs


def _argument_of(repo_id: str, groups: Sequence[Sequence[RemoteFile]]) -> str:
    """Return what names the first of several models alone: its quant, if no other has it."""
    first = groups[0][0].path
    quant = quant_of(first)
    same = nearest((group[0] for group in groups), quant, _path_of) if quant else ()
    return f"{repo_id}:{quant}" if len(same) == 1 else f"{repo_id}/{first}"


def _path_of(file: RemoteFile) -> str:
    return file.path


def _groups(files: Iterable[RemoteFile]) -> list[list[RemoteFile]]:
    """Put the shards of a set together, and raw parts; every other file stands alone."""
    groups: dict[object, list[RemoteFile]] = {}
    for file in files:
        groups.setdefault(set_key(file.path), []).append(file)
    return list(groups.values())


def _whole_set(listing: RepoListing, group: list[RemoteFile]) -> list[RemoteFile]:
    """Return a set of shards or raw parts in order, complete."""
    if missing := _missing(group):
        raise HubError(
            f"of the files of one model in `{listing.repo_id}`, {missing_text(missing)}",
            repo_id=listing.repo_id,
            hint="choose another quant; with --include you get the files that are there",
        )
    return sorted(group, key=lambda f: piece.index if (piece := piece_of(f.path)) else 0)


def _missing(group: Iterable[RemoteFile]) -> list[str]:
    """Return the names of the files that a set lacks."""
    pieces = [piece for file in group if (piece := piece_of(file.path))]
    return missing_pieces(pieces) if pieces else []


def _table(groups: Sequence[Sequence[RemoteFile]]) -> str:
    rows = [(group[0].path, sum(file.size_bytes for file in group)) for group in groups]
    width = max(len(path) for path, _ in rows)
    return "\n".join(f"  {path:<{width}}  {format_size(size):>10}" for path, size in rows)


def models_of(listing: RepoListing) -> list[tuple[RemoteFile, ...]]:
    """Return every model of a listing, the shards or raw parts of one together and in order.

    A set that lacks one is left out.
    """
    groups = _groups(_model_files(listing.files))
    return [tuple(_whole_set(listing, group)) for group in groups if not _missing(group)]


def incomplete_models_of(listing: RepoListing) -> list[list[RemoteFile]]:
    """Return the sets of a listing that lack a shard or a raw part."""
    return [group for group in _groups(_model_files(listing.files)) if _missing(group)]


def quants_of(listing: RepoListing) -> list[str]:
    """Return the quants that the models of a listing name, in its order, each once."""
    quants = (quant_of(file.path) for file in _model_files(listing.files))
    return list(dict.fromkeys(filter(None, quants)))


def _near_quant(listing: RepoListing, quant: str) -> str:
    known = {name.upper(): name for name in quants_of(listing)}
    near = difflib.get_close_matches(quant.upper(), known, n=2, cutoff=0.5)
    return did_you_mean([known[name] for name in near])


def _what_it_has(listing: RepoListing) -> str:
    quants = quants_of(listing)
    if quants:
        return f"it has the quants {', '.join(quants)}"
    names = [file.path for file in listing.files][:10]
    return f"it has {', '.join(names)}" if names else "it has no files"


def _no_such_file(listing: RepoListing, name: str) -> RemoteFileNotFoundError:
    # by lower case, because a wrong case is the commonest slip
    paths = {file.path.lower(): file.path for file in listing.files}
    near = difflib.get_close_matches(name.lower(), paths, n=3, cutoff=0.5)
    where = f"revision `{listing.revision}` of repository `{listing.repo_id}`"
    return RemoteFileNotFoundError(
        f"{where} has no file `{name}`{did_you_mean([paths[path] for path in near])}",
        repo_id=listing.repo_id,
        hint=_what_it_has(listing),
    )
