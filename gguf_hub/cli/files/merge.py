"""``gguf-hub merge``: the shards or raw parts of a GGUF in one file."""

from __future__ import annotations

from pathlib import Path

import click

from gguf_hub.cli.options import output_options


@click.command("merge")
@click.argument("source", metavar="SHARD|MODEL")
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--compare", is_flag=True, help="Compare every byte before writing OUT.")
@output_options
def command(
    source: str, target: Path, compare: bool, force: bool, no_progress: bool, as_json: bool
) -> None:
    """Merge the shards of a GGUF into one file.

    SHARD is any of them; all must be in the same directory. MODEL is a downloaded set, as
    org/repo:QUANT. Raw parts (`X.gguf.part1of2`,
    `X.gguf-split-a`), which are one file cut by its bytes, are joined in the same way. OUT is
    written completely or not at all; the shards or parts stay.
    """
    from gguf_hub.cli import console
    from gguf_hub.cli.files.outputs import check_output, report
    from gguf_hub.cli.models import make_resolver
    from gguf_hub.errors import UsageError
    from gguf_hub.gguf.joining import join_raw_parts
    from gguf_hub.gguf.raw_parts import find_raw_parts, parse_raw_part
    from gguf_hub.gguf.shard_names import find_shards
    from gguf_hub.gguf.shards import plan_merge
    from gguf_hub.hub.download.names import holds_gguf

    shard = Path(source)
    if not holds_gguf(shard.name):
        shard = make_resolver(None).local_paths(source)[0]
    are_raw = parse_raw_part(shard.name) is not None
    plan = None if are_raw else plan_merge(shard)
    paths = find_shards(shard) if plan else find_raw_parts(shard)
    if target.is_dir():
        raise UsageError(f"`{target}` is a folder: name the file to write")
    target = check_output(shard, target, paths, force=force)
    progress = console.ConsoleProgress(enabled=not no_progress)
    if plan:
        plan.write(target, compare=compare, progress=progress)
        n_tensors, size_bytes, changes = len(plan.parts), plan.size_bytes, plan.changes[:1]
    else:
        n_tensors, size_bytes = join_raw_parts(paths, target, compare=compare, progress=progress)
        changes = (f"{len(paths)} raw parts become one file of {n_tensors:,} tensors",)
    data = {
        "path": str(target),
        "shards": [str(path) for path in paths],
        "n_tensors": n_tensors,
        "size_bytes": size_bytes,
    }
    report(data, changes, target, as_json=as_json)
