"""Interactive sessions: turns with a model, and commands that begin with a slash.

The session knows texts and turns; ``Lines`` reads the user's input, ``show`` prints the model's
text. Ctrl-C stops the answer, not the session; the end of input ends the session.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from gguf_hub.cli.run import session_file
from gguf_hub.errors import ContextFullError, GgufHubError, UsageError

if TYPE_CHECKING:
    from gguf_hub.cli.run.text_generator import TextGenerator
    from gguf_hub.run.chat import ChatFormat, ChatPrompt
    from gguf_hub.run.generation.chat_defaults import ChatDefaults

COMMANDS = {
    "/help": "list the commands (also /?)",
    "/reset": "forget the conversation (also /clear)",
    "/save FILE": "save the session to a file",
    "/load FILE": "continue a saved session",
    "/system TEXT": "set the system prompt; without a text, show it",
    "/regen": "answer again (also /retry)",
    "/set NAME VALUE": "change a setting: `/set temp 0.2`; without a name, show all",
    "/stats": "show the speed of the last answer and how full the context is",
    "/exit": "end (also /bye, /quit, Ctrl-D)",
}
ALIASES = {"/?": "/help", "/clear": "/reset", "/bye": "/exit", "/quit": "/exit",
           "/retry": "/regen", "/regenerate": "/regen"}  # fmt: skip
_NAMES = {name.split()[0] for name in COMMANDS}


FULL = (
    "`/reset` forgets the conversation; `/set context_shift on` forgets its beginning as it grows"
)
_OTHER_NAMES = {"temperature": "temp", "num_predict": "predict", "n_predict": "predict"}
"""Names of settings in Ollama and llama.cpp -> ours."""
_SWITCH = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


class Lines(Protocol):
    """The user's input."""

    def read(self) -> str | None:
        """Return the next text without its newline, or None at the end."""
        ...


class Session(ABC):
    """The loop and the commands of both kinds of session.

    Args:
        generator: Generates texts.
        lines: The user's input.
        show: Prints text of the model as it is generated.
        notify: Prints notes.
        stops: Texts at which the model returns control.
    """

    def __init__(
        self,
        generator: TextGenerator,
        lines: Lines,
        show: Callable[[str], None],
        notify: Callable[[str], None],
        stops: tuple[str, ...] = (),
    ) -> None:
        self.generator, self.lines, self.show, self.notify = generator, lines, show, notify
        self.stops = stops

    def loop(self) -> None:
        """Take turns until the end of the input."""
        while (text := self._read()) is not None:
            if _is_command(text):
                if self._execute(text.strip()) is False:
                    return
            else:
                self.turn(text)

    def _read(self) -> str | None:
        try:
            return self.lines.read()
        except KeyboardInterrupt:  # at the prompt it discards the line
            return ""

    @abstractmethod
    def turn(self, text: str) -> None:
        """Answer the user's input."""

    @abstractmethod
    def regenerate(self) -> None:
        """Answer the last input again.

        Raises:
            UsageError: There is none.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget the text so far."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the state for ``/save``."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state of ``/save``."""

    def answer(self, prompt: list[int], stops: tuple[str, ...] = ()) -> str:
        """Generate and show an answer; return it. Ctrl-C stops it, errors are reported."""
        parts: list[str] = []
        try:
            for text in self.generator.stream(prompt, (*self.stops, *stops)):
                parts.append(text)
                self.show(text)
            if self.generator.is_context_full:
                n_ctx = self.generator.engine.model.n_ctx
                self.notify(f"\n(stopped: the context of {n_ctx:,} tokens is full)\nhint: {FULL}")
        except KeyboardInterrupt:
            self.notify("\n(stopped)")
        except ContextFullError as error:
            self.notify(f"{error.message}\nhint: {FULL}")
        except GgufHubError as error:
            self._report(error)
        return "".join(parts)

    def _report(self, error: GgufHubError) -> None:
        self.notify(error.message + (f"\nhint: {error.hint}" if error.hint else ""))

    # -- commands --------------------------------------------------------------------------------

    def _execute(self, text: str) -> bool:
        """Execute a command; return False to end the session."""
        name, _, arguments = text.partition(" ")
        command = ALIASES.get(name, name)
        if command not in _NAMES:
            self.notify(f"no such command `{name}`; /? lists the commands")
            return True
        try:
            return getattr(self, f"_do_{command[1:]}")(arguments.strip()) is not False
        except GgufHubError as error:
            self._report(error)
        return True

    def _do_help(self, argument: str) -> None:
        width = max(map(len, COMMANDS))
        self.notify("\n".join(f"{name:<{width}}  {text}" for name, text in COMMANDS.items()))
        self.notify('Text between """ and """ may have several lines, and a line that ends with a '
                    "backslash continues in the next; Ctrl-C stops an answer.")  # fmt: skip

    def _do_exit(self, argument: str) -> bool:
        return False

    def _do_reset(self, argument: str) -> None:
        self.reset()
        self.generator.forget()
        self.notify("forgotten")

    def _do_regen(self, argument: str) -> None:
        self.regenerate()

    def _do_save(self, argument: str) -> None:
        path = session_file.path_argument(argument, "/save")
        session_file.save(path, self.state())
        self.notify(f"saved to {path}")

    def _do_load(self, argument: str) -> None:
        path = session_file.path_argument(argument, "/load")
        state = session_file.load(path)
        try:
            self.restore(state)
            self.generator.forget()
        except UsageError:
            raise
        except (ValueError, KeyError, TypeError) as exc:
            raise GgufHubError(f"`{path}` is not a saved session") from exc
        self.notify(f"loaded from {path}")

    def _do_system(self, argument: str) -> None:
        raise UsageError("a system prompt needs a conversation", hint="start with -cnv")

    def _do_set(self, argument: str) -> None:
        from dataclasses import asdict

        generator = self.generator
        if not argument:
            settings = {k: v for k, v in asdict(generator.config).items() if k != "logit_bias"}
            shift = "off" if generator.n_keep is None else "on"
            settings |= {"predict": generator.max_tokens, "context_shift": shift}
            self.notify("  ".join(f"{name} {value}" for name, value in settings.items()))
            return
        # as in Ollama: /set parameter temperature 0.2
        name, _, value = argument.removeprefix("parameter ").strip().partition(" ")
        name, value = name.strip("-").replace("-", "_"), value.strip()
        name = _OTHER_NAMES.get(name, name)
        if name == "context_shift":
            self._set_shift(value.lower())
        elif name == "predict":
            generator.max_tokens = self._whole_number(name, value)
        else:
            generator.set_option(name, _number(value))
        self.notify(f"{name} {value}")

    def _set_shift(self, value: str) -> None:
        if value not in _SWITCH:
            raise UsageError(f"context_shift {value}: expected on or off")
        self.generator.n_keep = (self.generator.n_keep or 0) if _SWITCH[value] else None
        self.generator.forget()

    @staticmethod
    def _whole_number(name: str, text: str) -> int:
        number = _number(text)
        if not isinstance(number, int) or number < -2:
            raise UsageError(f"{name} {text}: expected a whole number, -1 for no limit")
        return number

    def _do_stats(self, argument: str) -> None:
        timings = self.generator.timings
        self.notify(
            f"prompt {timings.n_prompt} tokens ({timings.n_cached} cached), "
            f"{timings.prompt_tok_per_s:.1f} tok/s; "
            f"answer {self.generator.n_generated} tokens, {timings.generate_tok_per_s:.1f} tok/s; "
            f"context {self.generator.engine.n_cached} of {self.generator.engine.model.n_ctx}"
        )


class TextSession(Session):
    """Model and user continue one text in turns."""

    def __init__(self, *arguments: Any, prefix: str = "", suffix: str = "", **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.prefix, self.suffix = prefix, suffix
        self.tokens: list[int] = []
        self._asked: list[int] = []  # the text that was continued last

    def begin(self, prompt: str, *, is_model_first: bool) -> None:
        """Start with a prompt; the model or the user continues it."""
        self.tokens = self.generator.tokenizer.encode(prompt, parse_special=True)
        if is_model_first and prompt:
            self._generate()

    def turn(self, text: str) -> None:
        """Append the user's input and let the model continue."""
        input_text = f"{self.prefix}{text}\n{self.suffix}"
        is_first = not self.tokens
        self.tokens += self.generator.tokenizer.encode(
            input_text, add_bos=is_first, parse_special=True
        )
        self._generate()

    def regenerate(self) -> None:
        """Continue the text as it was before the last answer."""
        if not self._asked:
            raise UsageError("there is no answer to make again")
        self.tokens = list(self._asked)
        self._generate()

    def _generate(self) -> None:
        self._asked = list(self.tokens)
        text = self.answer(self.tokens)
        generation = self.generator.generation
        if generation is not None:
            self.tokens = list(generation.tokens)
            if generation.stop_text:  # the stop text is part of the text
                self.show(generation.stop_text)
            elif text and not text.endswith("\n"):
                self.show("\n")

    def reset(self) -> None:
        """Start an empty text."""
        self.tokens, self._asked = [], []

    def state(self) -> dict[str, Any]:
        """Return the text as token ids."""
        return {"kind": "text", "tokens": self.tokens}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue a saved text."""
        self.tokens = [int(i) for i in state["tokens"]]


class ChatSession(Session):
    """A conversation in a format."""

    def __init__(
        self,
        *arguments: Any,
        chat_format: ChatFormat,
        system: str | None = None,
        defaults: ChatDefaults | None = None,
        **more: Any,
    ) -> None:
        from gguf_hub.run.generation.chat_defaults import ChatDefaults

        super().__init__(*arguments, **more)
        self.chat_format, self.system = chat_format, system
        self.defaults = defaults or ChatDefaults()
        self.messages: list[dict[str, Any]] = []

    def turn(self, text: str) -> None:
        """Answer a message; without an answer, the message is dropped."""
        from gguf_hub.run.generation.chat import encode_chat

        if not text.strip():
            return
        messages = [*self.messages, {"role": "user", "content": text}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        try:
            prompt = self._render([*system, *messages])
        except GgufHubError as error:
            self.notify(error.message)
            return
        tokens = encode_chat(self.generator.tokenizer, prompt.text)
        self._limit_reasoning(prompt.text)
        answer = self.answer(tokens, prompt.stop).strip()
        self.show("\n")
        if answer:
            self.messages = [*messages, {"role": "assistant", "content": answer}]

    def _render(self, messages: list[dict[str, Any]]) -> ChatPrompt:
        """Return the prompt of a conversation, with its reasoning ended where it is turned off."""
        from gguf_hub.run.generation.chat import literal_messages
        from gguf_hub.run.generation.reasoning import open_reasoning

        n_budget = self.defaults.reasoning_budget
        variables = self.defaults.variables_for(None, None, n_budget)
        control_texts = self.generator.tokenizer.vocab.control_texts
        literal = literal_messages(messages, control_texts)
        prompt = self.chat_format.render(literal, **variables)
        opened = open_reasoning(prompt.text)
        if opened is None or variables.get("enable_thinking") is not False:
            return prompt
        return replace(prompt, text=opened.close(prompt.text))

    def _limit_reasoning(self, prompt: str) -> None:
        from gguf_hub.run.generation.harmony import is_harmony
        from gguf_hub.run.generation.reasoning import open_reasoning
        from gguf_hub.run.generation.reasoning_budget import ReasoningBudget

        n_budget = self.defaults.reasoning_budget
        self.generator.budget = None if n_budget < 0 else ReasoningBudget(
            self.generator.tokenizer, n_budget, message=self.defaults.budget_message,
            opened=open_reasoning(prompt), is_harmony=is_harmony(self.chat_format.source),
        )  # fmt: skip

    def regenerate(self) -> None:
        """Answer the last message again; the answer that was there stays where none comes."""
        if len(self.messages) < 2:
            raise UsageError("there is no answer to make again")
        *before, message, _ = answered = self.messages
        self.messages = before
        self.turn(message["content"])
        if self.messages == before:
            self.messages = answered

    def reset(self) -> None:
        """Start a new conversation."""
        self.messages = []

    def state(self) -> dict[str, Any]:
        """Return system prompt and turns."""
        return {"kind": "chat", "system": self.system, "messages": self.messages}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue a saved conversation."""
        messages = [
            {"role": str(m["role"]), "content": str(m["content"])} for m in state["messages"]
        ]
        self.system, self.messages = state["system"], messages

    def _do_system(self, argument: str) -> None:
        if argument:
            self.system = argument
        self.notify(f"system: {self.system or '(none)'}")


def _is_command(text: str) -> bool:
    """Return whether a text is a command; several lines are only with a known name."""
    text = text.strip()
    name = text.split(maxsplit=1)[0] if text else ""
    return name.startswith("/") and ("\n" not in text or name in _NAMES or name in ALIASES)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
