"""The models that other programs have on this machine, by the names that people know there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf_hub.hub.programs.folders import PROGRAMS, Program
from gguf_hub.hub.programs.ollama import read_models

_MODEL_PATH = re.compile(r"^model_path:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_MAX_YAML_BYTES = 1 << 16
_MAX_DEPTH = 5


@dataclass(frozen=True)
class ProgramModel:
    """A GGUF file of another program.

    Attributes:
        program: Whose it is.
        path: The file.
        names: What it goes by; the one that the program shows comes first.
        filename: Path in its repository, or what stands for the name of a file.
        repo_id: The repository that its folder or name says it is from; None for none.
        quant: The quantisation, where the program names it.
        sha256: SHA-256 that the content should have; None when nobody says.
    """

    program: Program
    path: Path
    names: tuple[str, ...]
    filename: str
    repo_id: str | None = None
    quant: str | None = None
    sha256: str | None = None

    @property
    def is_model(self) -> bool:
        """Whether the program itself says that it is a model, whatever the file is called."""
        return self.program.key in ("ollama", "jan")


def find_models(folders: Iterable[tuple[Program, Path]]) -> list[ProgramModel]:
    """Return the GGUF files in folders of programs, each folder read once."""
    models: list[ProgramModel] = []
    for program, folder in dict.fromkeys(folders):
        models += _SCANS[program.key](program, folder)
    return models


def known_folders(more: Iterable[tuple[Program, Path]] = ()) -> tuple[tuple[Program, Path], ...]:
    """Return the folders of all programs that are here, and ``more``, each once."""
    own = ((program, folder) for program in PROGRAMS for folder in program.folders())
    return tuple(dict.fromkeys([*own, *more]))


def models_named(models: Sequence[ProgramModel], name: str) -> list[ProgramModel]:
    """Return the models of a name, in any case; without a tag, Ollama's ``:latest``."""
    wanted = name.strip().lower()
    return [model for model in models if any(each.lower() == wanted for each in model.names)]


def _scan_ollama(program: Program, folder: Path) -> Iterator[ProgramModel]:
    for model in read_models(folder):
        text = model.name.text
        names = (text, text.removesuffix(":latest")) if text.endswith(":latest") else (text,)
        is_quant = model.name.repo_id and model.name.tag != "latest"
        quant = model.name.tag if is_quant else model.quant
        yield ProgramModel(
            program, model.path, names, text, model.name.repo_id, quant, model.sha256
        )


def _scan_tree(program: Program, folder: Path) -> Iterator[ProgramModel]:
    """Yield the files of a folder by their path in it, their name, and that without its end."""
    for path in _gguf_files(folder):
        inner = path.relative_to(folder).as_posix()
        names = dict.fromkeys((inner, path.name, path.stem))
        yield ProgramModel(program, path, tuple(names), path.name)


def _scan_publishers(program: Program, folder: Path) -> Iterator[ProgramModel]:
    """Yield the files of ``publisher/repository/file``, as the Hugging Face Hub names them."""
    for path in _gguf_files(folder):
        parts = path.relative_to(folder).as_posix().split("/")
        if len(parts) < 3:  # LM Studio does not see it either
            continue
        publisher, repo, *rest = parts
        names = (f"{publisher}/{repo}/{'/'.join(rest)}", path.name, path.stem)
        yield ProgramModel(
            program, path, tuple(dict.fromkeys(names)), "/".join(rest), f"{publisher}/{repo}"
        )


def _scan_jan(program: Program, folder: Path) -> Iterator[ProgramModel]:
    """Yield the models of ``llamacpp/models/ID/model.yml``, which names the file."""
    base = folder / "llamacpp" / "models"
    for path in _files(base, "model.yml"):
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_YAML_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
        match = _MODEL_PATH.search(text)
        model = folder / match[1].strip("'\"") if match else None
        if model is not None and model.is_file():
            name = path.parent.relative_to(base).as_posix()
            yield ProgramModel(program, model, (name,), f"{name.rpartition('/')[2]}.gguf")


_SCANS: dict[str, Callable[[Program, Path], Iterator[ProgramModel]]] = {
    "ollama": _scan_ollama,
    "lmstudio": _scan_publishers,
    "webui": _scan_tree,
    "jan": _scan_jan,
    "gpt4all": _scan_tree,
    "koboldcpp": _scan_tree,
}


def _gguf_files(folder: Path) -> Iterator[Path]:
    return (path for path in _files(folder, ".gguf") if path.is_file())


def _files(folder: Path, end: str) -> Iterator[Path]:
    """Yield files whose name ends so, in order; folders deeper than programs look are left out."""
    for root, folders, names in os.walk(folder):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = sorted(folders) if depth < _MAX_DEPTH else []
        yield from (Path(root, name) for name in sorted(names) if name.lower().endswith(end))
