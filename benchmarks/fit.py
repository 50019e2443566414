"""What `gguf-hub pick` predicts against what the runner takes: memory and speed.

    python benchmarks/fit.py memory              # peak memory on eight synthetic models
    python benchmarks/fit.py speed               # tokens a second on the same
    python benchmarks/fit.py calibrate           # rates for gguf_hub/hub/fit/rates.py
    python benchmarks/fit.py probe               # pick's bandwidth against a compiled pass

Each model runs in a child of its own. Memory is what is the process's own (RssAnon of
/proc/self/status) plus the pages of the model file that it has touched (Rss of that mapping in
/proc/self/smaps), with the whole context in use. Speed is that of generating at half a context; the
bandwidth in the prediction is measured right before. Speed needs a quiet machine: on a busy one
take `--threads 1`, for which the clock counts the time of the CPU alone (as it does to calibrate).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.fit import Constraints, Machine, isa_of, need_of, placement_of, speed_of
from gguf_hub.hub.hardware import detect
from gguf_hub.hub.hardware.probe import buffer_bytes, read_bandwidth
from gguf_hub.hub.survey.headers import facts_of_file
from tests import synth

N_GENERATED = 24
QUIET = 1 / 16
MEAN_OF_STEPS = {QuantType.Q2_K: 1.5, QuantType.Q4_K: 7.5, QuantType.Q5_K: 15.5}

MIXTRAL = synth.Shape(n_layer=4, n_embd=1024, n_head=16, n_head_kv=4, n_ff=3584, n_ctx=8192)
WIDE = synth.Shape(n_layer=2, n_embd=2048, n_head=32, n_head_kv=8, n_ff=5632, n_ctx=8192)
MANY = synth.Shape(
    n_layer=6, n_embd=1024, n_head=16, n_head_kv=4, n_ff=1536, n_expert=16, n_expert_used=4,
    n_ctx=8192,
)  # fmt: skip
DENSE = synth.Shape(
    n_layer=12, n_embd=1024, n_head=16, n_head_kv=16, n_ff=2816, n_expert=0, n_ctx=8192
)
LARGE = synth.Shape(
    n_layer=5, n_embd=2048, n_head=16, n_head_kv=2, n_ff=5632, n_expert=0, n_ctx=8192
)

# name, shape, recipe, layout, context
CASES = (
    ("mixture of 8", MIXTRAL, "Q4_K_M", "split", 1024),
    ("mixture of 8", MIXTRAL, "Q8_0", "merged", 3072),
    ("wide mixture", WIDE, "Q2_K", "split", 1024),
    ("wide mixture", WIDE, "Q6_K", "merged", 2048),
    ("4 of 16 experts", MANY, "Q3_K_M", "split", 2048),
    ("4 of 16 experts", MANY, "Q5_0", "merged", 768),
    ("dense", DENSE, "F16", "merged", 2048),
    ("large dense", LARGE, "Q4_0", "merged", 1024),
    ("large dense", LARGE, "Q5_K_M", "merged", 2048),
)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["memory", "speed", "calibrate", "probe", "child"])
    parser.add_argument("child", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="Where models are written; they are removed.")
    parser.add_argument("--threads", type=int, default=0, help="0 for as many as pay.")
    parser.add_argument("--rounds", type=int, default=3, help="The fastest counts.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.what == "child":
        path, n_ctx, n_threads, fill = options.child
        print(json.dumps(run_model(Path(path), int(n_ctx), int(n_threads), fill == "fill")))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        tasks = {"memory": memory, "speed": speed, "calibrate": calibrate, "probe": probe}
        tasks[options.what](Path(folder), options)


# ---- in the child ------------------------------------------------------------------------------


def run_model(path: Path, n_ctx: int, n_threads: int, is_filled: bool) -> dict[str, Any]:
    """Do as `gguf-hub run` does: half a context of prompt, then tokens; or fill the context."""
    from gguf_hub.run.generation import Generation, GenerationRequest, LogitsSampler
    from gguf_hub.run.generation.engine import Engine
    from gguf_hub.run.model.settings import ModelSettings
    from gguf_hub.run.model.transformer import Transformer
    from gguf_hub.run.sampler import Sampler, SamplerConfig
    from gguf_hub.run.tokenizer import load_tokenizer

    rng = np.random.default_rng(1)
    with (
        GgufFile.open(path) as file,
        Transformer.open(file, ModelSettings(n_ctx=n_ctx, n_threads=n_threads)) as model,
    ):
        tokenizer = load_tokenizer(file.metadata)
        tokens = [int(t) for t in rng.integers(3, model.config.n_vocab, n_ctx)]
        half = 8 if is_filled else n_ctx // 2 - N_GENERATED
        engine = Engine(model)
        sampler = LogitsSampler(Sampler(SamplerConfig(seed=1), tokenizer))
        request = GenerationRequest(tuple(tokens[:half]), sampler, max_tokens=N_GENERATED)
        clock = time.process_time if n_threads == 1 else time.perf_counter
        times = [clock()]
        for _ in engine.stream(Generation(request, tokenizer, n_ctx)):
            times.append(clock())
        steps = [b - a for a, b in pairwise(times[1:])]
        result = {
            "tok_per_s": 1 / statistics.median(steps),
            "best_tok_per_s": 1 / min(steps),
            "n_threads": model.n_threads,
        }
        if is_filled:
            # text after text, until every expert has been wanted by some token
            for _ in range(4):
                tokens = [int(t) for t in rng.integers(3, model.config.n_vocab, n_ctx)]
                model.forward(tokens, 0)
                # of a prompt the last layer computes one row: tokens one by one use its experts
                for i, token in enumerate(tokens[:96]):
                    model.forward([token], i)
        gc.collect()
        return {**result, **resident(path)}


def resident(path: Path) -> dict[str, int]:
    """Return the process's own memory and what it has touched of a file, in bytes."""
    own = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon:")
    )
    mapped, is_model = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(":")[0].split()[0]:
            is_model = line.endswith(str(path))
        elif is_model and line.startswith("Rss:"):
            mapped += int(line.split()[1]) * 1024
    return {"own_bytes": own, "mapped_bytes": mapped}


# ---- in the parent -----------------------------------------------------------------------------


def child(path: Path, n_ctx: int, n_threads: int, *, is_filled: bool) -> dict[str, Any]:
    """Run a model in a child."""
    fill = "fill" if is_filled else "no"
    words = [sys.executable, __file__, "child", str(path), str(n_ctx), str(n_threads), fill]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def machine(n_threads: int = 0) -> Machine:
    """This machine, its bandwidth measured now with so many threads (0: as many as pay)."""
    seen = detect()
    n_threads = n_threads or seen.n_threads
    isa = os.environ.get("GGUF_HUB_ISA") or isa_of(seen.simd)
    return Machine(
        ram_bytes=seen.ram_available_bytes or 0,
        n_threads=n_threads,
        isa=isa,
        ram_bytes_per_s=bandwidth(n_threads),
    )


def bandwidth(n_threads: int) -> float:
    """Measure what `gguf-hub pick` measures."""
    seen = detect()
    n_bytes = buffer_bytes(seen.last_cache_bytes, seen.ram_available_bytes)
    found = read_bandwidth(n_threads, n_bytes, limit_s=2.0)
    assert found
    return found


def write(folder: Path, shape: synth.Shape, recipe: str, layout: str) -> Path:
    """Write a model whose router spreads its tokens over all experts, as a trained one does.

    Random blocks have a mean, and what is common to all tokens grows from layer to layer: soon all
    of them go to the same experts. So minima are put where the mean of a weight is zero, and blocks
    write little into the residual stream.
    """
    path = synth.write_mixtral(folder / "model.gguf", shape, recipe=recipe, layout=layout)
    with GgufFile.open(path) as file:
        places = [(info, file.data_offset + info.offset) for info in file.tensors.values()]
    for info, offset in places:
        is_quiet = "attn_output" in info.name or "ffn_down" in info.name
        if info.type in (QuantType.F32, QuantType.F16):
            dtype = np.float32 if info.type is QuantType.F32 else np.float16
            if is_quiet:
                values = np.memmap(
                    path, dtype, "r+", offset, (info.size_bytes // dtype().itemsize,)
                )
                values *= dtype(QUIET)
            continue
        if info.type not in synth.SCALES:
            continue  # BF16: not among the models that are compared
        scales = synth.SCALES[info.type]
        blocks = info.size_bytes // info.type.type_size
        raw = np.memmap(path, np.uint8, "r+", offset, (blocks, info.type.type_size))
        first = scales[0][0]
        scale = np.ascontiguousarray(raw[:, first : first + 2]).view(np.float16)
        scale = (scale * np.float16(QUIET if is_quiet else 1)).astype(np.float16)
        raw[:, first : first + 2] = scale.view(np.uint8)
        if info.type in MEAN_OF_STEPS:
            minimum = scales[1][0]
            minima = (scale * np.float16(MEAN_OF_STEPS[info.type])).astype(np.float16)
            raw[:, minimum : minimum + 2] = minima.view(np.uint8)
    return path


def memory(folder: Path, options: argparse.Namespace) -> None:
    """Predicted and measured peak memory."""
    print("| model | type | context | predicted MB | own MB | file MB | measured MB | off |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, shape, recipe, layout, n_ctx in CASES:
        path = write(folder, shape, recipe, layout)
        found = child(path, n_ctx, options.threads, is_filled=True)
        facts = facts_of_file(path)
        need = need_of(facts, Constraints(n_ctx=n_ctx), n_threads=found["n_threads"])
        measured = found["own_bytes"] + found["mapped_bytes"]
        print(
            f"| {name} | {recipe} | {n_ctx} | {need.total_bytes / 1e6:.1f} "
            f"| {found['own_bytes'] / 1e6:.1f} | {found['mapped_bytes'] / 1e6:.1f} "
            f"| {measured / 1e6:.1f} | {need.total_bytes / measured - 1:+.1%} |"
        )
        if options.json:
            over = found["own_bytes"] - need.kv_bytes - need.scratch_bytes
            print({"overhead": over, "n_vocab": shape.n_vocab, "need": need})


def speed(folder: Path, options: argparse.Namespace) -> None:
    """Predicted and measured tokens a second."""
    here = machine(options.threads)
    print(f"read bandwidth {(here.ram_bytes_per_s or 0) / 1e9:.1f} GB/s, {here.n_threads} threads")
    print("| model | type | context | MB a token | GB/s | predicted tok/s | measured | off |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, shape, recipe, layout, n_ctx in CASES:
        path = write(folder, shape, recipe, layout)
        facts, wish = facts_of_file(path), Constraints(n_ctx=n_ctx)
        tok_per_s, rate = 0.0, 0.0
        for _ in range(options.rounds):
            rate = max(rate, bandwidth(here.n_threads))
            found = child(path, n_ctx, options.threads, is_filled=False)
            key = "tok_per_s" if options.threads != 1 else "best_tok_per_s"
            tok_per_s = max(tok_per_s, found[key])
        now = replace(here, ram_bytes_per_s=rate)
        guess = speed_of(facts, wish, now, placement_of(facts, wish, now))
        assert guess
        print(
            f"| {name} | {recipe} | {n_ctx} | {facts.active_bytes / 1e6:.1f} | {rate / 1e9:.1f} "
            f"| {guess.about_tok_per_s:.1f} | {tok_per_s:.1f} "
            f"| {guess.about_tok_per_s / tok_per_s - 1:+.0%} |"
        )


def probe(folder: Path, options: argparse.Namespace) -> None:
    """What `gguf-hub pick` measures against the compiled pass of `gguf-hub bench`, in turns."""
    from gguf_hub.run.bench.bandwidth import read_bytes_per_s

    print("| threads | pick (numpy) GB/s | bench (compiled) GB/s |")
    print("|---:|---:|---:|")
    for n_threads in range(1, detect().n_threads + 1):
        ours = theirs = 0.0
        for _ in range(options.rounds):
            ours = max(ours, bandwidth(n_threads))
            theirs = max(theirs, read_bytes_per_s(np.zeros(0, np.uint8), n_threads))
        print(f"| {n_threads} | {ours / 1e9:.1f} | {theirs / 1e9:.1f} |")


# ---- rates -------------------------------------------------------------------------------------


def calibrate(folder: Path, options: argparse.Namespace) -> None:
    """Print one core's rate of each type, of the K/V cache, and the time of a layer.

    One thread, so that memory does not hold it up. A small and a large model of a type differ by
    bytes alone; many layers of next to nothing give the time of a layer; experts against one matrix
    of the same bytes, that of an expert; wider layers, that of an element; a long context against a
    short one, the cache.
    """
    tiny = replace(LARGE, n_layer=32, n_embd=256, n_head=4, n_head_kv=1, n_ff=256, n_vocab=512)
    first_s = _seconds(folder, tiny, "Q8_0", 128, options)
    layer_s = (
        _seconds(folder, replace(tiny, n_layer=64), "Q8_0", 128, options) - first_s
    ) / 32  # the bytes of such a layer, 0.4 MB, are in it
    # four experts of sixteen against one as wide as the four: the same bytes, lying apart
    whole = replace(MANY, n_expert=0, n_expert_used=0, n_ff=4 * MANY.n_ff, n_vocab=512)
    parts = replace(MANY, n_vocab=512)
    apart_s = _seconds(folder, parts, "Q8_0", 128, options)
    expert_s = (apart_s - _seconds(folder, whole, "Q8_0", 128, options)) / MANY.n_layer / 4
    print(f"layer_s={layer_s * 1e6:.0f}e-6,\nexpert_s={expert_s * 1e6:.0f}e-6,")
    wide_s = _seconds(folder, replace(tiny, n_ff=4096), "Q8_0", 128, options) - first_s
    wide_bytes = 32 * 3 * 256 * (4096 - 256) * QuantType.Q8_0.bits_per_weight / 8
    gate_s = max(0.0, wide_s - wide_bytes / bandwidth(1)) / 32 / (4096 - 256)
    print(f"gate_s={gate_s * 1e9:.1f}e-9,")
    base = replace(LARGE, n_layer=2, n_vocab=512)
    rates = {}
    for recipe in ("F32", "F16", "BF16", "Q4_0", "Q5_0", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M",
                   "Q5_K_M", "Q6_K"):  # fmt: skip
        times, sizes, facts = [], [], None
        for n_layer in (2, 6):
            shape = replace(base, n_layer=n_layer)
            times.append(_seconds(folder, shape, recipe, 128, options))
            facts = facts_of_file(folder / "model.gguf")
            sizes.append(facts.active_bytes)
        type_ = recipe.removesuffix("_M")
        assert type_ in QuantType.__members__
        others_s = 4 * (layer_s + gate_s * base.n_ff)
        rates[type_] = (sizes[1] - sizes[0]) / (times[1] - times[0] - others_s)
        print(f"{type_}={rates[type_] / 1e9:.1f},", flush=True)
    wide = replace(tiny, n_layer=8, n_embd=1024, n_head=16, n_head_kv=4, n_ff=256)
    short = _seconds(folder, wide, "Q8_0", 128, options)
    long_ = _seconds(folder, wide, "Q8_0", 8192, options)
    kv_bytes = 2 * wide.n_layer * 4 * 64 * (4096 - 64) * 2
    print(f"core_kv_bytes_per_s={kv_bytes / (long_ - short) / 1e9:.1f}e9,")


def _seconds(
    folder: Path, shape: synth.Shape, recipe: str, n_ctx: int, options: argparse.Namespace
) -> float:
    """Return the time of a token on one thread: the fastest of all rounds."""
    path = write(folder, shape, recipe, "merged")
    rounds = [child(path, n_ctx, 1, is_filled=False) for _ in range(options.rounds)]
    return 1 / max(found["best_tok_per_s"] for found in rounds)


if __name__ == "__main__":
    main()
