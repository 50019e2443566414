"""``gguf-hub run``: golden text, flags, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.cli.run.prompt import unescape
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.tokenizer import load_tokenizer
from tests.hub_server import HubServer

LLAMA = Path(__file__).parents[1] / "api" / "llama"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stories(data: Path) -> Path:
    return data / "models" / "stories260K.f32.gguf"


def test_the_golden_text_token_for_token(gguf_hub: Cli, stories: Path) -> None:
    golden = json.loads(stories.with_name("stories260K.golden.json").read_text())
    code, out, err = gguf_hub("run", stories, "-p", "", "--temp", 0, "-n", 200)
    tokenizer = load_tokenizer(GgufFile.open(stories).metadata)
    expected = b"".join(map(tokenizer.token_bytes, golden["greedy"][:200])).decode()
    assert code == 0
    assert out == expected + "\n"
    assert golden["text"].startswith(expected)
    assert "prompt 1 tokens" in err and "generated 200 tokens" in err


def test_the_prompt_is_printed_unless_told_otherwise(gguf_hub: Cli, stories: Path) -> None:
    shared = ("run", stories, "-p", "Once upon a time", "--temp", 0, "-n", 5)
    _, whole, _ = gguf_hub(*shared)
    _, rest, _ = gguf_hub(*shared, "--no-display-prompt", "--no-perf")
    assert whole == "Once upon a time" + rest
    assert len(rest) > 5


def test_underscores_and_the_model_flag_work_as_in_llama_cpp(gguf_hub: Cli, stories: Path) -> None:
    card = ["-ngl", 35, "-m", stories, "-c", 256, "--temp", 0.7, "--repeat_penalty", 1.1, "-n", 8]
    code, out, err = gguf_hub("run", *card, "-p", "Lily", "--seed", 1)
    assert code == 0
    assert out.startswith("Lily")
    assert "-ngl 35: everything runs on the CPU: " in err


def test_the_same_seed_gives_the_same_text(gguf_hub: Cli, stories: Path) -> None:
    arguments = ("run", stories, "-p", "The", "-n", 24, "--no-perf")
    texts = [gguf_hub(*arguments, "--seed", seed)[1] for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_a_prompt_comes_from_a_file(gguf_hub: Cli, stories: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Tom went\n")
    code, out, _ = gguf_hub("run", stories, "-f", tmp_path / "p.txt", "-n", 3, "--temp", 0)
    assert code == 0
    assert out.startswith("Tom went")


def test_a_missing_model_is_fetched_from_the_hub_first(
    gguf_hub: Cli, stories: Path, hub_server: HubServer
) -> None:
    hub_server.add_repo("org/stories", {"stories.F32.gguf": stories.read_bytes()})
    arguments = ("run", "org/stories:F32", "-p", "", "--temp", 0, "-n", 4)
    code, out, err = gguf_hub(*arguments)
    assert (code, out) == (0, " Once upon a time\n")
    assert "1.2 MB" in err  # what it costs is said first
    before = len(hub_server.body_requests())
    assert gguf_hub(*arguments)[:2] == (0, " Once upon a time\n")
    assert len(hub_server.body_requests()) == before


def test_the_hubs_flags_name_the_same_as_an_argument(
    gguf_hub: Cli, stories: Path, hub_server: HubServer
) -> None:
    hub_server.add_repo("org/stories", {"stories.F32.gguf": stories.read_bytes()})
    more = ("-p", "", "--temp", 0, "-n", 4)
    expected = (0, " Once upon a time\n")
    for flags in (("-hf", "org/stories:F32"), ("-hf", "org/stories", "-hff", "stories.F32.gguf")):
        assert gguf_hub("run", *flags, *more)[:2] == expected


def test_a_template_that_cannot_be_used_is_told_before_a_model_is_looked_for(
    gguf_hub: Cli,
) -> None:
    code, out, err = gguf_hub("run", "no-such-model.gguf", "--chat-template", "{% for x in")
    assert (code, out) == (1, "")
    assert "the chat template has an error in line 1" in err
    assert "no-such-model" not in err


def test_sequence_breakers_of_dry_are_read_with_escapes(gguf_hub: Cli, stories: Path) -> None:
    text = "a red cat saw a red cat saw a red cat saw a red"
    line = ("run", stories, "-p", text, "--temp", 0, "-n", 20, "--dry-multiplier", 9, "--no-perf")
    found = [
        gguf_hub(*line, *more)
        for more in (
            (),
            ("--dry-sequence-breaker", r"\n", *_each("--dry-sequence-breaker", ':"*')),
            ("--dry-sequence-breaker", "none"),
            _each("--dry-sequence-breaker", "abcdefghijklmnopqrstuvwxyz ."),
        )
    ]
    assert all(code == 0 for code, _, _ in found)
    default, written_out, none, everything = (out for _, out, _ in found)
    assert default == written_out
    assert everything != none  # where all is a breaker nothing is ever repeated


def _each(flag: str, texts: str) -> list[str]:
    return [word for text in texts for word in (flag, text)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "-5"], "--predict -5: expected -2 or more"),
        (["-c", "-1"], "--ctx-size -1: expected 0 or more"),
        (["-b", "0"], "0 is not in the range x>=1"),
        (["--top-p", "1.5"], "top_p"),
        (["-ctk", "q5_1"], "`q5_1`: expected f32, f16 or q8_0"),
        (["--temp", "warm"], "'warm' is not a valid float"),
        (["-m", "x"], "MODEL is given twice"),
        (["-hf", "org/repo"], "with -hf"),
        (["-hff", "model.gguf"], "-hf is missing"),
        (["-p", "a", "-f", "b"], "-p and -f both give a prompt"),
        (["a", "-p", "b"], "-p and PROMPT both give a prompt"),
        (["a", "b"], "unexpected extra argument (b)"),
        (["--chat-template", "mistrall"], "no chat format `mistrall`"),
        (["--keep", "-7"], "--keep -7: expected -1 (the whole prompt) or more"),
        (["--keep", "many"], "'many' is not a valid integer"),
        (["--rope-scale", "0"], "rope_scale: expected (0, 1e+12], found 0.0"),
        (["--rope-scale", "nan"], "rope_scale: expected (0, 1e+12], found nan"),
        (["--rope-scale", "4", "--rope-freq-scale", ".25"], "one is 1 / the other"),
        (["--rope_freq_base", "-1"], "rope_freq_base: expected (1, 1e+12] or 0 (the model's)"),
        (["--rope-scaling", "ntk"], "'ntk' is not one of"),
        (["--yarn-orig-ctx", "1.5"], "'1.5' is not a valid integer"),
        (["--yarn-ext-factor", "2"], "yarn_ext_factor: expected [0, 1] or -1 (the model's)"),
        (["--yarn-beta-fast", "inf"], "yarn_beta_fast: expected (0, 1e+12] or -1"),
        (["--no-such-flag"], "no such option `--no-such-flag`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_clear_line(
    gguf_hub: Cli, stories: Path, arguments: list[str], message: str
) -> None:
    code, out, err = gguf_hub("run", stories, *arguments)
    assert (code, out) == (2, "")
    assert message.lower() in err.lower()
    assert "Traceback" not in err


def broken(kind: str, folder: Path, stories: Path) -> Path:
    path = folder / "model.gguf"
    if kind == "missing":
        return path
    contents: dict[str, Any] = {
        "empty": b"",
        "a web page": b"<!DOCTYPE html><html><body>Not found</body></html>",
        "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "truncated": stories.read_bytes()[:200_000],
        "text": b"hello there, this is no model at all",
        "zeros": bytes(5000),
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "a web page", "an LFS pointer", "truncated", "text"]
)
def test_a_bad_file_is_one_clear_error_with_a_hint(
    kind: str, gguf_hub: Cli, stories: Path, tmp_path: Path
) -> None:
    code, out, err = gguf_hub("run", broken(kind, tmp_path, stories), "-p", "x", "-n", 2)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "hint: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["run", "serve", "inspect", "perplexity", "bench", "verify"])
@pytest.mark.parametrize("kind", ["empty", "a web page", "an LFS pointer", "truncated", "zeros"])
def test_a_damaged_file_never_suggests_to_download_another_model(
    command: str, kind: str, gguf_hub: Cli, stories: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    path = broken(kind, folder, stories)
    text = ["--text", __file__] if command == "perplexity" else []
    port = ["--port", 0] if command == "serve" else []
    code, _, err = gguf_hub(command, path, *text, *port)
    assert code == 1
    assert "`gguf-hub download`" not in err  # alone, it downloads what `pick` chooses
    if command == "verify":
        assert "hint: download it again from its source" in err
    elif (command, kind) != ("inspect", "truncated"):  # it shows what there is
        assert f"`gguf-hub verify '{path}'` prints the command if the origin" in err


def test_a_prompt_longer_than_the_context_says_what_to_do(gguf_hub: Cli, stories: Path) -> None:
    code, _, err = gguf_hub("run", stories, "-p", "word " * 50, "-c", 16)
    assert code == 1
    assert "more than the context of 16" in err
    assert "hint: use a larger context" in err


def test_a_full_context_ends_the_text_and_says_so(gguf_hub: Cli, stories: Path) -> None:
    code, _, err = gguf_hub("run", stories, "-p", "", "--temp", 0, "-c", 16)
    assert code == 0
    assert "stopped: the context of 16 tokens is full; `-c 32` makes it larger" in err
    assert "stopped" not in gguf_hub("run", stories, "-p", "", "-c", 16, "-n", 4)[2]


@pytest.mark.slow
def test_a_draft_model_changes_no_greedy_text(gguf_hub: Cli, stories: Path) -> None:
    shared = ("run", stories, "-p", "Once upon a time", "--temp", 0, "-c", 128, "-n", 60)
    draft = ("-md", stories.with_name("stories260K.q4_0.gguf"), "--draft", 4, "--draft-min", 4)
    code, text, err = gguf_hub(*shared, *draft, "-ngld", 99)
    assert (code, text) == (0, gguf_hub(*shared)[1])
    assert "drafted" in err
    assert "-ngld is ignored: the CPU computes the draft model" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-md", "missing.gguf"), "missing.gguf"),
        (("-md", "DRAFT", "--lookup", 3), "--lookup and --model-draft both draft tokens"),
        (("-md", "DRAFT", "--draft-min", 20), "--draft-min 20: expected 0 to 16"),
        (("-md", "DRAFT", "--draft-p-min", 2), "--draft-p-min"),
        (("-md", "OTHER"), "cannot draft for this model: its vocabulary has 1,280"),
    ],
)
def test_drafts_that_cannot_be_are_refused(
    gguf_hub: Cli, stories: Path, embedded: Path, flags: tuple[object, ...], message: str
) -> None:
    paths = {"DRAFT": stories.with_name("stories260K.q4_0.gguf"), "OTHER": embedded}
    code, out, err = gguf_hub("run", stories, "-p", "x", *(paths.get(f, f) for f in flags))
    assert (code != 0, out) == (True, "")
    assert message in err and "Traceback" not in err


def test_a_full_context_goes_on_where_it_may_shift(gguf_hub: Cli, stories: Path) -> None:
    shared = ("run", stories, "-p", "Once upon a time", "--temp", 0, "-c", 32)
    code, text, err = gguf_hub(*shared, "--context-shift", "-n", 80)
    assert (code, "stopped" in err) == (0, False)
    assert "generated 80 tokens" in err
    short = gguf_hub(*shared)[1].removesuffix("\n")
    assert text.startswith(short) and len(text) > 2 * len(short)
    # guesses change nothing, nor do batches; what is kept does
    assert gguf_hub(*shared, "--context-shift", "-n", 80, "--lookup", 4, "-b", 5)[1] == text
    assert gguf_hub(*shared, "--context-shift", "-n", 80, "--keep", -1)[1] != text


def test_a_full_context_ends_the_text_where_that_is_asked(gguf_hub: Cli, stories: Path) -> None:
    shared = ("run", stories, "-p", "", "--temp", 0, "-c", 16)
    _, text, err = gguf_hub(*shared, "--context-shift", "-n", -2)
    assert text == gguf_hub(*shared, "--no-context-shift")[1]
    assert "stopped: the context of 16 tokens is full" in err


def test_a_shifting_context_ends_at_a_stop_text(gguf_hub: Cli, stories: Path) -> None:
    shared = ("run", stories, "-p", "Once upon a time", "--temp", 0, "-c", 32, "--context-shift")
    whole = gguf_hub(*shared, "-n", 80)[1].removesuffix("\n")
    stop = "a big box"
    assert whole.index(stop) > len(gguf_hub(*shared[:-1])[1])  # it comes after a shift
    assert gguf_hub(*shared, "-r", stop)[1] == whole[: whole.index(stop)] + "\n"


def test_a_prompt_longer_than_a_shifting_context_is_refused_too(
    gguf_hub: Cli, stories: Path
) -> None:
    code, _, err = gguf_hub("run", stories, "-p", "word " * 50, "-c", 16, "--context-shift")
    assert code == 1
    assert "more than the context of 16" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [("--no-mmap",), ("--mlock",), ("--mlock-dense",), ("-ctk", "q8_0", "-ctv", "Q8_0"),
     ("--cache-type-k", "q8_0"), ("-ctk", "F32", "-ctv", "f32")],
    ids=" ".join,
)  # fmt: skip
def test_memory_and_cache_do_not_change_the_text(
    gguf_hub: Cli, stories: Path, options: tuple[str, ...]
) -> None:
    arguments = ("run", stories, "-p", "Once", "--temp", 0, "-n", 16)
    expected = gguf_hub(*arguments)[1]
    code, out, err = gguf_hub(*arguments, *options)
    assert (code, out) == (0, expected), err


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (("--rope-scaling", "linear", "--rope-scale", 4), "linear"),
        (("--rope_freq_scale", 0.25), "the model's scaling"),
        (("--rope-scale", 4, "--rope-scaling", "none"), "none"),
        (("--rope-freq-base", 50000), "base"),
        (("--rope-scale", 4, "--rope-scaling", "yarn", "--yarn-ext-factor", 0.5),
         "yarn, half of it"),
        (("--rope-scale", 4, "--rope-scaling", "yarn", "--yarn-ext-factor", 0,
          "--yarn-attn-factor", 1.3), "yarn, attention"),
        (("--rope-scale", 4, "--rope-scaling", "yarn", "--yarn-orig-ctx", 32),
         "yarn, original context"),
        (("--rope-scale", 4, "--rope-scaling", "yarn", "--yarn-beta-fast", 8, "--yarn-beta-slow",
          0.5), "yarn, betas"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_stretched_context_writes_llama_cpps_text(
    gguf_hub: Cli, stories: Path, flags: tuple[Any, ...], name: str
) -> None:
    reference = json.loads((LLAMA / "llama_cpp_python.json").read_text())["results"]
    arguments = ("-c", 256, "-p", "Once upon a time", "--temp", 0, "-n", 16)
    assert gguf_hub("run", stories, *arguments, *flags)[1] == reference[f"rope: {name}"][0] + "\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(r"a\nb\t\\", "a\nb\t\\"), (r"\x41\"\'", "A\"'"), (r"\q \x", r"\q \x"), ("plain", "plain")],
)
def test_escapes(text: str, expected: str) -> None:
    assert unescape(text) == expected
