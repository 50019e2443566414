"""docs/flags.md says what the commands do."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.conftest import ROOT
from tools.flags_page import page

Cli = Callable[..., tuple[int, str, str]]


def test_the_page_is_up_to_date() -> None:
    written = (ROOT / "docs/flags.md").read_text(encoding="utf-8")
    assert written == page(), "run `python tools/flags_page.py > docs/flags.md`"


def test_states_are_what_the_commands_do(gguf_hub: Cli) -> None:
    rows = re.findall(r"^\| `(-[^`]+)`.*? \| (\w+|-) \| (\w+|-) \| ", page(), re.MULTILINE)
    assert len(rows) > 100
    assert {state for _, *states in rows for state in states} == {
        "works",
        "ignored",
        "refused",
        "-",
    }
    for flag, *states in rows:
        for command, state in zip(("run", "serve"), states, strict=True):
            code, out, err = gguf_hub(command, flag, "1", "--no-such-flag")
            assert (code, out) == (2, "")
            is_unknown = f"no such option `{flag}`" in err
            assert is_unknown == (state in ("-", "refused")), (command, flag)
