"""``gguf-hub pick``: pick a quant for this machine, and explain why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.models import DEFAULT_N_CTX
from gguf_hub.cli.options import SIZE, catalog_option, json_option, offline_option
from gguf_hub.cli.pick.machines import DISK, RATE
from gguf_hub.cli.pick.pick_cluster import Node

if TYPE_CHECKING:
    from gguf_hub.cli.pick.candidates import CandidateSet
    from gguf_hub.cli.pick.machines import DetectedMachine
    from gguf_hub.hub.fit import Constraints, EngineName, Pick

MAX_N_CTX = 2**20


@click.command("pick")
@click.argument("models", nargs=-1, metavar="[ORG/REPO|FILE]...")
@click.option("--ram", type=SIZE, help="RAM of the machine to pick for; a bare number is GB.")
@click.option("--vram", type=SIZE, help="VRAM of that machine; with --ram, none unless given.")
@click.option("--gpu-bandwidth", type=RATE, help="Memory bandwidth of its GPU, e.g. 936GB/s.")
@click.option(
    "--disk", type=DISK, multiple=True, help="Its free disk space (500GB) or read speed (3.5GB/s)."
)
@click.option(
    "--ctx",
    "n_ctx",
    type=click.IntRange(1, MAX_N_CTX),
    help=f"Context size in tokens; default: {DEFAULT_N_CTX}, or the trained one where it is less.",
)
@click.option(
    "--kv-type",
    type=click.Choice(["f16", "q8_0", "f32"]),
    default="f16",
    show_default=True,
    help="K/V cache data type.",
)
@click.option(
    "-fa",
    "--flash-attn",
    type=click.Choice(["on", "off", "auto"]),
    default="auto",
    show_default=True,
    help="Flash attention of llama.cpp; auto: on.",
)
@click.option(
    "--reserve", type=SIZE, help="RAM left for other programs; default: a tenth, at most 1.5 GB."
)
@click.option("--cluster", metavar="ADDRESS", help="Pick for a cluster: HOST:PORT, or auto.")
@click.option("--node", "nodes", type=Node(), multiple=True,
              help="Pick for machines like this one together; repeat it for each.")  # fmt: skip
@click.option("--min-tok-per-s", type=click.FloatRange(0), help="Exclude files slower than this.")
@click.option(
    "--policy",
    type=click.Choice(["balanced", "quality", "fast"]),
    default="balanced",
    show_default=True,
    help="How to choose among the files that fit.",
)
@click.option(
    "--for",
    "engine",
    type=click.Choice(["gguf-hub", "llama.cpp"]),
    help="Program that will run the file; default: llama.cpp with a GPU that gguf-hub cannot use, "
    "or with --vram; else gguf-hub.",
)
@click.option(
    "--explain", is_flag=True, help="Show how memory and speed of the chosen file add up."
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png|svg",
    help="Plot quality against memory (extra `plot`).",
)
@click.option("--dark", is_flag=True, help="Plot on a dark background.")
@click.option("--no-probe", is_flag=True, help="Do not measure speeds; use remembered ones.")
@click.option("--refresh", is_flag=True, help="Read headers on the Hub again; forget known ones.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the repository.")
@click.option("--token", metavar="TOKEN", help="Hugging Face token (also HF_TOKEN).")
@offline_option
@catalog_option
@json_option
def command(models: tuple[str, ...], **options: Any) -> int:
    """Pick the right quant for this machine.

    Compares the catalog's files, those of a repository (by their headers), or local files and
    directories. Available memory is that of this machine or its container; a file needs its
    weights, KV cache, compute buffers and the program itself at the given context size.

    balanced: files within 1 % of the best perplexity count as equal; one that is on disk already
    is preferred among them, then the model card's recommendation, then the smaller file. quality:
    the best. fast: the fewest bytes read per token within 10 % of the best. Perplexities are
    published ones; losses with ~ are estimated.

    Exit code 1 if no file fits.
    """
    from gguf_hub.cli.pick import pick_output as output
    from gguf_hub.cli.pick.candidates import find_candidates
    from gguf_hub.cli.pick.machines import MachineOverrides, detect_machine
    from gguf_hub.cli.pick.made_to_measure import made_to_measure
    from gguf_hub.cli.pick.pick_commands import commands_for

    if options["plot"]:
        from gguf_hub.cli.pick.pick_plot import check_plot

        check_plot(options["plot"])
    candidates = find_candidates(
        models,
        catalog_path=options["catalog_path"],
        revision=options["revision"],
        token=options["token"],
        refresh=options["refresh"],
    )
    options["n_ctx"] = options["n_ctx"] or _usual_n_ctx(candidates)
    if options["cluster"] is not None or options["nodes"]:
        return _pick_on_cluster(candidates, options)
    overrides = MachineOverrides(
        options["ram"],
        options["vram"],
        options["gpu_bandwidth"],
        options["disk"],
        may_probe=not options["no_probe"],
        reserve_bytes=options["reserve"],
    )
    detected = detect_machine(overrides)
    pick, detected = judge(candidates, detected, constraints_of(options, detected))
    commands = commands_for(candidates, pick)
    made = made_to_measure(candidates, pick, is_this=overrides.keeps_gpu)
    if options["as_json"]:
        console.print_json(output.report(candidates, pick, detected, commands, made))
    else:
        output.print_machine(detected, pick, is_this=options["ram"] is None)
        output.print_pick(pick, commands, made)
        if options["explain"]:
            output.print_explained(pick)
    output.print_notes(candidates, pick, detected)
    if made and not options["as_json"]:
        console.note(f"\nmade to measure: {made.command}")
    if options["plot"]:
        from gguf_hub.cli.pick.pick_plot import draw

        draw(pick, options["plot"], title=candidates.repo_id, is_dark=options["dark"])
        console.note(f"\nplot written: {options['plot']}")
    return 0 if pick.chosen else 1


def _usual_n_ctx(candidates: CandidateSet) -> int:
    """Return the context of who names none: no model is planned beyond what it was trained on."""
    trained = [model.file.shape.n_ctx_train for model in candidates.models]
    return min(DEFAULT_N_CTX, max(trained, default=DEFAULT_N_CTX))


def _pick_on_cluster(candidates: CandidateSet, options: dict[str, Any]) -> int:
    from gguf_hub.cli.pick.pick_cluster import cluster_nodes, described_nodes, pick_on_cluster
    from gguf_hub.errors import UsageError
    from gguf_hub.hub.fit import Constraints

    for name in ("ram", "vram", "gpu_bandwidth", "disk", "plot"):
        if options[name]:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"`{flag}` is about one machine: it cannot go with several",
                             hint="describe each with `--node ram=16GB,bw=40`")  # fmt: skip
    if options["engine"] == "llama.cpp":
        raise UsageError("`--for llama.cpp`: clusters run gguf-hub")
    nodes = described_nodes(options["nodes"])
    if options["cluster"] is not None:
        nodes += cluster_nodes(options["cluster"])
    constraints = Constraints(
        n_ctx=options["n_ctx"],
        kv_type=options["kv_type"],
        policy=options["policy"],
        reserve_bytes=options["reserve"],
        min_tok_per_s=options["min_tok_per_s"],
    )
    return pick_on_cluster(
        candidates, nodes, constraints, as_json=options["as_json"], explain=options["explain"]
    )


def constraints_of(options: dict[str, Any], detected: DetectedMachine) -> Constraints:
    """Return what a file must satisfy; the program is llama.cpp where only that uses the GPU."""
    from gguf_hub.errors import UsageError
    from gguf_hub.hub.fit import Constraints

    machine = detected.machine
    is_ours = not machine.vram_bytes or (machine.can_offload and options["vram"] is None)
    engine: EngineName = options["engine"] or ("gguf-hub" if is_ours else "llama.cpp")
    kv_type, flash_attn = options["kv_type"], options["flash_attn"]
    if (engine, kv_type, flash_attn) == ("llama.cpp", "q8_0", "off"):
        raise UsageError(
            "llama.cpp keeps values as q8_0 only with flash attention: found `--flash-attn off`",
            hint="`--flash-attn auto`, or `--kv-type f16`",
        )
    return Constraints(
        n_ctx=options["n_ctx"],
        kv_type=kv_type,
        engine=engine,
        flash_attn=flash_attn,
        policy=options["policy"],
        reserve_bytes=options["reserve"],
        min_tok_per_s=options["min_tok_per_s"],
    )


def judge(
    candidates: CandidateSet, detected: DetectedMachine, constraints: Constraints
) -> tuple[Pick, DetectedMachine]:
    """Rate all candidates, with the speeds of GPU and disk where one would run there."""
    from gguf_hub.cli.pick.on_disk import on_disk
    from gguf_hub.hub import fit

    if constraints.engine == "gguf-hub" and constraints.uses_gpu(detected.machine):
        detected = detected.with_gpu()
    files = [model.file for model in candidates.models]
    are_on_disk = on_disk(candidates.repo_id, [file.filenames for file in files])
    pick = fit.pick(files, detected.machine, constraints, are_on_disk)
    if any(fit_result.verdict is fit.Verdict.DISK for fit_result in pick.fits):
        with_disk = detected.with_disk()
        if with_disk is not detected:
            return fit.pick(files, with_disk.machine, constraints, are_on_disk), with_disk
    return pick, detected
