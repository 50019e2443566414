"""Sessions in turns, with scripted lines in place of a person."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.cli.run.session import ChatSession, TextSession
from gguf_hub.cli.run.text_generator import TextGenerator
from gguf_hub.cli.run.typing_lines import PlainLines, read_turn
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.chat import find_format
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.sampler import SamplerConfig
from gguf_hub.run.tokenizer import load_tokenizer

Cli = Callable[..., tuple[int, str, str]]


class Script:
    """Lines of a list; Ctrl-C where it says so."""

    def __init__(self, *lines: Any) -> None:
        self.lines = list(lines)

    def read(self) -> str | None:
        line = self.lines.pop(0) if self.lines else None
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return line


@pytest.fixture(scope="module")
def stories(data: Path) -> Path:
    return data / "models" / "stories260K.f32.gguf"


@pytest.fixture(scope="module")
def generator(stories: Path, kernels: None) -> Iterator[TextGenerator]:
    with GgufFile.open(stories) as file, Transformer.open(file, ModelSettings(n_ctx=256)) as model:
        tokenizer = load_tokenizer(file.metadata)
        yield TextGenerator(Engine(model), tokenizer, SamplerConfig(temp=0), max_tokens=12)


@pytest.fixture
def out() -> dict[str, list[str]]:
    return {"show": [], "tell": []}


@pytest.fixture
def chat(generator: TextGenerator, out: dict[str, list[str]]) -> Callable[..., ChatSession]:
    def open_(*lines: Any, **options: Any) -> ChatSession:
        return ChatSession(
            generator, Script(*lines), out["show"].append, out["tell"].append,
            chat_format=find_format("alpaca"), **options,
        )  # fmt: skip

    return open_


def notes(out: dict[str, list[str]]) -> str:
    return "\n".join(out["tell"])


def test_turns_are_remembered(chat: Any, out: Any) -> None:
    session = chat("Who is Tom?", "And Lily?", "", "/exit", "never")
    session.loop()
    assert [m["role"] for m in session.messages] == ["user", "assistant"] * 2
    assert session.messages[1]["content"] in "".join(out["show"])
    assert session.lines.lines == ["never"]


@pytest.fixture
def shifting(stories: Path, kernels: None) -> Iterator[TextGenerator]:
    with GgufFile.open(stories) as file, Transformer.open(file, ModelSettings(n_ctx=64)) as model:
        tokenizer = load_tokenizer(file.metadata)
        yield TextGenerator(
            Engine(model), tokenizer, SamplerConfig(temp=0), max_tokens=30, n_keep=4
        )


def test_a_text_in_turns_outgrows_a_context_that_shifts(shifting: TextGenerator, out: Any) -> None:
    session = TextSession(shifting, Script(), out["show"].append, out["tell"].append)
    session.begin("Once upon a time", is_model_first=True)
    costs = []
    for _ in range(8):
        session.turn("Tom")
        if len(session.tokens) > 2 * 64:
            costs.append((shifting.timings.n_cached, shifting.timings.n_prompt))
    assert out["tell"] == []
    assert len(session.tokens) > 3 * 64
    assert shifting.engine.cached[:5] == session.tokens[:5]  # the begin token and four more
    # a turn that begins in the window of the last one computes what is new alone
    assert any(n_cached > 32 and n_prompt < 5 for n_cached, n_prompt in costs)


def test_a_conversation_outgrows_a_context_that_shifts(shifting: TextGenerator, out: Any) -> None:
    session = ChatSession(
        shifting, Script("Who?", "And?", "And then?", "/reset", "Who?"), out["show"].append,
        out["tell"].append, chat_format=find_format("alpaca"),
    )  # fmt: skip
    session.loop()
    assert out["tell"] == ["forgotten"]
    assert [m["role"] for m in session.messages] == ["user", "assistant"]


def test_reset_forgets(chat: Any, out: Any) -> None:
    session = chat("Who?", "/reset")
    session.loop()
    assert session.messages == []
    assert "forgotten" in notes(out)


def test_a_session_is_saved_and_loaded(chat: Any, out: Any, tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    first = chat("/system Be brief.", "Who?", f"/save {file}")
    first.loop()
    second = chat(f"/load {file}")
    second.loop()
    assert (second.messages, second.system) == (first.messages, "Be brief.")
    file.write_text("[]")
    chat(f"/load {file}", "/load", f"/load {tmp_path / 'none'}").loop()
    assert "is not a saved session" in notes(out)
    assert "expected a file name" in notes(out)
    assert "cannot read" in notes(out)


def test_settings_change(chat: Any, generator: TextGenerator, out: Any) -> None:
    before = generator.config
    chat("/set temp 0.5", "/set top-k 3", "/set", "/set tempo 1", "/set top_p 7").loop()
    assert (generator.config.temp, generator.config.top_k) == (0.5, 3)
    assert "top_k 3" in notes(out)
    assert "did you mean `temp`?" in notes(out)
    assert "expected [0, 1], found 7" in notes(out)
    generator.config = before
    generator.set_option("temp", 0)


def test_settings_have_the_names_of_other_programs(
    chat: Any, generator: TextGenerator, out: Any
) -> None:
    before = generator.config
    chat("/set temperature 0.25", "/set parameter num_predict 3", "Who?").loop()
    assert (generator.config.temp, generator.max_tokens, generator.n_generated) == (0.25, 3, 3)
    chat("/set predict many", "/set context_shift perhaps").loop()
    assert "expected a whole number, -1 for no limit" in notes(out)
    assert "expected on or off" in notes(out)
    generator.config, generator.max_tokens = before, 12
    generator.set_option("temp", 0)


def test_the_remedy_for_a_full_context_works_within_the_session(
    generator: TextGenerator, chat: Any, out: Any
) -> None:
    generator.max_tokens = 100
    try:
        session = chat(*["Tell me more."] * 4)
        session.loop()
        assert "hint: `/reset` forgets the conversation; `/set context_shift on`" in notes(out)
        out["tell"].clear()
        session.lines.lines = ["/set context_shift on", *["And then?"] * 4]
        session.loop()
        assert out["tell"] == ["context_shift on"]
        assert len(session.messages) >= 8
    finally:
        generator.max_tokens, generator.n_keep = 12, None
        generator.forget()


def test_an_answer_is_made_again(chat: Any, generator: TextGenerator, out: Any) -> None:
    session = chat("/regen", "Who is Tom?", "And Lily?")
    session.loop()
    assert "no answer to make again" in notes(out)
    first = list(session.messages)
    generator.set_option("temp", 1.5)
    try:
        session.lines.lines = ["/regen", "/retry", "/regenerate"]
        session.loop()
    finally:
        generator.set_option("temp", 0)
    assert session.messages[:3] == first[:3]
    assert session.messages[3]["role"] == "assistant"
    assert session.messages[3] != first[3]
    session.lines.lines = ["/regen"]
    session.loop()
    assert session.messages == first  # as decided by the most likely tokens again


def test_a_text_goes_on_otherwise(generator: TextGenerator, out: Any) -> None:
    session = TextSession(generator, Script("/regen"), out["show"].append, out["tell"].append)
    session.loop()
    assert "no answer to make again" in notes(out)
    session.begin("Once upon", is_model_first=True)
    before = list(session.tokens)
    session.lines.lines = ["/regen"]
    session.loop()
    assert session.tokens == before
    assert "".join(out["show"]).count(" a time") == 2


def test_unknown_commands_and_help(chat: Any, out: Any) -> None:
    chat("/hlp", "/help", "/stats").loop()
    assert "no such command `/hlp`" in notes(out)
    assert "/reset" in notes(out)
    assert "tok/s" in notes(out)


@pytest.mark.parametrize("alias", ["/bye", "/quit", " /exit "])
def test_a_session_ends_as_in_other_programs(chat: Any, alias: str) -> None:
    session = chat(alias, "never")
    session.loop()
    assert session.lines.lines == ["never"]


def test_other_programs_names_of_commands_work(chat: Any, out: Any) -> None:
    session = chat("Who?", "/?", "/clear")
    session.loop()
    assert session.messages == []
    assert "/save FILE" in notes(out) and "/bye" in notes(out) and "forgotten" in notes(out)


def test_a_text_of_several_lines_is_no_command_by_accident(chat: Any, out: Any) -> None:
    session = chat("/usr/bin/env\nis what?", "/system Be\nbrief.", "/usr/bin")
    session.loop()
    assert session.messages[0]["content"] == "/usr/bin/env\nis what?"
    assert session.system == "Be\nbrief."
    assert "no such command `/usr/bin`; /? lists the commands" in notes(out)


def test_ctrl_c_stops_the_answer_and_keeps_the_session(
    generator: TextGenerator, out: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if len(shown) == 3:
            raise KeyboardInterrupt

    session = ChatSession(
        generator, Script("Who?", KeyboardInterrupt, "/stats"), show, out["tell"].append,
        chat_format=find_format("alpaca"),
    )  # fmt: skip
    session.loop()
    assert "(stopped)" in notes(out)
    assert "tok/s" in notes(out)  # the loop went on


def test_a_full_context_is_told_and_the_session_goes_on(chat: Any, out: Any) -> None:
    session = chat("word " * 400, "Who?")
    session.loop()
    assert "more than the context of 256" in notes(out)
    assert "hint: `/reset` forgets the conversation" in notes(out)
    assert len(session.messages) == 2


def test_an_answer_that_fills_the_context_offers_to_reset(
    generator: TextGenerator, chat: Any, out: Any
) -> None:
    generator.max_tokens, generator.ignore_eos = -1, True
    try:
        chat("Who?").loop()
    finally:
        generator.max_tokens, generator.ignore_eos = 12, False
    assert "(stopped: the context of 256 tokens is full)\nhint: `/reset` forgets" in notes(out)


def test_two_write_one_text(generator: TextGenerator, out: Any) -> None:
    session = TextSession(
        generator, Script("Tom"), out["show"].append, out["tell"].append,
        stops=(" there",), prefix="<", suffix=">",
    )  # fmt: skip
    session.begin("Once upon", is_model_first=True)
    assert "".join(out["show"]) == " a time, there"
    session.loop()
    text = generator.tokenizer.decode(session.tokens)
    assert text.startswith("Once upon a time, there <Tom\n>")


# -- the command --------------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_lines_go_on_after_a_backslash(typed: Any) -> None:
    typed("one\\\ntwo\nthree\\\n")
    lines = PlainLines()
    assert [lines.read(), lines.read(), lines.read()] == ["one\ntwo", "three", None]


@pytest.mark.parametrize(
    ("typed_text", "turns"),
    [
        ('"""one\n/two"""\nthree', ["one\n/two", "three"]),
        ('"""\none\n\ntwo\n"""\n', ["one\n\ntwo"]),
        ('"""one"""\n"""two', ["one", "two"]),
        ('""""""\n"""\n"""\nx', ["", "", "x"]),
        ('say """hi\nthere', ['say """hi', "there"]),
        ('"""a\\\nb"""  ', ["a\\\nb"]),
        ("", []),
    ],
)
def test_quotes_hold_several_lines(typed_text: str, turns: list[str]) -> None:
    lines = iter(typed_text.split("\n") if typed_text else [])

    def read_line(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    assert list(iter(lambda: read_turn(read_line), None))[: len(turns)] == turns


# -- a prompt without flags ----------------------------------------------------------------------


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Have a program find bytes on stdin that is no terminal."""

    def pipe(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))

    return pipe


GREEDY = ("-n", 8, "--temp", 0, "--no-perf")


def test_a_prompt_may_follow_the_model_or_be_piped_in(
    gguf_hub: Cli, stories: Path, piped: Any
) -> None:
    expected = gguf_hub("run", stories, "-p", "Once upon", *GREEDY)
    assert gguf_hub("run", stories, "Once upon", *GREEDY) == expected
    piped(b"Once upon\n")
    assert gguf_hub("run", stories, *GREEDY) == expected
    piped(b"")
    assert gguf_hub("run", stories, *GREEDY) == gguf_hub("run", stories, "-p", "", *GREEDY)
    piped(b"\xff")
    code, out, err = gguf_hub("run", stories, *GREEDY)
    assert (code, out) == (1, "")
    assert "prompt file `-` is not UTF-8 text" in err


def test_a_model_with_a_chat_template_answers_a_message(
    gguf_hub: Cli, embedded: Path, piped: Any
) -> None:
    def said(*words: str) -> str:
        code, out, err = gguf_hub("run", embedded, *words, *GREEDY)
        assert code == 0, err
        return str(out)

    expected = said("-st", "-p", "Tell me a story.")
    assert said("Tell me a story.") == expected
    piped(b"Tell me a story.\n")
    assert said() == expected
    text = said("-p", "Tell me a story.")
    assert said("-no-cnv", "Tell me a story.") == text
    assert text.startswith("Tell me a story.") and text != expected


def test_a_system_prompt_implies_a_conversation(gguf_hub: Cli, stories: Path, piped: Any) -> None:
    shared = ("run", stories, "--chat-template", "chatml", "-sys", "Be brief.", *GREEDY)
    expected = gguf_hub(*shared, "-st", "-p", "Who?")
    assert gguf_hub(*shared, "Who?") == expected
    assert gguf_hub(*shared, "-p", "Who?") == expected
    piped(b"Who?")
    assert gguf_hub(*shared) == expected
    other = gguf_hub("run", stories, "--chat-template", "chatml", "Who?", *GREEDY)
    assert other[1] != expected[1]
    for flag in ("-no-cnv", "-i"):
        code, _, err = gguf_hub(*shared, "-p", "Who?", flag)
        assert code == 2
        assert f"-sys sets the system prompt of a conversation, {flag} continues a text" in err


def test_the_cards_interactive_line_runs(gguf_hub: Cli, embedded: Path, typed: Any) -> None:
    typed("Tell me a story.\n/stats\n/exit\n")
    code, out, err = gguf_hub(
        "run", "-ngl", 35, "-m", embedded, "--color", "-c", 512, "--temp", 0.7,
        "--repeat_penalty", 1.1, "-n", -1, "-i", "-ins", "-s", 1,
    )  # fmt: skip
    assert code == 0
    assert len(out) > 20
    assert "-ngl 35: everything runs on the CPU: " in err
    assert "context" in err


def test_a_single_turn_answers_one_question(gguf_hub: Cli, embedded: Path, typed: Any) -> None:
    typed("")
    shared = ("run", embedded, "-st", "-n", 8, "--temp", 0, "--no-perf")
    code, out, _ = gguf_hub(*shared, "-p", "Tell me a story.")
    assert code == 0
    typed("Tell me a story.\n")
    assert gguf_hub(*shared)[1] == out != "\n"


def test_a_base_model_takes_turns_at_a_text(gguf_hub: Cli, stories: Path, typed: Any) -> None:
    typed("Lily\n")
    code, out, _ = gguf_hub("run", stories, "-p", "Once upon", "-i", "-r", " there", "--temp", 0,
                            "-n", 10)  # fmt: skip
    assert code == 0
    assert out.startswith("Once upon a time, there")
    typed("")
    _, out, err = gguf_hub("run", stories, "-cnv", "--temp", 0, "-n", 4)
    assert "using `chatml`" in err


def test_a_saved_prompt_costs_nothing_the_next_time(
    gguf_hub: Cli, stories: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompt.cache"
    shared = ("run", stories, "-p", "Once upon a time, Tom", "-n", 5, "--temp", 0,
              "--prompt-cache", file)  # fmt: skip
    _, first, err = gguf_hub(*shared)
    assert "prompt 8 tokens" in err
    _, second, err = gguf_hub(*shared)
    assert first == second
    assert "prompt 1 tokens" in err
    file.write_bytes(b"nonsense")
    code, third, err = gguf_hub(*shared, "--prompt-cache-ro")
    assert (code, third) == (0, first)
    assert "is not a prompt cache" in err
    assert file.read_bytes() == b"nonsense"


def test_a_saved_prompt_holds_the_output_only_when_asked_to(
    gguf_hub: Cli, stories: Path, tmp_path: Path
) -> None:
    prompt = "Once upon a time, Tom"
    text = gguf_hub("run", stories, "-p", prompt, "-n", 12, "--temp", 0)[1].rstrip("\n")

    def n_computed(*saving: Any) -> int:
        """Return how many tokens of prompt and output are computed when they are the prompt."""
        file = tmp_path / "prompt.cache"
        file.unlink(missing_ok=True)
        shared = ("run", stories, "--temp", 0, "--prompt-cache", file)
        assert gguf_hub(*shared, "-p", prompt, "-n", 12, *saving)[1].rstrip("\n") == text
        _, _, err = gguf_hub(*shared, "-p", text, "-n", 1)
        return int(re.findall(r"prompt (\d+) tokens", err)[0])

    assert n_computed("--prompt-cache-all") == 1
    assert n_computed() == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [("--rope-scale", 2), ("--rope-freq-base", 5e4), ("-ctk", "q8_0"), ("-c", 256)],
    ids=lambda other: other[0],
)
def test_a_saved_prompt_of_other_settings_is_not_used(
    gguf_hub: Cli, stories: Path, tmp_path: Path, other: tuple[Any, ...]
) -> None:
    file = tmp_path / "prompt.cache"
    shared = ("run", stories, "-p", "Once upon a time, Tom", "-n", 5, "--temp", 0)
    assert gguf_hub(*shared, "--prompt-cache", file)[0] == 0
    code, out, err = gguf_hub(*shared, *other, "--prompt-cache", file)
    assert (code, out) == (0, gguf_hub(*shared, *other)[1])
    assert "has another model, context, cache type or position embedding" in err
    assert "prompt 8 tokens" in err
    assert "prompt 1 tokens" in gguf_hub(*shared, *other, "--prompt-cache", file)[2]


def test_a_saved_prompt_of_other_weights_is_not_used(
    gguf_hub: Cli, stories: Path, tmp_path: Path
) -> None:
    file, other = tmp_path / "prompt.cache", tmp_path / "other.gguf"
    raw = bytearray(stories.read_bytes())
    raw[-2] ^= 1  # of the last weight
    other.write_bytes(raw)
    line = ("-p", "Once upon a time, Tom", "-n", 5, "--temp", 0, "--prompt-cache", file)
    assert gguf_hub("run", stories, *line)[0] == 0
    code, _, err = gguf_hub("run", other, *line)
    assert code == 0
    assert "has another model" in err
    assert "prompt 8 tokens" in err


# -- what holds the text ------------------------------------------------------------------------


def test_grammars_schemas_and_biases_hold_the_text(
    gguf_hub: Cli, stories: Path, tmp_path: Path
) -> None:
    shared = ("run", stories, "-p", "Is it?", "--no-display-prompt", "--no-perf", "-s", 3)
    assert gguf_hub(*shared, "--grammar", 'root ::= "yes" | "no"')[1] in ("yes\n", "no\n")
    file = tmp_path / "g.gbnf"
    file.write_text("root ::= [0-9]{3}")
    assert gguf_hub(*shared, "--grammar-file", file)[1].strip().isdigit()
    schema = '{"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}'
    assert isinstance(json.loads(gguf_hub(*shared, "-j", schema)[1]), list)
    shared = ("run", stories, "-p", "Once", "--temp", 0, "-n", 1, "--no-perf")
    assert gguf_hub(*shared)[1] == "Once upon\n"
    assert gguf_hub(*shared, "-l", "407-inf")[1] != "Once upon\n"
    stopped = gguf_hub("run", stories, "-p", "Once upon", "--temp", 0, "-n", 9, "-r", " there")
    assert stopped[1] == "Once upon a time,\n"


def test_what_a_schema_says_and_nothing_holds_is_a_warning_on_stderr(
    gguf_hub: Cli, stories: Path
) -> None:
    schema = '{"type": "array", "items": {"type": "null"}, "maxItems": 1, "minLenght": 1}'
    shared = ("run", stories, "-p", "Is it?", "--no-display-prompt", "--no-perf", "-s", 3)
    code, out, err = gguf_hub(*shared, "-j", schema)
    assert code == 0 and json.loads(out) in ([], [None])
    assert err.count("warning: schema, at `/minLenght`: `minLenght` is not known") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grammar", "x", "-j", "{}"], "--grammar and --json-schema both constrain"),
        (["-l", "words"], "--logit-bias words: expected a token id, a sign and a number"),
        (
            ["-sys", "a", "-sysf", "b"],
            "--system-prompt-file exclude each other",
        ),
        (["--color", "pink"], "'pink' is not one of"),
        (["-cnv", "--chat-template", "nope", "-p", "x"], "no chat format `nope`"),
        (["--grammar", "root ::= (", "-p", "x"], "line 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_said(
    gguf_hub: Cli, stories: Path, arguments: list[str], message: str
) -> None:
    code, _, err = gguf_hub("run", stories, *arguments)
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--grammar", "root ::= (", "line 1"),
        ("--grammar", 'start ::= "a"', "root"),
        ("-j", "{", "schema"),
        ("-j", '{"type": "colour"}', "colour"),
    ],
)
def test_a_wrong_grammar_is_said_before_anything_is_loaded_or_printed(
    gguf_hub: Cli, flag: str, value: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "held"
    file.write_text(value)
    for option in ((flag, value), (f"{flag}f" if flag == "-j" else f"{flag}-file", file)):
        code, out, err = gguf_hub("run", "no-such-model.gguf", "-p", "Once", *option)
        assert (code, out) == (2, "")
        assert message in err
        assert "no-such-model" not in err and "tok/s" not in err


def test_colours_come_when_asked(gguf_hub: Cli, stories: Path) -> None:
    shared = ("run", stories, "-p", "Once", "-n", 1, "--temp", 0, "--no-perf")
    assert gguf_hub(*shared, "--color")[1] == "\x1b[33mOnce\x1b[0m upon\n"
    assert gguf_hub(*shared, "--color", "off")[1] == gguf_hub(*shared)[1] == "Once upon\n"
