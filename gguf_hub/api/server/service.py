"""The model behind the routes: its properties, and sequences made from requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

from gguf_hub.api.server.biases import token_biases
from gguf_hub.api.server.bodies import Sampling
from gguf_hub.api.server.flow import settle
from gguf_hub.api.server.scheduler import Scheduler
from gguf_hub.api.server.slot_files import SlotFiles
from gguf_hub.api.server.slots import SlotAction
from gguf_hub.api.server.stream import Outbox, Stream
from gguf_hub.api.server.vectors import Vectors
from gguf_hub.api.server.worker import Worker
from gguf_hub.api.server.worker_pool import WorkerPool
from gguf_hub.errors import ContextFullError, UsageError
from gguf_hub.gguf.arch import ARCHITECTURES
from gguf_hub.gguf.hparams import architecture
from gguf_hub.run.generation import (
    ContextShift,
    Generation,
    GenerationRequest,
    GrammarCache,
    LogitsSampler,
    sampler_config,
)
from gguf_hub.run.generation.chat import format_of
from gguf_hub.run.generation.chat_defaults import ChatDefaults
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.generation.marks import mark_ids
from gguf_hub.run.generation.pooling import EUCLIDEAN
from gguf_hub.run.generation.ranking import encode_pair, rerank_template
from gguf_hub.run.generation.reasoning_budget import ReasoningBudget
from gguf_hub.run.generation.vectors import Pooler
from gguf_hub.run.model.limits import require_generation
from gguf_hub.run.sampler import Sampler
from gguf_hub.run.tokenizer import Tokenizer, encode_infill

T = TypeVar("T")

MAX_BULK_CHARACTERS = 2**20
_NO_BUDGET = "the budget of reasoning is not held: a grammar says what the answer is"
_BUSY_S = 0.05  # between two tries to queue more of what has begun
_LOAD_ADAPTER = "`gguf-hub serve MODEL --lora FILE` loads one"
FALLBACK_FORMAT = "chatml"
"""For models without a template, as in llama-server."""


@dataclass(frozen=True)
class AdapterInfo:
    """A LoRA adapter of the model.

    Attributes:
        path: The file.
        scale: Factor of what it adds.
        task_name: What it says that it is for, or empty.
        prompt_prefix: What it says that prompts should begin with, or empty.
    """

    path: str
    scale: float
    task_name: str = ""
    prompt_prefix: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """Properties of the model that the server reports.

    Attributes:
        name: The model name for clients.
        path: The file.
        description: ``general.name``, or the file's name.
        n_params: Number of weights.
        size_bytes: Size of the file.
        n_ctx: Positions of each slot.
        n_ctx_train: Trained context.
        n_embd: Embedding width.
        n_vocab: Vocabulary size.
        n_slots: Requests that are decoded at once.
        quant: The tensor type with the most bytes.
        chat_template: The model's own, or empty.
        metadata: What the file says of the model: numbers and short texts by their keys.
        modified_time: When the file was written, in seconds since 1970.
        can_infill: Whether its vocabulary has tokens for filling in the middle of a text.
        adapters: What is applied to it.
    """

    name: str
    path: str
    description: str
    n_params: int
    size_bytes: int
    n_ctx: int
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    n_slots: int
    quant: str
    chat_template: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    modified_time: float = 0.0
    can_infill: bool = False
    adapters: tuple[AdapterInfo, ...] = ()


class Service:
    """A model as the routes use it.

    Args:
        model_info: Properties of the model.
        tokenizer: The model's.
        metadata: The file's, for the chat template.
        scheduler: Shares the model.
        pooler: Makes vectors or scores of texts.
        chat_format: A format by name instead of the model's template.
        n_keep: On a full context, keep so many tokens of the prompt, discard half of the rest and
            continue (see ``ContextShift.after``); requests may override it. None to stop there.
        defaults: Sampling settings of requests that do not name them.
        n_predict: Tokens of an answer where the request sets no limit; negative for no limit.
        norm: Of vectors where the request names none (see ``pooling.scaled``).
        chat_defaults: Template variables and reasoning of conversations.
        reuses_cache: Whether prompts go on from what a slot holds, unless requests say.
        slot_files: Saves and restores slots; None where that is not offered.
        prints_special: Whether control tokens are text where no grammar holds the answer.

    Attributes:
        vectors: Makes vectors and scores of texts.
        pool: Prepares requests; each call is short, because the context bounds every prompt.
        grammar_pool: Prepares requests with a grammar; most of its threads wait, because slow
            grammars take turns (see ``budget.Lane``).
        bulk: Encodes and decodes texts of any length, so that no prompt waits for them.
    """

    def __init__(
        self,
        model_info: ModelInfo,
        tokenizer: Tokenizer,
        metadata: Any,
        scheduler: Scheduler,
        pooler: Pooler,
        chat_format: str | None = None,
        n_keep: int | None = None,
        *,
        defaults: Mapping[str, Any] = {},
        n_predict: int = -1,
        norm: int = EUCLIDEAN,
        chat_defaults: ChatDefaults | None = None,
        reuses_cache: bool = True,
        slot_files: SlotFiles | None = None,
        prints_special: bool = False,
    ) -> None:
        self._rerank_template = rerank_template(metadata)
        self.model_info = model_info
        self._reuses_cache, self.slot_files = reuses_cache, slot_files
        self._prints_special = prints_special
        self.chat_defaults = chat_defaults or ChatDefaults()
        self._defaults, self._n_predict = defaults, n_predict
        self.tokenizer = tokenizer
        self.created = int(time.time())
        self.errors: list[Exception] = []
        self.scheduler = scheduler
        self._outbox = Outbox()
        self.worker = Worker(scheduler, self.errors.append, after_round=self._outbox.flush)
        self.vectors = Vectors(
            self.worker, n_embd=model_info.n_embd, n_slots=model_info.n_slots, pooler=pooler,
            norm=norm,
        )  # fmt: skip
        self.pool = WorkerPool("gguf-hub-requests")
        self.grammar_pool = WorkerPool("gguf-hub-grammars", n_threads=64, n_waiting=64)
        self.bulk = WorkerPool("gguf-hub-bulk", n_threads=1, n_waiting=32)
        self._n_keep = n_keep
        self._arch = ARCHITECTURES.get(architecture(metadata))
        self._grammars = GrammarCache(tokenizer)
        self.chat_format, _ = format_of(metadata, chat_format, tokenizer, fallback=FALLBACK_FORMAT)

    # -- requests --------------------------------------------------------------------------------

    def prepare(
        self,
        tokens: Sequence[int],
        body: Sampling,
        *,
        max_tokens: int | None,
        stops: Sequence[str],
        n_top: int | None = None,
        n_prompt_top: int | None = None,
        schema: Any = None,
        strict: bool = False,
        choice: int = 0,
        warnings: tuple[str, ...] = (),
        marks: Collection[str] = (),
        is_after_sampling: bool = False,
        max_s: float | None = None,
        budget: ReasoningBudget | None = None,
    ) -> Generation:
        """Return the text of a request, not started yet.

        Args:
            tokens: The prompt.
            body: Sampling settings.
            max_tokens: Maximum number of tokens; None or negative for as many as fit the context,
                or, with a context shift, as the model was trained on.
            stops: Texts that end it.
            n_top: Number of most likely tokens to return per token; None for none.
            n_prompt_top: The same for the tokens of the prompt.
            schema: JSON schema of the output, if the body has no grammar.
            strict: Refuse what cannot be held of the schema; otherwise it is a warning.
            choice: Number of the answer; each has a seed of its own.
            warnings: More for the answer.
            marks: Control tokens that the text has for its parser (``ChatPlan.marks``).
            is_after_sampling: See ``LogitsSampler``.
            max_s: See ``GenerationRequest``.
            budget: Limits the reasoning where no grammar says what the answer is.

        Raises:
            ContextFullError: The prompt is too long.
            UsageError: The prompt is empty, an option or a schema is invalid, or the model makes
                embeddings alone.
            UsageError: The prompt is empty, an option or a schema is invalid, or other scales of
                adapters are asked for.
        """
        if self._arch is not None:
            require_generation(self._arch)
        n_ctx = self.model_info.n_ctx
        self._check_adapters(body)
        if len(tokens) >= n_ctx:
            raise self._too_long(len(tokens))
        tokens = self._check_tokens(tokens)
        settings = {**self._defaults, **body.settings()}
        if body.logit_bias is not None:
            settings["logit_bias"] = token_biases(body.logit_bias, self.tokenizer)
        if (seed := settings.get("seed")) is not None and seed >= 0:
            settings["seed"] = (seed + choice) % 2**32
        elif seed is not None:
            settings["seed"] = -1
        constraint = self._grammars.constraint(body.grammar, schema, strict=strict)
        if budget is not None and constraint.matcher is not None and not schema:
            warnings = (*warnings, _NO_BUDGET)
        held = constraint.matcher or budget
        sampler = Sampler(sampler_config(settings), self.tokenizer, held)
        shift = self._shift(tokens, body)
        request = GenerationRequest(
            prompt=tuple(tokens),
            sampler=LogitsSampler(sampler, n_top=n_top, is_after_sampling=is_after_sampling),
            max_tokens=self._max_tokens(tokens, max_tokens, shift),
            stops=tuple(stops),
            stop_ids=() if body.ignore_eos else self.tokenizer.eog_ids,
            mark_ids=mark_ids(self.tokenizer, marks),
            n_prompt_top=n_prompt_top,
            warnings=(*warnings, *constraint.warnings),
            max_s=max_s,
            prints_special=self._prints_special and constraint.matcher is None,
            reuses_cache=self._reuses_cache if body.cache_prompt is None else body.cache_prompt,
        )
        return Generation(request, self.tokenizer, n_ctx, shift=shift)

    def _check_adapters(self, body: Sampling) -> None:
        """Refuse other scales of adapters than the model's; those that are left out are 0."""
        if body.lora is None:
            return
        own = {i: adapter.scale for i, adapter in enumerate(self.model_info.adapters)}
        if dict.fromkeys(own, 0.0) | {each.id: each.scale for each in body.lora} == own:
            return
        if not own:
            raise UsageError("lora: no adapter is loaded", hint=_LOAD_ADAPTER)
        scales = ", ".join(f"{scale:g} of {i}" for i, scale in own.items())
        raise UsageError(f"lora: adapters have the scales of the command line, {scales}: expected "
                         "these, or no `lora`")  # fmt: skip

    def default_settings(self) -> dict[str, Any]:
        """Return the default sampling settings under llama-server's names."""
        settings = asdict(sampler_config(self._defaults))
        del settings["logit_bias"]
        limits = {"n_predict": self._n_predict, "max_tokens": self._n_predict}
        return {"temperature": settings.pop("temp"), **settings, **limits}

    def _shift(self, tokens: Sequence[int], body: Sampling) -> ContextShift | None:
        if self._n_keep is None:
            return None
        n_keep = self._n_keep if body.n_keep is None else body.n_keep
        return ContextShift.after(tokens, n_keep, self.model_info.n_ctx, self.tokenizer.bos_id)

    def _max_tokens(
        self, tokens: Sequence[int], max_tokens: int | None, shift: ContextShift | None
    ) -> int:
        """Return the limit of an answer; none is endless, as in llama-server."""
        if max_tokens is None or (max_tokens < 0 and max_tokens != -2):
            max_tokens = self._n_predict
        if max_tokens >= 0 or max_tokens == -2:
            return max_tokens
        longest = max(self.model_info.n_ctx, self.model_info.n_ctx_train)
        return -1 if shift is None else longest - len(tokens)

    def encode(self, prompt: str | Sequence[int | str]) -> list[int]:
        """Return the token ids of a prompt; ids stay as they are, texts may stand among them.

        Raises:
            ContextFullError: It has more tokens than the context.
            UsageError: It is empty, or has a token that the model does not have.
        """
        parts = [prompt] if isinstance(prompt, str) else prompt
        self.check_length("".join(part for part in parts if isinstance(part, str)))
        ids: list[int] = []
        for i, part in enumerate(parts):
            if isinstance(part, str):
                ids += self.tokenizer.encode(part, add_bos=i == 0, parse_special=True)
            else:
                ids.append(part)
        if len(ids) > self.model_info.n_ctx:
            raise self._too_long(len(ids))
        return self._check_tokens(ids)

    def encode_infill(self, prompt: str | Sequence[int | str], suffix: str) -> list[int]:
        """Return the token ids of a prompt whose answer stands in front of ``suffix``.

        Raises:
            ContextFullError: It has more tokens than the context.
            UsageError: The model cannot fill in, or the prompt is not one text.
        """
        if not isinstance(prompt, str):
            raise UsageError("suffix: expected a prompt of text, found one with token ids")
        self.check_length(prompt + suffix)
        return encode_infill(self.tokenizer, prompt, suffix)

    def encode_pair(self, query: str, document: str) -> list[int]:
        """Return the token ids of a query and a document.

        Raises:
            ContextFullError: There are more than the context holds.
            UsageError: There are none.
        """
        self.check_length(query)
        self.check_length(document)
        ids = encode_pair(self.tokenizer, self._rerank_template, query, document)
        if len(ids) > self.model_info.n_ctx:
            raise self._too_long(len(ids))
        return self._check_tokens(ids)

    def check_bulk_size(self, text: str) -> None:
        """Refuse to encode a text that is far too long.

        Encoding several megabytes blocks the interpreter for a second at a time.

        Raises:
            UsageError: The text is too long.
        """
        fits = self.tokenizer.least_tokens(len(text)) <= self.model_info.n_ctx
        if len(text) > MAX_BULK_CHARACTERS and not fits:
            raise UsageError(
                f"content: expected at most {MAX_BULK_CHARACTERS} characters, found {len(text)}",
                hint="split it into parts",
            )

    def pool_of(self, body: Sampling) -> WorkerPool:
        """Return the pool that prepares a request."""
        return self.grammar_pool if body.has_grammar else self.pool

    def pool_for(self, n_tokens: int) -> WorkerPool:
        """Return the pool for encoding or decoding that many tokens."""
        return self.pool if n_tokens <= self.model_info.n_ctx else self.bulk

    def check_length(self, text: str) -> None:
        """Refuse a text that cannot fit the context, without encoding it.

        Raises:
            ContextFullError: Even with the longest tokens there would be too many.
        """
        min_tokens = self.tokenizer.least_tokens(len(text))
        if min_tokens > self.model_info.n_ctx:
            raise self._too_long(min_tokens, "at least ")

    def _too_long(self, n_tokens: int, qualifier: str = "") -> ContextFullError:
        n_ctx = self.model_info.n_ctx
        return ContextFullError(
            f"the prompt has {qualifier}{n_tokens} tokens: expected fewer than the context of "
            f"{n_ctx}",
            n_tokens=n_tokens,
            n_ctx=n_ctx,
            hint="shorten it, or start the server with a larger `-c`",
        )

    def _check_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Return non-empty, valid token ids."""
        bos = self.tokenizer.bos_id
        ids = list(tokens) or ([] if bos is None else [bos])
        if not ids:
            raise UsageError("the prompt is empty: expected at least one token")
        invalid = next((i for i in ids if not 0 <= i < self.model_info.n_vocab), None)
        if invalid is not None:
            raise UsageError(
                f"the prompt has the token {invalid}: expected [0, {self.model_info.n_vocab - 1}]"
            )
        return ids

    # -- answers ---------------------------------------------------------------------------------

    def start(
        self,
        generations: Sequence[Generation],
        *,
        is_buffered: bool = False,
        slot: int | None = None,
        shows_progress: bool = False,
    ) -> Stream:
        """Start generations, all or none; return the stream of their deltas.

        Args:
            generations: The texts of one request.
            is_buffered: Hand deltas over at the end of each text only.
            slot: Wait for this slot; None for whichever is best.
            shows_progress: Hand over how much of each prompt is computed, too.

        Raises:
            BusyError: Too many are waiting.
            UsageError: There is no such slot.
        """
        if slot is not None and slot >= self.model_info.n_slots:
            raise self._no_slot(slot, " or -1 for any")
        stream = Stream(
            generations, self._outbox, is_buffered=is_buffered, slot=slot,
            shows_progress=shows_progress,
        )  # fmt: skip
        self.worker.submit(*stream.sequences)
        return stream

    async def on_slot(self, slot: int, act: Callable[[Engine], T]) -> T:
        """Return what ``act`` returns, called in the worker's thread when no text uses the slot.

        Raises:
            BusyError: Too many are waiting.
            UsageError: There is no such slot.
        """
        if not 0 <= slot < self.model_info.n_slots:
            raise self._no_slot(slot)
        future = asyncio.get_running_loop().create_future()
        done, fail = partial(settle, future), partial(settle, future, None)
        action = SlotAction(slot, act, done, fail)
        self.worker.submit(action)
        try:
            return await future  # type: ignore[no-any-return]
        finally:
            action.is_cancelled = True

    def _no_slot(self, slot: int, other: str = "") -> UsageError:
        last = self.model_info.n_slots - 1
        return UsageError(f"id_slot: expected [0, {last}]{other}, found {slot}")

    def end(self) -> None:
        """Fail open requests and stop computing, without waiting."""
        for threads in (self.pool, self.grammar_pool, self.bulk):
            threads.close()
        self.worker.end()

    def close(self) -> None:
        """Fail open requests, stop computing and wait for the end."""
        self.end()
        self.worker.join()
