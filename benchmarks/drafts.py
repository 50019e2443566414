"""Speed with and without drafts, in turns, each token of a text timed as one whole.

python benchmarks/drafts.py MODEL.gguf [--draft DRAFT.gguf] [--lookup 8] [--prompt TEXT] [-n 200]
python benchmarks/drafts.py --write FOLDER    # wide.gguf, small.gguf, wrong.gguf

The layers of these files compute, but add nothing, and the tokens follow one another in cycles.
``wide.gguf`` (full width, two layers) and ``small.gguf`` agree on every token, which measures the
best that drafts can give, not how often they are right; ``wrong.gguf`` runs through the cycles the
other way, is never right, and shows what drafts may cost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from gguf_hub.gguf.format import tensor_size_bytes
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.run.generation import Generation, GenerationRequest, LogitsSampler
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.generation.lookup import PromptLookup
from gguf_hub.run.generation.model_drafter import DraftSettings
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.opening import LoadedModel, open_model
from gguf_hub.run.sampler import Sampler, SamplerConfig
from tests.synth import Shape, blocks, metadata, tensors

N_CTX = 2048
CYCLE = 31
"""Tokens until a text of the pair repeats itself."""


def write_pair(folder: Path) -> None:
    """Write the files: the token after t is t + 1, in cycles, and t - 1 in ``wrong.gguf``."""
    wide = Shape(n_layer=2, n_vocab=32000)
    small = Shape(n_layer=2, n_embd=512, n_head=8, n_head_kv=2, n_ff=1024, n_expert=0)
    for name, shape, recipe, step in (
        ("wide", wide, "Q4_K_M", 1),
        ("small", small, "Q8_0", 1),
        ("wrong", small, "Q8_0", -1),
    ):
        path = folder / f"{name}.gguf"
        rng, embedding = np.random.default_rng(0), _embedding(shape)
        parts: list[Any] = []
        for spec in tensors(shape, "merged", recipe):
            if spec.name == "token_embd.weight":
                parts.append((_as_f16(spec), embedding))
            elif spec.name == "output.weight":
                parts.append((_as_f16(spec), embedding[_before(shape.n_vocab, step)]))
            elif "attn_output" in spec.name or "ffn_down" in spec.name:
                parts.append((spec, bytes(tensor_size_bytes(spec.shape, spec.type))))
            else:
                parts.append((spec, blocks(spec, rng)))
        write_gguf(path, metadata(shape, recipe), parts)
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB", file=sys.stderr)


def _embedding(shape: Shape) -> np.ndarray:
    values = np.random.default_rng(1).normal(0, 1, (shape.n_vocab, shape.n_embd))
    return values.astype(np.float16)


def _before(n_vocab: int, step: int) -> np.ndarray:
    """Return the token before each: t - step, within its cycle."""
    ids = np.arange(n_vocab)
    first = ids // CYCLE * CYCLE
    return np.minimum(first + (ids - first - step) % CYCLE, n_vocab - 1)


def _as_f16(spec: Any) -> Any:
    return type(spec)(spec.name, spec.shape, QuantType.F16)


def speed(loaded: LoadedModel, engine: Engine, args: argparse.Namespace) -> tuple[float, Any]:
    """Return tokens of one text per second of CPU time or of the clock, and the text."""
    config = SamplerConfig(temp=args.temp, seed=1)
    prompt = tuple(loaded.tokenizer.encode(args.prompt))
    sampler = LogitsSampler(Sampler(config, loaded.tokenizer))
    text = Generation(GenerationRequest(prompt, sampler, args.n), loaded.tokenizer, N_CTX)
    start_s = time.process_time()
    for _ in engine.stream(text):
        pass
    cpu_s = time.process_time() - start_s
    return (args.n / cpu_s if args.cpu else text.timings.generate_tok_per_s), text


def compare(args: argparse.Namespace) -> None:
    """Print the speeds of both, and their ratio, round by round."""
    draft = DraftSettings(args.draft, args.draft_max, args.draft_min, args.draft_p_min)
    lookup = PromptLookup(args.lookup) if args.lookup else None
    with open_model(args.model, ModelSettings(n_ctx=N_CTX), drafter=lookup, draft=draft) as loaded:
        ratios, same = [], []
        for _ in range(args.rounds):
            plain, text = speed(loaded, Engine(loaded.model), args)
            drafted, other = speed(loaded, loaded.engine(), args)
            ratios.append(drafted / plain)
            same.append(text.tokens == other.tokens)
            timings = other.timings
            print(f"{plain:8.1f} {drafted:8.1f} tok/s  {ratios[-1]:5.2f}x  "
                  f"{timings.n_accepted} of {timings.n_drafted} accepted  "
                  f"{'same text' if same[-1] else 'another text'}")  # fmt: skip
        print(f"median {statistics.median(ratios):.2f}x")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--lookup", type=int, default=0)
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--temp", type=float, default=0.0)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draft-max", type=int, default=16)
    parser.add_argument("--draft-min", type=int, default=0)
    parser.add_argument("--draft-p-min", type=float, default=0.75)
    parser.add_argument("--cpu", action="store_true", help="CPU time, prompts included")
    args = parser.parse_args()
    if args.write:
        write_pair(args.write)
    if args.model:
        compare(args)


if __name__ == "__main__":
    main()
