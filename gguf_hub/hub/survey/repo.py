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
from gguf_hub.errors import GgufError, GgufHubError, HubError, UnsupportedGgufError
from gguf_hub.files import write_atomically
from gguf_hub.gguf.header import read_header
from gguf_hub.gguf.memory.latents import Latents
from gguf_hub.gguf.memory.sizes import LayerSizes
from gguf_hub.gguf.memory.states import StateSizes
from gguf_hub.gguf.raw_parts import parse_raw_part
from gguf_hub.gguf.source import JoinedSource
from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.catalog import ModelShape
from gguf_hub.hub.client import HfHub, RemoteFile, RepoListing
from gguf_hub.hub.client.ranges import HubRanges, ReadBudget
from gguf_hub.hub.download.cachedir import COMMIT
from gguf_hub.hub.download.plan import models_of
from gguf_hub.hub.fit import FileFacts, LayerFacts, LayerWeights, TensorShare
from gguf_hub.hub.survey.headers import ShardHeader, facts_of_headers
from gguf_hub.paths import cache_dir
from gguf_hub.units import GIB

FOLDER = "facts"
VERSION = 6
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
        unread: Files of which no sound header came this time, and why.
    """

    repo_id: str
    commit: str
    files: tuple[FileFacts, ...]
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def survey_repo(
    hub: HfHub, repo_id: str, revision: str | None = None, *, refresh: bool = False
) -> Survey:
    """Return the facts of all models of a repository.

    Two requests list its files. Of each file not known yet the header is read: one request of
    1 MiB, and a second one where it is longer. What could not be read is tried again next time.

    Args:
        hub: The hub.
        repo_id: ``org/name``.
        revision: Branch, tag or commit; ``main`` when None.
        refresh: Read all headers, also those that are remembered.

    Raises:
        HubError: There is no such repository, no header came, or as the hub says.
    """
    is_commit = bool(revision and COMMIT.fullmatch(revision))
    # a commit never changes
    known = recall(repo_id, str(revision)) if is_commit and not refresh else None
    if known and not known.unread:
        return known
    listing = hub.list_files(repo_id, revision or "main")
    known = None if refresh else recall(repo_id, listing.commit)
    if known and not known.unread:
        return known
    survey = read_survey(hub, listing, known.files if known else ())
    remember(survey)
    return survey


def read_survey(hub: HfHub, listing: RepoListing, known: Sequence[FileFacts] = ()) -> Survey:
    """Read the headers of all models of a listing, several at a time.

    Args:
        hub: The hub.
        listing: What the repository has.
        known: Models of it that need not be read.

    Raises:
        HubError: Not one could be read, and the first for this reason.
    """
    budget = ReadBudget(MAX_BYTES, hint="`gguf-hub inspect` reads the header of one model")
    facts = {file.filename: file for file in known}

    def read(model: Sequence[RemoteFile]) -> FileFacts | GgufHubError:
        """Return what is known of a model of the repository, or why it could not be read."""
        return facts.get(model[0].path) or _read_model(hub, listing, model, budget)

    with ThreadPoolExecutor(MAX_WORKERS) as threads:
        results = list(threads.map(read, models_of(listing)))
    files = tuple(result for result in results if isinstance(result, FileFacts))
    errors = [result for result in results if isinstance(result, GgufHubError)]
    failures = [error for error in errors if isinstance(error, HubError)]
    if failures and not files:
        raise failures[0]
    # of a header that was read to its end the judgement stands; a damaged one may be a proxy's
    notes = tuple(error.message for error in errors if isinstance(error, UnsupportedGgufError))
    unread = (error for error in errors if not isinstance(error, UnsupportedGgufError))
    return Survey(
        listing.repo_id, listing.commit, files, notes,
        tuple(f"left out, as no header could be read: {error.message}" for error in unread),
    )  # fmt: skip


def _read_model(
    hub: HfHub, listing: RepoListing, model: Sequence[RemoteFile], budget: ReadBudget
) -> FileFacts | GgufHubError:
    """Return the facts of one model, or why there are none."""
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
    except (GgufError, HubError) as error:
        return error


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
        notes, unread = (tuple(map(str, data[name])) for name in ("notes", "unread"))
        return Survey(repo_id, commit, files, notes, unread)
    except (OSError, ValueError, LookupError, TypeError):
        return None  # not there, cut, or of another version: it can be read again


def remember(survey: Survey) -> None:
    """Write down what was read; a cache that cannot be written only costs time."""
    files = [_to_json(file) for file in survey.files]
    data = {
        "version": VERSION, "program": __version__, "files": files, "notes": survey.notes,
        "unread": survey.unread,
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
    sizes = tuple(map(_layer_sizes, data["shape"]["layers"]))
    latents = data["shape"]["latents"]
    latents = None if latents is None else Latents(**latents)
    shape = ModelShape(**{**data["shape"], "layers": sizes, "latents": latents})
    layers = tuple(LayerFacts(**layer) for layer in data["layers"])
    weights = tuple(LayerWeights(**layer) for layer in data["weights"])
    return FileFacts(
        **{**data, **texts, "tensors": tensors, "shape": shape, "layers": layers,
           "weights": weights}
    )  # fmt: skip


def _layer_sizes(data: dict[str, Any]) -> LayerSizes:
    state = data["state"]
    return LayerSizes(**{**data, "state": StateSizes(**state) if state else None})


def _type(name: str | int) -> QuantType | int:
    """Return a type by its name; one that is not known here has a number alone."""
    return QuantType[name] if isinstance(name, str) else int(name)
