"""Kills a process at every single system call that changes a disk, one call later each time.

Run as a program: ``killing.py upgrade|edit IN OUT CHECK`` prints how many points were tried. It
forks, so that it must not run inside of a test process with threads.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf_hub import files

CALLS = ("write", "pwrite", "copy_file_range", "ftruncate", "fsync", "fdatasync", "replace",
         "rename", "unlink", "open", "close")  # fmt: skip
MOST = 5_000


def die_before(n: int) -> None:
    """Make the n-th call of this process its last moment."""
    left = [n]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    files._rename_exclusively = counted(files._rename_exclusively)  # a call past Python's ``os``


def survive(action: Callable[[], None], check: Callable[[bool], None]) -> int:
    """Run ``action`` in children that die ever later; ``check`` looks at what each leaves.

    Args:
        action: What to interrupt.
        check: Gets whether the child came to its end; raises when something is broken.

    Returns:
        How many children died.
    """
    for n in range(MOST):
        child = os.fork()
        if child == 0:
            die_before(n)
            try:
                action()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        check(not os.WIFSIGNALED(status))
        if not os.WIFSIGNALED(status):
            return n
    raise AssertionError(f"still not done after {MOST} calls")


def upgrade(source: Path, target: Path) -> int:
    """Kill an upgrade: the input stays, and the output is whole or not there."""
    from gguf_hub.gguf.upgrade import plan_upgrade

    before = source.read_bytes()
    expected = target.with_name("expected.gguf")
    plan_upgrade(source).write(expected)
    whole = expected.read_bytes()

    def check(is_done: bool) -> None:
        assert source.read_bytes() == before, "the input changed"
        assert is_done == target.exists() or target.read_bytes() == whole, "half a file"
        if target.exists():
            assert target.read_bytes() == whole, "half a file"
            target.unlink()
        assert len(list(target.parent.glob("*.part"))) <= (0 if is_done else 2), "leftovers"

    return survive(lambda: plan_upgrade(source).write(target), check)


def edit(source: Path, target: Path) -> int:
    """Kill an edit in place: when it is finished the file is the old one or the new one."""
    from gguf_hub.gguf.edit import Edits, plan_edit
    from gguf_hub.gguf.journal import apply_patches, journal_name, recover
    from gguf_hub.gguf.reader import GgufFile

    before = source.read_bytes()
    target.write_bytes(before)
    wanted = {f"llama.{name}": "7" for name in ("context_length", "rope.dimension_count")}
    edits = Edits(
        values={**wanted, "general.name": "SYNTHETIC", "tokenizer.ggml.eos_token_id": "9"}
    )
    patches = plan_edit(target, edits).patches
    assert patches
    assert len(patches) > 3
    apply_patches(target, patches)
    after = target.read_bytes()
    target.write_bytes(before)

    def check(is_done: bool) -> None:
        GgufFile.open(target)
        recover(target)
        assert target.read_bytes() in (before, after), "neither old nor new"
        assert not is_done or target.read_bytes() == after
        assert len(list(target.parent.glob("*.part"))) <= (0 if is_done else 2), "leftovers"
        assert not journal_name(target).exists()
        target.write_bytes(before)

    def action() -> None:
        apply_patches(target, patches)

    def half_recovered() -> None:
        # dies once more while it finishes what another crash left
        recover(target)

    points = survive(action, check)
    for stop in range(points):
        target.write_bytes(before)
        child = os.fork()
        if child == 0:
            die_before(stop)
            action()
        os.waitpid(child, 0)
        if journal_name(target).exists():
            survive(half_recovered, lambda is_done: None)
        assert target.read_bytes() in (before, after)
    return points


if __name__ == "__main__":
    print({"upgrade": upgrade, "edit": edit}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3])))
