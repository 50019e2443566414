"""Names of the served model, in every form that people type."""

from __future__ import annotations

from pathlib import Path

from gguf_hub.api.server.service import ModelInfo
from gguf_hub.errors import GgufHubError
from gguf_hub.gguf.shard_names import model_name
from gguf_hub.hub.resolve import Resolver

LATEST = ":latest"
_MAX_KNOWN = 256


class NoModelError(GgufHubError):
    """A model that is not served."""


class ModelNames:
    """Knows the served model by its names.

    Args:
        info: The model.
        takes_any: Every name is its name: a router has found it by that.

    Attributes:
        shown: The name in lists; Ollama's names have a tag.
    """

    def __init__(self, info: ModelInfo, *, takes_any: bool = False) -> None:
        self._takes_any = takes_any
        self._path = Path(info.path)
        self.shown = info.name if ":" in info.name else f"{info.name}{LATEST}"
        own = (info.name, self.shown, info.path, self._path.name, model_name(self._path))
        self._own = {name.lower() for name in own}
        self._known: dict[str, bool] = {}  # names that only a search can tell

    def is_own(self, name: str) -> bool:
        """Return whether this is the model's name or its file's."""
        return self._takes_any or _bare(name).lower() in self._own

    def check(self, name: str) -> None:
        """Refuse the name of another model.

        What is not its name or file may be a model argument, as the command line takes it: a
        quant of the catalog, ``ORG/REPO:QUANT``, ``hf.co/ORG/REPO:QUANT``. This machine is
        searched for it, without network requests.

        Raises:
            NoModelError: It is another model's name, or none.
        """
        if self.is_own(name):
            return
        bare = _bare(name)
        if bare not in self._known:
            while len(self._known) >= _MAX_KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[bare] = self._is_found(bare)
        if not self._known[bare]:
            raise NoModelError(
                f"model '{name:.200}' not found: this server has `{self.shown}`",
                hint="start another one with `gguf-hub serve MODEL`",
            )

    def _is_found(self, name: str) -> bool:
        """Return whether a model argument leads to the served file."""
        resolver = Resolver()
        try:
            target = resolver.target(name, is_remote=True)
            if isinstance(target, tuple):
                return False
            copies = resolver.locate(target)
        except (GgufHubError, OSError, ValueError):
            return False
        path = self._path.resolve()
        return any(path in (file.resolve() for file in copy.paths) for copy in copies)


def _bare(name: str) -> str:
    return name.strip().removesuffix(LATEST)
