"""Fuzzing by structure: small models whose values, shapes, types and weights are wrong.

    python tools/fuzz_models.py SECONDS SEED [--out DIR]
    python tools/fuzz_models.py --replay FILE...

Bytes at random seldom get past the header. Here a sound small model gets other values, types,
shapes, keys and weights, and is written as a well-formed file. A child opens it as ``verify``,
``pick``, ``run``, ``serve`` or ``perplexity`` would and computes, with the file and all arrays
between pages that nobody may touch (see tests/guard.py). Failures are:

- death by a signal: an access outside of an array;
- an exception that is none of ours, or a program whose steps could leave their memory;
- more than 2 s of CPU, or 500 MB of memory, for a file of some hundred kilobytes;
- no end.

Each kind is printed once, its first files are kept in DIR, and the exit code is 1. Input N of a
seed is the same on every machine. ``--replay`` opens files in all ways.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gguf_hub.api.server.scheduler import Scheduler, TokenSequence
from gguf_hub.errors import GgufHubError, ProgramError
from gguf_hub.gguf.inspection import inspect
from gguf_hub.gguf.memory.cache import CACHE_TYPES
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.validate import validate_file
from gguf_hub.hub import fit
from gguf_hub.hub.survey.headers import facts_of_file
from gguf_hub.run.chat import choose_format
from gguf_hub.run.generation import Generation, GenerationRequest, GrammarCache, LogitsSampler
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.generation.lookup import PromptLookup
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.perplexity import ModelSource, cut, measure
from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer
from tests import guard
from tools.hostile_models import make_model, write_model

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q6_K")
CPU_S = 2.0
ENDLESS_CPU_S = 20
RSS_BYTES = 500 << 20
ADDRESS_BYTES = 6 << 30
WALL_S = 120
LOOK_AT_EVERY = 3
KEPT_OF_A_KIND = 5
SCRATCH = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())

# -- what people do with a model ------------------------------------------------------------------


@dataclass
class Opened:
    """A model that is open, and what drives it."""

    model: Transformer
    tokenizer: Tokenizer
    rng: random.Random

    def run(self, prompt: str, **options: Any) -> Generation:
        """Return a run of a few tokens under some of the sampling options."""
        settings = {
            "temp": self.rng.choice((0.0, 0.8)), "repeat_penalty": self.rng.choice((1.0, 1.2)),
            "mirostat": self.rng.choice((0, 0, 2)), "seed": 1,
            "logit_bias": self.rng.choice(({}, {2: -5.0})),
        }  # fmt: skip
        grammar = GrammarCache(self.tokenizer).gbnf("root ::= [a-z ]*")
        constraint = self.rng.choice((None, None, grammar))
        sampler = Sampler(SamplerConfig.from_options(**settings), self.tokenizer, constraint)
        chooser = LogitsSampler(sampler, n_top=self.rng.choice((None, 3)))
        tokens = self.tokenizer.encode(prompt, parse_special=True)
        request = GenerationRequest(
            tuple(tokens or [0]), chooser, 4, stop_ids=self.tokenizer.eog_ids
        )
        return Generation(request, self.tokenizer, self.model.n_ctx, **options)


def use_run(opened: Opened) -> None:
    """Write a text, as ``run`` and ``Llama`` do, guesses included."""
    run = opened.run("hello w1 w2 hello w1")
    drafter = opened.rng.choice((None, PromptLookup(1)))
    for _ in Engine(opened.model, drafter=drafter).stream(run):
        pass


def use_serve(opened: Opened) -> None:
    """Write three texts at once, as ``serve`` does, and embed one."""
    scheduler, errors = Scheduler(opened.model), list[Exception]()
    for prompt in ("hello w1", "w2", "hello w1 w3"):
        scheduler.submit(TokenSequence(opened.run(prompt), lambda piece: None, errors.append))
    while scheduler.has_work:
        scheduler.round()
    for error in errors:
        raise error
    opened.model.embed([0, 1])


def use_perplexity(opened: Opened) -> None:
    """Predict two chunks of a text."""
    tokenizer = opened.tokenizer
    source = ModelSource(opened.model, opened.model.config.n_vocab, tokenizer.bos_id)
    measure(cut(tokenizer.encode("hello w1 w2 " * 40), min(8, opened.model.n_ctx)), source)


USES: dict[str, Callable[[Opened], None]] = {
    "run": use_run,
    "serve": use_serve,
    "perplexity": use_perplexity,
}


def look(path: Path) -> None:
    """Do what reads no weights: verify, inspect, pick."""
    validate_file(path, "deep").as_dict()
    for find in (lambda: inspect(path.read_bytes(), "input"), lambda: facts_of_file(path)):
        try:
            found = find()
        except GgufHubError:
            continue  # it is said; the others still have to
        if isinstance(found, fit.FileFacts):
            fit.pick([found], fit.Machine(24 * 10**9, n_threads=4), fit.Constraints())


def compute(path: Path, use: str, rng: random.Random, builder: KernelBuilder) -> None:
    """Open a model between guard pages, and use it."""
    guard.guard_memory(rng.choice(guard.PLACES))
    settings = ModelSettings(
        n_ctx=rng.choice((0, 0, 16, 64)),
        n_threads=rng.choice((1, 2)),
        n_logits=2 if use == "run" else None,
        n_slots=2 if use == "serve" else 1,
        key_type=rng.choice(CACHE_TYPES),
        value_type=rng.choice(CACHE_TYPES),
    )
    with GgufFile.open(path, is_mapped=False) as file:
        guard.guard_file(file, rng.choice(guard.PLACES))
        with Transformer.open(file, settings, builder=builder) as model:
            tokenizer = load_tokenizer(file.metadata)
            texts, bos, eos = tokenizer.vocab.tokens, tokenizer.bos_id, tokenizer.eos_id
            chat = choose_format(
                file.metadata, None, bos_token="" if bos is None else texts[bos],
                eos_token="" if eos is None else texts[eos],
            )  # fmt: skip
            if chat:
                chat.render([{"role": "user", "content": "hi"}])
            USES[use](Opened(model, tokenizer, rng))


# -- children -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """How a child ended: ``ran``, ``refused`` or ``failed``, and of the latter the kind."""

    end: str
    kind: str = ""
    detail: str = ""


def in_child(work: Callable[[], None]) -> Result:
    """Do something in a child with limits; return how that ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (ENDLESS_CPU_S, ENDLESS_CPU_S + 5))
        os.write(writer, json.dumps(report_of(work)).encode()[:4000])
        os._exit(0)
    os.close(writer)
    began = time.monotonic()
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            break
        if time.monotonic() - began > WALL_S:
            os.kill(pid, signal.SIGKILL)
            os.wait4(pid, 0)
            os.close(reader)
            return Result("failed", "no end")
        time.sleep(0.002)
    told = os.read(reader, 4096)
    os.close(reader)
    return judge(os.waitstatus_to_exitcode(status), told, usage)


def report_of(work: Callable[[], None]) -> list[str]:
    """Return how some work ended: the fields of ``Result``."""
    warnings.simplefilter("error")  # numpy's reach people's terminals, too
    try:
        work()
    except ProgramError as exc:
        return ["failed", "unsafe program", str(exc)[:500]]
    except GgufHubError as exc:
        return ["refused", type(exc).__name__, exc.message[:500]]
    except BaseException as exc:
        ours = [f for f in traceback.extract_tb(exc.__traceback__) if "gguf_hub/" in f.filename]
        place = ours[-1] if ours else traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{place.filename.rpartition('gguf_hub/')[2]}:{place.name}"
        return ["failed", f"{type(exc).__name__} in {where}", f"line {place.lineno}: {exc}"[:500]]
    return ["ran"]


def judge(code: int, told: bytes, usage: resource.struct_rusage) -> Result:
    """Return how a child ended, from its exit code and what it used."""
    cpu_s = usage.ru_utime + usage.ru_stime
    rss_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if code == -signal.SIGXCPU:
        return Result("failed", "no end", f"{cpu_s:.1f} s of CPU")
    if code != 0:
        return Result("failed", signal.Signals(-code).name if code < 0 else f"exit code {code}")
    result = Result(*json.loads(told))
    if result.end == "failed":
        return result
    if cpu_s > CPU_S:
        return Result("failed", "slow", f"{cpu_s:.1f} s of CPU, {result}")
    if rss_bytes > RSS_BYTES:
        return Result("failed", "large", f"{rss_bytes >> 20} MB, {result}")
    return result


# -- runs -----------------------------------------------------------------------------------------


class Tally:
    """Counts ends, prints each kind of failure once and keeps its first files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ends: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()

    def add(self, name: str, path: Path, result: Result) -> None:
        """Take in how the input ``name`` ended."""
        self.ends[f"refused: {result.kind}" if result.end == "refused" else result.end] += 1
        if result.end != "failed":
            return
        self.kinds[result.kind] += 1
        if self.kinds[result.kind] == 1:
            print(f"{name}: {result.kind}: {result.detail}", flush=True)
        if self.kinds[result.kind] <= KEPT_OF_A_KIND:
            self.folder.mkdir(parents=True, exist_ok=True)
            words = "".join(c if c.isalnum() else "-" for c in f"{result.kind}-{name}")
            (self.folder / f"{words}.gguf").write_bytes(path.read_bytes())

    def close(self) -> int:
        """Print the sums; return the exit code."""
        print(f"{sum(self.ends.values()):,} uses, {sum(self.kinds.values()):,} failed")
        for end, n in [*self.ends.most_common(), *self.kinds.most_common()]:
            print(f"{n:>8,} {end}")
        return 1 if self.kinds else 0


def inputs(options: argparse.Namespace, path: Path) -> Iterator[tuple[int, random.Random]]:
    """Write one input after another to ``path``; yield its number and what else is random."""
    end = time.monotonic() + options.seconds
    n = options.first
    while time.monotonic() < end and n < options.first + options.inputs:
        rng = random.Random(f"{options.seed} {n}")
        model = make_model(rng, options.types)
        try:
            write_model(path, model, n)
        except Exception:  # the writer was not made for such models
            pass
        else:
            yield n, rng
        n += 1


def fuzz(options: argparse.Namespace, builder: KernelBuilder, path: Path) -> int:
    """Look at inputs, and use each in one way, until the time is over."""
    tally = Tally(options.out)
    for n, rng in inputs(options, path):
        use, name = rng.choice(list(USES)), f"{options.seed}-{n}"
        if n % LOOK_AT_EVERY == 0:
            tally.add(f"{name}-look", path, in_child(partial(look, path)))
        result = in_child(partial(compute, path, use, rng, builder))
        tally.add(f"{name}-{use}", path, result)
    return tally.close()


def replay(options: argparse.Namespace, builder: KernelBuilder) -> int:
    """Use files in every way; print how each ended."""
    tally = Tally(options.out)
    for path in options.replay:
        ways = {"look": partial(look, path)}
        for use in USES:
            ways[use] = partial(compute, path, use, random.Random(0), builder)
        for way, work in ways.items():
            result = in_child(work)
            tally.add(f"{path.stem}-{way}", path, result)
            print(f"{path.name}: {way}: {result.end} {result.kind} {result.detail}", flush=True)
    return tally.close()


def load_kernels(types: Sequence[str]) -> KernelBuilder:
    """Return a builder that has all kernels, so that no child compiles or links."""
    shared = ["run_program", "copy_rows", "rope_table", "rms_norm", "quantize_q8_0",
              "quantize_q8_k", "top_k_gate", "silu_mul", "combine"]  # fmt: skip
    caches = [f"{step}.{keys}.{values}" for step in ("rope_store", "attention")
              for keys in CACHE_TYPES for values in CACHE_TYPES]  # fmt: skip
    products = [f"{step}.{type_}" for step in ("get_rows", "matmul", "expert_matmul")
                for type_ in {*types, "F32", "F16"}]  # fmt: skip
    builder = KernelBuilder()
    builder.addresses([*shared, *caches, *products])
    return builder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, nargs="?", default=60, help="how long")
    parser.add_argument("seed", type=int, nargs="?", default=1, help="of the inputs")
    parser.add_argument("--out", type=Path, default=Path("fuzz-models"), help="for failures")
    parser.add_argument("--inputs", type=int, default=2**62, help="no more than so many")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--types", nargs="+", default=TYPES, help="of tensors, F32 among them")
    parser.add_argument("--replay", type=Path, nargs="+", default=[], help="files in place of it")
    options = parser.parse_args()
    builder = load_kernels(options.types)
    if options.replay:
        return replay(options, builder)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        return fuzz(options, builder, Path(folder) / "input.gguf")


if __name__ == "__main__":
    sys.exit(main())
