"""Every error that gguf-hub raises on purpose.

Each says what is wrong, where, what was expected and what was found. ``hint`` names the next
command or step; the command line prints it as a paragraph of its own. Those with a star are
``ValueError``s, too, as a caller of a library expects of a wrong value or file.

::

    GgufHubError                     exit code 1
    ├── UsageError *                 exit code 2: a value that can never be right
    │   ├── GrammarError             a grammar or JSON schema that cannot be followed
    │   └── TokenIdError             a token id that the model does not have
    ├── CatalogError                 catalog.yaml: all problems, each with its place
    ├── ModelNotFoundError           a model argument that names nothing (near names in the hint)
    ├── GgufError *                  no sound GGUF; carries ``path`` and ``issues``
    │   └── UnsupportedGgufError     sound, but not something that this version can use
    ├── CheckpointError              a checkpoint folder that cannot be converted: all problems
    ├── TokenizerError               text or vocabulary that the tokenizer cannot work with
    ├── ChatTemplateError *          a chat template that is wrong, hostile, or refuses
    ├── ResourceError                memory or threads that the system does not give
    ├── GpuError                     no GPU, or one that refuses something or was lost
    │   ├── GpuMemoryError           memory that a GPU does not give
    │   └── CacheLostError           it failed; the model goes on without it, from the beginning
    ├── ClusterError                 machines of a cluster: not there, too small, of another version
    ├── ProgramError                 steps that could leave their memory: a fault of gguf-hub itself
    ├── ContextFullError             more tokens than the context holds
    ├── BusyError                    the server has as many requests as it takes
    │   └── UnavailableError         the model of a request is not loaded, and not soon
    ├── BudgetError                  input that takes more CPU time or memory than it may
    ├── HubError                     carries ``repo_id``
    │   ├── HubUnreachableError      no network, no server, a timeout, a busy server
    │   │   └── LinkRefusedError     a signed link that has expired, or is used too much
    │   ├── FileChangedError         other bytes than the listing named, by now
    │   ├── RepoNotFoundError
    │   ├── GatedRepoError           needs a token or an accepted licence
    │   ├── RevisionNotFoundError
    │   └── RemoteFileNotFoundError  near names in the hint
    └── DownloadError                carries ``path``
        ├── DiskFullError
        ├── ChecksumError            the bytes are not those that the hub announces
        └── LockedError              another process is at it
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def did_you_mean(names: Sequence[str]) -> str:
    """Return the end of a message for near names, e.g. ``": did you mean `x` or `y`?"``."""
    return f": did you mean {' or '.join(f'`{name}`' for name in names)}?" if names else ""


class GgufHubError(Exception):
    """Root of the tree.

    Args:
        message: What is wrong, where, expected and found; lower case, no full stop at the end.
        hint: The next step, or None.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(GgufHubError, ValueError):
    """A value that can never be right, whatever the machine or the hub says."""

    exit_code = 2


class GrammarError(UsageError):
    """A grammar or JSON schema with an error, or one that a grammar cannot express."""


class TokenIdError(UsageError):
    """A token id that the model does not have.

    Args:
        token_id: The id.
        position: Where it stands in the text, from 0.
        n_vocab: How many tokens the model has.
    """

    def __init__(self, token_id: int, position: int, n_vocab: int) -> None:
        super().__init__(f"token id {token_id} at position {position}: expected [0, {n_vocab - 1}]")
        self.token_id, self.position, self.n_vocab = token_id, position, n_vocab


class CatalogError(GgufHubError):
    """A catalog that cannot be read; ``issues`` lists every problem as ``place: problem``."""

    def __init__(self, path: Path | str, issues: Sequence[str], *, hint: str | None = None) -> None:
        lines = "\n".join(f"  {issue}" for issue in issues)
        count = "1 problem" if len(issues) == 1 else f"{len(issues)} problems"
        super().__init__(f"catalog `{path}`: {count}\n{lines}", hint=hint)
        self.path = Path(path)
        self.issues = tuple(issues)


class ModelNotFoundError(GgufHubError):
    """A model argument that names no file, no catalog quant and no repository."""


class GgufError(GgufHubError, ValueError):
    """A file that is not a sound GGUF.

    Args:
        message: One line that names the file and its first or only problem.
        path: The file, or None for bytes that have none.
        issues: All problems as text, when more than one was collected.
    """

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        issues: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.issues = tuple(issues)


class UnsupportedGgufError(GgufError):
    """A sound GGUF that this version cannot use (architecture, tensor type, tokenizer)."""


class CheckpointError(GgufHubError):
    """A checkpoint that cannot be converted; ``issues`` lists every problem as ``place: problem``.

    Args:
        path: The folder, or the file in it.
        issues: What is wrong; one is put in the same line, several as a list.
        hint: The next step, or None.
    """

    def __init__(self, path: Path | str, issues: Sequence[str], *, hint: str | None = None) -> None:
        shown = [*issues[:20], *([f"... and {len(issues) - 20} more"] if len(issues) > 20 else [])]
        lines = "\n".join(f"  {issue}" for issue in shown)
        text = issues[0] if len(issues) == 1 else f"{len(issues)} problems\n{lines}"
        super().__init__(f"`{path}`: {text}", hint=hint)
        self.path = Path(path)
        self.issues = tuple(issues)


class TokenizerError(GgufHubError):
    """Text or a vocabulary that the tokenizer cannot work with."""


class ChatTemplateError(GgufHubError, ValueError):
    """A chat template that has an error, asks for too much, or refuses the conversation."""


class ResourceError(GgufHubError):
    """Memory or threads that the system does not give."""


class GpuError(GgufHubError):
    """A GPU that is not there, whose driver refuses something, or that was lost."""


class GpuMemoryError(GpuError):
    """Memory that a GPU does not give."""


class CacheLostError(GpuError):
    """A GPU or a machine failed and the model goes on without it; its caches are computed anew."""


class ClusterError(GgufHubError):
    """Machines that are not there, hold too little, or have another version or another file."""


class ProgramError(GgufHubError):
    """A program of steps that could leave its memory: a fault of gguf-hub itself, never run."""


class ContextFullError(GgufHubError):
    """More tokens than the context holds.

    Args:
        message: As for every error.
        n_tokens: How many there are, or at least; None where that was not counted.
        n_ctx: What the context holds.
        hint: The next step, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        n_tokens: int | None = None,
        n_ctx: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.n_tokens = n_tokens
        self.n_ctx = n_ctx


class BusyError(GgufHubError):
    """The server has as many requests waiting as it takes; ask again later."""


class UnavailableError(BusyError):
    """A server that stops, or one of its models that cannot answer now; ask later, or another."""


class BudgetError(GgufHubError):
    """Input from outside that takes more CPU time or memory than it may."""


class HubError(GgufHubError):
    """The hub said no, or said nothing."""

    def __init__(
        self, message: str, *, repo_id: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.repo_id = repo_id


class HubUnreachableError(HubError):
    """No network, no server, a timeout, or a server that is too busy.

    Args:
        message: As for every error.
        retry_after_s: When another try makes sense (0: soon, at our own pace); None where it
            does not, because nothing answers at all.
    """

    def __init__(
        self,
        message: str,
        *,
        repo_id: str | None = None,
        retry_after_s: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, repo_id=repo_id, hint=hint)
        self.retry_after_s = retry_after_s


class OfflineModeError(HubUnreachableError):
    """Offline mode forbids the request: another try makes no sense."""


class LinkRefusedError(HubUnreachableError):
    """A file host refuses its signed link: it has expired, or too many connections use it."""


class FileChangedError(HubError):
    """The hub serves other bytes than those that it listed."""


class RepoNotFoundError(HubError):
    """No such repository, or a private one without a token."""


class GatedRepoError(HubError):
    """The repository wants a token, or its licence accepted."""


class RevisionNotFoundError(HubError):
    """The repository has no such branch, tag or commit."""


class RemoteFileNotFoundError(HubError):
    """The repository has no such file."""


class DownloadError(GgufHubError):
    """A download that could not be finished; nothing was left under the final name."""

    def __init__(
        self, message: str, *, path: Path | str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class DiskFullError(DownloadError):
    """Not enough space for what is still to come."""


class ChecksumError(DownloadError):
    """The bytes are not those that the hub announces."""


class LockedError(DownloadError):
    """Another process works on the same file."""
