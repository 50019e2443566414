"""Target and destination of ``gguf-hub download``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console
from gguf_hub.paths import expand_user

if TYPE_CHECKING:
    from gguf_hub.hub.download.destinations import Destination
    from gguf_hub.hub.download.refs import Target
    from gguf_hub.hub.resolve import Resolver


def target_from(
    repo: str | None, filenames: tuple[str, ...], options: dict[str, Any], resolver: Resolver
) -> Target:
    """Return the target of arguments and options.

    Raises:
        GgufHubError: They name nothing, or contradict each other.
    """
    from gguf_hub.cli.models import pick_file
    from gguf_hub.hub.download.plan import FileSelector
    from gguf_hub.hub.download.refs import Target, target_of_file

    catalog = resolver.catalog
    patterns = {"include": options["include"], "exclude": options["exclude"]}
    if repo is not None:
        target = _with_names(_parse_target(repo, resolver), repo, filenames, resolver)
    elif any(patterns.values()):
        target = Target(catalog.repo_id, FileSelector(), catalog.revision)
    else:
        target = target_of_file(catalog, pick_file(catalog, is_run_here=False))
    target = replace(target, selector=replace(target.selector, **patterns))
    if target.selector.has_idle_patterns:
        console.warn("--include and --exclude are ignored with file names, as in `hf download`")
    return replace(target, revision=options["revision"] or target.revision)


def _with_names(
    target: Target, repo: str, filenames: tuple[str, ...], resolver: Resolver
) -> Target:
    from gguf_hub.errors import UsageError

    if not filenames:
        return target
    if target.selector.quant is not None:
        raise UsageError(
            f"`{repo}` names a quant, but {len(filenames)} file names follow: expected one of both",
            hint=f"either `{repo}`, or `{target.repo_id} {filenames[0]}`",
        )
    if target.selector.filenames and target.repo_id == resolver.catalog.repo_id and "/" not in repo:
        # if the first is a quant of the catalog, so are the others
        others = [_parse_target(name, resolver) for name in filenames]
        filenames = tuple(name for other in others for name in other.selector.filenames)
    names = target.selector.filenames + filenames
    return replace(target, selector=replace(target.selector, filenames=names))


def _parse_target(argument: str, resolver: Resolver) -> Target:
    target = resolver.target(argument, is_remote=True)
    assert not isinstance(target, tuple)
    return target


def destination_from(options: dict[str, Any]) -> Destination:
    """Return the destination of the options."""
    from gguf_hub.hub.download.destinations import HfCache, LocalFolder
    from gguf_hub.paths import default_cache_dir

    if options["local_dir"] is not None:
        return LocalFolder(expand_user(options["local_dir"]).absolute())
    return HfCache(expand_user(options["cache_dir"] or default_cache_dir()).absolute())
