"""What machines of a cluster fetch and hold, against the plan; `cluster_check.py memory` calls it.

The model is larger than what any machine may take (a memory cgroup), and only the driver's machine
sees the file: the others fetch their layers. Weights are locked in memory and a prompt fills the
context, so that all that is planned is really there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gguf_hub.api.cluster.ray_host import RayHost
from gguf_hub.gguf.shards import Gguf, open_gguf
from gguf_hub.run.cluster.model import ClusterModel
from gguf_hub.run.cluster.stage import stage_tensors, tensor_ranges
from gguf_hub.run.model.program import Stage
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tools.cluster_machines import ROOT, Machine, held_bytes, machines, start

N_BATCH = 128
"""Small, so that a short prompt fills it: it is sent in two parts for each stage."""


def check_memory(arguments: Namespace, path: Path) -> None:
    """Compare plan, memory and bytes that were fetched, machine by machine."""
    n_nodes = arguments.nodes or 2
    n_ctx = arguments.context or 2 * N_BATCH * n_nodes  # all batches are full
    size = path.stat().st_size
    ram = arguments.ram or f"{(size / n_nodes * 1.1 + 200e6) / 0.9 / 1e6:.0f}MB"
    limit = arguments.limit or int(size / n_nodes * 1.25 + 900e6)  # with Ray's processes
    assert limit < size, "each machine must be smaller than the model: take more of them"
    expected = digest_of_one(path, n_ctx)
    forget(path, arguments.folder)
    with machines(arguments.folder, [limit] * n_nodes, path.parent) as nodes:
        start(nodes, ram)
        words = [sys.executable, "tools/cluster_memory.py", str(path), str(n_ctx)]
        child = subprocess.Popen(
            nodes[0].command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env=nodes[0].environment(),
        )  # fmt: skip
        assert child.stdin is not None and child.stdout is not None
        report = json.loads(child.stdout.readline())
        report_memory(nodes, report, size, limit)
        print(f"logits {'equal' if report['digest'] == expected else 'DIFFER'}")
        child.stdin.close()
        assert child.wait(60) == 0
        assert report["digest"] == expected


def forget(path: Path, folder: Path) -> None:
    """Let no machine begin with what an earlier run left on the disk, or in the page cache."""
    for slices in folder.glob("ghc*/data/slices"):
        shutil.rmtree(slices)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report_memory(nodes: list[Machine], report: dict[str, Any], size: int, limit: int) -> None:
    """Print a line for each machine; raise unless plan and figures agree."""
    print(f"model {size / 1e6:.0f} MB, each machine at most {limit / 1e6:.0f} MB")
    ratios = []
    for stage in report["stages"]:
        node = next(n for n in nodes if n.address == stage["node"])
        (pid,) = node.stage_pids()
        weights, own = held_bytes(pid)
        planned, ratio = stage["ram_bytes"], (weights + own) / stage["ram_bytes"]
        print(
            f"{node.address}: planned {planned / 1e6:.0f} MB (weights "
            f"{stage['weights_bytes'] / 1e6:.0f}, cache {stage['cache_bytes'] / 1e6:.0f}, buffers "
            f"{stage['scratch_bytes'] / 1e6:.0f}, program {stage['program_bytes'] / 1e6:.0f}); "
            f"held {(weights + own) / 1e6:.0f} MB (weights {weights / 1e6:.0f}, own "
            f"{own / 1e6:.0f}): {ratio:.3f}; cgroup {node.peak_bytes / 1e6:.0f} MB at most"
        )
        ratios.append(ratio)
        sent = report["sent_bytes"].get(node.address, 0)
        share = stage["share_bytes"] if node is not nodes[0] else 0
        print(f"  fetched {sent:,} bytes, counted at the mirror; share {share:,}"
              + (f": {sent / share - 1:+.3%}" if share else " (its own file)"))  # fmt: skip
        assert sent <= 1.01 * share
    assert all(abs(ratio - 1) <= 0.05 for ratio in ratios), ratios


def tokens_of(n: int) -> list[int]:
    """Return as many token ids."""
    return [int(i) for i in np.random.default_rng(1).integers(3, 300, n)]


def digest_of_one(path: Path, n_ctx: int) -> str:
    """Return a hash of the logits of one process."""
    with open_gguf(path) as file, Transformer.open(file, ModelSettings(n_ctx=n_ctx)) as model:
        return digest(model, n_ctx)


def digest(model: Any, n_ctx: int) -> str:
    """Return a hash of the logits after a prompt that fills the context."""
    return hashlib.sha256(model.forward(tokens_of(n_ctx), 0).tobytes()).hexdigest()


def drive(path: Path, n_ctx: int) -> None:
    """Compute on the cluster of this machine; print what was planned and sent; wait."""
    settings = ModelSettings(n_ctx=n_ctx, n_batch=N_BATCH, lock="all")
    host = RayHost("auto")
    with open_gguf(path) as file, ClusterModel.open(file, settings, host=host) as model:
        found = digest(model, n_ctx)
        assert host.plan is not None
        stages = [
            vars(planned) | {"share_bytes": share_of(file, placed.assignment.stage)}
            for planned, placed in zip(host.plan.stages, model.stages.placed, strict=True)
        ]
        report = {"digest": found, "stages": stages, "sent_bytes": dict(host.sent_bytes)}
        print(json.dumps(report), flush=True)
        sys.stdin.read()


def share_of(file: Gguf, stage: Stage) -> int:
    """Return the bytes of a stage's tensors, and of the header."""
    ranges = tensor_ranges(file, stage_tensors(file, stage))
    return sum(part.data_offset for part in file.files) + sum(size for _, size in ranges)


if __name__ == "__main__":
    drive(Path(sys.argv[1]), int(sys.argv[2]))
