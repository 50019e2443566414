"""The machines of a Ray cluster: Ray starts and ends stages; what they compute goes past it.

Activations go over sockets between the stages, not through Ray: a message of Ray takes some 1.9 ms
a stage, one of a compiled graph 1 ms, a socket a third of that, and sockets need no graph to be
compiled anew when a machine is lost.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gguf_hub.api.cluster.address import parse_address
from gguf_hub.api.cluster.planning import NodeFacts, assignments_of, nodes_of, plan_model
from gguf_hub.api.cluster.serving import FileServer
from gguf_hub.api.cluster.tokens import TOKEN_VARIABLE, use_token
from gguf_hub.errors import ClusterError, UsageError
from gguf_hub.gguf.shards import Gguf
from gguf_hub.oserrors import reason_of
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.cluster.hosts import KEY_BYTES, Assignment
from gguf_hub.run.cluster.identity import require_same_program
from gguf_hub.run.cluster.links import Address
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.units import format_gb

if TYPE_CHECKING:
    from gguf_hub.hub.fit import ClusterPlan

NAMESPACE = "gguf-hub"
_STAGE = "stage"  # first word of an actor's name, before the node's
RAM_LABEL = "gguf-hub/ram"
"""Ray's label of a machine: bytes of RAM that it gives to models, where its user set them."""
CONNECT_S = 5.0
START_S = 30.0
"""Time for a process to start on a machine, Python and its packages loaded."""
_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else its C++ writes retries to stderr
    "RAY_NUM_REDIS_GET_RETRIES": "4",  # of the first connection, one a second
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class RayNode:
    """A machine that Ray knows.

    Attributes:
        name: What people see: its address, with a part of the id where several have it.
        node_id: Ray's.
        address: In the cluster.
        host_name: The machine's own.
        ram_bytes: What its user gives to models; None for all that is available.
    """

    name: str
    node_id: str
    address: str
    host_name: str
    ram_bytes: int | None = None


def import_ray() -> Any:
    """Return Ray.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import ray
    except ImportError as exc:
        raise UsageError(
            "a cluster needs Ray, which is not installed here",
            hint="`pip install 'gguf-hub[cluster]'`, on every machine",
        ) from exc
    return ray


def connect(text: str) -> tuple[Any, str]:
    """Connect to a Ray cluster as a driver; return Ray, and the cluster's address.

    Raises:
        UsageError: Ray is not installed, or this is no address.
        ClusterError: Nobody is there, or it refuses.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    use_token()
    ray = import_ray()
    address = _address_of(text)
    if ray.is_initialized():
        _SESSIONS.share(address)
        return ray, address
    if address != "auto":
        knock(*parse_address(address))
    try:
        with _without_stderr():
            ray.init(
                address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False
            )
    except Exception as exc:  # Ray raises RuntimeError, ConnectionError, and some of its own
        raise _refusal(address, exc) from exc
    _keep_off_stdout()
    _SESSIONS.begin(address)
    return ray, address


def disconnect(ray: Any) -> None:
    """Give back what ``connect`` returned; the last one leaves the cluster."""
    if _SESSIONS.end():
        ray.shutdown()


class _Sessions:
    """Who uses this process's connection to Ray, of which there can be one alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n, self._address, self._is_ours = 0, "", False

    def begin(self, address: str) -> None:
        """Count the first user of a connection that we made."""
        with self._lock:
            self._n, self._address, self._is_ours = 1, address, True

    def share(self, address: str) -> None:
        """Count one more user of the connection that there is.

        Raises:
            ClusterError: It is to another cluster.
        """
        with self._lock:
            if self._is_ours and address != self._address:
                raise ClusterError(f"this process computes on the cluster at {self._address} "
                                   f"already, not on that at {address}",
                                   hint="close the other model first")  # fmt: skip
            self._n += 1

    def end(self) -> bool:
        """Count one user less; return whether to leave the cluster."""
        with self._lock:
            self._n -= 1
            is_over = self._is_ours and self._n == 0
            if is_over:
                self._is_ours = False
            return is_over


_SESSIONS = _Sessions()


def _keep_off_stdout() -> None:
    """Keep Ray from printing among a text that a process somewhere has died: stdout is data.

    ``log_to_driver`` is about what workers print; for messages of Ray itself there is no option.
    """
    from ray._private import worker

    worker._worker_logs_enabled = False


def _address_of(text: str) -> str:
    """Return the address of the cluster that this machine belongs to, for ``auto``."""
    from gguf_hub.api.cluster.record import membership

    own = membership() if text == "auto" else None
    return own.address if own else text


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep what Ray's C++ writes off the terminal: its errors are raised, too."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        for descriptor in (kept, nowhere):
            os.close(descriptor)


def knock(host: str, port: int) -> None:
    """Raise at once where nobody listens: Ray would try for a minute."""
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except (OSError, UnicodeError) as exc:  # the latter for names that no host can have
        reason = reason_of(exc) if isinstance(exc, OSError) else "this is no host"
        raise ClusterError(
            f"no cluster at {host}:{port}: {reason}",
            hint="`gguf-hub cluster up` on the first machine starts one and prints its address",
        ) from exc


def _refusal(text: str, exc: BaseException) -> ClusterError:
    """Say in one line what Ray said in many."""
    said = _whole_text(exc)
    if "Unauthenticated" in said or "AuthToken" in said or "AuthenticationError" in said:
        return ClusterError(
            f"the cluster at {text} refuses this machine's token",
            hint=f"set {TOKEN_VARIABLE} to the token that `gguf-hub cluster up` printed",
        )
    if "ersion mismatch" in said:
        line = next(line for line in said.splitlines() if "ersion mismatch" in line)
        return ClusterError(f"the cluster at {text} has another Ray or Python: {line.strip()}",
                            hint="install the same versions on all machines")  # fmt: skip
    if text == "auto":
        return ClusterError(
            "this machine belongs to no cluster",
            hint="`gguf-hub cluster up` starts one, with `--join ADDRESS` it joins one",
        )
    return ClusterError(
        f"cannot join the cluster at {text}: {said.strip().splitlines()[-1]}",
        hint="run this on a machine of the cluster: `gguf-hub cluster up --join ADDRESS`",
    )


def _whole_text(exc: BaseException | None) -> str:
    texts = []
    while exc is not None:
        texts.append(str(exc))
        exc = exc.__cause__ or exc.__context__
    return "\n".join(reversed(texts))


def alive_nodes(ray: Any) -> list[RayNode]:
    """Return the machines that are there, sorted by name."""
    nodes = [_node_of(entry) for entry in ray.nodes() if entry["Alive"]]
    addresses = [node.address for node in nodes]
    for i, node in enumerate(nodes):
        if addresses.count(node.address) > 1:
            nodes[i] = replace(node, name=_long_name(node))
    return sorted(nodes, key=lambda node: node.name)


def _node_of(entry: Mapping[str, Any]) -> RayNode:
    address = entry["NodeManagerAddress"]
    ram = str(entry.get("Labels", {}).get(RAM_LABEL, ""))
    return RayNode(
        address, entry["NodeID"], address, entry["NodeManagerHostname"],
        int(ram) if ram.isdecimal() else None,
    )  # fmt: skip


def _long_name(node: RayNode) -> str:
    return f"{node.address}#{node.node_id[:6]}"


def on_node(node: RayNode) -> dict[str, Any]:
    """Return Ray's options for what must run on a machine, whatever else runs there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    return {"num_cpus": 0, "scheduling_strategy": strategy}


def describe(ray: Any, nodes: Sequence[RayNode]) -> dict[str, NodeFacts | ClusterError]:
    """Ask machines for their facts, all at once; an error for each that does not answer."""
    from gguf_hub.api.cluster.actors import describe_node

    task = ray.remote(describe_node)
    asked = {n.name: task.options(**on_node(n), max_retries=0).remote() for n in nodes}
    found: dict[str, NodeFacts | ClusterError] = {}
    for name, answer in asked.items():
        try:
            facts = NodeFacts(**ray.get(answer, timeout=START_S))
            given = next(node.ram_bytes for node in nodes if node.name == name)
            if given is not None:
                facts = replace(facts, ram_bytes=min(facts.ram_bytes, given))
            found[name] = facts
        except Exception as exc:
            found[name] = _node_error(name, exc)
    return found


def _node_error(name: str, exc: Exception) -> ClusterError:
    said = _whole_text(exc)
    if "ModuleNotFoundError" in said or "ImportError" in said:
        return ClusterError(f"node `{name}` has no gguf-hub, or another version",
                            hint="install the same version on all machines")  # fmt: skip
    if type(exc).__name__ == "GetTimeoutError":
        return ClusterError(f"node `{name}` does not answer in {START_S:.0f} s")
    if type(exc).__name__ in ("TaskUnschedulableError", "ActorUnschedulableError"):
        return ClusterError(f"node `{name}` has left the cluster")
    return ClusterError(f"node `{name}`: {said.strip().splitlines()[-1]}")


def running_stages(ray: Any) -> list[dict[str, Any]]:
    """Return what the stages of all drivers say of themselves."""
    found = []
    for entry in ray.util.list_named_actors(all_namespaces=True):
        if entry["namespace"] != NAMESPACE or not entry["name"].startswith(f"{_STAGE} "):
            continue
        try:
            actor = ray.get_actor(entry["name"], namespace=NAMESPACE)
            status = ray.get(actor.status.remote(), timeout=START_S)
        except Exception:
            continue  # it has ended meanwhile
        found.append({"node": entry["name"].split(" ")[1], **status})
    return found


class _Names:
    """Names that machines keep as long as a model runs.

    A machine that came back shares its address with its past self until Ray drops that one, so that
    the names of a listing change; what has failed, and what is placed where, goes by names.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # by Ray's id

    def keep(self, nodes: Sequence[RayNode]) -> list[RayNode]:
        """Return machines under the names that they had first."""
        for node in nodes:
            if node.node_id not in self._names:
                is_taken = node.name in self._names.values()
                self._names[node.node_id] = _long_name(node) if is_taken else node.name
        return [replace(node, name=self._names[node.node_id]) for node in nodes]


class RayStage:
    """A stage in an actor."""

    def __init__(self, ray: Any, actor: Any, address: Address) -> None:
        self._ray, self._actor, self.address = ray, actor, address

    def stop(self) -> None:
        """Kill the actor's process."""
        try:
            self._ray.kill(self._actor)
        except Exception:
            return  # its machine is gone, and so is Ray's record of it


class RayHost:
    """The machines of a Ray cluster, as ``run.cluster`` uses them.

    Args:
        text: Its address, or ``auto``.
        progress: Gets a line where machines cannot be used.

    Attributes:
        plan: Which machine holds what, and in which parts of its memory; None before ``assign``.

    Raises:
        ClusterError: Nobody is there, or it refuses.
    """

    def __init__(self, text: str, progress: Progress = SILENT) -> None:
        self.key = secrets.token_bytes(KEY_BYTES)
        self._ray, _ = connect(text)
        self._is_closed = False
        self._progress = progress
        self.plan: ClusterPlan | None = None
        self._server: FileServer | None = None
        self._offering = threading.Lock()
        self._facts: dict[str, NodeFacts] = {}  # by Ray's id, from before stages took memory
        self._names = _Names()

    def assign(
        self, file: Gguf, settings: ModelSettings, without: Collection[str]
    ) -> Sequence[Assignment]:
        """Plan by the facts of the machines that are there.

        Raises:
            ClusterError: They do not hold the model; or one has another version.
        """
        nodes = [node for node in self._alive() if node.name not in without]
        self._ask([node for node in nodes if node.node_id not in self._facts])
        facts = {n.name: self._facts[n.node_id] for n in nodes if n.node_id in self._facts}
        for name, each in facts.items():
            require_same_program(each.program, f"node `{name}`")
        self.plan = plan_model(file.path, settings, nodes_of(facts))
        return assignments_of(self.plan)

    def start(self, node: str) -> RayStage:
        """Start an actor on a machine.

        Raises:
            ClusterError: The machine is gone, or cannot.
        """
        from gguf_hub.api.cluster.actors import StageActor

        place = next((each for each in self._alive() if each.name == node), None)
        if place is None:
            raise ClusterError(f"node `{node}` has left the cluster")
        name = f"{_STAGE} {node} {secrets.token_hex(4)}"
        kind = self._ray.remote(StageActor).options(**on_node(place), max_restarts=0, name=name)
        actor = kind.remote(self.key, place.address)
        try:
            host, port = self._ray.get(actor.address.remote(), timeout=START_S)
        except Exception as exc:
            RayStage(self._ray, actor, ("", 0)).stop()
            raise _node_error(node, exc) from exc
        return RayStage(self._ray, actor, (host, port))

    def offer(self, file: Gguf, names: Collection[str]) -> Mapping[str, Any]:
        """Serve the file, and say where; see ``FileServer.offer``."""
        with self._offering:  # stages open together
            if self._server is None:
                self._server = FileServer(self._own_address(), progress=self._progress)
        return self._server.offer(file, names)

    @property
    def sent_bytes(self) -> Mapping[str, int]:
        """Bytes of the model that machines have fetched from here, by their addresses."""
        return self._server.sent_bytes if self._server else {}

    def _alive(self) -> list[RayNode]:
        return self._names.keep(alive_nodes(self._ray))

    def _own_address(self) -> str:
        """Return the address of this machine in the cluster."""
        own_id = self._ray.get_runtime_context().get_node_id()
        return next(
            (node.address for node in alive_nodes(self._ray) if node.node_id == own_id),
            "127.0.0.1",
        )

    def close(self) -> None:
        """Leave the cluster, once."""
        if not self._is_closed:
            self._is_closed = True
            if self._server is not None:
                self._server.close()
            disconnect(self._ray)

    def _ask(self, nodes: Sequence[RayNode]) -> None:
        ids: Mapping[str, str] = {node.name: node.node_id for node in nodes}
        for name, facts in describe(self._ray, nodes).items():
            if isinstance(facts, ClusterError):
                self._progress.note(f"{facts.message}: it is not used")
                continue
            self._facts[ids[name]] = facts
            rate = f", {facts.ram_bytes_per_s / 1e9:.1f} GB/s" if facts.ram_bytes_per_s else ""
            self._progress.note(
                f"node `{name}`: {format_gb(facts.ram_bytes)} of RAM, {facts.n_threads} "
                f"threads{rate}"
            )
