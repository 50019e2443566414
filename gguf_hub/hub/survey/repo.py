"""Every GGUF of a repository on a hub, by its header alone; cached by commit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gguf_hub import __version__
from gguf_hub.errors import GgufError
from gguf_hub.files import write_atomically
from gguf_hub.gguf.header import read_header
from gguf_hub.gguf.raw_parts import parse_raw_part
from gguf_hub.gguf.source import JoinedSource
from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.catalog import ModelShape
from gguf_hub.hub.client import HfHub, RemoteFile, RepoListing
from gguf_hub.hub.client.ranges import HubRanges, ReadBudget
from gguf_hub.hub.download.cachedir import COMMIT
from gguf_hub.hub.download.plan import models_of
from gguf_hub.hub.fit import FileFacts, LayerFacts, TensorShare
from gguf_hub.hub.survey.headers import ShardHeader, facts_of_headers
from gguf_hub.paths import cache_dir
from gguf_hub.units import GIB

FOLDER = "facts"
VERSION = 3
"""Of the cache; entries of another version, or of another program, are read anew: what runs is its
judgement."""
MAX_WORKERS = 8
MAX_BYTES = 4 * GIB
"""Of all headers of a repository; a hundred files with a large vocabulary take about 1 GiB."""


@dataclass(frozen=True)
class Survey:
    """What a repository holds.

    Attributes:
        commit: What its revision means now.
        files: One for each model that can be judged, in the order of the listing.
        notes: Files that cannot be judged, and why.
    """

    repo_id: str
    commit: str
    files: tuple[FileFacts, ...]
    notes: tuple[str, ...] = ()


def survey_repo(hub: HfHub, repo_id: str, revision: str | None = None) -> Survey:
    """Return the facts of all models of a repository.

    Two requests list its files. Of each file not known yet the header is read: one request of
    1 MiB, and a second one where it is longer.

    Args:
        hub: The hub.
        repo_id: ``org/name``.
        revision: Branch, tag or commit; ``main`` when None.

    Raises:
        HubError: There is no such repository, or as the hub says.
    """
    if revision and COMMIT.fullmatch(revision) and (known := recall(repo_id, revision)):
        return known  # a commit never changes
    listing = hub.list_files(repo_id, revision or "main")
    if known := recall(repo_id, listing.commit):
        return known
    survey = read_survey(hub, listing)
    remember(survey)
    return survey


def read_survey(hub: HfHub, listing: RepoListing) -> Survey:
    """Read the headers of all models of a listing, several at a time."""
    models = models_of(listing)
    budget = ReadBudget(MAX_BYTES, hint="`gguf-hub inspect` reads the header of one model")
    files: list[FileFacts] = []
    notes: list[str] = []
    with ThreadPoolExecutor(MAX_WORKERS) as threads:
        for result in threads.map(lambda model: _read_model(hub, listing, model, budget), models):
            if isinstance(result, str):
                notes.append(result)
            else:
                files.append(result)
    return Survey(listing.repo_id, listing.commit, tuple(files), tuple(notes))


def _read_model(
    hub: HfHub, listing: RepoListing, model: Sequence[RemoteFile], budget: ReadBudget
) -> FileFacts | str:
    """Return the facts of one model, or the message of the error."""
    try:
        if parse_raw_part(model[0].path):
            joined = JoinedSource([_ranges(hub, listing, file, budget) for file in model])
            header = ShardHeader(model[0].path, read_header(joined))
            return facts_of_headers([header], filenames=[file.path for file in model])
        return facts_of_headers(
            [
                ShardHeader(file.path, read_header(_ranges(hub, listing, file, budget)))
                for file in model
            ]
        )
    except GgufError as error:
        return error.message


def _ranges(hub: HfHub, listing: RepoListing, file: RemoteFile, budget: ReadBudget) -> HubRanges:
    return HubRanges(hub, hub.listed_metadata(listing, file), file.size_bytes, budget)


# ---- memory ------------------------------------------------------------------------------------


def recall(repo_id: str, commit: str) -> Survey | None:
    """Return what was read before of a repository at a commit, or None."""
    try:
        data = json.loads(_path(cache_dir() / FOLDER, repo_id, commit).read_text(encoding="utf-8"))
        if (data["version"], data["program"]) != (VERSION, __version__):
            return None
        files = tuple(_parse(entry) for entry in data["files"])
        return Survey(repo_id, commit, files, tuple(map(str, data["notes"])))
    except (OSError, ValueError, LookupError, TypeError):
        return None  # not there, cut, or of another version: it can be read again


def remember(survey: Survey) -> None:
    """Write down what was read; a cache that cannot be written only costs time."""
    files = [_to_json(file) for file in survey.files]
    data = {
        "version": VERSION, "program": __version__, "files": files, "notes": survey.notes,
    }  # fmt: skip
    path = _path(cache_dir() / FOLDER, survey.repo_id, survey.commit)
    with contextlib.suppress(OSError):
        write_atomically(path, json.dumps(data))


def _path(folder: Path, repo_id: str, commit: str) -> Path:
    return folder / f"{repo_id.replace('/', '--')}--{commit}.json"


def _to_json(file: FileFacts) -> dict[str, Any]:
    data = asdict(file)
    for share in data["tensors"]:
        share["type"] = getattr(share["type"], "name", share["type"])
    return data


def _parse(data: dict[str, Any]) -> FileFacts:
    tensors = tuple(
        TensorShare(**{**share, "type": _type(share["type"])}) for share in data["tensors"]
    )
    texts = {name: tuple(map(str, data[name])) for name in ("filenames", "obstacles")}
    shape = ModelShape(**data["shape"])
    layers = tuple(LayerFacts(**layer) for layer in data["layers"])
    return FileFacts(**{**data, **texts, "tensors": tensors, "shape": shape, "layers": layers})


def _type(name: str | int) -> QuantType | int:
    """Return a type by its name; one that is not known here has a number alone."""
    return QuantType[name] if isinstance(name, str) else int(name)
