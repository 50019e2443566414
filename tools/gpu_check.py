"""Check a GPU: are its results right, and how fast is it? One command, a few minutes.

    python tools/gpu_check.py [--adapter N] [--seconds 420] [--no-speed] [--model FILE]

1. Whole models beside the CPU: the embedded one, a Mixtral of every recipe, one of each
   architecture; the largest divergence of their distributions, in nats.
2. Products: GB/s of each weight type of the model card (``benchmarks/gpu_products.py`` has all).
3. A Mixtral 8x7B of full size, Q4_K_M unless ``--recipe`` says otherwise: how fast it is loaded,
   memory of the host, tokens a second of a prompt and of decoding, and which share of the GPU's
   measured reading speed that is. Its weights are zeros, which take no disk; speed does not depend
   on them.

Prints a table in Markdown. Exit code 1 if a result is wrong. What the time does not allow is left
out, and named.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gguf_hub.gguf.reader import GgufFile  # noqa: E402
from gguf_hub.run.gpu.wgpu_device import list_adapters  # noqa: E402
from gguf_hub.run.kernels.build.build import KernelBuilder  # noqa: E402
from gguf_hub.run.model.settings import ALL_LAYERS, GpuSettings, ModelSettings  # noqa: E402
from gguf_hub.run.model.transformer import Transformer  # noqa: E402
from tests import synth  # noqa: E402
from tests.arch_models import N_CTX, TOKENS, write_arch_model  # noqa: E402
from tests.arch_recipes import RECIPES  # noqa: E402

MAX_DIVERGENCE = 1e-3
CARD_TYPES = "Q2_K,Q3_K,Q4_0,Q4_K,Q5_0,Q5_K,Q6_K,Q8_0,F16"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--adapter", type=int, default=0, help="number of the GPU, from 0")
    parser.add_argument("--seconds", type=float, default=420, help="begin nothing after this time")
    parser.add_argument("--no-speed", action="store_true", help="only compare results")
    parser.add_argument("--recipe", default="Q4_K_M", choices=sorted(synth.RECIPES))
    parser.add_argument("--model", type=Path, help="a GGUF to measure instead of the synthetic one")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    info = list_adapters()[args.adapter][0]
    print(f"## {info.name}: {info.backend}, {info.driver}\n")
    print(f"{platform.platform()}, {platform.processor()}; binding at most "
          f"{info.max_binding / 2**20:.0f} MiB\n")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        is_right = compare(Path(folder), args.adapter, deadline)
        if not args.no_speed:
            measure_products(args.adapter, deadline)
            measure_model(args, Path(folder), deadline)
    return 0 if is_right else 1


def settings(gpu: int | None, **options: int) -> ModelSettings:
    """Return settings for the CPU, or for all layers on a GPU."""
    placing = GpuSettings() if gpu is None else GpuSettings(ALL_LAYERS, devices=(gpu,))
    return replace(ModelSettings(gpu=placing), **options)


# -- results ---------------------------------------------------------------------------------------


def models(folder: Path) -> Iterator[tuple[str, str, Callable[[], Path], tuple[int, ...]]]:
    """Yield (group, name, what writes it, tokens) of each model."""
    embedded = ROOT / "gguf_hub" / "data" / "tiny-mixtral.f16.gguf"
    yield "embedded", "tiny-mixtral", lambda: embedded, tuple(range(1, 60, 3))
    for recipe in (*synth.RECIPES, *synth.CODE_RECIPES):
        path = folder / f"{recipe}.gguf"
        yield "Mixtral", recipe, lambda p=path, r=recipe: synth.write_logits_model(p, r), (
            synth.LOGITS_TOKENS)  # fmt: skip
    for name in RECIPES:
        path = folder / f"{name}.gguf"
        yield "architectures", name, lambda p=path, n=name: write_arch_model(p, n), TOKENS


def compare(folder: Path, adapter: int, deadline: float) -> bool:
    """Print the largest divergence of each group of models; return whether all are small."""
    builder, worst, wrong = KernelBuilder(), {}, []
    for group, name, write, tokens in models(folder):
        if time.monotonic() > deadline:
            print(f"time is up: {group} from {name} on not compared")
            break
        path = write()
        try:
            found = divergence(path, tokens, adapter, builder)
        except Exception as exc:
            found = float("inf")
            print(f"{name}: {type(exc).__name__}: {exc}")
        worst[group] = max(worst.get(group, (0.0, "")), (found, name))
        if not found <= MAX_DIVERGENCE:
            wrong.append(f"{name} {found:.1e}")
        if path.parent == folder:
            path.unlink()
    print("| models | largest KL divergence from the CPU, nats | of |\n|---|---|---|")
    for group, (value, name) in worst.items():
        print(f"| {group} | {value:.1e} | {name} |")
    print(f"\n{'wrong: ' + ', '.join(wrong) if wrong else 'all right'}\n", flush=True)
    return not wrong


def divergence(path: Path, tokens: tuple[int, ...], adapter: int, builder: KernelBuilder) -> float:
    """Return the largest divergence of the GPU's logits: a prompt, then token by token."""
    logits = []
    for gpu in (None, adapter):
        options = settings(gpu, n_ctx=N_CTX, n_batch=16, n_threads=1)
        file = GgufFile.open(path)
        with Transformer.open(file, replace(options, n_logits=None), builder=builder) as model:
            n = len(tokens) // 2
            rows = [model.forward(tokens[:n], 0, all_logits=True)]
            rows += [model.forward([token], n + i) for i, token in enumerate(tokens[n:])]
            logits.append(np.concatenate(rows).astype(float))
        file.close()
    p, q = (x - x.max(-1, keepdims=True) for x in logits)
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return float((np.exp(p) * (p - q)).sum(-1).max())


# -- speed -----------------------------------------------------------------------------------------


def measure_products(adapter: int, deadline: float) -> None:
    """Print the speed of products, by the benchmark of them."""
    if time.monotonic() > deadline:
        print("time is up: products not measured")
        return
    command = [sys.executable, "-m", "benchmarks.gpu_products", "-t", CARD_TYPES,
               "--adapter", str(adapter)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"```\n{done.stdout}{done.stderr}```\n", flush=True)


def measure_model(args: argparse.Namespace, folder: Path, deadline: float) -> None:
    """Print how fast a model of full size is loaded and computed."""
    if time.monotonic() > deadline:
        print("time is up: the large model not measured")
        return
    path = args.model or synth.write_mixtral(
        folder / "mixtral.gguf", synth.Shape(), recipe=args.recipe, sparse=True
    )
    file = GgufFile.open(path)
    start = time.perf_counter()
    options = settings(args.adapter, n_ctx=4096, n_batch=512)
    with Transformer.open(file, options) as model:
        loaded_s = time.perf_counter() - start
        print(f"{path.name}: {file.size_bytes / 1e9:.2f} GB loaded in {loaded_s:.1f} s "
              f"({file.size_bytes / loaded_s / 1e9:.2f} GB/s), host memory at most "
              f"{peak_gb():.2f} GB\n", flush=True)  # fmt: skip
        tokens = [1 + i * 7 % 300 for i in range(512)]
        print("| | tokens/s |\n|---|---|")
        for n in (512, 64, 8):
            rate = fastest(lambda n=n: model.forward(tokens[:n], 0), n)
            print(f"| prompt of {n} | {rate:.1f} |", flush=True)
        for position in (16, 1024, 3500):
            rate = decoding(model, position)
            read = (model.active_bytes + model.cache_bytes(position)) * rate / 1e9
            print(f"| decode at {position} | {rate:.1f} ({read:.0f} GB/s) |", flush=True)
    print()


def peak_gb() -> float:
    """Return the most memory that this process has had, mapped pages of the file among it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def fastest(run: Callable[[], object], n: int) -> float:
    """Return tokens a second of the fastest of three runs, after one that warms up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return n / min(times[1:])


def decoding(model: Transformer, position: int) -> float:
    """Return tokens a second of 64 tokens, one after another; the cache holds anything."""
    start = time.perf_counter()
    for i in range(64):
        if i == 8:
            start = time.perf_counter()
        model.forward([5 + i], position + i)
    return 56 / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
