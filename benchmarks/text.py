"""Cost of the text side on one vocabulary: tokenizer, sampler, grammars.

python benchmarks/text.py VOCAB.gguf TEXT.txt [--repeat 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.grammar import Grammar, TokenGrammar, TokenTrie
from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 100},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 20},
        "email": {"type": "string", "format": "email"},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
    },
    "required": ["name", "age", "tags", "email", "zip"],
}


def seconds(action: Callable[[], Any], repeat: int) -> float:
    """Median time of an action."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def constrained(tokenizer: Tokenizer, trie: TokenTrie, seed: int, n: int = 400) -> list[float]:
    """Return the seconds of mask and accept for each token of one random output."""
    matcher = TokenGrammar(Grammar.from_schema(SCHEMA), trie).matcher()
    sampler = Sampler(
        SamplerConfig.from_options(seed=seed, temp=1.0, top_k=0, top_p=1.0, min_p=0.0)
    )
    rng, times = np.random.default_rng(seed), []
    for _ in range(n):
        start = time.perf_counter()
        mask = matcher.mask()
        spent = time.perf_counter() - start
        logits = np.where(mask, rng.standard_normal(trie.n_vocab), -np.inf).astype(np.float32)
        token_id = sampler.sample(logits).token_id
        start = time.perf_counter()
        matcher.accept(token_id)
        times.append(spent + time.perf_counter() - start)
        if token_id in tokenizer.eog_ids:
            break
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    with GgufFile.open(args.vocab) as file:
        metadata = dict(file.metadata)
    text = args.text.read_text(encoding="utf-8")

    def fresh() -> Tokenizer:
        return load_tokenizer(metadata)

    tokenizer = fresh()
    ids = tokenizer.encode(text)
    logits = np.random.default_rng(0).standard_normal(tokenizer.n_vocab).astype(np.float32) * 3
    trie = TokenTrie(tokenizer)
    sampler = Sampler(SamplerConfig.from_options(seed=1))
    times = [t for seed in range(args.repeat) for t in constrained(tokenizer, trie, seed)]
    n = args.repeat
    rows = [
        (
            "load and first word",
            seconds(lambda: load_tokenizer(metadata).encode("a"), n),
            "vocabulary",
        ),
        ("encode, fresh", seconds(lambda: load_tokenizer(metadata).encode(text), n), "text"),
        ("decode", seconds(lambda: tokenizer.decode(ids), n), "text"),
        ("sample, defaults", seconds(lambda: sampler.sample(logits), 200 * n), "token"),
        ("byte trie", seconds(lambda: TokenTrie(tokenizer), n), "vocabulary"),
        ("schema to grammar", seconds(lambda: Grammar.from_schema(SCHEMA), n), "schema"),
        ("mask and accept, mean", statistics.mean(times), "token"),
        ("mask and accept, largest", max(times), "token"),
    ]
    print(f"{tokenizer.n_vocab} tokens; {len(text)} characters, {len(ids)} ids")
    for name, each_s, unit in rows:
        print(f"{name:26} {each_s * 1e3:10.3f} ms a {unit}")


if __name__ == "__main__":
    main()
