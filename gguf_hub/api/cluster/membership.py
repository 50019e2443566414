"""This machine as a part of a cluster: joining, leaving, and what is there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gguf_hub.api.cluster import tokens
from gguf_hub.api.cluster.address import parse_address
from gguf_hub.api.cluster.planning import NodeFacts
from gguf_hub.api.cluster.record import Membership, membership, record_path
from gguf_hub.errors import ClusterError, UsageError
from gguf_hub.files import write_atomically
from gguf_hub.resources.processes import is_running, start_time
from gguf_hub.subprocesses import Process, start_python

START_S = 90.0
STOP_S = 20.0
_STARTED = "Ray runtime started"
_STORE_BYTES = 80 * 2**20  # the least that Ray takes for objects, of which stages make none
_PASSED = (
    *("GGUF_HUB_HOME", "GGUF_HUB_KERNEL_CACHE", "GGUF_HUB_ISA"),
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_*", "RAY_*"),
    *("HF_ENDPOINT", "HF_HUB_OFFLINE"),  # a stage fetches what it lacks, maybe from there
)


def join(
    *, host: str | None = None, port: int = 6379, address: str | None = None,
    ram_bytes: int | None = None,
) -> Membership:  # fmt: skip
    """Start a cluster on this machine, or join one.

    Args:
        host: This machine's address in the cluster; None for the one that packets leave by.
        port: Where a new cluster listens.
        address: The cluster to join; None for a new one.
        ram_bytes: RAM that models may take here; None for what is available.

    Raises:
        UsageError: Ray is not installed, or a value is wrong.
        ClusterError: It belongs to one already, nobody is there, or Ray does not start.
    """
    from gguf_hub.api.cluster.ray_host import RAM_LABEL, import_ray, knock

    import_ray()
    if (now := membership()) is not None:
        raise ClusterError(f"this machine belongs to the cluster at {now.address} already",
                           hint="`gguf-hub cluster down` leaves it")  # fmt: skip
    if address is not None:
        knock(*parse_address(address))
    _take_token(is_new=address is None)
    host = host or _own_address(parse_address(address) if address else None)
    _check_host(host)
    where = [f"--address={address}"]
    if address is None:
        where = ["--head", f"--port={port}", "--include-dashboard=false"]
    words = [
        *where, f"--node-ip-address={host}", "--disable-usage-stats",
        f"--object-store-memory={_STORE_BYTES}",
        *([f"--labels={RAM_LABEL}={ram_bytes}"] if ram_bytes is not None else []),
    ]  # fmt: skip
    return _start(words, address or f"{_bracketed(host)}:{port}", host)


def leave() -> Membership | None:
    """End Ray on this machine; return what it belonged to, or None if it did not.

    Raises:
        ClusterError: The process does not end.
    """
    now = membership()
    if now is None:
        record_path().unlink(missing_ok=True)
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(now.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while is_running(now.pid, now.started):
        if time.monotonic() > deadline:
            raise ClusterError(f"process {now.pid}, which runs Ray, does not end")
        time.sleep(0.1)
    record_path().unlink(missing_ok=True)
    return now


def _take_token(*, is_new: bool) -> None:
    """Keep the token that was given; make one for a new cluster."""
    given = os.environ.get(tokens.TOKEN_VARIABLE)
    if given:
        tokens.keep_token(given)
    elif is_new:
        tokens.make_token()
    elif tokens.read_token() is None:
        raise UsageError(
            "joining a cluster needs its token",
            hint=f"set {tokens.TOKEN_VARIABLE} to what `gguf-hub cluster up` printed on the first "
            "machine",
        )


def _own_address(target: tuple[str, int] | None) -> str:
    """Return the address that packets to a machine leave by; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(target or ("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _check_host(host: str) -> None:
    from gguf_hub.run.cluster.links import listen

    listen(host).close()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _start(words: list[str], address: str, host: str) -> Membership:
    folder = record_path().parent
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "ray.log"
    log.unlink(missing_ok=True)
    variables = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tokens.token_path()),
        "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    child = start_python(
        "gguf_hub.api.cluster.ray_node", [str(log), *words], variables=variables, passed=_PASSED
    )
    try:
        _wait_for_ray(child, log)
        found = Membership(child.pid, start_time(child.pid) or 0.0, address, host)
        write_atomically(record_path(), json.dumps(asdict(found)))
    except BaseException:  # nobody would know of it, and nobody could end it
        child.terminate()
        raise
    child.returncode = 0  # it stays when this process ends
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    return found


def _wait_for_ray(child: Process, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while _STARTED not in _text(log):
        if child.poll() is not None or time.monotonic() > deadline:
            raise ClusterError(f"Ray does not start: {_reason(_text(log))}",
                               hint=f"its messages are in `{log}`")  # fmt: skip
        time.sleep(0.1)


def _text(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _reason(text: str) -> str:
    """Return the line of Ray's messages that says why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for word in ("InvalidAuthToken", "Version mismatch", "rror: ", "already"):
        for line in lines:
            if word in line:
                if word == "InvalidAuthToken":
                    return "the cluster refuses the token"
                return line
    return lines[-1] if lines else "it said nothing"


def cluster_facts(text: str) -> dict[str, NodeFacts]:
    """Return the facts of the machines of a cluster that answer.

    Raises:
        ClusterError: Nobody is there, it refuses, or no machine answers.
    """
    from gguf_hub.api.cluster.ray_host import alive_nodes, connect, describe, disconnect

    ray, address = connect(text)
    try:
        found = describe(ray, alive_nodes(ray))
    finally:
        disconnect(ray)
    facts = {name: each for name, each in found.items() if isinstance(each, NodeFacts)}
    if not facts:
        problems = "; ".join(e.message for e in found.values() if isinstance(e, ClusterError))
        raise ClusterError(f"no machine of the cluster at {address} answers: {problems}")
    return facts


def cluster_report(text: str) -> dict[str, Any]:
    """Return what is in a cluster: nodes with their facts, and the stages that run.

    Args:
        text: Its address; ``auto`` for the one that this machine belongs to.

    Raises:
        ClusterError: Nobody is there, or it refuses.
    """
    from gguf_hub.api.cluster.ray_host import (
        alive_nodes,
        connect,
        describe,
        disconnect,
        running_stages,
    )

    ray, address = connect(text)
    try:
        nodes = alive_nodes(ray)
        facts, stages = describe(ray, nodes), running_stages(ray)
        return {
            "address": address,
            "nodes": [_node_report(node, facts[node.name], stages) for node in nodes],
        }
    finally:
        disconnect(ray)


def _node_report(node: Any, facts: Any, stages: list[dict[str, Any]]) -> dict[str, Any]:
    own = [stage for stage in stages if stage["node"] == node.name]
    report: dict[str, Any] = {"name": node.name, "host_name": node.host_name, "stages": own}
    if isinstance(facts, ClusterError):
        return report | {"problem": facts.message}
    return report | asdict(facts)
