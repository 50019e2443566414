"""From arguments to candidates: the catalog, local files, or a repository."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gguf_hub.paths import expand_user

if TYPE_CHECKING:
    from gguf_hub.errors import HubUnreachableError
    from gguf_hub.hub.catalog import Catalog
    from gguf_hub.hub.download.refs import Target
    from gguf_hub.hub.fit import FileFacts
    from gguf_hub.hub.resolve import Resolver, Select
    from gguf_hub.hub.survey.repo import Survey


@dataclass(frozen=True)
class Model:
    """One candidate.

    Attributes:
        argument: Its name for `download` and `run`.
        path: Its path, if it is on this machine.
    """

    file: FileFacts
    argument: str
    path: Path | None = None


@dataclass(frozen=True)
class CandidateSet:
    """The models to compare.

    Attributes:
        repo_id: Their repository; empty for local files, or several repositories.
        revision: Branch or commit of the repository.
        notes: Files that cannot be compared, and why.
    """

    repo_id: str
    revision: str
    models: tuple[Model, ...]
    notes: tuple[str, ...] = ()


def find_candidates(
    arguments: Sequence[str],
    *,
    catalog_path: Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    refresh: bool = False,
) -> CandidateSet:
    """Return the models to compare.

    Args:
        arguments: Paths, quants of the catalog, ``org/repo``, ``org/repo:QUANT`` or links; none for
            the whole catalog.
        catalog_path: A catalog of the user's own.
        revision: Branch, tag or commit, for repositories.
        token: Hugging Face token.
        refresh: Read the headers of repositories again.

    Raises:
        GgufHubError: An argument names nothing, or nothing that can be compared.
    """
    local_sets = [_local(expand_user(argument)) for argument in arguments]
    existing = [candidates for candidates in local_sets if candidates]
    if arguments and len(existing) == len(local_sets):
        return existing[0] if len(existing) == 1 else _combine(existing)
    if not arguments:
        from gguf_hub.hub.catalog import load_catalog

        return _catalog(load_catalog(catalog_path), is_user_catalog=catalog_path is not None)
    from gguf_hub.cli.models import make_resolver

    resolver = make_resolver(catalog_path, token=token)
    candidate_sets = [
        candidates or _remote(argument, resolver, revision, refresh)
        for argument, candidates in zip(arguments, local_sets, strict=True)
    ]
    return candidate_sets[0] if len(candidate_sets) == 1 else _combine(candidate_sets)


def _local(path: Path) -> CandidateSet | None:
    """Return the model in a file, or all in a folder; None where there is neither."""
    # unlike Path's, these tests are False for invalid file names
    if os.path.isdir(path):  # noqa: PTH112
        return _folder(path)
    return CandidateSet("", "", (_model(path),)) if os.path.isfile(path) else None  # noqa: PTH113


def _model(path: Path) -> Model:
    from gguf_hub.hub.survey.headers import facts_of_file

    return Model(facts_of_file(path), str(path), path)


def _folder(path: Path) -> CandidateSet:
    from gguf_hub.errors import UsageError
    from gguf_hub.hub.download.names import holds_gguf

    paths = sorted(file for file in _files_below(path) if holds_gguf(file.name))
    models, notes = _read_models(file for file in paths if file.is_file() and _is_first(file))
    if not models:
        raise UsageError(f"`{path}` holds no GGUF file", hint="name a folder or a file that does")
    return CandidateSet("", "", models, notes)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, but of no hidden one: those are caches."""
    for name, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        yield from (Path(name, file) for file in files)


def _read_models(paths: Iterable[Path]) -> tuple[tuple[Model, ...], tuple[str, ...]]:
    """Return the models in files, and a note for each unreadable file.

    Raises:
        GgufError: All are unreadable.
    """
    from gguf_hub.errors import GgufError

    models, errors = [], []
    for path in paths:
        try:
            models.append(_model(path))
        except GgufError as error:
            errors.append(error)
    if errors and not models:
        raise errors[0]
    return tuple(models), tuple(error.message for error in errors)


def _is_first(path: Path) -> bool:
    """Return whether a file is the first shard or raw part, or neither."""
    from gguf_hub.gguf.raw_parts import sibling_parts
    from gguf_hub.gguf.shard_names import parse_shard

    shard = parse_shard(path)
    return shard[1] == 0 if shard else path == sibling_parts(path)[0]


def _catalog(
    catalog: Catalog, *, is_user_catalog: bool, quants: Sequence[str] = ()
) -> CandidateSet:
    """Return the catalog, or some of its quants, without a request to the hub."""
    from gguf_hub.hub.fit import facts_from_catalog

    files = [file for file in catalog.files if not quants or file.quant in quants]
    # quants alone name files of the default catalog for the other commands
    prefix = f"{catalog.repo_id}:" if is_user_catalog else ""
    models = [Model(facts_from_catalog(catalog, file), prefix + file.quant) for file in files]
    return CandidateSet(catalog.repo_id, catalog.revision, tuple(models))


def _remote(argument: str, resolver: Resolver, revision: str | None, refresh: bool) -> CandidateSet:
    """Return the models of the catalog or a hub that an argument names."""
    from gguf_hub.errors import HubUnreachableError

    target = resolver.target(argument)
    if isinstance(target, tuple):  # another program's model, by its name there
        models, notes = _read_models(target[:1])
        return CandidateSet("", "", models, notes)
    catalog = resolver.catalog
    quants = [f.quant for f in catalog.files if (f.filename,) == target.selector.filenames]
    if quants and target.repo_id == catalog.repo_id and "/" not in argument:
        return _catalog(catalog, is_user_catalog=False, quants=quants)
    target = replace(target, revision=revision or target.revision)
    try:
        return _repo(target, resolver, refresh)
    except HubUnreachableError as error:
        return _local_models(target, resolver, error)


def _local_models(target: Target, resolver: Resolver, error: HubUnreachableError) -> CandidateSet:
    """Return the models of a repository that are on this machine.

    Raises:
        HubUnreachableError: There are none.
    """
    from gguf_hub.hub.download.plan import models_of

    local_paths: dict[str, Path] = {}
    for copy in resolver.locate(target, _all_models(target)):
        paths = dict(zip((file.path for file in copy.files), copy.paths, strict=True))
        for model in models_of(copy.listing):
            if path := paths.get(model[0].path):
                local_paths.setdefault(model[0].path, path)
    if not local_paths:
        raise error
    models, notes = _read_models(local_paths.values())
    note = f"{error.message}; only files on this machine are compared"
    return CandidateSet(target.repo_id, "", models, (note, *notes))


def _all_models(target: Target) -> Select:
    """Return the selection of the named model, or of all models."""
    from gguf_hub.hub.download.plan import models_of, select

    if target.selector.filenames or target.selector.quant is not None:
        return select
    return lambda listing, _: [file for model in models_of(listing) for file in model]


def _repo(target: Target, resolver: Resolver, refresh: bool) -> CandidateSet:
    from gguf_hub.errors import RemoteFileNotFoundError
    from gguf_hub.hub.client.near import near_names
    from gguf_hub.hub.download.quants import nearest
    from gguf_hub.hub.survey.repo import survey_repo

    catalog, repo_id = resolver.catalog, target.repo_id
    with near_names(resolver.hub, repo_id, (catalog.repo_id,)):
        survey = survey_repo(resolver.hub, repo_id, target.revision, refresh=refresh)
    files: Sequence[FileFacts] = _with_catalog_values(survey, catalog)
    names, quant = target.selector.filenames, target.selector.quant
    if names:
        folder = names[0] if names[0].endswith("/") else None
        files = [
            file for file in files
            if names[0] in file.filenames or (folder and file.filename.startswith(folder))
        ]  # fmt: skip
    elif quant is not None:
        files = nearest(files, quant, lambda file: file.filename)
    if not files:
        name = names[0] if names else quant
        description = f"model `{name}`" if name else "GGUF model to compare"
        raise RemoteFileNotFoundError(
            f"repository `{repo_id}` has no {description}",
            repo_id=repo_id,
            hint=_what_else(survey),
        )
    models = tuple(Model(file, _argument(survey, file, target.revision)) for file in files)
    notes = (*survey.unread, *survey.notes)
    return CandidateSet(survey.repo_id, survey.commit, models, notes)


def _what_else(survey: Survey) -> str | None:
    """Return what a repository has besides the model that was not found there."""
    quants = ", ".join(dict.fromkeys(file.quant for file in survey.files))
    has = [f"it has {quants}"] if quants else survey.notes
    return "\n".join([*survey.unread, *has]) or None


def _with_catalog_values(survey: Survey, catalog: Catalog) -> list[FileFacts]:
    """Add the catalog's perplexities to its own files."""
    if survey.repo_id != catalog.repo_id:
        return list(survey.files)
    from gguf_hub.hub.fit import facts_from_catalog

    catalog_files = {file.filename: facts_from_catalog(catalog, file) for file in catalog.files}
    return [
        replace(
            file,
            perplexity=catalog_files[file.filename].perplexity,
            is_perplexity_estimated=catalog_files[file.filename].is_perplexity_estimated,
            perplexity_note=catalog_files[file.filename].perplexity_note,
            is_recommended=catalog_files[file.filename].is_recommended,
            bits=catalog_files[file.filename].bits,
        )
        if file.filename in catalog_files
        else file
        for file in survey.files
    ]


def _argument(survey: Survey, file: FileFacts, revision: str | None) -> str:
    """Return the argument of a model of a repository: by its quant if that is unique."""
    from gguf_hub.hub.download.quants import nearest

    suffix = f"@{revision}" if revision else ""
    matches = nearest(survey.files, file.quant, lambda other: other.filename)
    if len(matches) == 1:
        return f"{survey.repo_id}{suffix}:{file.quant}"
    return f"{survey.repo_id}/{file.filename}{suffix}"


def _combine(candidate_sets: Sequence[CandidateSet]) -> CandidateSet:
    models = {model.argument: model for candidates in candidate_sets for model in candidates.models}
    repos = {candidates.repo_id for candidates in candidate_sets}
    common = candidate_sets[0] if len(repos) == 1 else CandidateSet("", "", ())
    notes = tuple(dict.fromkeys(note for candidates in candidate_sets for note in candidates.notes))
    return CandidateSet(common.repo_id, common.revision, tuple(models.values()), notes)
