"""``pick --cluster`` and ``pick --node``: which file for several machines, and where it goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.cli.pick.candidates import CandidateSet
    from gguf_hub.hub.fit import ClusterNode, ClusterPlan, Constraints
    from gguf_hub.hub.fit.cluster_choice import ClusterFit, ClusterPick

_KEYS = "ram=SIZE[,bw=GB/s][,cores=N][,link=RATE][,isa=NAME][,name=NAME]"


class Node(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A machine that is described: ``ram=16GB,bw=40,cores=8``."""

    name = "node"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows."""
        return _KEYS

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        """Return the fields."""
        from gguf_hub.errors import UsageError

        if isinstance(value, dict):
            return value
        fields = dict(part.partition("=")[::2] for part in str(value).split(","))
        known = {"ram", "bw", "cores", "link", "isa", "name"}
        if "ram" not in fields or not fields.keys() <= known:
            raise UsageError(f"--node {value}: expected {_KEYS}",
                             hint="for example `--node ram=16GB,bw=40,cores=8`")  # fmt: skip
        return fields


def described_nodes(specs: Sequence[dict[str, str]]) -> list[ClusterNode]:
    """Return machines of ``--node``; those that are not named are numbered.

    Raises:
        UsageError: A value is wrong, or two have one name.
    """
    nodes = [_node(spec, f"node-{i + 1}") for i, spec in enumerate(specs)]
    names = [node.name for node in nodes]
    if twice := [name for name in names if names.count(name) > 1]:
        from gguf_hub.errors import UsageError

        raise UsageError(f"--node: two machines are called `{twice[0]}`")
    return nodes


def _node(spec: dict[str, str], name: str) -> ClusterNode:
    from gguf_hub.cli.options import SIZE
    from gguf_hub.cli.pick.machines import RATE
    from gguf_hub.errors import UsageError
    from gguf_hub.hub.fit import ClusterNode, Machine
    from gguf_hub.hub.fit.cluster import LINK_BYTES_PER_S
    from gguf_hub.hub.fit.rates import RUNNER

    def read(key: str, kind: click.ParamType) -> Any:  # type: ignore[type-arg]
        """Convert a value of ``--node``; an error names its key."""
        try:
            return kind.convert(spec[key], None, None)
        except UsageError as error:
            raise UsageError(f"--node {key}: {error.message}", hint=error.hint) from None

    cores, isa = spec.get("cores", "8"), spec.get("isa", "avx2")
    if not (cores.isascii() and cores.isdecimal() and 0 < int(cores) < 10_000):
        raise UsageError(f"--node cores={cores}: expected a number of cores")
    if isa not in RUNNER:
        raise UsageError(f"--node isa={isa}: expected one of {', '.join(RUNNER)}")
    machine = Machine(
        ram_bytes=read("ram", SIZE),
        n_threads=int(cores),
        isa=isa,
        ram_bytes_per_s=read("bw", RATE) if "bw" in spec else None,
    )
    link = read("link", RATE) if "link" in spec else LINK_BYTES_PER_S
    return ClusterNode(spec.get("name", name), machine, link)


def cluster_nodes(text: str) -> list[ClusterNode]:
    """Return the machines of a running cluster.

    Raises:
        UsageError: Its name is none, or names processes of this machine.
        ClusterError: Nobody is there, or no machine answers.
    """
    from gguf_hub.api.cluster.address import check_address, is_local
    from gguf_hub.api.cluster.membership import cluster_facts
    from gguf_hub.api.cluster.planning import nodes_of
    from gguf_hub.errors import UsageError

    check_address(text)
    if is_local(text):
        raise UsageError(f"--cluster {text}: processes of one machine have no memory of their own",
                         hint="describe machines with `--node ram=16GB,bw=40`")  # fmt: skip
    return nodes_of(cluster_facts(text))


def pick_on_cluster(
    candidates: CandidateSet, nodes: Sequence[ClusterNode], constraints: Constraints,
    *, as_json: bool, explain: bool,
) -> int:  # fmt: skip
    """Choose and print; return the exit code."""
    from gguf_hub.cli.pick.on_disk import on_disk
    from gguf_hub.hub.fit.cluster_choice import pick_for_cluster

    files = [model.file for model in candidates.models]
    are_on_disk = on_disk(candidates.repo_id, [file.filenames for file in files])
    pick = pick_for_cluster(files, nodes, constraints, are_on_disk)
    if as_json:
        console.print_json(report(pick, nodes))
    else:
        _print_nodes(nodes, constraints)
        _print_files(pick)
        if pick.chosen:
            _print_plan(pick.chosen, nodes, explain=explain)
        else:
            console.say(f"\n{_why_none(pick)}")
    for note in candidates.notes:
        console.note(f"note: {note}")
    return 0 if pick.chosen else 1


def report(pick: ClusterPick, nodes: Sequence[ClusterNode]) -> dict[str, Any]:
    """Return everything as plain data, with stable keys."""
    return {
        "n_ctx": pick.constraints.n_ctx,
        "kv_type": pick.constraints.kv_type,
        "policy": pick.constraints.policy,
        "nodes": [
            {
                "name": node.name,
                "ram_bytes": node.machine.ram_bytes,
                "limit_bytes": pick.constraints.limit_of(node.machine),
                "ram_bytes_per_s": node.machine.ram_bytes_per_s,
                "n_threads": node.machine.n_threads,
                "link_bytes_per_s": node.link_bytes_per_s,
            }
            for node in nodes
        ],
        "recommended": pick.chosen.fit.facts.quant if pick.chosen else None,
        "files": [_file_report(each) for each in pick.fits],
    }


def _file_report(each: ClusterFit) -> dict[str, Any]:
    fit, plan = each.fit, each.plan
    return {
        "quant": fit.facts.quant,
        "size_bytes": fit.facts.size_bytes,
        "verdict": fit.verdict.value,
        "tok_per_s": fit.speed.about_tok_per_s if fit.speed else None,
        "hop_s": plan.hop_s,
        "lacking_bytes": plan.lacking_bytes,
        "loss": fit.loss.share if fit.loss else None,
        "stages": [vars(stage) for stage in plan.stages],
    }


def _print_nodes(nodes: Sequence[ClusterNode], constraints: Constraints) -> None:
    from gguf_hub.units import format_gb

    for node in nodes:
        machine = node.machine
        rate = f"reads {machine.ram_bytes_per_s / 1e9:.1f} GB/s" if machine.ram_bytes_per_s else (
            "read speed not known")  # fmt: skip
        console.note(
            f"{node.name}: {format_gb(machine.ram_bytes)} of RAM, "
            f"{format_gb(constraints.reserve_of(machine))} left for other programs, {rate} on "
            f"{machine.n_threads} thread{'s' * (machine.n_threads != 1)}"
        )
    console.note("")


def _print_files(pick: ClusterPick) -> None:
    from gguf_hub.hub.fit.choice import tok_per_s
    from gguf_hub.units import format_gb

    rows = []
    for each in pick.fits:
        fit, plan = each.fit, each.plan
        n = len(plan.stages)
        verdict = f"{n} machine{'s' * (n != 1)}" if n else fit.verdict.value
        if plan.lacking_bytes:
            verdict = f"lacks {format_gb(plan.lacking_bytes)}"
        rows.append([
            console.style(fit.facts.quant, bold=each is pick.chosen),
            format_gb(fit.facts.size_bytes),
            console.style(verdict, "green" if n else "red"),
            f"~{tok_per_s(fit.tok_per_s)}" if fit.speed else "-",
            f"{fit.loss.share * 100:.1f} %" if fit.loss else "-",
            "<" if each is pick.chosen else "",
        ])  # fmt: skip
    console.print_table(rows, ["quant", "size", "fits", "tok/s", "loss", ""],
                        align=["left", "right", "left", "right", "right", "left"])  # fmt: skip


def _print_plan(each: ClusterFit, nodes: Sequence[ClusterNode], *, explain: bool) -> None:
    from gguf_hub.units import format_gb

    console.say(f"\n{each.fit.facts.quant} goes to:")
    rows = [
        [stage.node, _parts(stage), format_gb(stage.weights_bytes),
         f"{format_gb(stage.ram_bytes)} of {format_gb(stage.limit_bytes)}",
         f"{stage.token_s * 1e3:.1f} ms"]
        for stage in each.plan.stages
    ]  # fmt: skip
    console.print_table(rows, ["machine", "holds", "weights", "RAM", "a token"],
                        align=["left", "left", "right", "right", "right"])  # fmt: skip
    if explain:
        _explain(each.plan, nodes)


def _parts(stage: Any) -> str:
    parts = ["embeddings"] * stage.has_embedding
    if stage.end > stage.first:
        parts.append(f"layers {stage.first} to {stage.end - 1}")
    return ", ".join([*parts, *["head"] * stage.has_head])


def _explain(plan: ClusterPlan, nodes: Sequence[ClusterNode]) -> None:
    from gguf_hub.units import format_gb

    for stage in plan.stages:
        console.say(f"  {stage.node:<12}{format_gb(stage.ram_bytes):>11}  "
                    f"weights {format_gb(stage.weights_bytes)}, cache "
                    f"{format_gb(stage.cache_bytes)}, buffers {format_gb(stage.scratch_bytes)}, "
                    f"program {format_gb(stage.program_bytes)}")  # fmt: skip
    computing_s = plan.token_s - plan.hop_s
    console.say(f"  {'computing':<12}{computing_s * 1e3:>8.1f} ms  machines take turns: the sum")
    console.say(f"  {'network':<12}{plan.hop_s * 1e3:>8.1f} ms  {len(plan.stages)} hops, the "
                "last one back to where the text is written")  # fmt: skip
    console.say(f"  {'a token':<12}{plan.token_s * 1e3:>8.1f} ms")
    unused = [n.name for n in nodes if n.name not in {s.node for s in plan.stages}]
    if unused:
        console.say(f"  not used: {', '.join(unused)}: fewer machines hold it")


def _why_none(pick: ClusterPick) -> str:
    from gguf_hub.units import format_gb

    short = [each for each in pick.fits if each.plan.lacking_bytes]
    if not short:
        return "none of the files runs in gguf-hub"
    least = min(short, key=lambda each: each.plan.lacking_bytes)
    return (f"no file fits: {least.fit.facts.quant}, which is nearest, lacks "
            f"{format_gb(least.plan.lacking_bytes)} of RAM")  # fmt: skip
