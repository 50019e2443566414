"""Lending a model to another program, and taking it back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.files import create, remove_if
from gguf_hub.hub.programs.folders import Program, find_program
from gguf_hub.hub.programs.layouts import Layout, SharedModel
from gguf_hub.hub.programs.ollama import OllamaName, digests_in_use, is_same_model
from gguf_hub.hub.programs.placing import Kind, place
from gguf_hub.hub.programs.record import PlacedFile, Share, ShareRecord
from gguf_hub.oserrors import translate_os_errors
from gguf_hub.progress import SILENT, Progress

_SMALL = "file"


@dataclass
class _Placing:
    """What has been put somewhere so far, so that it can be taken back if the rest fails."""

    files: list[PlacedFile] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def make_folder(self, folder: Path) -> None:
        """Make a folder and its missing parents; remember which were made."""
        missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
        for path in reversed(missing):
            path.mkdir()
            self.folders.append(path)

    def undo(self) -> None:
        """Take back every file and folder that was put there."""
        _take_back(self.files, self.folders)


def folder_of(program: Program, chosen: Path | None) -> Path:
    """Return the folder of a program that a model is put into.

    Args:
        program: The program.
        chosen: A folder that the user names; the program's own when None.

    Raises:
        UsageError: There is none.
    """
    if chosen is not None:
        if not chosen.is_dir():
            raise UsageError(f"`{chosen}` is no folder", hint="`--folder` names one that is there")
        return chosen.absolute()
    for folder in program.folders():
        return folder
    raise UsageError(
        f"{program.title} has no folder for models on this machine, as far as is known",
        hint="name its folder with `--folder`",
    )


def share(
    program: Program,
    folder: Path,
    model: SharedModel,
    layout: Layout,
    record: ShareRecord,
    *,
    argument: str,
    may_copy: bool = False,
    progress: Progress = SILENT,
) -> Share:
    """Put a model where another program finds it.

    Args:
        program: The program.
        folder: Its folder.
        model: The model.
        layout: What is put there.
        record: Where that is written down.
        argument: What the user calls the model.
        may_copy: Whether a second copy may be made where links cannot.
        progress: Where to report bytes that are copied.

    Returns:
        What was put there; one that was there before as it was.

    Raises:
        GgufHubError: Something else has a name that is needed, or nothing can be put there.
    """
    if known := _known(record, program, folder, layout):
        return known
    _refuse_taken(program, folder, layout)
    placing = _Placing()
    what = f"cannot put the model into `{folder}`"
    hint = f"run it as a user who may write there (as {program.title} does), or see `--folder`"
    try:
        with translate_os_errors(what, hint=hint):
            _put(layout, placing, may_copy, progress)
        done = Share(
            program.key, folder, layout.name, argument, _real(model.paths),
            tuple(placing.files), tuple(placing.folders),
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )  # fmt: skip
        record.add(done)
    except BaseException:
        placing.undo()
        raise
    return done


def take_back(shared: Share, record: ShareRecord) -> list[Path]:
    """Remove what was put into a program's folder, and nothing else.

    Returns:
        Names that stay: what has them is not what was put there, or another model of the program
        needs it by now.

    Raises:
        GgufHubError: A file cannot be removed.
    """
    kept = _needed_by_others(shared)
    going = [file for file in shared.files if file.path not in kept]
    hint = f"close {find_program(shared.program).title}, which may hold it open, and try again"
    with translate_os_errors(f"cannot take `{shared.name}` back", hint=hint):
        stays = _take_back(going, shared.folders)
    record.remove(shared)
    return [*stays, *sorted(kept)]


def find_shares(
    record: ShareRecord, argument: str, paths: Sequence[Path], program: Program | None
) -> list[Share]:
    """Return the shares that an argument means: by its files, by its text, or by its name there.

    Args:
        record: The record.
        argument: What the user wrote.
        paths: The files that it names; none where they are gone.
        program: The program; any when None.
    """
    sources = set(_real(paths))
    return [
        each
        for each in record.shares()
        if (program is None or each.program == program.key)
        and (sources & set(each.sources) or argument in (each.model, each.name))
    ]


def _real(paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(Path(os.path.realpath(path)) for path in paths)


def _known(record: ShareRecord, program: Program, folder: Path, layout: Layout) -> Share | None:
    """Return the share that is there already and whole, of these very files."""
    sources = set(_real(list(layout.links.values())))
    for each in record.shares():
        is_it = each.key == (program.key, str(folder), layout.name)
        if is_it and set(each.sources) == sources and _is_whole(each):
            return each
    return None


def _is_whole(shared: Share) -> bool:
    """Return whether all that was put there is there, and leads to a file."""
    return all(file.is_unchanged() and file.path.is_file() for file in shared.files)


def _refuse_taken(program: Program, folder: Path, layout: Layout) -> None:
    """Refuse names that something has.

    Raises:
        GgufHubError: Something has one, and it is not what would be put there.
    """
    names = [*layout.entries, *(path for path in layout.links if path not in layout.shared_names)]
    if program.key == "ollama":
        names += OllamaName.parse(layout.name).paths(folder)
    for path in names:
        if os.path.lexists(path):
            raise _taken(program, folder, layout, path)
    for path in layout.shared_names:
        size_bytes = layout.links[path].stat().st_size
        if os.path.lexists(path) and (not path.is_file() or path.stat().st_size != size_bytes):
            raise GgufHubError(
                f"`{path}` exists and is not what its name says: expected {size_bytes:,} bytes",
                hint=f"have {program.title} remove it, then repeat the command",
            )


def _taken(program: Program, folder: Path, layout: Layout, path: Path) -> GgufHubError:
    source = next(iter(layout.links.values()))
    is_same = any(p.exists() and p.samefile(source) for p in layout.links)
    if program.key == "ollama":
        blob = next(iter(layout.links))
        is_same = is_same_model(folder, path, blob.name.removeprefix("sha256-"))
    if is_same:
        return GgufHubError(
            f"{program.title} has this very model as `{layout.name}`, and not from gguf-hub",
            hint="nothing is to be done; `gguf-hub ls` lists it",
        )
    return GgufHubError(
        f"`{path}` exists: {program.title} has something else called `{layout.name}`",
        hint="`--name` gives the model another name there",
    )


def _put(layout: Layout, placing: _Placing, may_copy: bool, progress: Progress) -> None:
    """Put the files of the model first, and last what makes the program see it."""
    for path, source in layout.links.items():
        placing.make_folder(path.parent)
        if path in layout.shared_names and path.is_file():
            continue  # named after its content: the program's own
        kind = place(source, path, may_copy=may_copy, progress=progress)
        placing.files.append(PlacedFile.of(path, kind.value))
    for path, data in layout.parts.items():
        if not path.is_file():
            _write(path, data, placing)
    for path, data in layout.entries.items():
        _write(path, data, placing)


def _write(path: Path, data: bytes, placing: _Placing) -> None:
    placing.make_folder(path.parent)
    descriptor = create(path)
    with os.fdopen(descriptor, "wb") as file:
        status = os.fstat(descriptor)
        try:
            file.write(data)
            file.flush()
        except BaseException:
            remove_if(path, status)
            raise
    placing.files.append(PlacedFile.of(path, _SMALL))


def _take_back(files: Sequence[PlacedFile], folders: Sequence[Path]) -> list[Path]:
    """Remove files that are still what they were, last ones first; return the others' names."""
    stays = []
    for file in reversed(files):
        if file.is_unchanged():
            file.path.unlink()
        elif os.path.lexists(file.path):
            stays.append(file.path)
    for folder in reversed(folders):
        with contextlib.suppress(OSError):  # something else is in it by now
            folder.rmdir()
    return stays


def _needed_by_others(shared: Share) -> set[Path]:
    """Return the parts that another model of Ollama's names by now."""
    if shared.program != "ollama":
        return set()
    own = OllamaName.parse(shared.name).paths(shared.folder)[-1]
    digests = digests_in_use(shared.folder, but=own)
    return {file.path for file in shared.files
            if file.path.name.removeprefix("sha256-") in digests}  # fmt: skip


def describe_kinds(shared: Share) -> str:
    """Return how the files of the model were put there, in words."""
    kinds = {file.kind for file in shared.files if file.kind != _SMALL}
    return ", ".join(kind.value for kind in Kind if kind.value in kinds) or "its own file"


def shared_folders(record: ShareRecord) -> Iterator[tuple[Program, Path]]:
    """Yield the folders that models were put into."""
    with contextlib.suppress(GgufHubError):  # a broken record is reported by who changes it
        for each in record.shares():
            yield find_program(each.program), each.folder
