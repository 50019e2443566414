"""llama-cpp-python's wrappers around the C functions.

A ``LlamaContext`` opens the model; a ``LlamaModel`` alone answers what a file says of itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.api.compat.llama_cpp import c_context, c_model
from gguf_hub.api.compat.llama_cpp import constants as c
from gguf_hub.api.compat.llama_cpp.c_context import llama_context_params, open_context
from gguf_hub.api.compat.llama_cpp.c_model import llama_model_params
from gguf_hub.api.compat.llama_cpp.handles import handle_of, release
from gguf_hub.api.compat.llama_cpp.opened import Context, ModelFile
from gguf_hub.api.compat.llama_cpp.unavailable import Explained, refuse
from gguf_hub.api.llama import LlamaGrammar, LlamaValueError
from gguf_hub.run.generation import GrammarCache
from gguf_hub.run.sampler import Sampler, SamplerConfig

_ONE_SEQUENCE = "a context has one sequence, 0; open a context for each"


class LlamaModel:
    """A GGUF file, without its weights.

    Args:
        path_model: The file.
        params: How to open it.
        verbose: Without effect.
        file: The file, where it is open already.

    Raises:
        LlamaValueError: There is no such file.
        GgufHubError: It is no GGUF file with a vocabulary.
    """

    def __init__(
        self,
        *,
        path_model: str,
        params: llama_model_params,
        verbose: bool = True,
        file: ModelFile | None = None,
    ) -> None:
        if not Path(path_model).exists():
            raise LlamaValueError(f"Model path does not exist: {path_model}")
        self.path_model, self.params, self.verbose = path_model, params, verbose
        self._file = file or ModelFile.open(Path(path_model), is_vocab_only=params.vocab_only)
        self.model: Any = handle_of(self._file)
        self.vocab: Any = handle_of(self._file.vocabulary)
        self._contexts: list[LlamaContext] = []

    def close(self) -> None:
        """Close the contexts of the model, then the model."""
        for context in self._contexts:
            context.close()
        for handle in (self.model, self.vocab):
            if handle is not None:
                release(handle)
        self.model = self.vocab = None

    def vocab_type(self) -> int:
        """See ``llama_vocab_type``."""
        return c_model.llama_vocab_type(self.vocab)

    def n_vocab(self) -> int:
        """Return the number of tokens."""
        return c_model.llama_vocab_n_tokens(self.vocab)

    def n_ctx_train(self) -> int:
        """Return how many positions it was trained on."""
        return c_model.llama_model_n_ctx_train(self.model)

    def n_embd(self) -> int:
        """Return the embedding width."""
        return c_model.llama_model_n_embd(self.model)

    def rope_freq_scale_train(self) -> float:
        """Return by what positions are multiplied."""
        return c_model.llama_model_rope_freq_scale_train(self.model)

    def desc(self) -> str:
        """Return a line about the model."""
        buffer = ctypes.create_string_buffer(1024)
        c_model.llama_model_desc(self.model, buffer, 1024)
        return buffer.value.decode()

    def size(self) -> int:
        """Return the bytes of all tensors."""
        return c_model.llama_model_size(self.model)

    def n_params(self) -> int:
        """Return the number of weights."""
        return c_model.llama_model_n_params(self.model)

    def metadata(self) -> dict[str, str]:
        """Return the metadata as texts, without arrays."""
        return dict(self._file.metadata)

    def token_get_text(self, token: int) -> str:
        """Return the text of a token, as the file has it."""
        return c_model.llama_vocab_get_text(self.vocab, token).decode()

    def token_get_score(self, token: int) -> float:
        """Return the score of a token."""
        return c_model.llama_vocab_get_score(self.vocab, token)

    def token_get_attr(self, token: int) -> int:
        """Return what a token is: ``LLAMA_TOKEN_ATTR_…``."""
        return c_model.llama_vocab_get_attr(self.vocab, token)

    def token_bos(self) -> int:
        """Return the token that begins a text; -1 for none, as for the others."""
        return c_model.llama_vocab_bos(self.vocab)

    token_cls = token_bos

    def token_eos(self) -> int:
        """Return the token that ends a text."""
        return c_model.llama_vocab_eos(self.vocab)

    def token_sep(self) -> int:
        """Return the token between sentences."""
        return c_model.llama_vocab_sep(self.vocab)

    def token_nl(self) -> int:
        """Return the token of a line break."""
        return c_model.llama_vocab_nl(self.vocab)

    def token_prefix(self) -> int:
        """Return what stands before the text in front of a gap."""
        return c_model.llama_vocab_fim_pre(self.vocab)

    def token_middle(self) -> int:
        """Return what stands before the text in a gap."""
        return c_model.llama_vocab_fim_mid(self.vocab)

    def token_suffix(self) -> int:
        """Return what stands before the text behind a gap."""
        return c_model.llama_vocab_fim_suf(self.vocab)

    def token_eot(self) -> int:
        """Return the token that ends a turn."""
        return c_model.llama_vocab_eot(self.vocab)

    def add_bos_token(self) -> bool:
        """Return whether texts begin with a token."""
        return c_model.llama_vocab_get_add_bos(self.vocab)

    def add_eos_token(self) -> bool:
        """Return whether texts end with a token."""
        return c_model.llama_vocab_get_add_eos(self.vocab)

    def tokenize(self, text: bytes, add_bos: bool, special: bool) -> list[int]:
        """Return the token ids of UTF-8 text."""
        tokenizer = self._file.vocabulary.tokenizer
        given = text.decode("utf-8", errors="replace")
        return tokenizer.encode(given, add_bos=add_bos, parse_special=special)

    def token_to_piece(self, token: int, special: bool = False) -> bytes:
        """Return the bytes of a token."""
        return self._file.vocabulary.tokenizer.token_bytes(token, special)

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> bytes:
        """Return the bytes of tokens, without the blank after a begin token."""
        data = b"".join(self.token_to_piece(int(token), special) for token in tokens)
        starts = len(tokens) > 0 and tokens[0] == self.token_bos()
        return data[1:] if starts and data.startswith(b" ") else data

    @staticmethod
    def default_params() -> llama_model_params:
        """Return the default parameters."""
        return llama_model_params()


class LlamaContext(Explained):
    """A model that is ready to compute.

    Args:
        model: Its file.
        params: How to compute.
        verbose: Without effect.
        context: The context, where it is open already; it is not closed.

    Raises:
        GgufHubError: The file holds no model that runs here.
    """

    _LACKS = {  # noqa: RUF012
        "set_n_threads": "threads are set when it is opened, by `Llama(n_threads=...)`",
        "get_state_size": "`Llama.save_state().llama_state_size` is the size of its state",
        "kv_cache_seq_cp": _ONE_SEQUENCE,
        "kv_cache_seq_keep": _ONE_SEQUENCE,
        "kv_cache_seq_shift": "positions do not move; `kv_cache_seq_rm` drops the last",
        "set_rng_seed": "`Llama.set_seed` sets the seed",
    }

    def __init__(
        self,
        *,
        model: LlamaModel,
        params: llama_context_params,
        verbose: bool = True,
        context: Context | None = None,
    ) -> None:
        self.model, self.params, self.verbose = model, params, verbose
        self._is_owner = context is None
        self._context: Context | None = context or open_context(model._file, params)
        self.ctx: Any = handle_of(self._context)
        self.memory: Any = self.ctx
        model._contexts.append(self)

    def close(self) -> None:
        """Close the context."""
        if self._context is not None:
            release(self.ctx)
            if self._is_owner:
                self._context.llama.close()
        self.ctx = self.memory = self._context = None

    def n_ctx(self) -> int:
        """Return the number of positions."""
        return c_context.llama_n_ctx(self.ctx)

    def pooling_type(self) -> int:
        """Return the pooling type."""
        return c_context.llama_pooling_type(self.ctx)

    def kv_cache_clear(self) -> None:
        """Clear the cache."""
        c_context.llama_memory_clear(self.memory, True)

    def kv_cache_seq_rm(self, seq_id: int, p0: int, p1: int) -> bool:
        """See ``llama_memory_seq_rm``."""
        return c_context.llama_memory_seq_rm(self.memory, max(0, seq_id), p0, p1)

    def decode(self, batch: LlamaBatch) -> None:
        """Compute a batch.

        Raises:
            RuntimeError: It does not fit, or its positions do not follow those in the cache.
        """
        if code := c_context.llama_decode(self.ctx, batch.batch):
            raise RuntimeError(f"llama_decode returned {code}")

    def get_logits(self) -> Any:
        """See ``llama_get_logits``."""
        return c_context.llama_get_logits(self.ctx)

    def get_logits_ith(self, i: int) -> Any:
        """See ``llama_get_logits_ith``."""
        return c_context.llama_get_logits_ith(self.ctx, i)

    def get_embeddings(self) -> Any:
        """See ``llama_get_embeddings``."""
        return c_context.llama_get_embeddings(self.ctx)

    def get_embeddings_ith(self, i: int) -> Any:
        """See ``llama_get_embeddings_ith``."""
        return c_context.llama_get_embeddings_ith(self.ctx, i)

    def get_embeddings_seq(self, seq_id: int) -> Any:
        """See ``llama_get_embeddings_seq``."""
        return c_context.llama_get_embeddings_seq(self.ctx, seq_id)

    @staticmethod
    def default_params() -> llama_context_params:
        """Return the default parameters."""
        return llama_context_params()


class LlamaBatch:
    """Tokens to compute.

    Args:
        n_tokens: For how many there is room.
        embd: 0.
        n_seq_max: For how many sequences of a token there is room.
        verbose: Without effect.
    """

    def __init__(self, *, n_tokens: int, embd: int, n_seq_max: int, verbose: bool = True) -> None:
        self._n_tokens, self.embd, self.n_seq_max = n_tokens, embd, n_seq_max
        self.batch = c_context.llama_batch_init(n_tokens, embd, n_seq_max)

    def close(self) -> None:
        """Forget the tokens."""
        c_context.llama_batch_free(self.batch)

    reset = close

    def n_tokens(self) -> int:
        """Return the number of tokens."""
        return self.batch.n_tokens

    def set_batch(self, batch: Sequence[int], n_past: int, logits_all: bool) -> None:
        """Put tokens in that follow ``n_past`` others."""
        self.reset()
        self._add(batch, n_past, 0, logits_all)

    def add_sequence(self, batch: Sequence[int], seq_id: int, logits_all: bool) -> None:
        """Append the tokens of a sequence, from its start."""
        self._add(batch, 0, seq_id, logits_all)

    def _add(self, tokens: Sequence[int], n_past: int, seq_id: int, logits_all: bool) -> None:
        start, batch = self.batch.n_tokens, self.batch
        if start + len(tokens) > self._n_tokens:
            raise LlamaValueError(
                f"a batch of {start + len(tokens)} tokens: expected at most {self._n_tokens}"
            )
        for i, token in enumerate(tokens, start):
            batch.token[i], batch.pos[i] = token, n_past + i - start
            batch.seq_id[i][0], batch.n_seq_id[i] = seq_id, 1
            batch.logits[i] = logits_all
        batch.n_tokens = start + len(tokens)
        if tokens:
            batch.logits[batch.n_tokens - 1] = True


class LlamaSampler(Explained):
    """A chain of sampling steps, in the order in which they are added.

    The last one chooses: ``add_greedy``, ``add_dist`` or mirostat.
    """

    _LACKS = {"clone": "make another one, and add the same steps"}  # noqa: RUF012

    def __init__(self) -> None:
        self._options: dict[str, Any] = {}
        self._steps: list[str] = []
        self._grammar: LlamaGrammar | None = None
        self._recent: list[int] = []
        self._sampler: Sampler | None = None

    def close(self) -> None:
        """Forget the state of the chain."""
        self.reset()

    def reset(self) -> None:
        """Begin anew: random numbers, penalties and grammar."""
        self._sampler, self._recent = None, []

    def accept(self, token: int) -> None:
        """Take a token as if it had been sampled, for the penalties."""
        self._recent.append(token)

    def get_seed(self) -> int:
        """Return the seed of the random numbers."""
        return int(self._options.get("seed", c.LLAMA_DEFAULT_SEED))

    def add_greedy(self) -> None:
        """Choose the likeliest token."""
        self._set(None, temp=0.0, seed=0)

    def add_dist(self, seed: int) -> None:
        """Draw a token by its probability; ``LLAMA_DEFAULT_SEED`` for random."""
        self._set(None, seed=-1 if seed in (-1, c.LLAMA_DEFAULT_SEED) else seed)

    def add_top_k(self, k: int) -> None:
        """Keep the ``k`` likeliest tokens."""
        self._set("top_k", top_k=k)

    def add_top_p(self, p: float, min_keep: int = 1) -> None:
        """Keep the likeliest tokens that add up to ``p``."""
        self._set("top_p", top_p=p, min_keep=min_keep)

    def add_min_p(self, p: float, min_keep: int = 1) -> None:
        """Keep tokens at least ``p`` times as likely as the likeliest."""
        self._set("min_p", min_p=p, min_keep=min_keep)

    def add_typical(self, p: float, min_keep: int = 1) -> None:
        """Keep the tokens nearest to the expected surprise that add up to ``p``."""
        self._set("typ_p", typical_p=p, min_keep=min_keep)

    def add_temp(self, temp: float) -> None:
        """Divide the logits."""
        self._set("temperature", temp=temp)

    def add_temp_ext(self, t: float, delta: float, exponent: float) -> None:
        """Divide the logits by a temperature that depends on their entropy."""
        self._set("temperature", temp=t, dynatemp_range=delta, dynatemp_exponent=exponent)

    def add_xtc(self, p: float, t: float, min_keep: int, seed: int) -> None:
        """Leave the likeliest tokens out, sometimes."""
        self._set("xtc", xtc_probability=p, xtc_threshold=t, min_keep=min_keep)

    def add_top_n_sigma(self, n: float) -> None:
        """Keep tokens whose logits are at most ``n`` standard deviations below the largest."""
        self._set("top_n_sigma", top_n_sigma=n)

    def add_mirostat(self, n_vocab: int, seed: int, tau: float, eta: float, m: int) -> None:
        """Choose by mirostat."""
        self._set(None, mirostat=1, mirostat_tau=tau, mirostat_eta=eta)
        self.add_dist(seed)

    def add_mirostat_v2(self, seed: int, tau: float, eta: float) -> None:
        """Choose by mirostat 2."""
        self._set(None, mirostat=2, mirostat_tau=tau, mirostat_eta=eta)
        self.add_dist(seed)

    def add_penalties(
        self,
        n_vocab: int,
        penalty_last_n: int,
        penalty_repeat: float,
        penalty_freq: float,
        penalty_present: float,
    ) -> None:
        """Penalise tokens that were sampled or accepted before."""
        self._set(
            "penalties", repeat_last_n=penalty_last_n, repeat_penalty=penalty_repeat,
            frequency_penalty=penalty_freq, presence_penalty=penalty_present,
        )  # fmt: skip

    def add_dry(
        self,
        model: LlamaModel,
        dry_multiplier: float,
        dry_base: float,
        dry_allowed_length: int,
        dry_penalty_last_n: int,
        seq_breakers: Sequence[str],
    ) -> None:
        """Penalise tokens that go on with a repetition."""
        self._set(
            "dry", dry_multiplier=dry_multiplier, dry_base=dry_base,
            dry_allowed_length=dry_allowed_length, dry_penalty_last_n=dry_penalty_last_n,
            dry_sequence_breakers=tuple(seq_breakers),
        )  # fmt: skip

    def add_logit_bias(self, n_vocab: int, logit_bias: Mapping[int, float]) -> None:
        """Add to the logits of tokens, before all other steps."""
        self._set(None, logit_bias=dict(logit_bias))

    def add_grammar(self, model: LlamaModel, grammar: LlamaGrammar) -> None:
        """Allow what a grammar allows, before all other steps."""
        self._grammar, self._sampler = grammar, None

    def add_grammar_lazy_patterns(self, *args: Any, **options: Any) -> None:
        """Refuse: grammars begin with the text."""
        refuse("_internals.LlamaSampler.add_grammar_lazy_patterns", "grammars begin with the text")

    def add_infill(self, model: LlamaModel) -> None:
        """Refuse: see ``suffix`` of ``Llama.create_completion``."""
        refuse("_internals.LlamaSampler.add_infill", "there is no such step",
               "use `suffix` of `Llama.create_completion`")  # fmt: skip

    def add_custom(self, apply_func: Any) -> None:
        """Refuse: see ``logits_processor`` of ``Llama.create_completion``."""
        refuse("_internals.LlamaSampler.add_custom", "steps do not see llama.cpp's arrays",
               "use `logits_processor` of `Llama.create_completion`")  # fmt: skip

    def sample(self, ctx: LlamaContext, idx: int = -1) -> int:
        """Return a token by the logits of the last batch.

        Args:
            ctx: The context.
            idx: Which token of the batch; below 0 from the last one that wanted logits.

        Raises:
            LlamaValueError: It wanted no logits, or the chain ends without choosing.
        """
        context = ctx._context
        row = context.row(idx) if context is not None else None
        if context is None or row is None:
            raise LlamaValueError(f"sample(idx={idx}): that token of the last batch has no logits")
        if self._sampler is None:
            self._sampler = self._made(context)
        token = self._sampler.choose(row, self._recent)
        self._recent.append(token)
        return token

    def _set(self, step: str | None, **options: Any) -> None:
        self._options.update(options)
        self._sampler = None
        if step is not None:
            self._steps.append(step)

    def _made(self, context: Context) -> Sampler:
        if "seed" not in self._options:
            raise LlamaValueError("the chain ends without choosing a token",
                                  hint="add `add_greedy()` or `add_dist(seed)` last")  # fmt: skip
        steps = tuple(dict.fromkeys(self._steps))
        config = SamplerConfig.from_options(**{"temp": 1.0, **self._options, "samplers": steps})
        tokenizer = context.file.vocabulary.tokenizer
        text = self._grammar.text if self._grammar is not None else None
        matcher = GrammarCache(tokenizer).constraint(text).matcher
        return Sampler(config, tokenizer, matcher)


def normalize_embedding(embedding: Sequence[float]) -> Sequence[float]:
    """Return a vector of length 1, or the same one if it is zero."""
    length = float(np.linalg.norm(embedding))
    return embedding if length == 0 else [value / length for value in embedding]
