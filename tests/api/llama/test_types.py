"""Type checkers see the arguments of ``Llama``, and pass every Python example of the docs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from gguf_hub.api.llama.signatures import MoreSampling, completion, defaults
from gguf_hub.run.sampler import SamplerConfig
from tests.conftest import ROOT
from tests.test_documented_commands import PAGES, documented

OPEN = """from gguf_hub import Llama
from gguf_hub.api.compat.llama_cpp import Llama as Peer

llm, peer = Llama("model.gguf", n_ctx=2048), Peer("model.gguf", seed=1)
"""


def checked(folder: Path, texts: dict[str, str]) -> list[str]:
    """Return what mypy says of files, one line each, as somebody who has installed us sees it."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent",
         "--ignore-missing-imports", "--hide-error-context", "--no-error-summary",
         f"--cache-dir={ROOT / '.mypy_cache' / 'examples'}", *texts],
        cwd=folder, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode < 2, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


@pytest.mark.slow
def test_examples_of_the_docs_pass(tmp_path: Path) -> None:
    examples = [
        c for page in PAGES for c in documented(page) if c.is_python and "gguf_hub" in c.text
    ]
    assert any(example.page == "README.md" for example in examples)
    texts = {
        f"{Path(e.page).stem.replace('-', '_')}_{e.line}.py": f"# {e.page}:{e.line}\n{e.text}\n"
        for e in examples
    }
    assert not (found := checked(tmp_path, texts)), "\n".join(found)


RIGHT = (
    'llm("Once", max_tokens=3, stop=["."], top_n_sigma=2.0)["choices"][0]["text"]',
    'llm("Once", None, 3)',
    'peer.create_chat_completion([{"role": "user", "content": "Hi"}], temperature=0)',
    "token: int = llm.sample(1)",
    "ids: list[int] = [i for i in peer.generate([1, 2], temp=0)]",
)
WRONG = (
    'llm("Once", temperatur=0)',
    'peer("Once", max_tokens="three")',
    'llm.create_completion("Once", 3)',
    "llm.create_chat_completion(max_tokens=3)",
    'Llama("model.gguf", n_ctx="a")',
    'Peer("model.gguf", 512)',
    "from gguf_hub import Lama",
)


@pytest.mark.slow
def test_arguments_are_checked(tmp_path: Path) -> None:
    found = checked(tmp_path, {"calls.py": OPEN + "\n".join([*RIGHT, *WRONG]) + "\n"})
    first = len(OPEN.splitlines()) + len(RIGHT) + 1
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == list(range(first, first + len(WRONG))), "\n".join(found)


def test_every_setting_of_the_sampler_has_a_parameter() -> None:
    own = {"temp": "temperature", "mirostat": "mirostat_mode"}
    settings = {own.get(field.name, field.name) for field in fields(SamplerConfig)}
    known = {*defaults(completion), *MoreSampling.__annotations__}
    assert settings - {"dry_sequence_breakers"} <= known
