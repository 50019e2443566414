"""Checks of models over several machines that are too slow for tests; each prints what it measured.

python tools/cluster_check.py bits          logits of a full-width Mixtral over 2, 3, 4 processes
python tools/cluster_check.py surfaces      run, serve and Llama over 2, 3, 4 processes
python tools/cluster_check.py hops          added time of a stage; two texts on two stages
python tools/cluster_check.py kill          20 stages killed in 20 texts
python tools/cluster_check.py serve         8 clients for two minutes, one stage killed
python tools/cluster_check.py ray           Ray nodes, each in a network namespace and a memory
                                            cgroup of its own, all but one without the file: a
                                            killed node, a hung one, one that joins (Linux, root)
python tools/cluster_check.py memory        such nodes, each smaller than the model, and all but one
                                            without it: bytes planned, held and fetched
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gguf_hub.gguf.shards import open_gguf  # noqa: E402
from gguf_hub.run.cluster.hosts import ChildStage, LocalHost  # noqa: E402
from gguf_hub.run.cluster.model import ClusterModel  # noqa: E402
from gguf_hub.run.generation import Generation, GenerationRequest  # noqa: E402
from gguf_hub.run.generation.engine import Engine  # noqa: E402
from gguf_hub.run.generation.logits_sampler import LogitsSampler  # noqa: E402
from gguf_hub.run.model.settings import ModelSettings  # noqa: E402
from gguf_hub.run.model.transformer import Transformer  # noqa: E402
from gguf_hub.run.sampler import Sampler, SamplerConfig  # noqa: E402
from gguf_hub.run.tokenizer import load_tokenizer  # noqa: E402
from tests import synth  # noqa: E402
from tests.run.cluster.stages import Notes, RecordingHost  # noqa: E402
from tests.synth import Shape, T, write_mixtral  # noqa: E402
from tools.cluster_machines import Machine, machines, start  # noqa: E402

TINY = ROOT / "gguf_hub/data/tiny-mixtral.f16.gguf"
FULL_WIDTH = Shape(n_layer=4, n_ctx=4096)
PROMPT = "Once upon a time there was a little dog who liked to swim"


def full_width(folder: Path) -> Path:
    """A Mixtral of four layers, as wide as the real one."""
    path = folder / "full-width.gguf"
    if not path.exists():
        write_mixtral(path, FULL_WIDTH, recipe="Q4_K_M", seed=3)
    return path


def compute_bound(folder: Path) -> Path:
    """A model whose weights cores unpack far slower than memory gives them."""
    path = folder / "compute-bound.gguf"
    if not path.exists():
        synth.RECIPES["IQ3_S"] = (T.IQ3_S, T.IQ3_S, T.IQ3_S, T.IQ3_S, 26)
        shape = Shape(n_layer=4, n_embd=2048, n_ff=4096, n_expert=2, n_ctx=4096)
        write_mixtral(path, shape, recipe="IQ3_S", seed=3)
    return path


@contextlib.contextmanager
def both(path: Path, n_nodes: int, **settings: Any) -> Iterator[tuple[Transformer, ClusterModel]]:
    chosen = ModelSettings(**settings)
    host = LocalHost([f"node-{i}" for i in range(n_nodes)])
    with (
        open_gguf(path) as file,
        Transformer.open(file, chosen) as one,
        ClusterModel.open(file, chosen, host=host) as several,
    ):
        yield one, several


def write_text(model: Any, path: Path, n: int, at: Any = lambda n: None) -> str:
    with open_gguf(path) as file:
        tokenizer = load_tokenizer(file.metadata)
    sampler = LogitsSampler(Sampler(SamplerConfig(temp=0), tokenizer))
    request = GenerationRequest(tuple(tokenizer.encode(PROMPT)), sampler, max_tokens=n)
    text, parts = Generation(request, tokenizer, model.n_ctx), []
    at(-1)
    for i, delta in enumerate(Engine(model).stream(text)):
        parts.append(delta.text)
        at(i)
    return "".join(parts)


# -- bits ------------------------------------------------------------------------------------------


def check_bits(arguments: argparse.Namespace) -> None:
    for path in (TINY, full_width(arguments.folder)):
        for n_nodes in (2, 3, 4):
            settings = {"n_ctx": 1024, "n_slots": 2, "n_logits": 4, "n_threads": 1}
            with both(path, n_nodes, **settings) as (one, several):
                tokens = [int(i) for i in np.random.default_rng(1).integers(3, 300, 200)]
                results = []
                for model in (one, several):
                    rows = [model.forward(tokens, 0), model.forward(tokens[:9], 200)]
                    model.forward(tokens[:20], 0, slot=1)
                    rows.append(model.decode([(0, 5, 209), (1, 7, 20)]))
                    results.append(np.concatenate(rows))
                same = np.array_equal(*results)
            print(f"{path.name}: {n_nodes} nodes: logits {'equal' if same else 'DIFFER'}")
            assert same


# -- kill ------------------------------------------------------------------------------------------


def check_kill(arguments: argparse.Namespace) -> None:
    rng, n_same, worst_s = random.Random(arguments.seed), 0, 0.0
    settings = ModelSettings(n_ctx=512, n_threads=1)
    with open_gguf(TINY) as file, Transformer.open(file, settings) as one:
        expected = write_text(one, TINY, 300)
    for n in range(arguments.n):
        host = RecordingHost(["a", "b", "c"], ChildStage, n_stages=2)
        moment, victim = rng.randrange(-1, 300), rng.choice("ab")
        times, notes = [], Notes()
        kill = partial(note_and_kill, times, host, victim, moment, rng.random() * 0.002)
        with (
            open_gguf(TINY) as file,
            ClusterModel.open(file, settings, host=host, progress=notes) as several,
        ):
            same = write_text(several, TINY, 300, kill) == expected
        pause_s = max(np.diff(times))
        n_same += same
        worst_s = max(worst_s, pause_s)
        n_lost = sum("is lost" in line for line in notes.lines)
        print(f"{n + 1}: `{victim}` at token {moment}: text {'equal' if same else 'DIFFERS'}, "
              f"longest pause {pause_s:.1f} s, {n_lost} stages placed anew")  # fmt: skip
    print(f"{n_same} of {arguments.n} texts equal; longest pause {worst_s:.1f} s")
    assert n_same == arguments.n


def note_and_kill(
    times: list[float], host: RecordingHost, victim: str, moment: int, delay_s: float, i: int
) -> None:
    """Note when a token came; kill a stage soon after one of them."""
    times.append(time.monotonic())
    if i == moment:
        pid = host.processes[victim].child.pid  # type: ignore[attr-defined]
        threading.Timer(delay_s, os.kill, (pid, signal.SIGKILL)).start()


# -- serve -----------------------------------------------------------------------------------------


def check_serve(arguments: argparse.Namespace) -> None:
    from contextlib import ExitStack

    import httpx

    from gguf_hub.api.llama import Llama
    from tests.api.server.running import Running

    prompts = [f"Once upon a time there was a {who} who" for who in
               ("dog", "cat", "bird", "fish", "fox", "mouse", "boy", "girl")]  # fmt: skip
    body = {"max_tokens": 60, "temperature": 0}
    with Llama(TINY, n_ctx=256, n_threads=1, verbose=False) as llm:
        expected = {p: llm(p, **body)["choices"][0]["text"] for p in prompts}
    host = RecordingHost(["a", "b", "c"], ChildStage, n_stages=2)
    counts, wrong = {"answers": 0}, []
    with ExitStack() as stack:
        server = Running(TINY, stack, {}, n_slots=4, n_threads=1, host=host)
        end = time.monotonic() + arguments.seconds

        def ask(prompt: str) -> None:
            with httpx.Client(base_url=server.url, timeout=120) as client:
                while time.monotonic() < end:
                    answer = client.post("/v1/completions", json={"prompt": prompt, **body})
                    text = answer.json().get("choices", [{}])[0].get("text")
                    counts["answers"] += 1
                    if text != expected[prompt]:
                        wrong.append((prompt, answer.status_code, answer.text[:300]))

        threads = [threading.Thread(target=ask, args=(p,)) for p in prompts]
        for thread in threads:
            thread.start()
        time.sleep(arguments.seconds / 2)
        os.kill(host.processes["b"].child.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        for thread in threads:
            thread.join()
    print(f"8 clients, {arguments.seconds} s, stage `b` killed in between: "
          f"{counts['answers']} answers, {len(wrong)} lost or wrong")  # fmt: skip
    for each in wrong[:5]:
        print(each)
    assert not wrong and counts["answers"] and "c" in host.processes


# -- ray -------------------------------------------------------------------------------------------


def check_ray(arguments: argparse.Namespace) -> None:
    own = arguments.folder / "model"  # which other machines do not see
    own.mkdir(exist_ok=True)
    path, n_tokens = arguments.model or Path(shutil.copy(TINY, own)), arguments.tokens
    flags = ["run", str(path), "-p", PROMPT, "-n", str(n_tokens), "--temp", "0", "-c", "512",
             "--ignore-eos", "-t", "1"]  # fmt: skip
    alone = subprocess.run([sys.executable, "-m", "gguf_hub", *flags], capture_output=True,
                           text=True, cwd=ROOT, check=True)  # fmt: skip
    limits = [arguments.limit or 1_500_000_000] * (arguments.nodes or 3)
    with machines(arguments.folder, limits, path.parent) as nodes:
        began = time.monotonic()
        ram = arguments.ram or "87MB"  # so that two of them are needed
        token = start(nodes, ram)
        print(f"{len(nodes)} nodes up in {time.monotonic() - began:.0f} s")
        print(nodes[0].gguf_hub("cluster", "status").stdout)
        n_same = 0
        for event in arguments.events.split(","):
            victim = nodes[1 + random.Random(event).randrange(len(nodes) - 1)]
            n_same += report_text(nodes, victim, flags, alone.stdout, event, arguments)
            if event in ("kill", "hang"):
                victim.signal(signal.SIGKILL)
                time.sleep(1)
                victim.join(nodes[0], token, ram)
    print(f"{n_same} texts equal")
    assert n_same == len(arguments.events.split(","))


def report_text(
    nodes: list[Machine], victim: Machine, flags: list[str], expected: str, event: str,
    arguments: argparse.Namespace,
) -> bool:  # fmt: skip
    """Write a text on the cluster; in the middle of it something happens to a node."""
    driver = nodes[0]
    program = [sys.executable, "-u", "-m", "gguf_hub", *flags, "--cluster", "auto"]
    child = subprocess.Popen(driver.command(*program), stdout=subprocess.PIPE, cwd=ROOT,
                             stderr=subprocess.PIPE, env=driver.environment())  # fmt: skip
    assert child.stdout is not None and child.stderr is not None
    received, gaps, last = b"", [], None
    moment = random.randrange(len(expected) // 10, len(expected) * 8 // 10)
    is_pending = event in ("kill", "hang")
    while piece := child.stdout.read1(64):
        now = time.monotonic()
        gaps.append(now - (last or now))
        last = now
        received += piece
        if is_pending and len(received) >= moment:
            is_pending = False
            victim.signal(signal.SIGKILL if event == "kill" else signal.SIGSTOP)
    errors = child.stderr.read().decode()
    text = received.decode()
    same = text == expected
    if not same:
        print(f"expected {expected!r}\nfound {text!r}")
    print(f"{event} of {victim.address}: text {'equal' if same else 'DIFFERS'}, longest pause "
          f"{max(gaps, default=0):.1f} s, exit code {child.wait()}")  # fmt: skip
    print("  " + "\n  ".join(errors.strip().splitlines()))
    return same


def hops(arguments: argparse.Namespace) -> None:
    from tools.cluster_hops import report

    folder = arguments.folder
    if arguments.model:
        report(arguments.model, 40)
        return
    for path, n in ((TINY, 300), (compute_bound(folder), 60), (full_width(folder), 40)):
        report(path, n)


def memory(arguments: argparse.Namespace) -> None:
    from tools.cluster_memory import check_memory

    own = arguments.folder / "model"  # which other machines do not see
    own.mkdir(exist_ok=True)
    check_memory(arguments, arguments.model or full_width(own))


def surfaces(arguments: argparse.Namespace) -> None:
    from tools.cluster_surfaces import PROMPT as LONG_PROMPT
    from tools.cluster_surfaces import check_surfaces

    if arguments.model:
        check_surfaces(arguments.model, arguments.tokens)
    else:
        check_surfaces(TINY, 60)
        check_surfaces(full_width(arguments.folder), 12, LONG_PROMPT[: len(LONG_PROMPT) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    checks = {"bits": check_bits, "hops": hops, "kill": check_kill, "serve": check_serve,
              "ray": check_ray, "memory": memory,
              "surfaces": surfaces}  # fmt: skip
    parser.add_argument("check", choices=checks)
    parser.add_argument("--folder", type=Path, help="where models are written; kept")
    parser.add_argument("-n", type=int, default=20, help="kill: how often")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=120, help="serve: how long")
    parser.add_argument("--model", type=Path, help="ray, hops, memory, surfaces: another file")
    parser.add_argument("--nodes", type=int, help="ray (3), memory (2): how many")
    parser.add_argument("--ram", help="ray, memory: what each gives to models")
    parser.add_argument("--limit", type=int, help="ray, memory: of each cgroup")
    parser.add_argument("--context", type=int, help="memory: positions of the cache")
    parser.add_argument("--tokens", type=int, default=300, help="ray: of a text")
    parser.add_argument("--events", default="kill,hang,nothing", help="ray: in order")
    arguments = parser.parse_args()
    own = arguments.folder is None
    arguments.folder = arguments.folder or Path(tempfile.mkdtemp())
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        checks[arguments.check](arguments)
    finally:
        if own:
            shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
