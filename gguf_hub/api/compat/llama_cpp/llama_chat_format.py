"""``llama_cpp.llama_chat_format``: formats and handlers of conversations.

A formatter turns messages into a prompt, a handler answers them with a model. Formats by name and
templates are those of ``run/chat``; handlers go the way of ``Llama.create_chat_completion``, so
that tools, schemas and streams work with every format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gguf_hub.api.compat.llama_cpp.llama_tokenizer import LlamaHFTokenizer
from gguf_hub.api.compat.llama_cpp.unavailable import refuse
from gguf_hub.api.llama import LlamaValueError, StoppingCriteriaList
from gguf_hub.api.llama.parts import LlamaChatCompletionHandlerNotFoundException
from gguf_hub.errors import UsageError
from gguf_hub.run.chat import ChatFormat, ChatPrompt, TemplateFormat, find_format

_TEMPLATE = "tokenizer.chat_template"


@dataclass
class ChatFormatterResponse:
    """A prompt and where its answer ends.

    Attributes:
        prompt: The prompt.
        stop: Texts that end the answer.
        stopping_criteria: Called with ids and logits; true ends it.
        added_special: Whether the prompt has its begin token.
    """

    prompt: str
    stop: str | list[str] | None = None
    stopping_criteria: StoppingCriteriaList | None = None
    added_special: bool = False


class ChatFormatter(Protocol):
    """Turns messages into a prompt."""

    def __call__(self, *, messages: Any, **kwargs: Any) -> ChatFormatterResponse:
        """Return the prompt of a conversation."""
        ...


class LlamaChatCompletionHandler(Protocol):
    """Answers a conversation with a model."""

    def __call__(self, *, llama: Any, messages: Any, **kwargs: Any) -> Any:
        """Return an answer, or an iterator of its chunks with ``stream``."""
        ...


# -- handlers ------------------------------------------------------------------------------------


class LlamaChatCompletionHandlerRegistry:
    """Handlers by name; all instances are one."""

    _chat_handlers: dict[str, LlamaChatCompletionHandler] = {}  # noqa: RUF012

    def registered(self, name: str | None) -> LlamaChatCompletionHandler | None:
        """Return the handler that a program has registered; None for none."""
        return None if name is None else self._chat_handlers.get(name)

    def register_chat_completion_handler(
        self, name: str, chat_handler: LlamaChatCompletionHandler, overwrite: bool = False
    ) -> None:
        """Give a handler a name.

        Raises:
            LlamaValueError: Another one has it, and ``overwrite`` is not set.
        """
        if not overwrite and name in self._chat_handlers:
            raise LlamaValueError(f"chat handler `{name}` is registered already",
                                  hint="`overwrite=True` replaces it")  # fmt: skip
        self._chat_handlers[name] = chat_handler

    def unregister_chat_handler(self, name: str) -> None:
        """Take a name away.

        Raises:
            LlamaValueError: None has it.
        """
        if self._chat_handlers.pop(name, None) is None:
            raise LlamaValueError(f"no chat handler `{name}` is registered")

    def get_chat_completion_handler_by_name(self, name: str) -> LlamaChatCompletionHandler:
        """Return a handler that was registered, or that of a format by name.

        Raises:
            LlamaChatCompletionHandlerNotFoundException: There is none.
        """
        if (handler := self.registered(name)) is not None:
            return handler
        try:
            return chat_formatter_to_chat_completion_handler(_formatter(find_format(name)))
        except UsageError as exc:
            raise LlamaChatCompletionHandlerNotFoundException(exc) from exc


def get_chat_completion_handler(name: str) -> LlamaChatCompletionHandler:
    """Return the handler of this name (see ``LlamaChatCompletionHandlerRegistry``)."""
    return LlamaChatCompletionHandlerRegistry().get_chat_completion_handler_by_name(name)


def register_chat_completion_handler(name: str) -> Callable[[Any], Any]:
    """Return a decorator that gives a handler a name, for ``Llama(chat_format=name)``."""

    def decorate(handler: Any) -> Any:
        LlamaChatCompletionHandlerRegistry().register_chat_completion_handler(name, handler)
        return handler

    return decorate


def register_chat_format(name: str) -> Callable[[Any], Any]:
    """Return a decorator that gives a formatter a name, for ``Llama(chat_format=name)``."""

    def decorate(formatter: Any) -> Any:
        handler = chat_formatter_to_chat_completion_handler(formatter)
        LlamaChatCompletionHandlerRegistry().register_chat_completion_handler(name, handler)
        return formatter

    return decorate


def chat_formatter_to_chat_completion_handler(
    chat_formatter: ChatFormatter,
) -> LlamaChatCompletionHandler:
    """Return a handler that answers the prompts of a formatter."""

    def handle(*, llama: Any, messages: Any, **options: Any) -> Any:
        """Answer a chat whose prompt the formatter writes, ending where it says."""
        chat_format = _FormatterFormat(chat_formatter)
        return llama.answer_chat(chat_format, messages, criteria=chat_format.is_end, **options)

    return handle


class _FormatterFormat:
    """A formatter as the ``ChatFormat`` of a conversation."""

    source = ""

    def __init__(self, formatter: ChatFormatter) -> None:
        self._formatter = formatter
        self._criteria: StoppingCriteriaList | None = None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> ChatPrompt:
        """Return the prompt of a conversation (see ``ChatFormat``)."""
        response = self._formatter(messages=messages, tools=tools, **variables)
        self._criteria = response.stopping_criteria
        stop = [response.stop] if isinstance(response.stop, str) else response.stop or ()
        return ChatPrompt(response.prompt, tuple(filter(None, stop)))

    def is_end(self, ids: Any, logits: Any) -> bool:
        """Return whether the formatter's criteria end the answer."""
        return self._criteria is not None and bool(self._criteria(ids, logits))


# -- formatters ----------------------------------------------------------------------------------


def _formatter(chat_format: ChatFormat) -> ChatFormatter:
    """Return a format as a formatter."""

    def format_messages(messages: Any, tools: Any = None, **kwargs: Any) -> ChatFormatterResponse:
        prompt = chat_format.render(messages, tools=tools)
        return ChatFormatterResponse(prompt.text, list(prompt.stop))

    return format_messages


class Jinja2ChatFormatter:
    """A Jinja template as a formatter, rendered in gguf-hub's sandbox.

    Args:
        template: The template.
        eos_token: Text of the token that ends a text; an answer ends there, too.
        bos_token: Text of the token that begins one.
        add_generation_prompt: Whether the prompt begins the answer.
        stop_token_ids: Tokens that end an answer.

    Raises:
        ChatTemplateError: The template has an error.
    """

    def __init__(
        self,
        template: str,
        eos_token: str,
        bos_token: str,
        add_generation_prompt: bool = True,
        stop_token_ids: Sequence[int] | None = None,
    ) -> None:
        self.template, self.eos_token, self.bos_token = template, eos_token, bos_token
        self.add_generation_prompt = add_generation_prompt
        self.stop_token_ids = None if stop_token_ids is None else set(stop_token_ids)
        self._format = TemplateFormat(template, bos_token=bos_token, eos_token=eos_token)

    def __call__(self, *, messages: Any, tools: Any = None, **kwargs: Any) -> ChatFormatterResponse:
        """Return the prompt of a conversation; ``kwargs`` are more values for the template.

        Raises:
            ChatTemplateError: The template refuses the conversation.
        """
        prompt = self._format.render(
            messages, tools=tools, add_generation_prompt=self.add_generation_prompt, **kwargs
        )
        ids = self.stop_token_ids
        criteria = [] if ids is None else [lambda tokens, logits: int(tokens[-1]) in ids]
        return ChatFormatterResponse(
            prompt.text, [self.eos_token], StoppingCriteriaList(criteria), added_special=True
        )

    def to_chat_handler(self) -> LlamaChatCompletionHandler:
        """Return a handler that answers its prompts."""
        return chat_formatter_to_chat_completion_handler(self)


def template_handlers(
    metadata: Mapping[str, str], bos_token: str, eos_token: str
) -> Mapping[str, LlamaChatCompletionHandler]:
    """Return the handlers of a model's templates, by llama-cpp-python's names for them."""
    names = {
        key: "chat_template.default" if key == _TEMPLATE else key.removeprefix("tokenizer.")
        for key in metadata
        if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}.")
    }
    return _Handlers({
        name: lambda text=metadata[key]: Jinja2ChatFormatter(text, eos_token, bos_token)
        for key, name in names.items()
    })  # fmt: skip


class _Handlers(dict[str, Any]):
    """Name -> handler, made when it is asked for: a template may be wrong and never used."""

    def __getitem__(self, name: str) -> LlamaChatCompletionHandler:
        handler: LlamaChatCompletionHandler = super().__getitem__(name)().to_chat_handler()
        return handler

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401


def hf_tokenizer_config_to_chat_formatter(
    tokenizer_config: Mapping[str, Any], add_generation_prompt: bool = True
) -> ChatFormatter:
    """Return the formatter of a ``tokenizer_config.json``.

    Args:
        tokenizer_config: Its texts ``chat_template``, ``bos_token`` and ``eos_token`` count.
        add_generation_prompt: End the messages with an empty one of the assistant.

    Raises:
        LlamaValueError: One of them is no text.
        ChatTemplateError: The template has an error.
    """
    for key in ("chat_template", "bos_token", "eos_token"):
        if not isinstance(found := tokenizer_config.get(key), str):
            raise LlamaValueError(f"tokenizer_config `{key}`: expected a text, found {found!r}")
    bos, eos = tokenizer_config["bos_token"], tokenizer_config["eos_token"]
    chat_format = TemplateFormat(tokenizer_config["chat_template"], bos_token=bos, eos_token=eos)

    def format_messages(messages: Any, **kwargs: Any) -> ChatFormatterResponse:
        """Return the prompt; an open answer is an empty message of the assistant."""
        opening = [{"role": "assistant", "content": ""}] if add_generation_prompt else []
        prompt = chat_format.render([*messages, *opening], add_generation_prompt=False)
        return ChatFormatterResponse(prompt.text, [eos, bos], added_special=True)

    return format_messages


def hf_tokenizer_config_to_chat_completion_handler(
    tokenizer_config: Mapping[str, Any], add_generation_prompt: bool = True
) -> LlamaChatCompletionHandler:
    """Return the handler of a ``tokenizer_config.json`` (see the formatter's function)."""
    return chat_formatter_to_chat_completion_handler(
        hf_tokenizer_config_to_chat_formatter(tokenizer_config, add_generation_prompt)
    )


def hf_autotokenizer_to_chat_formatter(pretrained_model_name_or_path: str) -> ChatFormatter:
    """Return the formatter of a tokenizer of transformers, which downloads it.

    Raises:
        ImportError: The package transformers is not installed.
    """
    tokenizer = LlamaHFTokenizer.from_pretrained(pretrained_model_name_or_path).hf_tokenizer

    def format_messages(messages: Any, **kwargs: Any) -> ChatFormatterResponse:
        """Return the prompt as transformers' template writes it, special tokens included."""
        prompt = tokenizer.apply_chat_template(messages, tokenize=False)
        return ChatFormatterResponse(prompt, tokenizer.eos_token, added_special=True)

    return format_messages


def hf_autotokenizer_to_chat_completion_handler(
    pretrained_model_name_or_path: str,
) -> LlamaChatCompletionHandler:
    """Return the handler of a tokenizer of transformers (see the formatter's function)."""
    return chat_formatter_to_chat_completion_handler(
        hf_autotokenizer_to_chat_formatter(pretrained_model_name_or_path)
    )


_PROBE = [{"role": "user", "content": "«1»"}, {"role": "assistant", "content": "«2»"},
          {"role": "user", "content": "«3»"}]  # fmt: skip


def guess_chat_format_from_gguf_metadata(metadata: Mapping[str, str]) -> str | None:
    """Return the name of the format that a model's template writes; None for none known."""
    if not (source := metadata.get(_TEMPLATE)):
        return None
    for name in ("chatml", "mistral-instruct", "llama-3"):
        eos = "</s>" if name == "mistral-instruct" else ""
        template = TemplateFormat(source, eos_token=eos)
        if template.render(_PROBE).text == find_format(name).render(_PROBE).text:
            return name
    return None


_NAMES = {
    "format": "vicuna", "format_alpaca": "alpaca", "format_baichuan": "baichuan",
    "format_baichuan2": "baichuan-2", "format_chatglm3": "chatglm3", "format_chatml": "chatml",
    "format_gemma": "gemma", "format_intel": "intel", "format_llama2": "llama-2",
    "format_llama3": "llama-3", "format_mistral_instruct": "mistral-instruct",
    "format_mistrallite": "mistrallite", "format_oasst_llama": "oasst_llama",
    "format_open_orca": "open-orca", "format_openbuddy": "openbuddy",
    "format_openchat": "openchat", "format_phind": "phind", "format_pygmalion": "pygmalion",
    "format_qwen": "qwen", "format_redpajama_incite": "redpajama-incite",
    "format_saiga": "saiga", "format_snoozy": "snoozy", "format_zephyr": "zephyr",
}  # fmt: skip
"""llama-cpp-python's function -> the format."""


def __getattr__(name: str) -> Any:
    """Return the function that writes a format."""
    if name == "chatml_function_calling":
        return chat_formatter_to_chat_completion_handler(_formatter(find_format("chatml")))
    if name in _NAMES:
        return _formatter(find_format(_NAMES[name]))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# -- images --------------------------------------------------------------------------------------


class Llava15ChatHandler:
    """Not there, as all handlers of images: gguf-hub's models read text only."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._refuse()

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """Refuse, before anything is downloaded."""
        cls._refuse()

    @classmethod
    def _refuse(cls) -> None:
        refuse(f"llama_chat_format.{cls.__name__}", "models read text only, no images",
               "leave `chat_handler` out to chat in text")  # fmt: skip


class Llava16ChatHandler(Llava15ChatHandler):
    """Not there."""


class MTMDChatHandler(Llava15ChatHandler):
    """Not there."""


class Gemma4ChatHandler(Llava15ChatHandler):
    """Not there."""


class ObsidianChatHandler(Llava15ChatHandler):
    """Not there."""


class MoondreamChatHandler(Llava15ChatHandler):
    """Not there."""


class NanoLlavaChatHandler(Llava15ChatHandler):
    """Not there."""


class Llama3VisionAlphaChatHandler(Llava15ChatHandler):
    """Not there."""


class MiniCPMv26ChatHandler(Llava15ChatHandler):
    """Not there."""


class Qwen25VLChatHandler(Llava15ChatHandler):
    """Not there."""
