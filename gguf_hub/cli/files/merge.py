"""``gguf-hub merge``: the shards of a GGUF in one file."""

from __future__ import annotations

from pathlib import Path

import click

from gguf_hub.cli.options import output_options


@click.command("merge")
@click.argument("source", metavar="SHARD", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--compare", is_flag=True, help="Compare every byte before writing OUT.")
@output_options
def command(
    source: Path, target: Path, compare: bool, force: bool, no_progress: bool, as_json: bool
) -> None:
    """Merge the shards of a GGUF into one file.

    SHARD is any of them; all must be in the same directory. OUT is written completely or not at
    all.
    """
    from gguf_hub.cli import console
    from gguf_hub.cli.files.outputs import check_output, report
    from gguf_hub.errors import UsageError
    from gguf_hub.gguf.shard_names import find_shards
    from gguf_hub.gguf.shards import plan_merge

    plan = plan_merge(source)
    if target.is_dir():
        raise UsageError(f"`{target}` is a folder: name the file to write")
    target = check_output(source, target, find_shards(source), force=force)
    plan.write(target, compare=compare, progress=console.ConsoleProgress(enabled=not no_progress))
    data = {
        "path": str(target),
        "shards": [str(path) for path in find_shards(source)],
        "n_tensors": len(plan.parts),
        "size_bytes": plan.size_bytes,
    }
    report(data, plan.changes[:1], target, as_json=as_json)
