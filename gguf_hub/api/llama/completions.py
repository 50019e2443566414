"""Completions and conversations of ``Llama``: from arguments to a run, from a run to answers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gguf_hub.api.llama.base import LlamaBase
from gguf_hub.api.llama.cache import LlamaRAMCache
from gguf_hub.api.llama.parts import LlamaValueError
from gguf_hub.run.chat import choose_format
from gguf_hub.run.generation import Generation, GenerationRequest, TokenLogprob
from gguf_hub.run.generation.answers import (
    Answer,
    Head,
    chat_logprobs,
    text_choice,
    text_logprobs,
    usage,
)
from gguf_hub.run.generation.chat import ChatPlan, encode_chat, modern_tools, plan_chat
from gguf_hub.run.generation.engine import n_shared
from gguf_hub.run.generation.logits_sampler import token_logprob
from gguf_hub.run.generation.streams import ChatStream, CompletionStream, chat_answer_choice, gather
from gguf_hub.run.model.transformer import check_token_ids

SAMPLING = frozenset({
    "temperature", "top_p", "min_p", "typical_p", "top_k", "frequency_penalty",
    "presence_penalty", "repeat_penalty", "tfs_z", "mirostat_mode", "mirostat_tau",
    "mirostat_eta", "logits_processor", "grammar", "logit_bias",
    # beyond llama-cpp-python: what else the sampler offers
    "top_n_sigma", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "dynatemp_range", "dynatemp_exponent",
    "repeat_last_n", "samplers",
})  # fmt: skip
"""Options of a call that are about choosing tokens."""

CHAT_TEMPERATURE = 0.2
"""llama-cpp-python's default for conversations; it is 0.8 for completions."""

FALLBACK_FORMAT = "llama-2"
"""llama-cpp-python's format for models that bring no template."""


class Completions(LlamaBase):
    """What ``Llama`` writes: texts, and answers in conversations."""

    def __init__(self, model_path: str | os.PathLike[str], **arguments: Any) -> None:
        super().__init__(model_path, **arguments)
        self._set_chat_format(arguments.get("chat_format"))

    # -- completions -----------------------------------------------------------------------------

    def __call__(self, prompt: str, *args: Any, **options: Any) -> Any:
        """Complete a text (see ``create_completion``)."""
        return self.create_completion(prompt, *args, **options)

    def create_completion(
        self,
        prompt: str | Sequence[int],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        *,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | Sequence[str] | None = None,
        stream: bool = False,
        seed: int | None = None,
        model: str | None = None,
        stopping_criteria: Any = None,
        **sampling: Any,
    ) -> Any:
        """Complete a text.

        Args:
            prompt: Text or token ids.
            suffix: Text to put after the output.
            max_tokens: The most tokens; None or 0 and less for as many as the context holds.
            logprobs: How many likely tokens to name at each place; of the prompt too with ``echo``,
                which needs ``logits_all``.
            echo: Put the prompt in front.
            stop: Texts that end it.
            stream: Return an iterator of chunks.
            seed: Of the random numbers; the same seed gives the same text.
            model: Name of the model in the answer.
            stopping_criteria: Called with ids and logits after every token; true ends it.
            sampling: ``temperature``, ``top_p``, ``top_k``, ``grammar`` and so on.

        Returns:
            OpenAI's dictionary, or an iterator of such chunks.

        Raises:
            LlamaValueError: The prompt does not fit the context.
            UsageError: An option is out of its interval.
        """
        if echo and logprobs is not None and not self._logits_all:
            raise LlamaValueError(
                "logprobs is not supported for models created with logits_all=False",
                hint="leave `echo` out, or open the model with `logits_all=True`",
            )
        tokens = self._prompt_tokens(prompt)
        run = self._run(tokens, max_tokens, stop, stopping_criteria, n_top=logprobs, seed=seed,
                        **sampling)  # fmt: skip
        head = Head(model or self.model_path)
        text = prompt if isinstance(prompt, str) else self.tokenizer_.decode(prompt)
        if stream:
            return self._stream_text(run, head, text, echo, logprobs is not None)
        return self._whole_text(run, head, text, suffix, echo, logprobs)

    def _whole_text(
        self,
        run: Generation,
        head: Head,
        prompt: str,
        suffix: str | None,
        echo: bool,
        n_top: int | None,
    ) -> Answer:
        text, chances, reason = gather(self._pieces(run))
        logprobs = None
        if n_top is not None and echo:
            first = 1 if run.tokens[0] == self.tokenizer_.bos_id else 0
            ids = [*run.job.prompt[first:], *(c.token_id for c in chances)]
            before = self._prompt_chances(run, first, n_top)
            logprobs = text_logprobs([*before, *chances], self.tokenizer_, 0, ids)
        elif n_top is not None:
            logprobs = text_logprobs(chances, self.tokenizer_, len(prompt))
        text = f"{prompt if echo else ''}{text}{suffix or ''}"
        choice = text_choice(text, logprobs=logprobs, finish_reason=reason)
        return head.text([choice], usage=usage(len(run.job.prompt), run.n_generated))

    def _prompt_chances(self, run: Generation, first: int, n_top: int) -> list[TokenLogprob | None]:
        """Return how likely the prompt's own tokens were; nothing is known of the first one."""
        scores, prompt = self.host.recorder.scores, run.job.prompt
        known = [
            token_logprob(scores[i - 1], prompt[i], n_top) for i in range(first + 1, len(prompt))
        ]
        return [None, *known] if len(prompt) > first else []

    def _stream_text(
        self, run: Generation, head: Head, prompt: str, echo: bool, has_logprobs: bool
    ) -> Iterator[Answer]:
        if echo:
            yield head.text([text_choice(prompt)])
        talk = CompletionStream(
            head, self.tokenizer_, has_logprobs=has_logprobs, offset=len(prompt)
        )
        for piece in self._pieces(run):
            yield from talk.chunks(piece)

    # -- conversations ---------------------------------------------------------------------------

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        functions: Sequence[Mapping[str, Any]] | None = None,
        function_call: Any = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
        *,
        stream: bool = False,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        model: str | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        **sampling: Any,
    ) -> Any:
        """Answer a conversation.

        Args:
            messages: Turns with ``role`` and ``content``.
            functions: OpenAI's old name of tools.
            function_call: OpenAI's old name of the choice.
            tools: Functions that may be called; their arguments follow their JSON schemas.
            tool_choice: ``"none"``, ``"auto"``, ``"required"``, or the one that must be called.
            stream: Return an iterator of chunks.
            stop: Texts that end it, besides those of the format.
            seed: Of the random numbers.
            response_format: ``{"type": "json_object", "schema": ...}`` for JSON.
            max_tokens: The most tokens; None for as many as the context holds.
            model: Name of the model in the answer.
            logprobs: Whether to tell how likely the tokens were.
            top_logprobs: How many likely tokens to name at each place.
            sampling: ``temperature`` (0.2 here), ``top_p`` and so on.

        Returns:
            OpenAI's dictionary, or an iterator of such chunks.
        """
        sampling.setdefault("temperature", CHAT_TEMPERATURE)
        if self.chat_handler is not None:
            return self.chat_handler(
                llama=self, messages=messages, functions=functions, function_call=function_call,
                tools=tools, tool_choice=tool_choice, stream=stream, stop=stop, seed=seed,
                response_format=response_format, max_tokens=max_tokens, model=model,
                logprobs=logprobs, top_logprobs=top_logprobs, **sampling,
            )  # fmt: skip
        if functions is not None or function_call is not None:
            tools, tool_choice = modern_tools(functions, function_call)
        plan = plan_chat(
            self._chat_format, messages, tools=tools, tool_choice=tool_choice,
            response_format=response_format,
        )  # fmt: skip
        run = self._run(
            self.chat_tokens(plan), max_tokens, [*_listed(stop), *plan.stops], None,
            n_top=(top_logprobs or 0) if logprobs else None, seed=seed, schema=plan.schema,
            **sampling,
        )  # fmt: skip
        head = Head(model or self.model_path)
        if stream:
            return self._stream_chat(run, head, plan, bool(logprobs))
        return self._whole_chat(run, head, plan, bool(logprobs))

    def create_chat_completion_openai_v1(self, *args: Any, **options: Any) -> Any:
        """Answer a conversation in the ``openai`` package's own classes."""
        from importlib import import_module

        try:
            types = import_module("openai.types.chat")
        except ImportError as exc:
            raise ImportError(
                "create_chat_completion_openai_v1 needs the package openai: `pip install openai`"
            ) from exc
        found = self.create_chat_completion(*args, **options)
        if options.get("stream"):
            return (types.ChatCompletionChunk(**chunk) for chunk in found)
        return types.ChatCompletion(**found)

    def chat_tokens(self, plan: ChatPlan) -> list[int]:
        """Return the token ids of a conversation's prompt, with one begin token."""
        return encode_chat(self.tokenizer_, plan.prompt)

    def _whole_chat(
        self, run: Generation, head: Head, plan: ChatPlan, has_logprobs: bool
    ) -> Answer:
        text, chances, reason = gather(self._pieces(run))
        logprobs = chat_logprobs(chances, self.tokenizer_) if has_logprobs else None
        choice = chat_answer_choice(
            head, plan, text, reason, logprobs=logprobs, has_legacy_call=True
        )
        return head.chat([choice], usage=usage(len(run.job.prompt), run.n_generated))

    def _stream_chat(
        self, run: Generation, head: Head, plan: ChatPlan, has_logprobs: bool
    ) -> Iterator[Answer]:
        talk = ChatStream(
            head, self.tokenizer_, plan, has_logprobs=has_logprobs, has_legacy_call=True
        )
        for piece in self._pieces(run):
            yield from talk.chunks(piece)

    # -- what both share -------------------------------------------------------------------------

    def _set_chat_format(self, name: str | None) -> None:
        """Choose the format of conversations: the named, else the model's, else a common one."""
        texts = self.tokenizer_.vocab.tokens
        bos, eos = self.tokenizer_.bos_id, self.tokenizer_.eos_id
        found = choose_format(
            self._metadata,
            name,
            bos_token="" if bos is None else texts[bos],
            eos_token="" if eos is None else texts[eos],
        )
        self.chat_format = name or ("chat_template.default" if found else FALLBACK_FORMAT)
        fallback = choose_format({}, FALLBACK_FORMAT)
        assert fallback is not None
        self._chat_format = found or fallback

    def _prompt_tokens(self, prompt: str | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str):
            ids = [int(i) for i in prompt]
            check_token_ids(ids, range(len(ids)), self.tokenizer_.n_vocab)
            return ids
        tokens = self.tokenizer_.encode(prompt, parse_special=True)
        bos = self.tokenizer_.bos_id
        if bos is not None and tokens[:2] == [bos, bos]:
            text = self.tokenizer_.vocab.tokens[bos]
            warnings.warn(
                f'Detected duplicate leading "{text}" in prompt, this will likely reduce response '
                "quality, consider removing it...",
                RuntimeWarning,
                stacklevel=4,
            )
        return tokens or ([] if bos is None else [bos])

    def _run(
        self,
        tokens: list[int],
        max_tokens: int | None,
        stop: str | Sequence[str] | None,
        criteria: Any,
        *,
        seed: int | None,
        **options: Any,
    ) -> Generation:
        """Return a run of these settings.

        Raises:
            LlamaValueError: The prompt does not fit the context.
        """
        n_ctx = self.n_ctx()
        if len(tokens) >= n_ctx:
            raise LlamaValueError(
                f"Requested tokens ({len(tokens)}) exceed context window of {n_ctx}",
                hint="open the model with a larger `n_ctx`, or shorten the prompt",
            )
        room = n_ctx - len(tokens)
        wanted = room if max_tokens is None or max_tokens <= 0 else min(max_tokens, room)
        options = known_options(options)
        chooser = self.chooser(seed=self.next_seed() if seed is None else seed, **options)
        if callable(criteria):
            criteria = (criteria,)
        job = GenerationRequest(
            prompt=tuple(tokens),
            chooser=chooser,
            max_tokens=wanted,
            stops=tuple(_listed(stop)),
            stop_ids=self.tokenizer_.eog_ids,
            criteria=tuple(criteria or ()),
        )
        return Generation(job, self.tokenizer_, n_ctx)

    def _pieces(self, run: Generation) -> Iterator[Any]:
        """Yield what a run writes; take the beginning from the cache of states where it has it."""
        if self.cache is not None:
            self._recall(self.cache, run.job.prompt)
        yield from self.host.stream(run)
        if self.cache is not None:
            self.cache[run.tokens] = self.save_state()

    def _recall(self, cache: LlamaRAMCache, prompt: Sequence[int]) -> None:
        try:
            state = cache[prompt]
        except KeyError:
            return
        if n_shared(state.input_ids.tolist(), prompt) > n_shared(self.host.engine.cached, prompt):
            self.load_state(state)


def known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call that are known; mention the others in a warning."""
    unknown = sorted(options.keys() - SAMPLING - {"n_top", "schema", "penalize_nl"})
    if unknown:
        warnings.warn(
            f"Llama: unknown arguments are ignored: {', '.join(unknown)}", UserWarning, stacklevel=5
        )
    return {name: value for name, value in options.items() if name not in unknown}


def _listed(stop: str | Sequence[str] | None) -> list[str]:
    return [stop] if isinstance(stop, str) else list(stop or ())
