"""Models of other programs as model arguments: found by their names there, used, never removed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf_hub.errors import UsageError
from gguf_hub.gguf.shard_names import model_files
from gguf_hub.hub.download.names import is_model, set_key
from gguf_hub.hub.download.quants import quant_of
from gguf_hub.hub.download.refs import Target
from gguf_hub.hub.programs.found import ProgramModel, models_named
from gguf_hub.progress import Progress


@dataclass(frozen=True)
class ForeignModels:
    """The models of other programs.

    Attributes:
        models: All of them, in the order in which a name is looked for.
        progress: Told which one is used.
    """

    models: Sequence[ProgramModel]
    progress: Progress

    def named(self, argument: str) -> tuple[Path, ...] | None:
        """Return the files of the model of a name; None for none.

        Raises:
            GgufError: A shard of it is missing.
        """
        found = models_named(self.models, argument)
        return self._use(found[0]) if found else None

    def of_target(self, target: Target) -> tuple[Path, ...] | None:
        """Return the files that a target means by their names; None for none.

        What their content should be only the hub knows, so a commit is not found here.

        Raises:
            GgufError: A shard is missing.
        """
        if target.revision:
            return None
        found = next((model for model in self.models if is_of_target(model, target)), None)
        return self._use(found) if found else None

    def at(self, path: Path) -> ProgramModel | None:
        """Return the model whose file is at a path, or None."""
        path = path.absolute()
        return next((model for model in self.models if model.path == path), None)

    def refuse(self, argument: str, path: Path) -> None:
        """Refuse to remove what another program keeps account of.

        Args:
            argument: A name that may be one of theirs.
            path: A file that may be one of theirs.

        Raises:
            UsageError: It is.
        """
        named = [] if os.path.lexists(path) else models_named(self.models, argument)
        if model := self.at(path) or next(iter(named), None):
            title, name = model.program.title, model.names[0]
            raise UsageError(
                f"`{argument}` is {title}'s `{name}`, which gguf-hub does not remove",
                hint=f"remove it in {title}; `gguf-hub share` shows what was put there",
            )

    def _use(self, model: ProgramModel) -> tuple[Path, ...]:
        name = f"{model.program.title}'s `{model.names[0]}`"
        self.progress.note(f"{name} is used as it is: only its program knows where it came from")
        return model_files(model.path)


def is_of_target(model: ProgramModel, target: Target) -> bool:
    """Return whether another program's file is what a target means, as far as names tell.

    Its folder, or the name that it goes by, names the repository; then the file's name or quant.
    """
    selector = target.selector
    repo_id = target.repo_id.lower()
    if selector.include or selector.exclude or not (model.is_model or is_model(model.filename)):
        return False
    end = f":{selector.quant}".lower() if selector.quant else ""
    if not selector.filenames and f"{repo_id}{end}" in map(str.lower, model.names):
        return True
    if (model.repo_id or "").lower() != repo_id:
        return False
    if selector.filenames:
        return any(set_key(name) == set_key(model.filename) for name in selector.filenames)
    quant = model.quant or quant_of(model.filename)
    return selector.quant is None or (quant or "").lower() == selector.quant.lower()
