"""An open model: file, sampler, seeds, and saved states."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.api.cluster.address import check_address
from gguf_hub.api.cluster.opening import open_cluster
from gguf_hub.api.llama.arguments import check_extra, model_settings, offload_request
from gguf_hub.api.llama.cache import BaseLlamaCache
from gguf_hub.api.llama.context import LlamaContext, plain_metadata
from gguf_hub.api.llama.grammar import LlamaGrammar
from gguf_hub.api.llama.parts import LlamaState, LlamaTypeError, LlamaValueError
from gguf_hub.api.offload import decide_offload
from gguf_hub.gguf.shards import open_gguf
from gguf_hub.progress import SILENT, LoggedNotes
from gguf_hub.run.generation import LogitsSampler, sampler_config
from gguf_hub.run.generation.pooling import Pooling
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.sampler import Sampler
from gguf_hub.run.tokenizer import load_tokenizer

DEFAULT_SEED = 0xFFFFFFFF
"""llama.cpp's: random."""


class LlamaBase:
    """A GGUF file, its model ready to compute.

    Args:
        model_path: The GGUF file.
        n_ctx: Positions of the cache; 0 for as many as the model was trained on.
        n_batch: Maximum batch size in tokens.
        n_threads: Threads that compute; no more than can run at once. None for as many as help.
        seed: Seed of calls without one; -1 for random.
        logits_all: Keep the logits of all tokens in ``scores``.
        embedding: Support ``embed`` and ``create_embedding``.
        pooling_type: How to pool the tokens' vectors; -1: the model's, which is none for most.
        vocab_only: Open the tokenizer alone.
        last_n_tokens_size: Last n tokens to consider for penalties.
        chat_format: Chat format by name; None for the model's own template.
        chat_handler: Answers conversations instead of a format.
        verbose: Log limits of memory or CPUs as warnings of the logger ``gguf_hub``.
        cluster: Compute on the machines of a cluster (extra ``cluster``): ``host:port``, ``auto``
            for the one that this machine belongs to, or ``local:N`` for N processes here.
        arguments: llama-cpp-python's other ones. ``rope_*`` and ``yarn_*`` change the position
            embedding, ``type_k`` and ``type_v`` the cache, ``use_mmap`` and ``use_mlock`` how the
            weights are loaded, ``draft_model`` drafts tokens: a callable, or a ``Llama`` of a
            smaller model of the same vocabulary. ``n_gpu_layers`` is how many layers GPUs compute,
            -1 for all: as many as fit (extra ``gpu``); ``split_mode``, ``main_gpu`` and
            ``tensor_split`` say which GPUs. A warning names unknown and unsupported ones.

    Raises:
        LlamaValueError: There is no such file.
        GgufHubError: It contains no model that runs here.
        ClusterError: The cluster is not there, or does not hold the model.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        n_ctx: int = 512,
        n_batch: int = 512,
        n_threads: int | None = None,
        seed: int = DEFAULT_SEED,
        logits_all: bool = False,
        embedding: bool = False,
        pooling_type: int = Pooling.UNSPECIFIED,
        vocab_only: bool = False,
        last_n_tokens_size: int = 64,
        chat_format: str | None = None,
        chat_handler: Any = None,
        verbose: bool = True,
        cluster: str | None = None,
        **arguments: Any,
    ) -> None:
        self._state = {"model_path": model_path, "n_ctx": n_ctx, "n_batch": n_batch,
                       "n_threads": n_threads, "seed": seed, "logits_all": logits_all,
                       "embedding": embedding, "pooling_type": pooling_type,
                       "vocab_only": vocab_only, "last_n_tokens_size": last_n_tokens_size,
                       "chat_format": chat_format, "chat_handler": chat_handler,
                       "verbose": verbose, "cluster": cluster, **arguments}  # fmt: skip
        self._context: LlamaContext | None = None
        check_extra(arguments)
        self.model_path = os.fspath(model_path)
        if not Path(self.model_path).exists():
            raise LlamaValueError(
                f"Model path does not exist: {self.model_path}",
                hint="`Llama.from_pretrained(repo_id, filename)` downloads one",
            )
        self.verbose = verbose
        self.last_n_tokens_size = last_n_tokens_size
        self.chat_handler = chat_handler
        self.cache: BaseLlamaCache | None = None
        self._logits_all, self._embedding = logits_all, embedding
        if pooling_type not in list(Pooling):
            raise LlamaValueError(
                f"pooling_type: expected one of {', '.join(f'{p} ({p.name})' for p in Pooling)}, "
                f"found {pooling_type!r}"
            )
        self._pooling_type = pooling_type
        settings = model_settings(
            arguments, n_ctx=n_ctx, n_batch=n_batch, n_threads=n_threads,
            n_logits=None if logits_all or embedding else 1,
        )  # fmt: skip
        request = offload_request(arguments)
        if cluster is not None:
            check_address(cluster)
        elif not vocab_only:
            progress = LoggedNotes() if verbose else SILENT
            gpu = decide_offload(Path(self.model_path), settings, request, progress)
            settings = replace(settings, gpu=gpu)
        self._cluster = cluster
        self._open(settings, arguments.get("draft_model"), vocab_only)
        self.set_seed(seed)
        self.chat_format = chat_format

    _metadata: Mapping[str, Any]

    def _open(self, settings: ModelSettings, draft_model: Any, vocab_only: bool) -> None:
        if vocab_only:
            with open_gguf(Path(self.model_path)) as file:
                self._metadata = dict(file.metadata)
            self.tokenizer_ = load_tokenizer(self._metadata)
        else:
            is_llama = isinstance(draft_model, LlamaBase)
            if draft_model is not None and settings.n_logits is not None:
                settings = replace(settings, n_logits=None)
            progress = LoggedNotes() if self.verbose else SILENT
            host = open_cluster(self._cluster, progress) if self._cluster is not None else None
            self._context = LlamaContext(
                Path(self.model_path),
                settings,
                # as in llama-cpp-python, where a draft model needs the logits of all tokens
                logits_all=self._logits_all or (draft_model is not None and not is_llama),
                draft_model=draft_model.context if is_llama else draft_model,
                host=host,
                progress=progress,
            )
            loaded = self._context.loaded
            self._metadata, self.tokenizer_ = loaded.file.metadata, loaded.tokenizer
        self.metadata = plain_metadata(self._metadata)

    # -- the cache -------------------------------------------------------------------------------

    @property
    def n_tokens(self) -> int:
        """Number of tokens in the cache; setting it drops those after."""
        return self.context.engine.n_cached

    @n_tokens.setter
    def n_tokens(self, n_tokens: int) -> None:
        self.context.engine.keep(n_tokens)

    @property
    def scores(self) -> NDArray[np.float32]:
        """Logits, [n_ctx, V] with ``logits_all``, else those of the last token, [1, V]."""
        return self.context.recorder.scores

    @property
    def eval_tokens(self) -> list[int]:
        """Tokens in the cache."""
        return self.context.engine.cached

    # -- sampling --------------------------------------------------------------------------------

    def make_sampler(
        self,
        *,
        grammar: LlamaGrammar | str | None = None,
        schema: Any = None,
        strict: bool = False,
        logits_processor: Any = None,
        n_top: int | None = None,
        tfs_z: float = 1.0,
        penalize_nl: bool = True,
        **options: Any,
    ) -> LogitsSampler:
        """Return a sampler of llama-cpp-python's sampling options.

        Args:
            grammar: Grammar that constrains the output.
            schema: JSON schema that constrains it instead.
            strict: Refuse what cannot be held of the schema; otherwise a warning says so.
            logits_processor: One, or a list of them.
            n_top: Number of most likely tokens to record.
            tfs_z: Ignored: llama.cpp has removed tail-free sampling.
            penalize_nl: Ignored for the same reason.
            options: ``temperature``, ``top_k`` and so on.
        """
        text = grammar.text if isinstance(grammar, LlamaGrammar) else grammar
        constraint = self.context.grammars.constraint(text, schema, strict=strict)
        for warning in constraint.warnings:
            warnings.warn(f"Llama: {warning}", UserWarning, stacklevel=2)
        config = sampler_config({"repeat_last_n": self.last_n_tokens_size, **options})
        processors = logits_processor or ()
        if callable(processors):
            processors = [processors]
        sampler = Sampler(config, self.tokenizer_, constraint.matcher)
        return LogitsSampler(sampler, n_top=n_top, processors=processors)

    # -- seeds and states ------------------------------------------------------------------------

    def set_seed(self, seed: int) -> None:
        """Set the seed of calls without one."""
        self._seed = -1 if seed in (-1, DEFAULT_SEED) else seed
        self._seeds = random.Random(None if self._seed == -1 else seed)

    def next_seed(self) -> int:
        """Return the seed of a call without one."""
        return self._seeds.randrange(2**32)

    def set_cache(self, cache: BaseLlamaCache | None) -> None:
        """Keep the states of finished prompts in ``cache``."""
        self.cache = cache

    def save_state(self) -> LlamaState:
        """Return tokens, logits and cache, for ``load_state``."""
        with self.context.lock:
            self.context.engine.settle()
            n_tokens = self.n_tokens
            return LlamaState(
                input_ids=np.array(self.eval_tokens, np.intc),
                scores=self.scores[:n_tokens].copy(),
                n_tokens=n_tokens,
                cache=self.context.model.save_cache(n_tokens),
                seed=self._seed,
                cache_types=self.context.model.cache_types,
                model_id=self.context.model_id,
            )

    def load_state(self, state: LlamaState) -> None:
        """Go back to a saved state.

        Raises:
            LlamaTypeError: It is no state.
            LlamaValueError: It was saved with other types of keys and values.
        """
        if not isinstance(state, LlamaState):
            raise LlamaTypeError(f"state: expected what `save_state` returns, found {state!r:.60}")
        with self.context.lock:
            state.require_types(self.context.model.cache_types)
            self.context.model.load_cache(state.cache, state.n_tokens)
            self.context.engine.adopt(state.input_ids.tolist())
            self.scores[: len(state.scores)] = state.scores
            self.set_seed(state.seed)

    # -- properties ------------------------------------------------------------------------------

    @property
    def context(self) -> LlamaContext:
        """File, model and engine.

        Raises:
            LlamaValueError: Only the vocabulary was opened, or the model is closed.
        """
        if self._context is None:
            raise LlamaValueError("the model is not open: `vocab_only` was set, or it was closed")
        return self._context

    def n_ctx(self) -> int:
        """Return the number of positions of the cache."""
        return self.context.model.n_ctx
