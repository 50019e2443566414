"""From arguments to the models that are compared: the catalog, files, or a repository."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
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
    """One model of a comparison, and what the other commands call it.

    Attributes:
        argument: What `download` and `run` take.
        path: Where it lies, for one on this machine.
    """

    facts: FileFacts
    argument: str
    path: Path | None = None


@dataclass(frozen=True)
class CandidateSet:
    """What is compared.

    Attributes:
        repo_id: The repository that all of it is in; empty for files, or several repositories.
        revision: Of the repository, as a branch or commit.
        notes: Files that cannot be judged, and why.
    """

    repo_id: str
    revision: str
    models: tuple[Model, ...]
    notes: tuple[str, ...] = ()


def subject_of(
    arguments: Sequence[str],
    *,
    catalog_path: Path | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> CandidateSet:
    """Return what is compared.

    Args:
        arguments: Paths, quants of the catalog, ``org/repo``, ``org/repo:QUANT`` or links; none for
            the whole catalog.
        catalog_path: A catalog of the user's own.
        revision: Branch, tag or commit, for repositories.
        token: Hugging Face token.

    Raises:
        GgufHubError: An argument names nothing, or nothing that can be judged.
    """
    local = [_local(expand_user(argument)) for argument in arguments]
    here = [subject for subject in local if subject]
    if arguments and len(here) == len(local):
        return here[0] if len(here) == 1 else _together(here)
    from gguf_hub.cli.models import make_resolver

    resolver = make_resolver(catalog_path, token=token)
    if not arguments:
        return _catalog(resolver.catalog, is_own=catalog_path is not None)
    parts = [
        subject or _remote(argument, resolver, revision)
        for argument, subject in zip(arguments, local, strict=True)
    ]
    return parts[0] if len(parts) == 1 else _together(parts)


def _local(path: Path) -> CandidateSet | None:
    """Return the model in a file, or all in a folder; None where there is neither."""
    # unlike Path's, these tests are False for names that no file can have
    if os.path.isdir(path):  # noqa: PTH112
        return _folder(path)
    return CandidateSet("", "", (_model(path),)) if os.path.isfile(path) else None  # noqa: PTH113


def _model(path: Path) -> Model:
    from gguf_hub.hub.survey.headers import facts_of_file

    return Model(facts_of_file(path), str(path), path)


def _folder(path: Path) -> CandidateSet | None:
    """Return the models of a folder; None when it has none."""
    found = (each for each in sorted(path.glob("*.gguf")) if each.is_file() and _is_first(each))
    models, notes = _judged(found)
    return CandidateSet("", "", models, notes) if models else None


def _judged(paths: Iterable[Path]) -> tuple[tuple[Model, ...], tuple[str, ...]]:
    """Return the models in files, and a note for each file that cannot be judged.

    Raises:
        GgufError: None of them can.
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
    """Tell whether a file is no shard, or the first one."""
    from gguf_hub.gguf.shard_names import parse_shard

    found = parse_shard(path)
    return found is None or found[1] == 0


def _catalog(catalog: Catalog, *, is_own: bool, quants: Sequence[str] = ()) -> CandidateSet:
    """Return the catalog, or some of its quants; no hub is asked."""
    from gguf_hub.hub.fit import facts_from_catalog

    files = [file for file in catalog.files if not quants or file.quant in quants]
    # the other commands know quants of the default catalog; a full name needs no catalog
    prefix = f"{catalog.repo_id}:" if is_own else ""
    models = [Model(facts_from_catalog(catalog, file), prefix + file.quant) for file in files]
    return CandidateSet(catalog.repo_id, catalog.revision, tuple(models))


def _remote(argument: str, resolver: Resolver, revision: str | None) -> CandidateSet:
    """Return what of the catalog or of a hub an argument names."""
    from gguf_hub.errors import HubUnreachableError

    target = resolver.target(argument)
    assert not isinstance(target, tuple), "files on this machine were found before"
    catalog = resolver.catalog
    named = [f.quant for f in catalog.files if (f.filename,) == target.selector.filenames]
    if named and target.repo_id == catalog.repo_id and "/" not in argument:
        return _catalog(catalog, is_own=False, quants=named)
    target = replace(target, revision=revision or target.revision)
    try:
        return _repo(target, resolver)
    except HubUnreachableError as error:
        return _here(target, resolver, error)


def _here(target: Target, resolver: Resolver, error: HubUnreachableError) -> CandidateSet:
    """Return the models of a repository that are on this machine.

    Raises:
        HubUnreachableError: There are none.
    """
    from gguf_hub.hub.download.plan import models_of

    here: dict[str, Path] = {}
    for copy in resolver.locate(target, _all_models(target)):
        paths = dict(zip((file.path for file in copy.files), copy.paths, strict=True))
        for model in models_of(copy.listing):
            if path := paths.get(model[0].path):
                here.setdefault(model[0].path, path)
    if not here:
        raise error
    models, notes = _judged(here.values())
    note = f"{error.message}; only what is on this machine is compared"
    return CandidateSet(target.repo_id, "", models, (note, *notes))


def _all_models(target: Target) -> Select:
    """Return what selects the wanted model, or all models where none is named."""
    from gguf_hub.hub.download.plan import models_of, select

    if target.selector.filenames or target.selector.quant is not None:
        return select
    return lambda listing, _: [file for model in models_of(listing) for file in model]


def _repo(target: Target, resolver: Resolver) -> CandidateSet:
    """Return the models of a repository, or the one that is named."""
    from gguf_hub.errors import RemoteFileNotFoundError
    from gguf_hub.hub.client.near import near_names
    from gguf_hub.hub.download.names import has_quant
    from gguf_hub.hub.survey.repo import survey_repo

    catalog, repo_id = resolver.catalog, target.repo_id
    with near_names(resolver.hub, repo_id, (catalog.repo_id,)):
        found = survey_repo(resolver.hub, repo_id, target.revision)
    files: Sequence[FileFacts] = _published(found, catalog)
    names, quant = target.selector.filenames, target.selector.quant
    if names:
        files = [facts for facts in files if names[0] in facts.filenames]
    elif quant is not None:
        files = [facts for facts in files if has_quant(facts.filename, quant)]
    if not files:
        have = ", ".join(dict.fromkeys(facts.quant for facts in found.files))
        wanted = names[0] if names else quant
        what = f"model `{wanted}`" if wanted else "GGUF model that can be judged"
        raise RemoteFileNotFoundError(
            f"repository `{repo_id}` has no {what}",
            repo_id=repo_id,
            hint=f"it has {have}" if have else "\n".join(found.notes) or None,
        )
    models = tuple(Model(facts, _argument(found, facts, target.revision)) for facts in files)
    return CandidateSet(found.repo_id, found.commit, models, found.notes)


def _published(found: Survey, catalog: Catalog) -> list[FileFacts]:
    """Add the catalog's perplexities to its own files."""
    if found.repo_id != catalog.repo_id:
        return list(found.files)
    from gguf_hub.hub.fit import facts_from_catalog

    known = {file.filename: facts_from_catalog(catalog, file) for file in catalog.files}
    return [
        replace(
            facts,
            perplexity=known[facts.filename].perplexity,
            is_perplexity_estimated=known[facts.filename].is_perplexity_estimated,
            perplexity_note=known[facts.filename].perplexity_note,
            is_recommended=known[facts.filename].is_recommended,
            bits=known[facts.filename].bits,
        )
        if facts.filename in known
        else facts
        for facts in found.files
    ]


def _argument(found: Survey, facts: FileFacts, revision: str | None) -> str:
    """Return what names a model of a repository: its quant where no other has the same."""
    from gguf_hub.hub.download.names import has_quant

    at = f"@{revision}" if revision else ""
    same = [other for other in found.files if has_quant(other.filename, facts.quant)]
    if len(same) == 1:
        return f"{found.repo_id}{at}:{facts.quant}"
    return f"{found.repo_id}/{facts.filename}{at}"


def _together(parts: Sequence[CandidateSet]) -> CandidateSet:
    """Put several comparisons into one, each model once."""
    models = {model.argument: model for part in parts for model in part.models}
    repos = {part.repo_id for part in parts}
    same = parts[0] if len(repos) == 1 else CandidateSet("", "", ())
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return CandidateSet(same.repo_id, same.revision, tuple(models.values()), notes)
