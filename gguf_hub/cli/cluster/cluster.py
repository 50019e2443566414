"""``gguf-hub cluster``: this machine as a part of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import SIZE, json_option

if TYPE_CHECKING:
    from gguf_hub.api.cluster.record import Membership


@click.command("cluster")
@click.argument("action", type=click.Choice(["up", "status", "down"]), metavar="up|status|down")
@click.option("--join", "address", metavar="ADDRESS", help="up: join the cluster at HOST:PORT.")
@click.option("--host", metavar="IP", help="up: this machine's address in the cluster.")
@click.option("--port", type=click.IntRange(1, 65535), default=6379, show_default=True,
              help="up: port of a new cluster.")  # fmt: skip
@click.option("--ram", type=SIZE, help="up: RAM that models may take here; default: what is free.")
@click.option("--cluster", "text", default="auto", show_default=True, metavar="ADDRESS",
              help="status: which cluster.")  # fmt: skip
@json_option
def command(action: str, as_json: bool, **options: Any) -> None:
    """Start, show or stop a cluster of machines.

    `up` makes this machine the first of a cluster and prints the command that lets the others join;
    `run --cluster auto` then shares a model's layers out among them. `status` shows machines, and
    which layers they hold now. `down` leaves. Machines prove that they know a token that `up` made;
    what they send is not encrypted (docs/cluster.md).
    """
    if action == "up":
        _up(options, as_json=as_json)
    elif action == "down":
        _down(as_json=as_json)
    else:
        _status(options["text"], as_json=as_json)


def _up(options: dict[str, Any], *, as_json: bool) -> None:
    from dataclasses import asdict

    from gguf_hub.api.cluster.membership import join
    from gguf_hub.api.cluster.tokens import token_path
    from gguf_hub.cli import console

    found = join(
        host=options["host"],
        port=options["port"],
        address=options["address"],
        ram_bytes=options["ram"],
    )
    if as_json:
        console.print_json(asdict(found) | {"token_path": str(token_path())})
        return
    console.note(f"this machine is {found.host} in the cluster at {found.address}")
    if options["address"] is None:
        _print_joining(found)
    console.note("\n`gguf-hub run MODEL --cluster auto` computes on all of it; `gguf-hub cluster "
                 "down` leaves")  # fmt: skip


def _print_joining(found: Membership) -> None:
    """Print the one command for the other machines; it holds the token, which they need once."""
    from gguf_hub.api.cluster.tokens import TOKEN_VARIABLE, read_token
    from gguf_hub.cli import console

    console.note("on each of the others, with the same versions of gguf-hub, Python and Ray:\n")
    console.say(f"{TOKEN_VARIABLE}={read_token()} gguf-hub cluster up --join {found.address}")


def _down(*, as_json: bool) -> None:
    from gguf_hub.api.cluster.membership import leave
    from gguf_hub.cli import console

    left = leave()
    if as_json:
        console.print_json({"left": left.address if left else None})
    elif left:
        console.note(f"left the cluster at {left.address}")
    else:
        console.note("this machine belongs to no cluster")


def _status(text: str, *, as_json: bool) -> None:
    from gguf_hub.api.cluster.address import check_address
    from gguf_hub.api.cluster.membership import cluster_report
    from gguf_hub.cli import console

    check_address(text)
    report = cluster_report(text)
    if as_json:
        console.print_json(report)
        return
    titles = ["node", "machine", "RAM", "threads", "GB/s", "layers", "held", "tok/s"]
    align = ["left", "left", "right", "right", "right", "left", "right", "right"]
    console.print_table([row for node in report["nodes"] for row in _rows(node)], titles,
                        align=align)  # fmt: skip
    console.note(f"\ncluster at {report['address']}")


def _rows(node: dict[str, Any]) -> list[list[str]]:
    """Return a row for each stage of a node, or one without any."""
    from gguf_hub.units import format_gb

    if "problem" in node:
        return [[node["name"], node["host_name"], "", "", "", node["problem"], "", ""]]
    rate = node["ram_bytes_per_s"]
    own = [
        node["name"], node["host_name"], format_gb(node["ram_bytes"]), str(node["n_threads"]),
        f"{rate / 1e9:.1f}" if rate else "",
    ]  # fmt: skip
    if not node["stages"]:
        return [[*own, "", "", ""]]
    return [[*(own if i == 0 else [""] * 5), *_stage_cells(stage)]
            for i, stage in enumerate(node["stages"])]  # fmt: skip


def _stage_cells(stage: dict[str, Any]) -> list[str]:
    from gguf_hub.units import format_gb

    if not stage["layers"]:
        return [f"{stage['model']}: opening", "", ""]
    first, end = stage["layers"]
    held = format_gb(stage["weights_bytes"] + stage["cache_bytes"])
    return [f"{stage['model']}: {first} to {end - 1}", held, f"{stage['tok_per_s']:.1f}"]
