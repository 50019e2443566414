"""One program of ``vs_llama_cpp.py`` in a process of its own, told by lines what to measure.

    PYTHON vs_workers.py serve ours|plain|repack     JSON lines in (commands) and out (answers)
    PYTHON vs_workers.py first PROGRAM FILE THREADS  load, compute 16 tokens, print the next one

``ours`` needs gguf_hub, ``plain`` and ``repack`` (llama.cpp without and with repacked weights) need
llama_cpp. Both get random tokens and sample nothing; what they generate is not looked at.
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

TEXT = "Once upon a time there was a little fox who lived with her mother in the deep, dark forest"
N_FIRST = 16
N_VOCAB = 32000


def tokens(n: int) -> list[int]:
    return [random.randrange(3, N_VOCAB) for _ in range(n)]


def memory() -> dict[str, int]:
    """Peak of all memory and anonymous memory now, in bytes."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("VmHWM", "RssAnon"):
            found[key] = int(value.split()[0]) * 1024
    return {"peak_bytes": found["VmHWM"], "anon_bytes": found["RssAnon"]}


class Ours:
    """gguf-hub."""

    def open(
        self, path: str, n_threads: int, n_ctx: int, cache_type: str = "F16"
    ) -> dict[str, Any]:
        from gguf_hub.gguf.reader import GgufFile
        from gguf_hub.run.model.settings import ModelSettings
        from gguf_hub.run.model.transformer import Transformer

        self.close()
        self.file = GgufFile.open(path)
        settings = ModelSettings(
            n_ctx=n_ctx, n_threads=n_threads, key_type=cache_type, value_type=cache_type
        )
        self.model = Transformer.open(self.file, settings)
        return {
            "active_bytes": self.model.active_bytes,
            "cache_bytes": self.model.cache_bytes(1),
        }

    def close(self) -> None:
        if hasattr(self, "model"):
            self.model.close()

    def fill(self, n_depth: int, state: str | None) -> None:
        """Put any numbers into the cache: how fast a token is does not depend on them."""
        import numpy as np

        if n_depth and not getattr(self.model, "is_filled", False):
            kv = self.model._memory.kv
            piece = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float16)
            piece = piece.view(np.uint16)
            for at in range(0, kv.size, piece.size):
                kv[at : at + piece.size] = piece[: kv.size - at]
            self.model.is_filled = True

    def compute(self, ids: list[int], position: int) -> None:
        self.model.forward(ids, position)

    def bandwidth(self, n_threads: int) -> float:
        from gguf_hub.run.bench import read_bytes_per_s

        return read_bytes_per_s(self.file.data, n_threads)

    def first(self, path: str, n_threads: int) -> int:
        from gguf_hub.run.model.settings import ModelSettings
        from gguf_hub.run.opening import open_model

        with open_model(Path(path), ModelSettings(n_ctx=2048, n_threads=n_threads)) as loaded:
            logits = loaded.engine().prefill(loaded.tokenizer.encode(TEXT)[:N_FIRST])
        return int(logits.argmax())


class Theirs:
    """llama.cpp through llama-cpp-python's low-level interface."""

    def __init__(self, is_repacked: bool) -> None:
        import llama_cpp

        self.lib = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, None)
        llama_cpp.llama_backend_init()
        self.is_repacked = is_repacked
        self.state: str | None = None

    def open(
        self, path: str, n_threads: int, n_ctx: int, cache_type: str = "F16", *,
        is_source: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Load a model; ``is_source`` for one whose cache is saved."""
        lib = self.lib
        params = lib.llama_model_default_params()
        params.use_extra_bufts = self.is_repacked
        self.model = lib.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        context = lib.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = n_ctx, 512, 512
        context.n_threads = context.n_threads_batch = n_threads
        if cache_type == "Q8_0":  # values in it need flash attention
            context.type_k = context.type_v = lib.GGML_TYPE_Q8_0
            context.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if is_source:
            context.n_seq_max, context.kv_unified = 2, True
        self.ctx = lib.llama_init_from_model(self.model, context)
        self.cache = lib.llama_get_memory(self.ctx)
        self.n_cached = 0
        return {}

    def threads(self, n_threads: int) -> None:
        self.lib.llama_set_n_threads(self.ctx, n_threads, n_threads)

    def fill(self, n_depth: int, state: str | None) -> None:
        """Load the cache from a file, cut to the depth; without a file leave it empty."""
        self.lib.llama_memory_clear(self.cache, False)
        if n_depth:
            ids, found = (ctypes.c_int32 * 65536)(), ctypes.c_size_t()
            if not self.lib.llama_state_seq_load_file(
                self.ctx, state.encode(), 0, ids, 65536, ctypes.byref(found)
            ):
                raise RuntimeError(f"llama.cpp cannot load its cache from {state}")
            self.lib.llama_memory_seq_rm(self.cache, 0, n_depth, -1)

    def save(self, n_depth: int, target: str) -> None:
        """Fill the cache with ``n_depth`` tokens and write it to a file.

        Each 512 of them see one another only: the cache then holds other numbers, as many.
        """
        batch = self.lib.llama_batch_init(512, 0, 1)
        for at in range(0, n_depth, 512):
            batch.n_tokens = min(512, n_depth - at)
            for i, token in enumerate(tokens(batch.n_tokens)):
                batch.token[i], batch.pos[i], batch.logits[i] = token, at + i, 0
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 1
            if self.lib.llama_decode(self.ctx, batch):
                raise RuntimeError("llama_decode failed")
            self.lib.llama_memory_seq_cp(self.cache, 1, 0, -1, -1)
            self.lib.llama_memory_seq_rm(self.cache, 1, -1, -1)
        self.lib.llama_batch_free(batch)
        ids = (ctypes.c_int32 * 1)(1)
        self.lib.llama_state_seq_save_file(self.ctx, target.encode(), 0, ids, 1)

    def compute(self, ids: list[int], position: int) -> None:
        array = (ctypes.c_int32 * len(ids))(*ids)
        batch = self.lib.llama_batch_get_one(array, len(ids))
        if self.lib.llama_decode(self.ctx, batch):
            raise RuntimeError("llama_decode failed")
        self.lib.llama_synchronize(self.ctx)

    def first(self, path: str, n_threads: int) -> int:
        import numpy as np

        self.open(path, n_threads, 2048)
        vocab = self.lib.llama_model_get_vocab(self.model)
        ids, text = (ctypes.c_int32 * 256)(), TEXT.encode()
        n = self.lib.llama_tokenize(vocab, text, len(text), ids, 256, True, False)
        self.compute(list(ids[: min(n, N_FIRST)]), 0)
        logits = self.lib.llama_get_logits_ith(self.ctx, -1)
        return int(np.ctypeslib.as_array(logits, (N_VOCAB,)).argmax())


def program(name: str) -> Any:
    return Ours() if name == "ours" else Theirs(name == "repack")


def prompt(worker: Any, n: int) -> float:
    """Seconds of a prompt of ``n`` tokens in an empty cache."""
    worker.fill(0, None)
    ids = tokens(n)
    began = time.perf_counter()
    worker.compute(ids, 0)
    return time.perf_counter() - began


def behind(worker: Any, n: int, n_depth: int, state: str | None) -> float:
    """Seconds of ``n`` tokens of a prompt at once, behind ``n_depth`` others."""
    worker.fill(n_depth, state)
    ids = tokens(n)
    began = time.perf_counter()
    worker.compute(ids, n_depth)
    return time.perf_counter() - began


def decode(worker: Any, n: int, n_depth: int, state: str | None) -> float:
    """Seconds of ``n`` tokens, one after another, behind ``n_depth`` and one to warm up."""
    worker.fill(n_depth, state)
    ids = tokens(n + 1)
    worker.compute(ids[:1], n_depth)
    began = time.perf_counter()
    for i in range(1, n + 1):
        worker.compute(ids[i : i + 1], n_depth + i)
    return time.perf_counter() - began


def serve(worker: Any) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("op")
        if name == "prompt":
            answer: Any = prompt(worker, **command)
        elif name in ("decode", "behind"):
            answer = (decode if name == "decode" else behind)(worker, **command)
        else:
            answer = memory() if name == "memory" else getattr(worker, name)(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if sys.argv[1] == "serve":
        serve(program(sys.argv[2]))
    else:
        print(program(sys.argv[2]).first(sys.argv[3], int(sys.argv[4])), flush=True)
