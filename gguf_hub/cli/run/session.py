"""An interactive session: in turns with a model, with commands that begin with a slash.

The session knows texts and turns; ``Lines`` brings what people type, ``show`` puts out what the
model writes. Ctrl-C ends the answer and keeps the session; the end of the input ends it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from gguf_hub.cli.run import session_file
from gguf_hub.errors import ContextFullError, GgufHubError, UsageError

if TYPE_CHECKING:
    from gguf_hub.cli.run.text_generator import TextGenerator
    from gguf_hub.run.chat import ChatFormat

COMMANDS = {
    "/help": "list the commands (also /?)",
    "/reset": "forget the conversation (also /clear)",
    "/save FILE": "save the session to a file",
    "/load FILE": "continue a saved session",
    "/system TEXT": "set the system prompt; without a text, show it",
    "/set NAME VALUE": "change a sampling setting: `/set temp 0.2`; without a name, show all",
    "/stats": "show the speed of the last answer and how full the context is",
    "/exit": "end (also /bye, /quit, Ctrl-D)",
}
ALIASES = {"/?": "/help", "/clear": "/reset", "/bye": "/exit", "/quit": "/exit"}
_NAMES = {name.split()[0] for name in COMMANDS}


FULL = (
    "`/reset` forgets the conversation; start with `--context-shift` to forget its beginning as it "
    "grows, or with a larger `-c`"
)


class Lines(Protocol):
    """What people type."""

    def read(self) -> str | None:
        """Return the next text, without the newline at its end, or None at the end."""
        ...


class Session(ABC):
    """What both kinds of session share: the loop and the commands.

    Args:
        writer: Writes.
        lines: What people type.
        show: Puts out text of the model, as it comes.
        tell: Puts out notes.
        stops: Texts at which the model stops and listens.
    """

    def __init__(
        self,
        writer: TextGenerator,
        lines: Lines,
        show: Callable[[str], None],
        tell: Callable[[str], None],
        stops: tuple[str, ...] = (),
    ) -> None:
        self.writer, self.lines, self.show, self.tell = writer, lines, show, tell
        self.stops = stops

    def loop(self) -> None:
        """Take turns until the end of the input."""
        while (text := self._next()) is not None:
            if _is_command(text):
                if self._command(text.strip()) is False:
                    return
            else:
                self.turn(text)

    def _next(self) -> str | None:
        try:
            return self.lines.read()
        except KeyboardInterrupt:  # at the prompt it throws away the line
            return ""

    @abstractmethod
    def turn(self, text: str) -> None:
        """Answer what was typed."""

    @abstractmethod
    def reset(self) -> None:
        """Forget what was said."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what ``/save`` keeps."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``/save`` has kept."""

    def answer(self, prompt: list[int], stops: tuple[str, ...] = ()) -> str:
        """Let the model write; return its text. Ctrl-C ends it, errors are told."""
        found: list[str] = []
        try:
            for piece in self._pieces(prompt, stops):
                found.append(piece)
                self.show(piece)
            if self.writer.is_context_full:
                n_ctx = self.writer.engine.model.n_ctx
                self.tell(f"\n(stopped: the context of {n_ctx:,} tokens is full)\nhint: {FULL}")
        except KeyboardInterrupt:
            self.tell("\n(stopped)")
        except ContextFullError as error:
            self.tell(f"{error.message}\nhint: {FULL}")
        except GgufHubError as error:
            self.tell(f"{error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
        return "".join(found)

    def _pieces(self, prompt: list[int], stops: tuple[str, ...]) -> Iterator[str]:
        yield from self.writer.write(prompt, (*self.stops, *stops))

    # -- commands --------------------------------------------------------------------------------

    def _command(self, text: str) -> bool:
        """Do what a command says; return False at the end."""
        name, _, rest = text.partition(" ")
        known = ALIASES.get(name, name)
        if known not in _NAMES:
            self.tell(f"no such command `{name}`; /? lists the commands")
            return True
        try:
            return getattr(self, f"_do_{known[1:]}")(rest.strip()) is not False
        except GgufHubError as error:
            self.tell(f"{error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
        return True

    def _do_help(self, rest: str) -> None:
        width = max(map(len, COMMANDS))
        self.tell("\n".join(f"{name:<{width}}  {text}" for name, text in COMMANDS.items()))
        self.tell('Text between """ and """ may have several lines, and a line that ends with a '
                  "backslash continues in the next; Ctrl-C stops an answer.")  # fmt: skip

    def _do_exit(self, rest: str) -> bool:
        return False

    def _do_reset(self, rest: str) -> None:
        self.reset()
        self.writer.forget()
        self.tell("forgotten")

    def _do_save(self, rest: str) -> None:
        path = session_file.named(rest, "/save")
        session_file.save(path, self.state())
        self.tell(f"saved to {path}")

    def _do_load(self, rest: str) -> None:
        path = session_file.named(rest, "/load")
        state = session_file.load(path)
        try:
            self.restore(state)
            self.writer.forget()
        except (ValueError, KeyError, TypeError) as exc:
            raise GgufHubError(f"`{path}` is no saved session") from exc
        self.tell(f"loaded from {path}")

    def _do_system(self, rest: str) -> None:
        raise UsageError("a system message needs a conversation", hint="start with -cnv")

    def _do_set(self, rest: str) -> None:
        from dataclasses import asdict

        if not rest:
            settings = {k: v for k, v in asdict(self.writer.config).items() if k != "logit_bias"}
            self.tell("  ".join(f"{name} {value}" for name, value in settings.items()))
            return
        name, _, value = rest.partition(" ")
        name = name.strip("-").replace("-", "_")
        self.writer.set_option(name, _number(value.strip()))
        self.tell(f"{name} {value.strip()}")

    def _do_stats(self, rest: str) -> None:
        timings = self.writer.timings
        self.tell(
            f"prompt {timings.n_prompt} tokens ({timings.n_cached} known), "
            f"{timings.prompt_tok_per_s:.1f} tok/s; "
            f"answer {self.writer.n_generated} tokens, {timings.generate_tok_per_s:.1f} tok/s; "
            f"context {self.writer.engine.n_cached} of {self.writer.engine.model.n_ctx}"
        )


class TextSession(Session):
    """Model and user write one text, in turns."""

    def __init__(self, *arguments: Any, prefix: str = "", suffix: str = "", **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.prefix, self.suffix = prefix, suffix
        self.tokens: list[int] = []

    def begin(self, prompt: str, *, writes: bool) -> None:
        """Start with a prompt; let the model write first, or the user."""
        self.tokens = self.writer.tokenizer.encode(prompt, parse_special=True)
        if writes and prompt:
            self._write()

    def turn(self, text: str) -> None:
        """Put in what was typed, and let the model go on."""
        typed = f"{self.prefix}{text}\n{self.suffix}"
        is_first = not self.tokens
        self.tokens += self.writer.tokenizer.encode(typed, add_bos=is_first, parse_special=True)
        self._write()

    def _write(self) -> None:
        text = self.answer(self.tokens)
        run = self.writer.run
        if run is not None:
            self.tokens = list(run.tokens)
            if run.stop_text:  # the text where it stops is part of the text
                self.show(run.stop_text)
            elif text and not text.endswith("\n"):
                self.show("\n")

    def reset(self) -> None:
        """Begin with an empty text."""
        self.tokens = []

    def state(self) -> dict[str, Any]:
        """Return the text as token ids."""
        return {"kind": "text", "tokens": self.tokens}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with a saved text."""
        self.tokens = [int(i) for i in state["tokens"]]


class ChatSession(Session):
    """A conversation in a format."""

    def __init__(
        self, *arguments: Any, chat_format: ChatFormat, system: str | None = None, **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self.chat_format, self.system = chat_format, system
        self.messages: list[dict[str, Any]] = []

    def turn(self, text: str) -> None:
        """Answer a question; an answer that failed takes the question with it."""
        from gguf_hub.run.generation.chat import encode_chat

        if not text.strip():
            return
        asked = [*self.messages, {"role": "user", "content": text}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        try:
            prompt = self.chat_format.render([*system, *asked])
        except GgufHubError as error:
            self.tell(error.message)
            return
        tokens = encode_chat(self.writer.tokenizer, prompt.text)
        answer = self.answer(tokens, prompt.stop).strip()
        self.show("\n")
        if answer:
            self.messages = [*asked, {"role": "assistant", "content": answer}]

    def reset(self) -> None:
        """Begin a new conversation."""
        self.messages = []

    def state(self) -> dict[str, Any]:
        """Return system message and turns."""
        return {"kind": "chat", "system": self.system, "messages": self.messages}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with a saved conversation."""
        messages = [
            {"role": str(m["role"]), "content": str(m["content"])} for m in state["messages"]
        ]
        self.system, self.messages = state["system"], messages

    def _do_system(self, rest: str) -> None:
        if rest:
            self.system = rest
        self.tell(f"system: {self.system or '(none)'}")


def _is_command(text: str) -> bool:
    """Tell commands from text: a text of several lines begins with a slash by accident."""
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
