"""``--log-file``: messages in a file, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]


def test_messages_and_errors_are_in_the_log_and_added_to_it(
    gguf_hub: Cli, data: Path, kernels: None, tmp_path: Path
) -> None:
    log, model = tmp_path / "log.txt", data / "models" / "stories260K.f32.gguf"
    line = ["run", model, "-p", "Once", "-n", 2, "--log-file", log]
    code, out, err = gguf_hub(*line)
    first = log.read_text()
    assert code == 0 and out.startswith("Once") and "Once" not in first
    assert first == f"# gguf-hub log\n{err}"
    code, _, err = gguf_hub(*line, "--top-p", "x")
    assert code == 2
    assert log.read_text() == f"{first}{err}"
    gguf_hub("ls", "--nothing")  # other commands have none
    assert log.read_text() == f"{first}{err}"


@pytest.mark.parametrize("content", ["GGUF", "notes of mine"])
def test_what_is_no_log_is_left_alone(gguf_hub: Cli, tmp_path: Path, content: str) -> None:
    path, link = tmp_path / "x", tmp_path / "link"
    path.write_text(content)
    link.symlink_to(path)
    for name in (path, link):
        code, _, err = gguf_hub("run", "x.gguf", "--log-file", name)
        assert code == 1 and "is not a log: it is not replaced" in err
    assert path.read_text() == content


def test_a_log_that_cannot_be_written_is_said(gguf_hub: Cli, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none")
    for name in ("none/log", "link"):
        code, _, err = gguf_hub("serve", "x.gguf", "--log-file", tmp_path / name)
        assert code == 1 and "cannot write the log" in err
