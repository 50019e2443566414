"""JavaScript's clients against a server: those in the folder that ``make clients`` installs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.running import Running
from tests.clients.conftest import NAME
from tests.conftest import ROOT

SCRIPT = Path(__file__).with_name("clients.mjs")
MODULES = Path(os.environ.get("GGUF_HUB_NODE_MODULES", ROOT / "build/clients/node_modules"))


@pytest.fixture(scope="module")
def results(server: Running, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    if not (node := shutil.which("node")):
        pytest.skip("node is not installed")
    if not MODULES.is_dir():
        pytest.skip(f"no packages of npm in `{MODULES}`: `make clients` installs them")
    folder = tmp_path_factory.mktemp("js")  # modules are looked for beside a script
    (folder / "node_modules").symlink_to(MODULES.resolve())
    shutil.copy(SCRIPT, folder)
    done = subprocess.run([node, str(folder / SCRIPT.name), server.url, NAME], timeout=280,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_client_gets_what_it_asks_for(results: list[Any]) -> None:
    errors = [row for row in results if "error" in row[2]]
    assert not errors
    assert {row[0] for row in results} == {
        "openai", "ai-sdk openai-compatible", "ai-sdk openai chat", "ai-sdk openai responses",
        "langchain", "ollama", "anthropic",
    }  # fmt: skip
    for client, what, result in results:
        value = result["value"]
        assert value, (client, what)
        if what in ("parse", "object", "structured output"):
            assert set(value) == {"age"}, client
        if what.startswith("embed"):
            assert value == 256, client
        if what == "tool":
            assert value == [["add", True]], client
