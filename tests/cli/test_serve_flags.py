"""Flags of `serve` that name models, origins and draft models in llama-server's way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from gguf_hub.cli.run.opening import draft_argument
from gguf_hub.cli.serve.offering import cache_arguments, offers_of, origins_of
from gguf_hub.cli.serve.routing import models_in
from gguf_hub.cli.source import model_argument
from gguf_hub.errors import UsageError

Cli = Callable[..., tuple[int, str, str]]
LINK = "https://huggingface.co/a/b/resolve/main/c.gguf"


def test_a_folder_has_its_models_and_those_of_folders_in_it(tmp_path: Path) -> None:
    names = ["b.gguf", "a.gguf", "mmproj-a.gguf", "x-00001-of-00002.gguf", "x-00002-of-00002.gguf",
             "note.txt", "c/c.gguf", "c/d/e.gguf"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [Path(path).relative_to(tmp_path).as_posix() for path in models_in(tmp_path)]
    assert found == ["a.gguf", "b.gguf", "c/c.gguf", "x-00001-of-00002.gguf"]
    assert models_in(None) == []
    with pytest.raises(UsageError, match="expected GGUF models in this folder, found none"):
        models_in(tmp_path / "c" / "d" / "none")


def test_origins_come_with_commas_too() -> None:
    options: dict[str, Any] = {"origins": ("https://a",), "cors_origins": ("https://b, https://c",)}
    assert origins_of(options) == ("https://a", "https://b", "https://c")
    with pytest.raises(UsageError, match="expected origins, with scheme and port"):
        origins_of({**options, "cors_origins": ("localhost",)})


def test_a_draft_model_has_one_name() -> None:
    assert draft_argument({"model_draft": "x", "hf_repo_draft": None}) == "x"
    assert draft_argument({"model_draft": None, "hf_repo_draft": "a/b:Q4_K_M"}) == "hf://a/b:Q4_K_M"
    with pytest.raises(click.UsageError, match="-md and -hfd"):
        draft_argument({"model_draft": "x", "hf_repo_draft": "a/b"})


def test_a_model_may_be_a_link() -> None:
    none = dict.fromkeys(("model", "model_option", "hf_repo", "hf_file"))
    assert model_argument({**none, "model_url": LINK}) == LINK
    for other in ({"model": "x"}, {"hf_repo": "a/b"}):
        with pytest.raises((UsageError, click.UsageError), match="twice"):
            model_argument({**none, **other, "model_url": LINK})


def test_flags_say_what_is_offered(tmp_path: Path) -> None:
    options = {"slots": False, "props": True, "webui": False, "cache_prompt": False,
               "slot_save_path": tmp_path, "api_prefix": "/a/"}  # fmt: skip
    offers = offers_of(options)
    assert (offers.slots, offers.props, offers.page, offers.prefix) == (False, True, False, "/a")
    folder = str(tmp_path.resolve())
    assert cache_arguments(options) == {"reuses_cache": False, "slot_folder": folder}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--api-prefix", "a b"], "--api-prefix a b: expected a path"),
        (["x", "--slot-save-path", "no-such-folder"], "expected a folder that can be written to"),
        (["--models-dir", "no-such-folder"], "expected GGUF models in this folder"),
        (["x", "--cors-origins", "localhost"], "expected origins, with scheme and port"),
        (["x", "-md", "y", "-hfd", "a/b"], "-md and -hfd both name a draft model"),
        (["x", "-mu", LINK], "MODEL is given twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_said(gguf_hub: Cli, arguments: list[str], message: str) -> None:
    code, out, err = gguf_hub("serve", *arguments)
    assert (code, out) == (2, "") and message in err
