"""What a hop adds to a token, and what two texts gain by two stages; `cluster_check.py hops`.

All is measured in turns, so that whatever else runs disturbs both sides alike; what is printed are
medians. CPU time tells what a hop costs where the machine is too busy for clocks.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from gguf_hub.gguf.shards import open_gguf
from gguf_hub.run.cluster.hosts import ChildStage
from gguf_hub.run.cluster.model import ClusterModel
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.run.cluster.stages import RecordingHost

SETTINGS = ModelSettings(n_ctx=1024, n_slots=4, n_logits=4, n_threads=1)
N_STAGES = 2
N_TURNS = 9


def report(path: Path, n: int) -> None:
    """Print both figures for a model; ``n`` tokens each time."""
    host = RecordingHost([f"node-{i}" for i in range(N_STAGES)])
    with (
        open_gguf(path) as file,
        Transformer.open(file, SETTINGS) as one,
        ClusterModel.open(file, SETTINGS, host=host) as several,
    ):
        pids = [p.child.pid for p in host.processes.values() if isinstance(p, ChildStage)]
        report_hop(path.name, one, several, n, pids)
        report_two_texts(path.name, several, n)
    with (
        open_gguf(path) as file,
        Transformer.open(file, SETTINGS) as one,
        Transformer.open(file, replace(SETTINGS, n_threads=2)) as two,
    ):
        report_two_threads(path.name, one, two, n)


def report_hop(name: str, one: Transformer, several: ClusterModel, n: int, pids: list[int]) -> None:
    """Time tokens of one process and of two stages in turns."""
    times: dict[str, list[float]] = {"one": [], "several": []}
    for model in (one, several):
        model.forward([1, 5, 9], 0)
    for i in range(n):
        for label, model in (("one", one), ("several", several)):
            start = time.perf_counter()
            model.forward([5 + i % 50], 3 + i)
            times[label].append(time.perf_counter() - start)
    one_ms, several_ms = (np.array(t[3:]) * 1e3 for t in times.values())
    added = float(np.median(several_ms - one_ms))
    cpu_one, cpu_several = (cpu_of(model, n, [os.getpid(), *pids]) for model in (one, several))
    print(
        f"{name}: one process {np.median(one_ms):.2f} ms a token, {N_STAGES} stages "
        f"{np.median(several_ms):.2f} ms: {added / N_STAGES:+.2f} ms a stage and token (at most "
        f"1.5), {added / np.median(one_ms):+.1%} in all; CPU time {cpu_one:.2f} ms a token, "
        f"{(cpu_several - cpu_one) / N_STAGES:+.2f} ms a stage",
        flush=True,
    )


def report_two_texts(name: str, several: ClusterModel, n: int) -> None:
    """Throughput of one text and of two on two stages."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(N_TURNS):
        for n_texts in rates:
            rates[n_texts].append(rate_of(several, n_texts, n // 2))
    one, two = (float(np.median(each)) for each in rates.values())
    ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
    print(f"{name}: one text {one:.1f} tok/s, two {two:.1f} tok/s: {np.median(ratios):.2f} times "
          f"(at least 1.6; {min(ratios):.2f} to {max(ratios):.2f})", flush=True)  # fmt: skip


def report_two_threads(name: str, one: Transformer, two: Transformer, n: int) -> None:
    """What a second core is worth to one process here: memory may be the limit of both."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(N_TURNS):
        for each, model in zip(rates.values(), (one, two), strict=True):
            model.forward([1, 5, 9], 0)
            start = time.perf_counter()
            for i in range(max(4, n // 4)):
                model.forward([5 + i % 50], 3 + i)
            each.append(max(4, n // 4) / (time.perf_counter() - start))
    ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
    print(f"{name}: for comparison, two threads of one process {np.median(ratios):.2f} times one",
          flush=True)  # fmt: skip


def rate_of(model: ClusterModel, n_texts: int, n: int) -> float:
    """Return tokens a second of some texts together; ``n`` tokens each."""
    for slot in range(n_texts):
        model.forward([1, 5, 9], 0, slot=slot)
    start = time.perf_counter()
    pending = [model.begin_decode([(slot, 5, 3)]) for slot in range(n_texts)]
    for i in range(n):
        for slot in range(n_texts):
            model.end_decode(pending[slot])
            if i + 1 < n:
                pending[slot] = model.begin_decode([(slot, 5 + i % 50, 4 + i)])
    return n_texts * n / (time.perf_counter() - start)


def cpu_of(model: Transformer | ClusterModel, n: int, pids: list[int]) -> float:
    """Return the CPU time of a token in milliseconds, of all processes together."""
    start = cpu_ms(pids)
    for i in range(n):
        model.forward([5 + i % 50], 3 + i)
    return (cpu_ms(pids) - start) / n


def cpu_ms(pids: list[int]) -> float:
    """Return the CPU time that the threads of processes have taken so far."""
    files = (each for pid in pids for each in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(each.read_text().split()[0]) for each in files) / 1e6
