"""``gguf-hub list``: the card's words, and the one thing that the card does not say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.hub_server import HubServer


def test_lists_the_eight_files_as_the_card_does(gguf_hub) -> None:
    code, out, err = gguf_hub("list")
    assert code == 0
    rows = out.splitlines()[2:]
    assert len(rows) == 8
    assert " ".join(rows[3].split()) == (
        "Q4_K_M 4 26.44 GB 28.94 GB mixtral-8x7b-v0.1.Q4_K_M.gguf "
        "medium, balanced quality - recommended"
    )
    assert "TheBloke/Mixtral-8x7B-v0.1-GGUF, apache-2.0, fr it de es en" in err
    assert "no moderation" in err


def test_says_who_can_load_split_experts(gguf_hub) -> None:
    err = gguf_hub("list")[2]
    assert "llama.cpp since October 2024 cannot load them; gguf-hub can" in err


def test_says_nothing_of_split_experts_where_there_are_none(gguf_hub, tmp_path: Path) -> None:
    text = (ROOT / "catalog.yaml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("layout: split", "layout: merged"))
    code, out, err = gguf_hub("list", "--catalog", path)
    assert (code, len(out.splitlines())) == (0, 10)
    assert "llama.cpp" not in err


def test_json_holds_the_whole_catalog(gguf_hub) -> None:
    code, out, _ = gguf_hub("list", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["repo_id"] == "TheBloke/Mixtral-8x7B-v0.1-GGUF"
    assert data["architecture"]["n_expert"] == 8
    first = data["files"][0]
    assert first["recipe"]["attn_output"] == "Q3_K"
    assert (first["quant"], first["tensor_bytes"]) == ("Q2_K", 15_643_254_784)
    assert first["perplexity"]["value"] == 7.466


def test_unsound_catalog_is_told_line_by_line(gguf_hub, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("repo_id: mixtral\nfils: []\n")
    code, out, err = gguf_hub("list", "--catalog", path)
    assert (code, out) == (1, "")
    for line in (
        "  fils: unknown key: did you mean `files`?",
        '  repo_id: expected `owner/name`, found "mixtral"',
        "  architecture: missing",
        "  files: missing",
    ):
        assert line in err.splitlines()


def test_environment_names_a_catalog(gguf_hub, monkeypatch) -> None:
    monkeypatch.setenv("GGUF_HUB_CATALOG", "/no/such/catalog.yaml")
    code, _, err = gguf_hub("list")
    assert code == 1
    assert "catalog `/no/such/catalog.yaml`" in err


# ---- a repository ------------------------------------------------------------------------------


@pytest.fixture
def repo(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(
        "org/name",
        {
            "README.md": b"# hello",
            "m.Q4_0.gguf": b"x" * 1500,
            "m-Q8_0-00001-of-00002.gguf": b"x" * 700,
            "m-Q8_0-00002-of-00002.gguf": b"x" * 800,
            "half-00001-of-00002.gguf": b"x",
            "mmproj-m.gguf": b"x",
        },
    )
    return hub_server


def test_lists_the_models_of_a_repository(gguf_hub, repo: HubServer) -> None:
    code, out, err = gguf_hub("list", "org/name")
    assert code == 0
    rows = [" ".join(line.split()) for line in out.splitlines()[2:]]
    assert sorted(rows) == [
        "Q4_0 1.5 kB 1 m.Q4_0.gguf",
        "Q8_0 1.5 kB 2 m-Q8_0-00001-of-00002.gguf",
    ]
    assert "org/name, main (" in err
    assert "also: mmproj-m.gguf, a multimodal projector" in err
    assert "not whole: half-00001-of-00002.gguf" in err
    assert repo.body_requests() == []


def test_json_of_a_repository(gguf_hub, repo: HubServer) -> None:
    code, out, _ = gguf_hub("list", "hf://org/name@main", "--json")
    data = json.loads(out)
    assert code == 0
    assert (data["repo_id"], data["revision"], len(data["commit"])) == ("org/name", "main", 40)
    sharded = next(row for row in data["files"] if row["quant"] == "Q8_0")
    assert (sharded["n_shards"], sharded["size_bytes"]) == (2, 1500)
    assert sharded["filenames"][1] == "m-Q8_0-00002-of-00002.gguf"
    (other,) = data["others"]
    assert (other["filename"], other["role"], other["size_bytes"]) == (
        "mmproj-m.gguf", "projector", 1,
    )  # fmt: skip
    assert data["incomplete"] == ["half-00001-of-00002.gguf"]


def test_a_repository_without_models(gguf_hub, repo: HubServer) -> None:
    repo.add_repo("org/none", {"README.md": b""})
    code, out, err = gguf_hub("list", "org/none")
    assert (code, out) == (0, "")
    assert "no GGUF models" in err


@pytest.mark.parametrize(
    ("argument", "code", "expected"),
    [
        ("org/nam", 1, "did you mean `org/name`?"),
        ("thebloke/mixtral-8x7b-v0.1-gguf", 1, "did you mean `TheBloke/Mixtral-8x7B-v0.1-GGUF`?"),
        ("org/name:Q4_0", 2, "names one model: expected a repository"),
        ("org/name/m.Q4_0.gguf", 2, "names one model: expected a repository"),
        ("nothing", 1, "names no repository"),
    ],
)
def test_what_is_no_repository(
    gguf_hub, repo: HubServer, argument: str, code: int, expected: str
) -> None:
    found = gguf_hub("list", argument)
    assert found[:2] == (code, "")
    assert expected in found[2]
