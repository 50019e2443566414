"""Where programs keep their models: their own defaults, settings and variables.

Sources: Ollama, envconfig/config.go (``OLLAMA_MODELS``) and scripts/install.sh; LM Studio,
lmstudio.js, find-lmstudio-home.ts, and ``downloadsFolder`` of its settings.json; Jan,
src-tauri/src/core/app/commands.rs; GPT4All, gpt4all-chat/src/mysettings.cpp; text-generation-webui,
modules/paths.py. KoboldCpp has no folder of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf_hub.errors import UsageError
from gguf_hub.paths import expand_user

_MAX_SETTINGS_BYTES = 1 << 20
_MODEL_PATH = re.compile(r"^\s*modelPath\s*=\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """A program that keeps models.

    Attributes:
        key: What the command line calls it.
        title: What it calls itself.
        candidates: Yields the folders that it may use, those that it would take first in front.
    """

    key: str
    title: str
    candidates: Callable[[], Iterable[Path]]

    def folders(self) -> list[Path]:
        """Return the folders that exist, each once."""
        folders = dict.fromkeys(path.absolute() for path in self.candidates())
        return [path for path in folders if os.path.isdir(path)]  # noqa: PTH112 (odd names)


def find_program(key: str) -> Program:
    """Return a program by what the command line calls it.

    Raises:
        UsageError: There is none.
    """
    for program in PROGRAMS:
        if program.key == key.lower():
            return program
    names = ", ".join(program.key for program in PROGRAMS)
    raise UsageError(f"no program `{key}`", hint=f"it is one of {names}")


def _ollama() -> Iterator[Path]:
    if folder := os.environ.get("OLLAMA_MODELS"):
        yield expand_user(folder)
        return
    yield expand_user("~/.ollama/models")
    if sys.platform == "linux":  # the service that its installer sets up
        yield Path("/usr/share/ollama/.ollama/models")


def _lm_studio() -> Iterator[Path]:
    pointer = _read(expand_user("~/.lmstudio-home-pointer")).strip()
    homes = [Path(pointer)] if pointer else []
    homes += [expand_user("~/.lmstudio"), expand_user("~/.cache/lm-studio")]
    for home in homes:
        if folder := _setting(home / "settings.json", "downloadsFolder"):
            yield expand_user(folder)
        yield home / "models"


def _jan() -> Iterator[Path]:
    """Yield Jan's data folders: models lie in ``llamacpp/models`` below them."""
    for base in (_data_home(), _config_home()):
        for name in ("Jan", "jan.ai.app"):
            if folder := _setting(base / name / "settings.json", "data_folder"):
                yield expand_user(folder)
        yield base / "Jan" / "data"


def _gpt4all() -> Iterator[Path]:
    for base in (_config_home(), _data_home()):
        if match := _MODEL_PATH.search(_read(base / "nomic.ai" / "GPT4All.ini")):
            yield expand_user(match[1].strip('"').replace("\\\\", "\\"))
    yield _local_home() / "nomic.ai" / "GPT4All"
    yield expand_user("~/.cache/gpt4all")


def _webui() -> Iterator[Path]:
    """Yield what ``--model-dir`` names in CMD_FLAGS.txt, then the defaults of new and old."""
    home = expand_user("~")
    for checkout in (*home.glob("text-generation-webui*"), *home.glob("textgen*")):
        for data in (checkout / "user_data", checkout):
            if folder := _flag(_read(data / "CMD_FLAGS.txt"), "--model-dir"):
                yield checkout / expand_user(folder)
        yield checkout / "user_data" / "models"
        yield checkout / "models"


PROGRAMS = (
    Program("ollama", "Ollama", _ollama),
    Program("lmstudio", "LM Studio", _lm_studio),
    Program("webui", "text-generation-webui", _webui),
    Program("jan", "Jan", _jan),
    Program("gpt4all", "GPT4All", _gpt4all),
    Program("koboldcpp", "KoboldCpp", tuple),
)
"""All programs, in the order in which a name is looked for."""


# -- settings of others: read, never believed ----------------------------------------------------


def _read(path: Path) -> str:
    """Return the beginning of a text of somebody else's; nothing where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SETTINGS_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def _setting(path: Path, key: str) -> str | None:
    try:
        settings = json.loads(_read(path) or "{}")
    except (ValueError, RecursionError):
        return None
    value = settings.get(key) if isinstance(settings, dict) else None
    return value if isinstance(value, str) and value and "\0" not in value else None


def _flag(text: str, flag: str) -> str | None:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    try:
        words = shlex.split(" ".join(lines).replace(f"{flag}=", f"{flag} "))
    except ValueError:
        return None
    return words[words.index(flag) + 1] if flag in words[:-1] else None


# -- folders of the system -----------------------------------------------------------------------


def _data_home() -> Path:
    if sys.platform == "darwin":
        return expand_user("~/Library/Application Support")
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or expand_user("~/AppData/Roaming"))
    return expand_user(os.environ.get("XDG_DATA_HOME") or "~/.local/share")


def _config_home() -> Path:
    if sys.platform in ("darwin", "win32"):
        return _data_home()
    return expand_user(os.environ.get("XDG_CONFIG_HOME") or "~/.config")


def _local_home() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or expand_user("~/AppData/Local"))
    return _data_home()
