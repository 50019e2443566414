"""Models of other programs are found by the names that they have there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.api.server.router.library import Library
from gguf_hub.errors import ModelNotFoundError, UsageError
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.programs.folders import find_program
from gguf_hub.hub.programs.found import find_models
from gguf_hub.hub.programs.ollama import OllamaName, human_number
from gguf_hub.hub.resolve import Resolver
from tests.hub.programs.folders import ollama_model

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def ollama(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("OLLAMA_MODELS")
    folder = home / ".ollama" / "models"
    folder.mkdir(parents=True)
    return folder


def no_hub() -> HfHub:
    raise AssertionError("the hub was asked")


@pytest.fixture
def resolver() -> Resolver:
    return Resolver(connect=no_hub)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("llama3.2", "registry.ollama.ai/library/llama3.2/latest"),
        ("llama3.2:3b", "registry.ollama.ai/library/llama3.2/3b"),
        ("user/model:tag", "registry.ollama.ai/user/model/tag"),
        ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo/Q4_K_M"),
        ("localhost:5000/org/model", "localhost:5000/org/model/latest"),
    ],
)
def test_names_of_ollama_are_paths_of_manifests(text: str, full: str) -> None:
    name = OllamaName.parse(text)
    assert name.paths(Path("/m"))[-1].as_posix() == f"/m/manifests/{full}"
    assert OllamaName.parse(name.text) == name


@pytest.mark.parametrize("text", ["", "a b", "../x", "a/b/c/d", "x:", ":tag", "a/../b", "x:a/b"])
def test_what_is_no_name_of_ollama_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no name of a model in Ollama"):
        OllamaName.parse(text)


def test_numbers_are_written_as_ollama_does() -> None:
    assert [human_number(n) for n in (7_241_732_096, 134_515_008, 22_565_376, 512)] == [
        "7.2B", "134.52M", "22.57M", "512"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["llama3.2:3b", "LLAMA3.2:3B", "mine", "mine:latest"])
def test_models_of_ollama_are_found_by_name(
    name: str, ollama: Path, resolver: Resolver, gguf_hub: Cli
) -> None:
    blobs = {
        "llama3.2:3b": ollama_model(ollama, "registry.ollama.ai/library/llama3.2/3b", b"one"),
        "mine": ollama_model(ollama, "registry.ollama.ai/library/mine/latest", b"two"),
    }
    wanted = blobs[name.lower().removesuffix(":latest")]
    assert resolver.local_paths(name) == (wanted,)
    assert gguf_hub("path", name)[:2] == (0, f"{wanted}\n")


def test_a_model_of_ollama_that_came_from_the_hub_is_found_as_there(
    ollama: Path, resolver: Resolver
) -> None:
    blob = ollama_model(ollama, "hf.co/org/repo/Q4_K_M", b"one", file_type="unknown")
    for argument in ("org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M", "org/repo:q4_k_m", "org/repo"):
        target = resolver.target(argument)
        assert not isinstance(target, tuple)
        assert resolver.get(target) == (blob,)
    with pytest.raises(ModelNotFoundError):
        resolver.local_paths("org/repo:Q8_0")


def test_the_newer_tree_of_manifests_counts_first(ollama: Path, resolver: Resolver) -> None:
    ollama_model(ollama, "registry.ollama.ai/library/m/latest", b"old")
    blob = ollama_model(ollama, "ollama.com/library/m/latest", b"new", tree="manifests-v2")
    assert resolver.local_paths("m") == (blob,)
    assert [model.names[0] for model in resolver.foreign.models] == ["m:latest"]


def test_a_list_of_manifests_means_its_gguf(ollama: Path, resolver: Resolver) -> None:
    blob = ollama_model(ollama, "registry.ollama.ai/library/m/latest", b"x")
    path = ollama / "manifests/registry.ollama.ai/library/m/latest"
    child = json.loads(path.read_text()) | {"format": "gguf", "runner": "llamacpp"}
    other = {"format": "safetensors", "runner": "mlx", "layers": []}
    kind = "application/vnd.ollama.manifest.list.v2+json"
    path.write_text(json.dumps({"mediaType": kind, "manifests": [other, child]}))
    assert resolver.local_paths("m") == (blob,)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"layers": 3}', '{"layers": [3]}', "[" * 100_000,
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "../../x"}]}',
        '{"mediaType": "application/vnd.ollama.manifest.list.v2+json", "manifests": [1, {}]}',
    ],
    ids=range(9),
)  # fmt: skip
def test_a_broken_manifest_hides_no_other_model(text: str, ollama: Path) -> None:
    blob = ollama_model(ollama, "registry.ollama.ai/library/m/latest", b"x")
    bad = ollama / "manifests/registry.ollama.ai/library/bad/latest"
    bad.parent.mkdir()
    bad.write_text(text)
    assert [model.path for model in find_models([(find_program("ollama"), ollama)])] == [blob]


def test_files_of_lm_studio_are_found_as_on_the_hub(home: Path, resolver: Resolver) -> None:
    elsewhere = home / "big disk"
    file = elsewhere / "org" / "repo-GGUF" / "model.Q4_K_M.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF")
    (file.parent / "mmproj-model.gguf").write_bytes(b"GGUF")
    studio = home / "studio"
    studio.mkdir(parents=True)
    (home / ".lmstudio-home-pointer").write_text(str(studio))
    (studio / "settings.json").write_text(json.dumps({"downloadsFolder": str(elsewhere)}))
    for argument in (
        "org/repo-GGUF:Q4_K_M", "org/repo-GGUF/model.Q4_K_M.gguf", "model.Q4_K_M", "org/repo-GGUF"
    ):  # fmt: skip
        assert resolver.local_paths(argument) == (file,)


def test_files_of_flat_folders_are_found_by_file_name(home: Path, resolver: Resolver) -> None:
    webui = home / "text-generation-webui"
    custom = home / "custom"
    gpt4all = home / "models of gpt4all"
    for folder in (webui / "user_data" / "models", custom, gpt4all):
        folder.mkdir(parents=True)
    (webui / "user_data" / "CMD_FLAGS.txt").write_text(f"# --model-dir /no\n--model-dir={custom}\n")
    ini = home / ".config" / "nomic.ai" / "GPT4All.ini"
    ini.parent.mkdir(parents=True)
    ini.write_text(f"[General]\nmodelPath={gpt4all}/\n")
    files = [webui / "user_data/models/one.gguf", custom / "two.gguf", gpt4all / "three.gguf"]
    for file in files:
        file.write_bytes(file.name.encode())
    for file in files:
        assert resolver.local_paths(file.stem) == (file,)
        assert resolver.local_paths(file.name) == (file,)


def test_models_of_jan_are_found_by_id(home: Path, resolver: Resolver) -> None:
    data = home / ".local/share/Jan/data"
    folder = data / "llamacpp/models/janhq/Jan-v1"
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(b"GGUF")
    (folder / "model.yml").write_text(
        "embedding: false\nmodel_path: llamacpp/models/janhq/Jan-v1/model.gguf\nname: Jan v1\n"
    )
    assert resolver.target("janhq/Jan-v1") is not None
    assert [m.names for m in resolver.foreign.models] == [("janhq/Jan-v1",)]
    assert resolver.local_paths("janhq/Jan-v1") == (folder / "model.gguf",)


def test_ls_and_servers_list_them_by_these_names(
    ollama: Path, resolver: Resolver, gguf_hub: Cli
) -> None:
    blob = ollama_model(ollama, "registry.ollama.ai/library/llama3.2/3b", b"GGUF", "Q4_K_M")
    rows = json.loads(gguf_hub("ls", "--json")[1])["files"]
    found = [(row["program"], row["names"], row["quant"], row["path"]) for row in rows]
    assert found == [("ollama", ["llama3.2:3b"], "Q4_K_M", str(blob))]
    assert "Ollama: llama3.2:3b" in gguf_hub("ls")[1]
    library = Library(resolver)
    assert [model.name for model in library.models()] == ["llama3.2:3b"]
    assert library.find("llama3.2:3b").path == blob
    named = Library(resolver, [("llama3.2:3b", blob)])  # `gguf-hub serve llama3.2:3b ...`
    assert [model.name for model in named.models()] == ["llama3.2:3b"]


def test_files_of_other_programs_are_not_removed(ollama: Path, gguf_hub: Cli) -> None:
    blob = ollama_model(ollama, "hf.co/org/repo/Q4_K_M", b"GGUF")
    for argument in ("hf.co/org/repo:Q4_K_M", blob):
        code, _, err = gguf_hub("rm", "-y", argument)
        assert code == 2
        assert "is Ollama's `hf.co/org/repo:Q4_K_M`, which gguf-hub does not remove" in err
    for argument in ("org/repo", "org/repo:Q4_K_M"):
        assert gguf_hub("rm", "-y", argument)[0] == 1
    assert blob.read_bytes() == b"GGUF"


@pytest.mark.slow
def test_commands_that_read_a_model_take_its_name(
    ollama: Path, embedded: Path, gguf_hub: Cli
) -> None:
    content = embedded.read_bytes()
    ollama_model(ollama, "registry.ollama.ai/library/tiny/1b", content, "F16")
    for command in ("inspect", "pick", "verify", "path"):
        code, out, err = gguf_hub(command, "tiny:1b")
        assert code == 0, err
        assert out


def test_a_name_that_no_program_has_is_reported(resolver: Resolver) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model `llama3\.2:3b`"):
        resolver.local_paths("llama3.2:3b")
