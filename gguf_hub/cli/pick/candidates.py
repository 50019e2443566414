"""From arguments to the models that are compared: the catalog, files, or a repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf_hub.hub.catalog import Catalog
    from gguf_hub.hub.download.refs import CatalogQuant, RepoFile, RepoQuant
    from gguf_hub.hub.fit import FileFacts
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
    local = [_local(Path(argument).expanduser()) for argument in arguments]
    here = [subject for subject in local if subject]
    if arguments and len(here) == len(local):
        return here[0] if len(here) == 1 else _together(here)
    from gguf_hub.hub.catalog import load_catalog

    catalog = load_catalog(catalog_path)
    if not arguments:
        return _catalog(catalog, is_own=catalog_path is not None)
    parts = [
        subject or _remote(argument, catalog, revision, token)
        for argument, subject in zip(arguments, local, strict=True)
    ]
    return parts[0] if len(parts) == 1 else _together(parts)


def _local(path: Path) -> CandidateSet | None:
    """Return the model in a file, or all in a folder; None where there is neither."""
    if path.is_dir():
        return _folder(path)
    return CandidateSet("", "", (_model(path),)) if path.is_file() else None


def _model(path: Path) -> Model:
    from gguf_hub.hub.survey.headers import facts_of_file

    return Model(facts_of_file(path), str(path), path)


def _folder(path: Path) -> CandidateSet | None:
    """Return the models of a folder, with a note for each file that cannot be judged."""
    from gguf_hub.errors import GgufError

    models, errors = [], []
    for each in sorted(path.glob("*.gguf")):
        if each.is_file() and _is_first(each):
            try:
                models.append(_model(each))
            except GgufError as error:
                errors.append(error)
    if errors and not models:
        raise errors[0]
    notes = tuple(error.message for error in errors)
    return CandidateSet("", "", tuple(models), notes) if models else None


def _is_first(path: Path) -> bool:
    """Tell whether a file is no shard, or the first one."""
    from gguf_hub.gguf.shards import parse_shard

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


def _remote(
    argument: str, catalog: Catalog, revision: str | None, token: str | None
) -> CandidateSet:
    """Return what of the catalog or of a hub an argument names."""
    from gguf_hub.hub.client import default_endpoint
    from gguf_hub.hub.download.refs import CatalogQuant, LocalFile, parse_ref

    names = {file.quant: file.filename for file in catalog.files}
    ref = parse_ref(argument, catalog=names, endpoint=default_endpoint())
    assert not isinstance(ref, LocalFile), "files on this machine were found before"
    if isinstance(ref, CatalogQuant):
        return _catalog(catalog, is_own=False, quants=[ref.quant])
    return _repo(ref, catalog, revision or ref.revision, token)


def _repo(
    ref: RepoQuant | RepoFile | CatalogQuant,
    catalog: Catalog,
    revision: str | None,
    token: str | None,
) -> CandidateSet:
    """Return the models of a repository, or the one that is named."""
    from gguf_hub.cli.models import open_hub
    from gguf_hub.cli.pick.nearby import survey
    from gguf_hub.errors import RemoteFileNotFoundError
    from gguf_hub.hub.download.names import has_quant
    from gguf_hub.hub.download.refs import CatalogQuant, RepoFile

    assert not isinstance(ref, CatalogQuant)
    found = survey(open_hub(token), ref.repo_id, revision, catalog)
    files: Sequence[FileFacts] = _published(found, catalog)
    wanted = ref.filename if isinstance(ref, RepoFile) else ref.quant
    if isinstance(ref, RepoFile):
        files = [facts for facts in files if ref.filename in facts.filenames]
    elif ref.quant is not None:
        files = [facts for facts in files if has_quant(facts.filename, ref.quant)]
    if not files:
        have = ", ".join(dict.fromkeys(facts.quant for facts in found.files))
        what = f"model `{wanted}`" if wanted else "GGUF model that can be judged"
        raise RemoteFileNotFoundError(
            f"repository `{ref.repo_id}` has no {what}",
            repo_id=ref.repo_id,
            hint=f"it has {have}" if have else "\n".join(found.notes) or None,
        )
    models = tuple(Model(facts, _argument(found, facts, revision)) for facts in files)
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
