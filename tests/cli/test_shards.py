"""A model in four shards is one model: for every command, from disk and from a hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from gguf_hub import Llama
from gguf_hub.cli.models import resolve_model
from gguf_hub.gguf.shards import plan_split, write_shards
from gguf_hub.progress import SILENT
from tests.api.server.running import Running
from tests.hub_server import HubServer

REPO = "org/stories"
N_SHARDS = 4
PROMPT = ("-p", "Once upon a time", "-n", 8, "--temp", 0, "--no-perf", "-c", 128)

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    return data / "models" / "stories260K.f32.gguf"


@pytest.fixture(scope="module")
def shards(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("it's a folder")
    paths = write_shards(folder / "stories-F32", plan_split(whole, max_tensors=13))
    assert len(paths) == N_SHARDS
    return paths


@pytest.fixture
def server(hub_server: HubServer, shards: tuple[Path, ...]) -> HubServer:
    files = {f"F32/{path.name}": path.read_bytes() for path in shards}
    hub_server.add_repo(REPO, files | {"README.md": b"hi"})
    return hub_server


@pytest.fixture(params=["quant", "first", "third", "disk", "disk, last"])
def model(request: pytest.FixtureRequest, server: HubServer, shards: tuple[Path, ...]) -> str:
    """An argument that names the set."""
    return {
        "quant": f"{REPO}:F32",
        "first": f"{REPO}/F32/{shards[0].name}",
        "third": f"hf://{REPO}/F32/{shards[2].name}",
        "disk": str(shards[0]),
        "disk, last": str(shards[-1]),
    }[request.param]


def test_run_writes_what_the_whole_file_writes(gguf_hub: Cli, whole: Path, model: str) -> None:
    _, expected, _ = gguf_hub("run", whole, *PROMPT)
    code, out, err = gguf_hub("run", model, *PROMPT)
    assert (code, out) == (0, expected), err


def test_inspect_adds_the_shards_up(gguf_hub: Cli, whole: Path, model: str) -> None:
    expected = json.loads(gguf_hub("inspect", whole, "--json")[1])
    code, out, err = gguf_hub("inspect", model, "--json")
    assert code == 0, err
    seen = json.loads(out)
    for key in ("n_tensors", "n_params", "data_bytes", "architecture"):
        assert seen[key] == expected[key]
    assert seen["n_shards"] == N_SHARDS


def test_inspect_of_a_repository_reads_headers_only(
    gguf_hub: Cli, server: HubServer, shards: tuple[Path, ...]
) -> None:
    name = f"{REPO}/F32/{shards[1].name}"
    code, out, err = gguf_hub("inspect", name, "--tensors")
    assert code == 0, err
    assert "output_norm.weight" in out and "token_embd.weight" in out
    assert all(request.headers.get("range") for request in server.body_requests())


def test_download_verify_path_and_rm_take_all_of_it(gguf_hub: Cli, model: str) -> None:
    if Path(model).exists():
        paths = sorted(Path(model).parent.glob("*.gguf"))
    else:
        code, out, err = gguf_hub("download", model, "-q")
        assert code == 0, err
        paths = [Path(line) for line in out.splitlines()]
    assert [path.name[-19:-14] for path in paths] == ["00001", "00002", "00003", "00004"]
    assert gguf_hub("path", model)[1].strip() == str(paths[0])
    code, out, err = gguf_hub("verify", model, "--json")
    assert code == 0, err
    assert [row["path"] for row in json.loads(out)["files"]] == [str(path) for path in paths]
    if not Path(model).exists():
        code, out, _ = gguf_hub("rm", model, "-y")
        assert (code, out.splitlines()) == (0, [str(path) for path in paths])


def test_verify_sees_what_only_the_set_shows(
    gguf_hub: Cli, shards: tuple[Path, ...], tmp_path: Path
) -> None:
    for path in shards:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / shards[1].name).unlink()
    code, out, _ = gguf_hub("verify", tmp_path / shards[3].name, "--json")
    assert code == 1
    assert [Path(row["path"]).name for row in json.loads(out)["files"]] == [
        shards[no].name for no in (0, 2, 3)
    ]
    assert f"shard `{shards[1].name}`" in out


def test_llama_computes_the_same_bits(
    whole: Path, shards: tuple[Path, ...], server: HubServer, kernels: None
) -> None:
    scores = []
    for open_ in (
        lambda **options: Llama(whole, **options),
        lambda **options: Llama(shards[2], **options),
        lambda **options: Llama.from_pretrained(REPO, "*00002-of*", **options),
    ):
        with open_(n_ctx=64, logits_all=True) as llm:
            llm.eval(llm.tokenize(b"Once upon a time there was"))
            scores.append(llm.scores[: llm.n_tokens].copy())
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])


def test_perplexity_is_that_of_the_whole_file(
    gguf_hub: Cli, whole: Path, model: str, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little girl. " * 12)
    arguments = ("--text", text, "-c", 32, "--chunks", 2, "--json")
    expected = json.loads(gguf_hub("perplexity", whole, *arguments)[1])
    code, out, err = gguf_hub("perplexity", model, *arguments)
    assert code == 0, err
    assert json.loads(out)["perplexity"] == expected["perplexity"]


@pytest.mark.slow
def test_serve_answers_as_with_the_whole_file(model: str, whole: Path, kernels: None) -> None:
    for package in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    body = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "logprobs": 2}
    choices = []
    for path in (whole, resolve_model(model, progress=SILENT)):
        with ExitStack() as stack:
            server = Running(path, stack, {}, n_ctx=64, n_slots=1, name=None)
            answer = server.http.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            choices.append(answer.json()["choices"])
            assert server.service.model_info.name in ("stories260K.f32", "stories-F32")
    assert choices[0] == choices[1]


@pytest.mark.slow
def test_bench_and_warmup_take_the_set(gguf_hub: Cli, model: str, whole: Path) -> None:
    assert gguf_hub("warmup", model, "--json")[0] == 0
    code, out, err = gguf_hub("bench", model, "-p", 4, "-n", 2, "-r", 1, "--json")
    assert code == 0, err
    expected = json.loads(gguf_hub("inspect", whole, "--json")[1])
    assert json.loads(out)["n_params"] == expected["n_params"]


@pytest.mark.parametrize("command", [["run", *PROMPT], ["warmup"], ["bench", "-r", 1]], ids=str)
def test_a_missing_shard_is_named_before_anything_is_compiled(
    gguf_hub: Cli,
    shards: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[object],
) -> None:
    monkeypatch.setenv("GGUF_HUB_KERNEL_CACHE", str(tmp_path / "kernels"))
    for path in shards[:3]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    code, out, err = gguf_hub(command[0], tmp_path / shards[0].name, *command[1:])
    assert (code, out) == (1, "")
    assert f"of the 4 shards of `{tmp_path / shards[0].name}`, `{shards[3].name}` is missing" in err
    assert not (tmp_path / "kernels").exists()


@pytest.mark.parametrize("which", [0, 1, 3])
@pytest.mark.parametrize("link", [None, "link", "hard link"])
@pytest.mark.parametrize("command", ["quantize", "upgrade", "merge", "perplexity"])
def test_no_shard_is_an_output(
    gguf_hub: Cli, whole: Path, tmp_path: Path, which: int, link: str | None, command: str
) -> None:
    """The first one holds no tensor, so that nothing is copied from it."""
    paths = write_shards(tmp_path / "s", plan_split(whole, max_tensors=17, is_first_empty=True))
    before = [path.read_bytes() for path in paths]
    target = paths[which]
    if link:
        target = tmp_path / "other.gguf"
        target.symlink_to(paths[which]) if link == "link" else target.hardlink_to(paths[which])
    words: tuple[object, ...] = (command, paths[1], target, "--force")
    if command == "quantize":
        words = (command, paths[1], target, "Q8_0", "--force")
    if command == "perplexity":
        (tmp_path / "text").write_text("Once upon a time there was. " * 99)
        words = (command, paths[1], "--text", tmp_path / "text", "--kl-divergence-base", target)
    code, _, err = gguf_hub(*words)
    assert code in (1, 2), err
    assert "input" in err or "is not" in err
    assert [path.read_bytes() for path in paths] == before
    assert sorted(path.name for path in tmp_path.glob("s-*")) == [path.name for path in paths]


def test_headers_of_a_set_on_a_hub_are_bounded_together(
    gguf_hub: Cli, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gguf_hub.cli.files import sources

    (files,) = server.repos[REPO].commits.values()
    longest = max(len(data) for data in files.values())
    monkeypatch.setattr(sources, "MAX_BYTES", longest + 1)  # one file's would be allowed
    code, out, err = gguf_hub("inspect", f"{REPO}:F32")
    assert (code, out) == (1, "")
    assert f"the headers of `{REPO}` are longer than" in err


def test_merge_of_a_whole_model_says_that_it_is_one(
    gguf_hub: Cli, whole: Path, tmp_path: Path
) -> None:
    code, out, err = gguf_hub("merge", whole, tmp_path / "out.gguf")
    assert (code, out) == (1, "")
    assert "is a whole model: there is nothing to merge" in err
    assert list(tmp_path.iterdir()) == []
