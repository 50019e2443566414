"""``gguf-hub run`` on a real terminal: typed lines, Ctrl-C in an answer, Ctrl-D at the end."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="no pseudo terminals here")
CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *arguments: object) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", COLUMNS="100", LINES="24", PROMPT_TOOLKIT_NO_CPR="1")
            os.execv(sys.executable, [sys.executable, "-m", "gguf_hub", *map(str, arguments)])
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait(self, pattern: str, timeout_s: float = 20) -> str:
        """Return what came up to a pattern."""
        end = time.monotonic() + timeout_s
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < end, f"no {pattern!r} in {self.text[-500:]!r}"
            if select.select([self._fd], [], [], 0.05)[0]:
                self.text += CODES.sub("", os.read(self._fd, 65536).decode("utf-8", "replace"))
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def close(self) -> int:
        """Return the exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["-sys", "Be brief."]], ids=["plain", "-sys"])
def test_a_model_with_a_chat_template_opens_a_conversation(
    embedded: Path, kernels: None, flags: list[str]
) -> None:
    terminal = Terminal("run", embedded, "-n", 4, "--simple-io", *flags)
    terminal.wait(r"/\? lists the commands")
    terminal.wait("> ")
    terminal.type("Hello.\n")
    terminal.wait("Hello.")
    terminal.wait("> ")
    terminal.type("/bye\n")
    terminal.wait("generated")
    assert terminal.close() == 0


@pytest.mark.slow
def test_flags_keep_a_text_on_a_terminal(embedded: Path, data: Path, kernels: None) -> None:
    for line in ([embedded, "-p", "Once"], [embedded, "-no-cnv"], [embedded, "Once"]):
        terminal = Terminal("run", *line, "-n", 4)
        assert "lists the commands" not in terminal.wait("generated")
        assert terminal.close() == 0
    terminal = Terminal("run", data / "models" / "stories260K.f32.gguf", "-n", 4)
    assert "no prompt and no chat template" in terminal.wait("generated")
    assert terminal.close() == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals here")
def test_ctrl_c_ends_the_answer_and_ctrl_d_the_session(data: Path, kernels: None) -> None:
    model = data / "models" / "stories260K.f32.gguf"
    terminal = Terminal(
        "run", model, "-cnv", "--temp", 0.9, "--ignore-eos", "-c", 100000, "--seed", 1
    )
    terminal.wait(r"/\? lists the commands")
    terminal.wait(">")
    terminal.type("Tell me a story.\r")
    terminal.wait(r"(?s)Tell me a story\..{600}")  # the line's echo is over, the answer goes on
    terminal.type("\x03")
    terminal.wait(r"\(stopped\)")
    terminal.wait(">")
    terminal.type("/stats\r")
    terminal.wait(r"answer \d+ tokens")
    terminal.wait(">")
    terminal.type("/set temp 0.1\r")
    terminal.wait(r"temp 0\.1\s+temp 0\.1\s")  # typed, and told
    terminal.wait(">")
    terminal.type("\x04")
    terminal.wait("generated")
    assert terminal.close() == 0
