"""Every command and every Python example of README.md and docs/ runs, on small stand-ins.

A hub on loopback has small models under the documented names. Commands of other programs are named
below, each with the reason why it is not run here; a new one needs a row.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import click
import pytest

from benchmarks.all import TABLES
from gguf_hub.api.compat import llama_cpp
from gguf_hub.cli.main import cli
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.shards import plan_split, write_shards
from gguf_hub.hub.download.destinations import PART_SUFFIX
from gguf_hub.hub.hardware import Hardware
from gguf_hub.units import GB
from tests.conftest import ROOT
from tests.hub_server import HubServer
from tests.lora import make_pairs, write_adapter
from tests.rerankers import write_reranker
from tests.synth import Shape, write_mixtral

Cli = Callable[..., tuple[int, str, str]]

PAGES = [
    "README.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
]
SHELLS = {"sh", "bash", "console"}

INSTALLING = "installs or removes packages"
MEASURES = "needs llama.cpp, and measures"
LONG = "takes many minutes; tests/tools tests the program"
OTHERS = {
    "python3 -m venv .venv": INSTALLING,
    ". .venv/bin/activate": "changes the shell that reads it",
    "pip install -e .": INSTALLING,
    "pip install -e '.[test]'": INSTALLING,
    "pip install -e '.[server]'": INSTALLING,
    "pip install -e '.[fuzz]'": INSTALLING,
    "pip install 'gguf-hub[gpu]'": INSTALLING,
    "pip uninstall gguf-hub": INSTALLING,
    "python -m pytest -q -n auto": "is what runs this",
    "GGUF_HUB_BUILD_KERNELS=1 python -m build --wheel": "takes minutes; test_shipped builds one",
    "mkdir corpus seeds": "prepares the fuzzer",
    "tar xf tests/data/malformed.tar.xz -C seeds": "prepares the fuzzer",
    "python tools/fuzz_gguf.py corpus seeds/malformed -max_total_time=3600": LONG,
    "python tools/fuzz_models.py 1800 1 --out found": LONG,
    "python tools/fuzz_models.py --replay found/*.gguf": "takes what the fuzzer has found",
    "python -m tools.stories --count 400 --held-out --bare > held.txt": LONG,
    "python benchmarks/quality.py": LONG,
    "python benchmarks/made_to_measure.py": LONG,
    "python benchmarks/long_context.py --peer PYTHON --rounds 2 "
    "--plot docs/long-context.svg": MEASURES,
    "python benchmarks/vs_llama_cpp.py --peer PYTHON --threads 2 "
    "--cells pp32 pp256 pp512 tg0 tg8192 start memory": MEASURES,
    "python benchmarks/vs_llama_cpp.py --peer PYTHON --threads 2 "
    "--cells pp256 tg0 --types llama-3.1-8b": MEASURES,
}

# what `make bench` writes above its tables, once they are measured
TABLE_COMMANDS = {f"python {' '.join(table.command('PYTHON'))}" for table in TABLES}

# what a page takes for granted: files of its reader, and commands that came before
FILES = {
    "README.md": ["mixtral-8x7b-v0.1.Q4_K_M.gguf", "model.gguf"],
    "docs/choosing.md": ["model.Q4_K_M.gguf", "model.Q5_K_M.gguf"],
    "docs/embeddings.md": ["model.gguf", "reranker.gguf", "texts.txt"],
    "docs/files.md": [
        *(f"NAME-0000{i}-of-00004.gguf" for i in range(1, 5)),
        "mixtral-8x7b-v0.1.Q4_K_M.gguf",
        "model.f16.gguf",
        "calibration.txt",
        "held-out.txt",
        "model.gguf",
        "ADAPTER.gguf",
    ],
    "docs/gpu.md": ["model.gguf"],
    "docs/library.md": ["model.gguf"],
    "docs/programs.md": ["model.gguf", "gpt4all-models/held.txt"],
    "docs/quality.md": ["gguf_hub/data/tiny-mixtral.f16.gguf", "held.txt"],
    "docs/running.md": ["mixtral-8x7b-v0.1.Q4_K_M.gguf", "model.gguf"],
}
BEFORE = {"docs/storage.md": ["gguf-hub download Q4_K_M"]}
NEEDED = {
    "fastapi": "^gguf-hub serve",
    "uvicorn": "^gguf-hub serve",
    "openai": "^from openai",
    "anthropic": "^from anthropic",
    "ollama": "^from ollama",
    "langchain_core": "langchain",
}
STANDS_FOR = {
    "MODEL": "model.gguf",
    "0.0.0.0": "127.0.0.1",  # a test listens to this machine alone
}
ASKING = {"rm": "y\n"}  # commands that ask, and the answer
PIPED = "Tell me a story.\n"  # to commands that read it where they get no prompt

REPO = "TheBloke/Mixtral-8x7B-v0.1-GGUF"
SHAPE = Shape(
    n_layer=1, n_embd=256, n_head=8, n_head_kv=2, n_ff=256, n_expert=8, n_vocab=320, n_ctx=2048
)
QUANTS = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0")


# -- what is documented ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command of a shell, or a whole Python example."""

    page: str
    line: int
    text: str
    is_python: bool = False

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def fenced(page: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield line number, language and lines of each fenced block."""
    language, lines, start = None, [], 0
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r" *```(.*)", line)
        if not fence:
            lines.append(line)
        elif language is None:
            language, lines, start = fence[1].strip(), [], number + 1
        else:
            yield start, language, lines
            language = None


def shell_commands(page: str, start: int, language: str, lines: list[str]) -> Iterator[Command]:
    joined = ""
    for number, line in enumerate(lines, start):
        if language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        joined += re.sub(r"(^|\s+)#\s.*", "", line)
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        for text in joined.split(" && "):
            if text.strip():
                yield Command(page, number, text.strip())
        joined = ""


@cache
def documented(page: str) -> tuple[Command, ...]:
    """Every command and example of a page, in order."""
    found: list[Command] = []
    for start, language, lines in fenced(page):
        if language in SHELLS:
            found += shell_commands(page, start, language, lines)
        elif language == "python":
            found.append(Command(page, start, textwrap.dedent("\n".join(lines)), is_python=True))
        else:
            assert not language, f"{page}:{start}: what is `{language}`?"
            assert not re.search(r"^\s*(\$ )?gguf-hub ", "\n".join(lines), re.MULTILINE)
    return tuple(found)


@dataclass(frozen=True)
class Invocation:
    """A call of ``gguf-hub`` as a shell makes it."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    stdin: str | None = None
    stdout: str | None = None


def invocation(text: str) -> Invocation | None:
    """Read ``[echo TEXT |] [NAME=VALUE] gguf-hub ... [> FILE]``; None for other programs."""
    if inner := re.fullmatch(r'eval "\$\((.*)\)"', text):
        text = inner[1]
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|<>&;")
    lexer.whitespace_split = True
    words = list(lexer)
    stdin = stdout = None
    if words[0] == "echo" and "|" in words:
        stdin, words = " ".join(words[1 : words.index("|")]) + "\n", words[words.index("|") + 1 :]
    if ">" in words:
        words, stdout = words[: words.index(">")], words[-1]
    environment = {}
    while re.match(r"\w+=", words[0]):
        name, _, environment[name] = words.pop(0).partition("=")
    if words[0] != "gguf-hub":
        return None
    assert not {"|", "<", ">", "&", ";"} & set(words), f"not understood here: {text}"
    return Invocation(words[1:], environment, stdin, stdout)


def test_commands_that_are_not_run_are_named_with_a_reason() -> None:
    commands = [command for page in PAGES for command in documented(page)]
    others = [c for c in commands if not c.is_python and invocation(c.text) is None]
    named = OTHERS.keys() | TABLE_COMMANDS
    assert [str(command) for command in others if command.text not in named] == []
    assert sorted(OTHERS.keys() - {command.text for command in others}) == []
    assert len(commands) - len(others) > 40


def test_commands_within_sentences_have_the_options_that_they_name() -> None:
    found = [
        (page, text)
        for page in PAGES
        if page != "docs/experiments.md"  # of versions before this one
        for text in re.findall(r"`gguf-hub ([a-z][^`]*)`", (ROOT / page).read_text("utf-8"))
    ]
    assert found
    context = click.Context(cli, info_name="gguf-hub")
    for page, text in found:
        name, *words = shlex.split(text)
        command = cli.get_command(context, name)
        assert command is not None, f"{page}: gguf-hub {text}"
        known = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
        flags = {word for word in words if word.startswith("-")}
        assert flags <= known | {"--help"}, f"{page}: gguf-hub {text}"


def test_what_pages_take_for_granted_is_said_of_pages_that_are_there() -> None:
    assert [page for page in {*FILES, *BEFORE} if not documented(page)] == []


# -- the stand-ins --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, embedded: Path) -> Path:
    """A folder with the files that pages speak of, small."""
    folder = tmp_path_factory.mktemp("models")
    for quant in QUANTS:
        write_mixtral(folder / f"mixtral-8x7b-v0.1.{quant}.gguf", SHAPE, recipe=quant)
    for quant in ("Q4_K_M", "Q5_K_M"):
        (folder / f"model.{quant}.gguf").hardlink_to(folder / f"mixtral-8x7b-v0.1.{quant}.gguf")
    f16 = write_mixtral(folder / "model.f16.gguf", SHAPE, recipe="F16")
    (folder / "tiny-mixtral.f16.gguf").hardlink_to(f16)
    (folder / "model.gguf").write_bytes(embedded.read_bytes())
    write_reranker(folder / "reranker.gguf")
    (folder / "texts.txt").write_text("Once upon a time\nTom and Lily\n")
    with GgufFile.open(embedded) as file:
        pairs = make_pairs(file, ["blk.0.attn_q.weight"])
    write_adapter(folder / "ADAPTER.gguf", "llama", pairs)
    for name in ("held.txt", "held-out.txt", "calibration.txt"):
        (folder / name).write_text("Once upon a time there was a fox. " * 100)
    bf16 = write_mixtral(folder / "bf16.gguf", SHAPE, recipe="BF16")
    for stem in ("NAME", "repo.BF16"):
        write_shards(folder / stem, plan_split(bf16, max_tensors=9))
    cut = (folder / "model.Q4_K_M.gguf").read_bytes()
    (folder / "X.Q8_0.gguf.part1of2").write_bytes(cut[:50_000])
    (folder / "X.Q8_0.gguf.part2of2").write_bytes(cut[50_000:])
    return folder


@pytest.fixture(scope="module")
def hub(models: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        for repo_id, pattern in (
            (REPO, "mixtral-8x7b-v0.1.*"),
            ("org/repo", "[rX]*of*"),
        ):
            files = {path.name: path.read_bytes() for path in models.glob(pattern)}
            server.add_repo(repo_id, files)
        yield server
    assert server.errors == []


class Stdin(io.TextIOWrapper):
    """What is piped in, or typed at a terminal."""

    def __init__(self, text: str, *, is_typed: bool) -> None:
        super().__init__(io.BytesIO(text.encode()), "utf-8")
        self._is_typed = is_typed

    def isatty(self) -> bool:
        return self._is_typed


class Reader:
    """Does what a page says, in a folder that has what the page takes for granted."""

    def __init__(self, cli: Cli, stack: contextlib.ExitStack, patch: pytest.MonkeyPatch) -> None:
        self._cli = cli
        self._stack = stack
        self._patch = patch
        self._url = ""  # of the server that was started last

    def follow(self, command: Command) -> None:
        if command.is_python:
            self._run_python(command)
        elif call := invocation(command.text):
            if call.arguments and call.arguments[0] in ("serve", "mirror"):
                self._start(command, self._arguments(call))
            else:
                self._run(command, call)

    def _arguments(self, call: Invocation) -> list[str]:
        return [STANDS_FOR.get(word, word) for word in call.arguments]

    def _run(self, command: Command, call: Invocation) -> None:
        arguments = self._arguments(call)
        typed = ASKING.get(arguments[0]) if arguments else None
        with self._patch.context() as patch:
            text = typed or call.stdin or PIPED
            patch.setattr("sys.stdin", Stdin(text, is_typed=typed is not None))
            for name, value in call.environment.items():
                patch.setenv(name, value)
            code, out, err = self._alone() if call.environment else self._cli(*arguments)
        assert code == 0, f"{command}\n{out}\n{err}"
        assert "Traceback" not in err, f"{command}\n{err}"
        assert out.strip(), f"{command}\n{err}"
        if call.stdout:
            Path(call.stdout).write_text(out, encoding="utf-8")

    def _alone(self) -> tuple[int, str, str]:
        """Run the program as a process: click ends the one that is asked for completions."""
        line = [sys.executable, "-m", "gguf_hub"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def _start(self, command: Command, arguments: list[str]) -> None:
        """Start a server, ask it something, and leave it there until the page ends."""
        line = [sys.executable, "-m", "gguf_hub", *arguments, "--port", "0"]
        pipe = subprocess.PIPE
        child = subprocess.Popen(line, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self._stack.enter_context(child)
        self._stack.callback(child.terminate)
        assert child.stdout is not None
        self._url = child.stdout.readline().strip().removeprefix("HF_ENDPOINT=")
        assert self._url.startswith("http://127.0.0.1:"), f"{command}: it has ended"
        path = {"serve": "/health", "mirror": f"/api/models/{REPO}"}[arguments[0]]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self._url + path) as reply:
            assert reply.status == 200

    def _run_python(self, command: Command) -> None:
        text = command.text.replace("http://127.0.0.1:8080", self._url)
        try:
            exec(compile(text, f"{command.page}:{command.line}", "exec"), {})
        finally:
            llama_cpp.uninstall()


@pytest.fixture
def reader(
    gguf_hub: Cli, hub: HubServer, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    seen = Hardware(64 * GB, 64 * GB, None, 2, 2, "a cpu", (), 900 * GB, ())
    monkeypatch.setattr("gguf_hub.hub.hardware.detect", lambda *args, **options: seen)
    monkeypatch.setattr(
        "gguf_hub.cli.start.embedded.embedded_model", lambda: models / "model.f16.gguf"
    )
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    broken_off = tmp_path / "hf-home/hub/models--org--other/blobs" / f"{'0' * 64}{PART_SUFFIX}"
    broken_off.parent.mkdir(parents=True)
    broken_off.write_bytes(b"the beginning of a file")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with contextlib.ExitStack() as stack:
        yield Reader(gguf_hub, stack, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if documented(page)])
def test_a_page_can_be_followed(page: str, reader: Reader, models: Path) -> None:
    for package, pattern in NEEDED.items():
        if any(re.search(pattern, command.text) for command in documented(page)):
            pytest.importorskip(package, reason=f"{package} is not installed")
    for name in FILES.get(page, ()):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes((models / Path(name).name).read_bytes())
    for text in BEFORE.get(page, ()):
        reader.follow(Command(page, 0, text))
    for command in documented(page):
        reader.follow(command)
