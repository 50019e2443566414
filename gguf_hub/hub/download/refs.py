"""What a model argument means: a path, a quant of the catalog, or something on the hub.

Nothing here asks the hub; a local file that exists always wins.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from urllib.parse import parse_qs, unquote, urlsplit

from gguf_hub.errors import ModelNotFoundError, UsageError, did_you_mean
from gguf_hub.hub.catalog import Catalog, CatalogFile
from gguf_hub.hub.client.endpoint import origin_of, show_origin
from gguf_hub.hub.download.cachedir import entries_of
from gguf_hub.hub.download.names import holds_gguf
from gguf_hub.hub.download.plan import FileSelector
from gguf_hub.hub.download.quants import looks_like_quant
from gguf_hub.paths import expand_user

_NAME = r"[A-Za-z0-9_][\w.-]*"
_REPO = rf"{_NAME}/{_NAME}"
_REVISION = r"[\w./-]+"
# org/repo, then in either order at most one @revision and one :quant
_REPO_QUANT = re.compile(
    rf"(?P<repo>{_REPO})(?:@(?P<rev1>{_REVISION}))?(?::(?P<quant>[\w.-]+))?(?:@(?P<rev2>{_REVISION}))?"
)
_REPO_FILE = re.compile(
    rf"(?P<repo>{_REPO})(?:@(?P<rev1>[\w.%-]+))?/(?P<file>[^@]+?)(?:@(?P<rev2>{_REVISION}))?"
)
# a number is no extension: `v0.1` is a name
_EXTENSION = re.compile(r"\.[A-Za-z]\w*")
_HUB_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_FILE_PAGES = {"resolve", "blob", "raw", "blame", "tree"}
_COMMIT_PAGES = {"tree", "commit", "commits"}
# first part of an address on the hub -> what is there; no owner of models is called so
_OTHER_PAGES = {
    "datasets": "a dataset", "spaces": "a Space", "collections": "a collection",
    "papers": "a paper", "buckets": "a bucket", "docs": "a page of the documentation",
    "blog": "a page of the blog", "api": "an address of the hub's API",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Files of a repository that are wanted; ``revision`` None takes whatever is at hand."""

    repo_id: str
    selector: FileSelector
    revision: str | None = None

    @property
    def text(self) -> str:
        """What a message calls it."""
        at = f" at `{self.revision}`" if self.revision else ""
        if self.selector.filenames:
            names = ", ".join(f"`{name}`" for name in self.selector.filenames)
            return f"{names} of {self.repo_id}{at}"
        quant = f":{self.selector.quant}" if self.selector.quant else ""
        patterns = ", ".join(f"`{glob}`" for glob in self.selector.include)
        return f"{patterns} of {self.repo_id}{at}" if patterns else f"`{self.repo_id}{quant}`{at}"


def target_of_file(catalog: Catalog, *files: CatalogFile) -> Target:
    """Return the target of files of the catalog; its ``main`` is no particular commit."""
    revision = None if catalog.revision == "main" else catalog.revision
    return Target(catalog.repo_id, FileSelector(tuple(file.filename for file in files)), revision)


def require_model(target: Target) -> None:
    """Refuse a file that is no GGUF by its name, before gigabytes of it are fetched.

    Raises:
        UsageError: The target names one.
    """
    for name in target.selector.filenames:
        if not name.endswith("/") and not holds_gguf(name):
            raise UsageError(
                f"`{target.repo_id}/{name}` is not a model: expected the name of a GGUF file",
                hint=f"`gguf-hub list {quote(target.repo_id)}` lists the models beside it",
            )


def parse_ref(
    text: str,
    catalog: Catalog,
    *,
    endpoint: str | None = None,
    is_remote: bool = False,
) -> Path | Target:
    """Return what a model argument names: a file on this machine, or files of a repository.

    Args:
        text: A path; a quant or file name of the catalog (``Q4_K_M``, any case);
            ``org/repo:QUANT``; ``org/repo/file.gguf``, or another file with an extension; either
            with ``@revision``; ``hf://org/repo[@revision]/file``; or a page or download link of
            the hub, also without ``https://`` or with ``:QUANT``.
        catalog: Where catalog quants come from.
        endpoint: A hub whose links are taken too, besides huggingface.co.
        is_remote: Files on this machine do not count: something to download is named.

    Raises:
        ModelNotFoundError: It is none of these; the hint names what is near.
        UsageError: It leads somewhere else, or to something on the hub that is no model.
    """
    # unlike Path's, this test is False for names that no file can have
    if not is_remote and os.path.isfile(path := expand_user(text)):  # noqa: PTH113
        return path
    if not is_remote:
        _require_no_odd_file(path)
    for file in catalog.files:
        if text.lower() in (file.quant.lower(), file.filename.lower()):
            return target_of_file(catalog, file)
    pasted = _unwrap(text)
    if link := _link_of(pasted, endpoint):
        return _parse_link(link, endpoint)
    target = _parse_text(pasted, is_remote=is_remote)
    if target is not None:
        return target
    raise _no_such_quant(pasted, [file.quant for file in catalog.files]) or (
        _no_such_repo(text) if is_remote else _no_such_file(text)
    )


def _require_no_odd_file(path: Path) -> None:
    """Refuse a link that leads nowhere, and what is neither a file nor a folder."""
    if not os.path.lexists(path) or os.path.isdir(path):  # noqa: PTH112 - as above
        return
    if os.path.exists(path):  # noqa: PTH110 - as above
        raise ModelNotFoundError(f"`{path}` is a pipe or a device: expected a file")
    link = next(each for each in (path, *path.parents) if each.is_symlink())
    leads_to = f"a link to `{link.readlink()}`, which is not there"
    raise ModelNotFoundError(
        f"`{path}` is {leads_to}", hint="put the file back there, or name another one"
    )


def _unwrap(text: str) -> str:
    """Return an argument without what is around links in mail and chat."""
    text = text.strip()
    return text[1:-1].strip() if text.startswith("<") and text.endswith(">") else text


def _parse_text(text: str, *, is_remote: bool) -> Target | None:
    """Read what is no link: ``hf://…``, or a repository or file of one as it is."""
    if text.startswith("hf://"):
        return _parse_repo(text.removeprefix("hf://").rstrip("/"), is_uri=True)
    is_local = not is_remote and _is_in_local_folder(text)
    if _is_path_like(text) or (text.endswith("/") and is_local):
        return None
    target = _parse_repo(text.rstrip("/"))
    # as in `notes/today/model.txt`, misspelt; a GGUF's name is more often one on the hub
    return None if is_local and target and _has_other_file(target) else target


def _is_in_local_folder(text: str) -> bool:
    """Return whether the folder of a path is here; with a slash at the end that is the path."""
    return os.path.isdir(os.path.dirname(os.path.expanduser(text)))  # noqa: PTH111, PTH112, PTH120


def _has_other_file(target: Target) -> bool:
    return any(not holds_gguf(name) for name in target.selector.filenames)


def _file(repo_id: str, filename: str, revision: str | None) -> Target:
    return Target(repo_id, FileSelector(filenames=(filename,)), revision)


def _parse_repo(text: str, *, is_uri: bool = False) -> Target | None:
    """Read ``org/repo[@revision][:QUANT]`` or ``org/repo[@revision]/file[@revision]``.

    Args:
        text: The argument.
        is_uri: A revision has no slash: what follows one is a file, whatever its name.

    Raises:
        UsageError: It is something on the hub that is no model.
    """
    if page := _OTHER_PAGES.get(text.partition("/")[0]):
        raise _other_page(text, page)
    match = _REPO_FILE.fullmatch(text)
    if match and (holds_gguf(match["file"]) or _is_file(match, is_uri=is_uri)):
        revision = unquote(match["rev1"]) if match["rev1"] else match["rev2"]
        return _file(match["repo"], match["file"], revision)
    match = _REPO_QUANT.fullmatch(text)
    # a lone `folder/model.gguf` is a path that does not exist, not a repository
    if match is None or (not match["quant"] and holds_gguf(match["repo"])):
        return None
    selector = FileSelector(quant=match["quant"])
    return Target(match["repo"], selector, match["rev1"] or match["rev2"])


def _is_file(match: re.Match[str], *, is_uri: bool) -> bool:
    """Return whether the end is a file with an extension, not of a branch like ``@v1/x.y``."""
    name = match["file"].rpartition("/")[2]
    return (is_uri or not match["rev1"]) and bool(_EXTENSION.search(name))


def _link_of(text: str, endpoint: str | None) -> str | None:
    """Return the link that an argument is, also one without ``https://``; None for none."""
    if re.match(r"https?://", text, re.IGNORECASE):
        return text
    host = text.partition("/")[0].lower()
    own = urlsplit(endpoint or "").netloc.lower()
    return f"https://{text}" if "/" in text and host in {*_HUB_HOSTS, own} - {""} else None


def _parse_link(text: str, endpoint: str | None) -> Target:
    """Read a link to a repository, a folder of it, a file's page or a file's download."""
    path = _path_of_link(text, endpoint)
    parts = [unquote(part) for part in (path or "").strip("/").split("/")]
    if path is None or len(parts) < 2:
        shown = show_origin(text) + ("" if origin_of(text) is None else urlsplit(text).path)
        raise UsageError(  # no password and no signature, which links may hold
            f"`{shown}` is not a link to a model on a Hugging Face hub",
            hint="expected something like https://huggingface.co/org/repo/blob/main/file.gguf",
        )
    repo_id, rest = "/".join(parts[:2]), parts[2:]
    # the hub writes `main` into every link: nobody has chosen it
    revision = rest[1] if len(rest) > 1 and rest[1] != "main" else None
    if len(rest) > 2 and rest[0] in _FILE_PAGES and parts[0] not in _OTHER_PAGES:
        end = "/" if rest[0] == "tree" else ""
        return _file(repo_id, "/".join(rest[2:]) + end, revision)
    file_info = parse_qs(urlsplit(text).query).get("show_file_info")
    if file_info:
        return _file(repo_id, file_info[0], revision)
    if len(rest) == 2 and rest[0] in _COMMIT_PAGES and parts[0] not in _OTHER_PAGES:
        return Target(repo_id, FileSelector(), revision)
    target = _parse_repo("/".join(parts))
    if target is None:
        raise _other_page("/".join(parts), f"a page of `{repo_id}`")
    return target


def _other_page(path: str, what: str) -> UsageError:
    """Return the error for what is on the hub, and no model or file of one."""
    parts = path.split("/")
    repo_id = "/".join(parts[2:4] if parts[:2] == ["api", "models"] else parts[:2])
    if parts[2:3] == ["discussions"]:
        what = f"a discussion of `{repo_id}`"
        change = f"; `--revision refs/pr/{parts[3]}` is that change" if len(parts) > 3 else ""
        hint = f"its files are `{repo_id}`{change}"
    elif parts[0] in _OTHER_PAGES and parts[:2] != ["api", "models"]:
        hint = "name a model as `org/repo`, `org/repo:QUANT` or `org/repo/file.gguf`"
    else:
        hint = f"name the model as `{repo_id}`"
    return UsageError(f"`{path}` is {what}, not a model or one of its files", hint=hint)


def _path_of_link(text: str, endpoint: str | None) -> str | None:
    """Return the path of a link below the address of a hub; None for a link to elsewhere."""
    if origin_of(text) is None:
        return None
    url, own = urlsplit(text), urlsplit(endpoint or "")
    host = url.netloc.rpartition("@")[2].lower()
    if host in _HUB_HOSTS:
        return url.path
    is_own = host == own.netloc.lower() and f"{url.path}/".startswith(f"{own.path}/")
    return url.path[len(own.path) :] if is_own else None


def _is_path_like(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or "\\" in text


def _no_such_quant(text: str, quants: Sequence[str]) -> ModelNotFoundError | None:
    """Return the error for what is written like a quant, but is none of the catalog."""
    if not looks_like_quant(text):
        return None
    near = difflib.get_close_matches(text.upper(), quants, n=2, cutoff=0.5)
    return ModelNotFoundError(
        f"the catalog has no quant `{text}`{did_you_mean(near)}",
        hint=f"it has {', '.join(quants)}; another repository's is written `org/repo:{text}`",
    )


def _no_such_repo(text: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"`{text}` names no repository and no quant of the catalog",
        hint="name a quant of the catalog (`gguf-hub list`), `org/repo`, `org/repo:QUANT` "
        "or `org/repo/file.gguf`",
    )


def _no_such_file(text: str) -> ModelNotFoundError:
    """Return the error for an argument that names nothing, with near names of its folder."""
    path = expand_user(text)
    if os.path.isdir(path):  # noqa: PTH112 - as above
        files = sorted(entry.name for entry in path.iterdir() if holds_gguf(entry.name))
        listed = f"it holds {', '.join(files[:8])}" if files else "it holds no GGUF file"
        return ModelNotFoundError(f"`{text}` is a folder, not a model", hint=listed)
    siblings = [entry.name for entry in entries_of(path.parent) if holds_gguf(entry.name)]
    near = difflib.get_close_matches(path.name, siblings, n=2, cutoff=0.5)
    return ModelNotFoundError(
        f"no model `{text}`: no such file{did_you_mean([str(path.parent / n) for n in near])}",
        hint="name a file, a quant of the catalog (`gguf-hub list`), `org/repo:QUANT` "
        "or `org/repo/file.gguf`",
    )
