"""Which files a program needs to find a model: names in its folder, and the small ones' content.

Decides only; nothing is written here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gguf_hub.errors import UsageError
from gguf_hub.hub.programs.folders import Program
from gguf_hub.hub.programs.ollama import ModelFacts, OllamaName, blob_path, entry_of

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class SharedModel:
    """A model that is to be lent.

    Attributes:
        paths: Its file, or all shards in order.
        repo_id: Where it came from; None when nobody knows.
        filename: Path in the repository, or the file's own name.
        quant: The quant in its name.
    """

    paths: tuple[Path, ...]
    repo_id: str | None
    filename: str
    quant: str | None

    @property
    def stem(self) -> str:
        """The name of the (first) file without its end."""
        return self.filename.rpartition("/")[2].removesuffix(".gguf")


@dataclass(frozen=True)
class Layout:
    """What a program needs.

    Attributes:
        name: What the model goes by there.
        links: Names in the folder that stand for files of the model: name -> file.
        parts: Named after their content, so that what is there already is the same: name -> bytes.
        entries: Files that make the program see the model, written last: name -> bytes.
        shared_names: Names of ``links`` that are named after their content too.
    """

    name: str
    links: dict[Path, Path]
    parts: dict[Path, bytes] = field(default_factory=dict)
    entries: dict[Path, bytes] = field(default_factory=dict)
    shared_names: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class OllamaExtras:
    """What only Ollama wants to know: facts of the file, and how conversations are written."""

    facts: ModelFacts
    template: str | None = None
    stop: tuple[str, ...] = ()


def ollama_layout(
    folder: Path, model: SharedModel, name: str | None, extras: OllamaExtras
) -> Layout:
    """Return the blobs and the manifest of a model in Ollama.

    Raises:
        UsageError: The name is none of Ollama's, or the model is in several files.
    """
    _require_one_file(model, "Ollama")
    full = OllamaName.parse(name or _default_ollama_name(model))
    manifest, parts = entry_of(extras.facts, extras.template, extras.stop)
    blob = blob_path(folder, extras.facts.sha256)
    digests = [entry["digest"] for entry in _named_in(manifest)]
    paths = [blob_path(folder, digest.removeprefix("sha256:")) for digest in digests]
    return Layout(
        full.text,
        {blob: model.paths[0]},
        dict(zip(paths, parts, strict=True)),
        {full.paths(folder)[-1]: manifest},
        frozenset({blob}),
    )


def _named_in(manifest: bytes) -> list[dict[str, str]]:
    """Return config and small layers as a manifest names them, in the order of its parts."""
    data = json.loads(manifest)
    return [data["config"], *data["layers"][1:]]


def _default_ollama_name(model: SharedModel) -> str:
    """Return the name under which Ollama would fetch the same file itself, or one of the file."""
    if model.repo_id and model.quant:
        return f"hf.co/{model.repo_id}:{model.quant}"
    return _safe(model.stem.lower())


def _lm_studio(folder: Path, model: SharedModel, name: str | None) -> Layout:
    place = name or model.repo_id or f"local/{_safe(model.stem)}"
    if place.count("/") != 1 or not all(_is_safe(part) for part in place.split("/")):
        raise UsageError(
            f"`{place}` is no name of a model in LM Studio", hint="it is written PUBLISHER/NAME"
        )
    links = {folder / place / path.name: path for path in _with_names(model)}
    return Layout(f"{place}/{next(iter(links)).name}", _to_files(links, model))


def _flat(folder: Path, model: SharedModel, name: str | None) -> Layout:
    if len(model.paths) > 1:
        inner = folder / _checked(name or _safe(model.stem.partition("-00001-of-")[0]))
        links = {inner / path.name: path for path in _with_names(model)}
        return Layout(inner.name, _to_files(links, model))
    stem = _checked(name.removesuffix(".gguf")) if name else _safe(model.stem)
    return Layout(f"{stem}.gguf", {folder / f"{stem}.gguf": model.paths[0]})


def _jan(folder: Path, model: SharedModel, name: str | None) -> Layout:
    _require_one_file(model, "Jan")
    key = _checked(name or _safe(model.stem))
    home = folder / "llamacpp" / "models" / key
    settings = {
        "embedding": False, "model_path": f"llamacpp/models/{key}/model.gguf", "name": key,
        "size_bytes": model.paths[0].stat().st_size,
    }  # fmt: skip
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
    links = {home / "model.gguf": model.paths[0]}
    return Layout(key, links, entries={home / "model.yml": text.encode()})


_LAYOUTS: dict[str, Callable[[Path, SharedModel, str | None], Layout]] = {
    "lmstudio": _lm_studio, "webui": _flat, "gpt4all": _flat, "koboldcpp": _flat, "jan": _jan,
}  # fmt: skip


def layout_for(
    program: Program,
    folder: Path,
    model: SharedModel,
    name: str | None = None,
    extras: OllamaExtras | None = None,
) -> Layout:
    """Return what a program needs to find a model.

    Args:
        program: The program.
        folder: Its folder.
        model: The model.
        name: What the model is to be called there; what is usual there when None.
        extras: For Ollama alone.

    Raises:
        UsageError: The name does not do there, or the program takes models of one file only.
    """
    if program.key == "ollama":
        assert extras is not None
        return ollama_layout(folder, model, name, extras)
    return _LAYOUTS[program.key](folder, model, name)


def _require_one_file(model: SharedModel, title: str) -> None:
    if len(model.paths) > 1:
        raise UsageError(
            f"`{model.paths[0]}` is the first of {len(model.paths)} files, and {title} takes "
            "models of one file",
            hint="`gguf-hub merge` makes one of them",
        )


def _with_names(model: SharedModel) -> list[Path]:
    """Return the files; one alone gets the name that its model has, which may be a hash's."""
    if len(model.paths) == 1:
        return [Path(f"{_safe(model.stem)}.gguf")]
    return list(model.paths)


def _to_files(links: dict[Path, Path], model: SharedModel) -> dict[Path, Path]:
    return dict(zip(links, model.paths, strict=True))


def _checked(name: str) -> str:
    if not _is_safe(name):
        raise UsageError(
            f"`{name}` cannot be the name of a file there",
            hint="use letters, digits, `-`, `_`, `.`",
        )
    return name


def _is_safe(name: str) -> bool:
    return bool(name) and not _UNSAFE.search(name) and not name.startswith((".", "-"))


def _safe(name: str) -> str:
    return _UNSAFE.sub("-", name).strip("-.") or "model"
