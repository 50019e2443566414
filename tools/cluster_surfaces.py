"""`run`, `serve` and `Llama` over stages against one process: `cluster_check.py surfaces`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from gguf_hub.api.llama import Llama
from gguf_hub.run.cluster.hosts import LocalHost
from tests.api.server.running import Running

ROOT = Path(__file__).resolve().parent.parent
N_STAGES = (2, 3, 4)
N_CTX = 1024
PROMPT = " ".join(["Once upon a time there was a little dog who liked to swim in the sea."] * 36)
"""More than 64 tokens for each of eight parts: four stages work on parts of it at once."""


def check_surfaces(path: Path, n: int, prompt: str = PROMPT) -> None:
    """Compare texts and logits; raise where any differ.

    Args:
        path: The model.
        n: Tokens of each text.
        prompt: Of which each stage works on another part.
    """
    checks = {"run": of_run, "serve": of_serve, "Llama": of_llama}
    differ = []
    for name, result_of in checks.items():
        expected = result_of(path, n, prompt, None)
        assert expected, f"{name} gives nothing to compare"
        for n_stages in N_STAGES:
            is_same = result_of(path, n, prompt, n_stages) == expected
            print(f"{path.name}: {name} over {n_stages} stages: "
                  f"{'equal to one process' if is_same else 'DIFFERS'}", flush=True)  # fmt: skip
            if not is_same:
                differ.append((name, n_stages))
    assert not differ, differ


def of_run(path: Path, n: int, prompt: str, n_stages: int | None) -> str:
    """Return the text of the command."""
    words = ["run", str(path), "-p", prompt, "-n", str(n), "--temp", "0", "-c", str(N_CTX),
             "--ignore-eos", "-t", "1"]  # fmt: skip
    if n_stages:
        words += ["--cluster", f"local:{n_stages}"]
    done = subprocess.run(
        [sys.executable, "-m", "gguf_hub", *words], capture_output=True, cwd=ROOT, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_serve(path: Path, n: int, prompt: str, n_stages: int | None) -> list[Any]:
    """Return texts and log-probabilities of two requests that are answered together."""
    host = LocalHost([f"node-{i}" for i in range(n_stages)]) if n_stages else None
    with ExitStack() as stack:
        server = Running(path, stack, {}, n_ctx=N_CTX, n_slots=2, n_threads=1, host=host)
        bodies = [
            {"prompt": text, "max_tokens": n, "temperature": 0, "logprobs": 3}
            for text in (prompt, prompt[: len(prompt) // 2])
        ]

        def ask(body: dict[str, Any]) -> Any:
            answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=600)
            assert answer.status_code == 200, answer.text
            return answer.json()["choices"]

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(ask, bodies))


def of_llama(path: Path, n: int, prompt: str, n_stages: int | None) -> tuple[str, str]:
    """Return the text, and a hash of the logits of a prompt and some tokens after it."""
    cluster = f"local:{n_stages}" if n_stages else None
    with Llama(path, n_ctx=N_CTX, n_threads=1, verbose=False, cluster=cluster) as llm:
        text = llm(prompt, max_tokens=n, temperature=0)["choices"][0]["text"]
        digest = hashlib.sha256()
        llm.reset()
        for tokens in (llm.tokenize(prompt.encode()), [5], [7, 9]):
            llm.eval(tokens)
            digest.update(np.array(llm.eval_logits[-1], np.float64).tobytes())
    return text, digest.hexdigest()
