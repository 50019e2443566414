"""``gguf-hub share``: let other programs use a model without a second copy of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import catalog_option, json_option

if TYPE_CHECKING:
    from gguf_hub.hub.programs.folders import Program
    from gguf_hub.hub.programs.layouts import OllamaExtras, SharedModel
    from gguf_hub.hub.programs.record import Share
    from gguf_hub.hub.resolve import Resolver

KEYS = ("ollama", "lmstudio", "webui", "jan", "gpt4all", "koboldcpp")


@click.command("share")
@click.argument("model", required=False)
@click.option("--with", "key", type=click.Choice(KEYS), help="The program.")
@click.option("--folder", type=click.Path(path_type=Path), metavar="DIR",
              help="Its folder for models, where it is not the usual one.")  # fmt: skip
@click.option("--name", metavar="NAME", help="What the model is called there.")
@click.option("--template", type=click.Path(path_type=Path), metavar="FILE",
              help="For Ollama: template of conversations, in its own language.")  # fmt: skip
@click.option("--copy", "may_copy", is_flag=True, help="Copy the file where no link can be made.")
@click.option("--remove", "is_removed", is_flag=True, help="Take the model back.")
@catalog_option
@json_option
def command(
    model: str | None, key: str | None, is_removed: bool, catalog_path: Path | None,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Let Ollama, LM Studio and others use a model without a copy.

    Puts MODEL where the program looks for models: as a file that shares its blocks, else as a hard
    link, else as a symbolic link; `--copy` allows a copy where none of these can be made.
    `--remove` takes back what was put there, and nothing else. Without MODEL, shows what is shared.

    The folders of Ollama (also OLLAMA_MODELS), LM Studio, text-generation-webui, Jan and GPT4All
    are known; `--folder` names another, and that of KoboldCpp, which has none of its own.
    """
    from gguf_hub.cli.models import make_resolver
    from gguf_hub.hub.programs.folders import find_program
    from gguf_hub.hub.programs.record import ShareRecord

    record = ShareRecord()
    if model is None:
        if key or is_removed or any(options.values()):
            raise click.UsageError("Missing argument 'MODEL'.")
        _show(record.shares(), as_json)
        return
    resolver = make_resolver(catalog_path)
    program = find_program(key) if key else None
    if is_removed:
        _remove(model, resolver, program, record, as_json)
        return
    if program is None:
        raise click.UsageError(f"name the program: --with {' | '.join(KEYS)}")
    done = _share(model, resolver, program, record, **options)
    if as_json:
        console.print_json(row_of(done))
        return
    _report(done, program)


def _share(
    argument: str, resolver: Resolver, program: Program, record: Any, *, folder: Path | None,
    name: str | None, template: Path | None, may_copy: bool,
) -> Share:  # fmt: skip
    from gguf_hub.hub.programs.layouts import layout_for
    from gguf_hub.hub.programs.sharing import folder_of, share

    if template and program.key != "ollama":
        raise click.UsageError("--template is for --with ollama")
    where = folder_of(program, folder)
    model = _describe(resolver, resolver.local_paths(argument))
    extras = _extras(model, resolver, template) if program.key == "ollama" else None
    layout = layout_for(program, where, model, name, extras)
    return share(
        program, where, model, layout, record, argument=argument, may_copy=may_copy,
        progress=resolver.progress,
    )  # fmt: skip


def _describe(resolver: Resolver, paths: tuple[Path, ...]) -> SharedModel:
    from gguf_hub.errors import GgufError
    from gguf_hub.gguf.reader import gguf_problem
    from gguf_hub.hub.download.inventory import find_local_file
    from gguf_hub.hub.download.quants import quant_of
    from gguf_hub.hub.programs.layouts import SharedModel

    if problem := gguf_problem(paths[0]):
        raise GgufError(f"`{paths[0]}` is no sound GGUF: {problem}", path=paths[0])
    paths = tuple(path.absolute() for path in paths)
    if file := find_local_file(paths[0], resolver.store):
        return SharedModel(paths, file.repo_id, file.filename, file.quant)
    if model := resolver.foreign.at(paths[0]):
        quant = model.quant or quant_of(model.filename)
        return SharedModel(paths, model.repo_id, model.filename, quant)
    return SharedModel(paths, None, paths[0].name, quant_of(paths[0].name))


def _extras(model: SharedModel, resolver: Resolver, template: Path | None) -> OllamaExtras:
    """Read what Ollama wants to know of a file; its SHA-256 is computed if it is not on record."""
    from gguf_hub.hub.download.digest import sha256_file
    from gguf_hub.hub.programs.describe import read_extras, read_template
    from gguf_hub.oserrors import translate_os_errors

    path = model.paths[0]
    text = read_template(template) if template else None
    known = resolver.store.find_verified(path)
    with translate_os_errors(f"cannot read `{path}`"):
        sha256 = known.sha256 if known else sha256_file(path, progress=resolver.progress)
    extras, is_unknown = read_extras(path, sha256, text)
    if is_unknown:
        console.warn("this model's conversations are written in a way that is not known here")
        console.note("hint: `--template FILE` gives Ollama one; without it, it sends texts bare")
    return extras


def _remove(
    argument: str, resolver: Resolver, program: Program | None, record: Any, as_json: bool
) -> None:
    from gguf_hub.errors import GgufHubError
    from gguf_hub.hub.programs.sharing import find_shares, take_back

    try:
        paths = resolver.local_paths(argument)
    except GgufHubError:
        paths = ()  # the model may be gone by now; the record knows what it was called
    shares = find_shares(record, argument, paths, program)
    if not shares:
        whom = f" with {program.title}" if program else ""
        raise GgufHubError(f"`{argument}` is not shared{whom}",
                           hint="`gguf-hub share` shows what is")  # fmt: skip
    for each in shares:
        for path in take_back(each, record):
            console.warn(f"`{path}` stays: it is not what was put there, or another model needs it")
    if as_json:
        console.print_json({"removed": [row_of(each) for each in shares]})
        return
    for each in shares:
        console.say(f"{each.program}: {each.name}")
    console.note("taken back")


def _report(done: Share, program: Program) -> None:
    from gguf_hub.hub.programs.sharing import describe_kinds

    console.say(done.name)
    console.note(f"{program.title} has it now as `{done.name}` ({describe_kinds(done)})")
    if "copy" in describe_kinds(done):
        console.note("the copy takes as much space as the model itself")


def _show(shares: list[Share], as_json: bool) -> None:
    from gguf_hub.hub.programs.sharing import describe_kinds

    if as_json:
        console.print_json({"shares": [row_of(each) for each in shares]})
        return
    if not shares:
        console.note("nothing is shared: `gguf-hub share MODEL --with ollama` shares a model")
        return
    rows = [[each.program, each.name, describe_kinds(each), str(each.sources[0])]
            for each in shares]  # fmt: skip
    console.print_table(rows, ["program", "name", "kind", "file"])


def row_of(share: Share) -> dict[str, Any]:
    """Return a share as plain data, with stable keys."""
    return {
        "program": share.program,
        "folder": str(share.folder),
        "name": share.name,
        "model": share.model,
        "sources": [str(path) for path in share.sources],
        "files": [{"path": str(file.path), "kind": file.kind} for file in share.files],
        "shared_at": share.shared_at,
    }
