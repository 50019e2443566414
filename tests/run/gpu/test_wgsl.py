"""What holds for every kernel of a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gguf_hub.run.gpu

FOLDER = Path(gguf_hub.run.gpu.__file__).parent / "wgsl"
FILES = sorted(FOLDER.rglob("*.wgsl"))
_VARIABLE = re.compile(r"\bvar\s+\w+[^;=]*([;=])")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_variable_has_a_value(path: Path) -> None:
    """Some compilers let one inside of a loop keep the value of the last turn."""
    found = {match[0] for match in _VARIABLE.finditer(path.read_text("utf-8"))}
    assert not {each for each in found if each.endswith(";")}


def test_the_test_sees_a_variable_without_a_value() -> None:
    ends = [
        match[1] for match in _VARIABLE.finditer("var a: u32; var b = 1; var<workgroup> c: f32;")
    ]
    assert ends == [";", "="]
