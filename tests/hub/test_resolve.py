"""One resolver: what is on this machine, what the hub has, and what works without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.errors import (
    GgufError,
    HubError,
    HubUnreachableError,
    ModelNotFoundError,
    RemoteFileNotFoundError,
    RepoNotFoundError,
    UsageError,
)
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import HfCache, LocalFolder
from gguf_hub.hub.download.fetch import Status
from gguf_hub.hub.download.plan import FileSelector
from gguf_hub.hub.download.refs import Target
from gguf_hub.hub.resolve import Resolver
from gguf_hub.hub.store import Store
from gguf_hub.paths import default_cache_dir
from tests.hub_server import Fault, HubServer
from tests.noise import noise
from tests.notes import Notes

REPO = "org/model"
NAME = "m.Q4_0.gguf"
DATA = noise(4000)
SHARDS = [f"BF16/m-BF16-0000{i}-of-00004.gguf" for i in range(1, 5)]


def hub() -> HfHub:
    return HfHub(retry_waits_s=())


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: DATA, "m.Q8_0.gguf": DATA[::-1], "README.md": b"hi"})
    hub_server.add_repo("org/sharded", {name: name.encode() * 9 for name in SHARDS})
    return hub_server


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def resolver(notes: Notes) -> Resolver:
    return Resolver(connect=hub, progress=notes)


Break = Callable[[], None]


@pytest.fixture(params=["offline", "down", "busy"])
def lose_hub(
    request: pytest.FixtureRequest, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> Break:
    """Take the hub away, in one of three ways."""

    def lose() -> None:
        if request.param == "offline":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        elif request.param == "down":
            server.close()
        else:
            server.faults.append(Fault("*", "/api/*", status=503))

    return lose


def theirs(server: HubServer, *names: str, repo: str = REPO, **options: object) -> list[Path]:
    """Download with huggingface_hub, into its cache as the environment of the test has it."""
    from huggingface_hub import hf_hub_download

    options = {"cache_dir": default_cache_dir(), "endpoint": server.endpoint} | options
    return [Path(hf_hub_download(repo, name, **options)) for name in names]


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have huggingface_hub write files instead of links, as it does on Windows."""
    name = "huggingface_hub.file_download.are_symlinks_supported"
    return lambda: monkeypatch.setattr(name, lambda folder=None: False)


def wanted(argument: str, resolver: Resolver, revision: str | None = None) -> Target:
    target = resolver.target(argument, revision=revision)
    assert isinstance(target, Target)
    return target


# -- what is here --------------------------------------------------------------------------------


@pytest.mark.parametrize("links", ["links", "no links"])
def test_files_of_another_client_are_used_without_the_hub(
    server: HubServer,
    resolver: Resolver,
    notes: Notes,
    lose_hub: Break,
    no_links: Callable[[], None],
    links: str,
) -> None:
    if links == "no links":
        no_links()
    paths = theirs(server, NAME)
    assert paths[0].is_symlink() is (links == "links")
    lose_hub()
    assert resolver.get(wanted(f"{REPO}:Q4_0", resolver)) == tuple(paths)
    assert resolver.local_paths(f"{REPO}:Q4_0") == tuple(paths)
    assert [held.path for held in resolver.local_files(f"{REPO}:Q4_0")] == paths
    if links == "no links":  # nothing here says what the bytes should be
        assert f"`{paths[0]}`: not verified" in "\n".join(notes.texts)
        assert Store().find_verified(paths[0]) is None
    else:
        assert Store().find_verified(paths[0]) is not None


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_near_quant_here_stands_for_the_exact_one_only_without_a_hub(
    server: HubServer, resolver: Resolver, lose_hub: Break, is_lost: bool
) -> None:
    server.add_repo("org/near", {"m-UD-Q4_0.gguf": b"near", "m-Q4_0.gguf": b"exact"})
    near = resolver.get(wanted("org/near:UD-Q4_0", resolver))
    if is_lost:
        lose_hub()
        assert resolver.get(wanted("org/near:Q4_0", resolver)) == near
        return
    (exact,) = resolver.get(wanted("org/near:Q4_0", resolver))
    assert exact.name == "m-Q4_0.gguf"
    assert [file.path for file in resolver.local_files("org/near:Q4_0")] == [exact]


def test_without_links_a_hub_that_answers_verifies(
    server: HubServer, resolver: Resolver, notes: Notes, no_links: Callable[[], None]
) -> None:
    no_links()
    paths = theirs(server, NAME)
    bodies = len(server.body_requests())
    assert resolver.get(wanted(f"{REPO}:Q4_0", resolver)) == tuple(paths)
    assert Store().find_verified(paths[0]) is not None
    assert len(server.body_requests()) == bodies
    assert "not verified" not in "".join(notes.texts)


def test_a_branch_is_asked_of_the_hub_and_taken_from_here_without_it(
    server: HubServer, resolver: Resolver, notes: Notes, lose_hub: Break
) -> None:
    (old,) = resolver.get(wanted(f"{REPO}:Q4_0", resolver))
    server.add_repo(REPO, {NAME: b"new"})
    (new,) = resolver.get(wanted(f"{REPO}@main:Q4_0", resolver))
    assert (old.read_bytes(), new.read_bytes()) == (DATA, b"new")
    lose_hub()
    assert resolver.get(wanted(f"{REPO}@main:Q4_0", resolver)) == (new,)


def test_main_comes_before_another_commit_that_was_fetched_later(
    server: HubServer, resolver: Resolver, lose_hub: Break
) -> None:
    server.add_repo(REPO, {NAME: b"old"}, revision="v0")
    (main,) = theirs(server, NAME)
    resolver.get(wanted(f"{REPO}@v0:Q4_0", resolver))
    lose_hub()
    assert resolver.get(wanted(f"{REPO}:Q4_0", resolver)) == (main,)


def test_a_revision_that_nobody_knows_is_never_another_commit(
    server: HubServer, resolver: Resolver, lose_hub: Break
) -> None:
    resolver.get(wanted(f"{REPO}:Q4_0", resolver))
    lose_hub()
    for revision in ("v2", "0" * 40):
        with pytest.raises(HubUnreachableError):
            resolver.get(wanted(f"{REPO}:Q4_0", resolver, revision))
        assert resolver.locate(wanted(f"{REPO}:Q4_0", resolver, revision)) == []


def test_a_folder_is_filled_from_the_cache_or_not_at_all(
    server: HubServer, notes: Notes, lose_hub: Break, tmp_path: Path
) -> None:
    theirs(server, NAME)
    lose_hub()
    destination = LocalFolder(tmp_path / "folder")
    resolver = Resolver(connect=hub, custom_destination=destination, progress=notes)
    selection = resolver.choose(Target(REPO, FileSelector((NAME,))))
    (done,) = resolver.fetch(selection, resolver.fetcher())
    assert (done.path, done.status) == (tmp_path / "folder" / NAME, Status.COPIED)
    with pytest.raises(HubUnreachableError, match=r"m\.Q8_0|cannot reach|503"):
        resolver.choose(Target(REPO, FileSelector(("m.Q8_0.gguf",))))


def test_small_files_are_copied_and_what_is_missing_is_named(
    server: HubServer, notes: Notes, lose_hub: Break, tmp_path: Path
) -> None:
    """Small files are known by git's id: caches name them so."""
    small = {"config.json": b"{}", "other.json": b"[]"}
    server.add_repo("org/small", {"m.Q4_0.gguf": b"GGUF", **small})
    theirs(server, "m.Q4_0.gguf", "config.json", repo="org/small")
    lose_hub()
    destination = LocalFolder(tmp_path / "folder")
    resolver = Resolver(connect=hub, custom_destination=destination, progress=notes)
    names = ("m.Q4_0.gguf", "config.json")
    selection = resolver.choose(Target("org/small", FileSelector(names)))
    done = resolver.fetch(selection, resolver.fetcher())
    assert [each.status for each in done] == [Status.COPIED] * 2
    assert (tmp_path / "folder" / "config.json").read_bytes() == b"{}"
    with pytest.raises(HubUnreachableError, match=r"^`other.json` of org/small: not on this ma"):
        resolver.choose(Target("org/small", FileSelector((*names, "other.json"))))


def test_a_folder_is_its_own_record(server: HubServer, tmp_path: Path, lose_hub: Break) -> None:
    """Without the record, the notes beside the files say what they are."""
    destination = LocalFolder(tmp_path / "folder")
    first = Resolver(connect=hub, custom_destination=destination)
    first.fetch(first.choose(Target(REPO, FileSelector((NAME,)))), first.fetcher())
    lose_hub()
    again = Resolver(
        connect=hub, custom_destination=destination, store=Store(tmp_path / "another record")
    )
    (done,) = again.fetch(again.choose(Target(REPO, FileSelector((NAME,)))), again.fetcher())
    assert (done.path, done.status) == (tmp_path / "folder" / NAME, Status.CHECKED)


def test_a_second_cache_that_files_were_fetched_to_is_found(
    server: HubServer, resolver: Resolver, lose_hub: Break, tmp_path: Path
) -> None:
    other = Resolver(connect=hub, custom_destination=HfCache(tmp_path / "other"))
    (path,) = other.get(wanted(f"{REPO}:Q4_0", other))
    (Store().folder / "files.json").unlink()
    lose_hub()
    assert resolver.get(wanted(f"{REPO}:Q4_0", resolver)) == (path,)


def test_a_hub_without_the_file_here_fails_as_a_hub_does(
    server: HubServer, resolver: Resolver, lose_hub: Break
) -> None:
    lose_hub()
    with pytest.raises(HubUnreachableError):
        resolver.get(wanted(f"{REPO}:Q4_0", resolver))


@pytest.mark.parametrize("text", [f"{REPO}/config.json", f"hf://{REPO}/sub/model.safetensors"])
def test_a_file_that_is_no_model_is_refused_before_it_is_fetched(
    server: HubServer, resolver: Resolver, text: str
) -> None:
    with pytest.raises(UsageError, match=r"is not a model: expected the name of a GGUF"):
        resolver.get(wanted(text, resolver))
    assert server.requests == []


# -- sets of shards ------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["org/sharded:BF16", "org/sharded", *(
    f"org/sharded/{name}" for name in SHARDS
)])  # fmt: skip
def test_every_name_of_a_set_means_all_of_it(
    server: HubServer, resolver: Resolver, argument: str
) -> None:
    paths = resolver.get(wanted(argument, resolver))
    assert [path.name for path in paths] == [Path(name).name for name in SHARDS]
    assert all(path.is_file() for path in paths)
    server.close()
    assert resolver.get(wanted(argument, resolver)) == paths
    assert resolver.local_paths(argument) == paths
    assert [held.path for held in resolver.local_files(argument)] == list(paths)
    assert resolver.local_paths(str(paths[2])) == paths


def test_a_shard_that_the_repository_lacks_is_named_before_anything_is_fetched(
    server: HubServer, resolver: Resolver
) -> None:
    server.add_repo("org/gap", {name: b"x" for name in SHARDS if "00003" not in name})
    for argument in ("org/gap:BF16", f"org/gap/{SHARDS[0]}"):
        with pytest.raises(HubError, match=r"00003-of-.* is missing"):
            resolver.get(wanted(argument, resolver))
    assert server.body_requests() == []


def test_a_shard_that_is_missing_on_disk_is_named(server: HubServer, resolver: Resolver) -> None:
    paths = resolver.get(wanted("org/sharded:BF16", resolver))
    paths[1].unlink()
    assert [held.path for held in resolver.local_files(str(paths[0]))] == list(paths)  # one is gone
    with pytest.raises(GgufError, match=r"`m-BF16-00002.* is missing"):
        resolver.target(str(paths[3]))
    assert resolver.get(wanted("org/sharded:BF16", resolver)) == paths  # fetched again
    assert paths[1].is_file()


# -- near names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "error", "near"),
    [
        ("org/modle:Q4_0", RepoNotFoundError, "`org/model`"),
        (f"{REPO}:Q4_1", RemoteFileNotFoundError, "`Q4_0`"),
        (f"{REPO}/m.q4_0.gguf", RemoteFileNotFoundError, f"`{NAME}`"),
        ("Q4_K_N", ModelNotFoundError, "`Q4_K_M`"),
    ],
)
def test_near_names_are_told(
    server: HubServer, resolver: Resolver, argument: str, error: type[Exception], near: str
) -> None:
    with pytest.raises(error) as caught:
        resolver.get(wanted(argument, resolver))
    assert f"did you mean {near}" in str(getattr(caught.value, "message", ""))


SURFACES = [
    ["run", "-p", "x"], ["download"], ["inspect"], ["pick"], ["bench"], ["warmup"],
    ["perplexity", "--text", __file__], ["serve", "--port", "0"],
]  # fmt: skip


@pytest.mark.parametrize("command", SURFACES, ids=lambda command: command[0])
def test_all_commands_tell_near_repositories(
    server: HubServer, gguf_hub: Callable[..., tuple[int, str, str]], command: list[str]
) -> None:
    if command[0] == "serve":
        pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    code, _, err = gguf_hub(command[0], "org/modle:Q4_0", *command[1:])
    assert (code, "did you mean `org/model`?" in err) == (1, True)


@pytest.mark.parametrize("lose_hub", ["offline", "down"], indirect=True)
def test_what_the_commands_say_about_files_without_hashes(
    server: HubServer,
    lose_hub: Break,
    no_links: Callable[[], None],
    gguf_hub: Callable[..., tuple[int, str, str]],
) -> None:
    no_links()
    paths = theirs(server, NAME)
    lose_hub()
    code, out, err = gguf_hub("download", REPO, NAME, "--json")
    assert code == 0, err
    (file,) = json.loads(out)["files"]
    assert (file["path"], file["verified"], file["status"]) == (str(paths[0]), False, "unverified")
    assert "not verified" in err
    code, out, err = gguf_hub("download", REPO, NAME, "-q")
    assert (code, out.strip(), "not verified" in err) == (0, str(paths[0]), True)
    assert gguf_hub("path", f"{REPO}:Q4_0")[1].strip() == str(paths[0])


@pytest.mark.parametrize("is_apart", [False, True], ids=["one cache", "two folders"])
def test_a_repository_of_which_several_models_are_here_is_a_question(
    server: HubServer, tmp_path: Path, is_apart: bool
) -> None:
    for name in (NAME, "m.Q8_0.gguf"):
        folder = LocalFolder(tmp_path / name) if is_apart else None
        Resolver(connect=hub, custom_destination=folder).get(Target(REPO, FileSelector((name,))))
    resolver = Resolver(connect=hub)
    with pytest.raises(UsageError, match=r"which of the 2 models of `org/model`\?") as caught:
        resolver.local_paths(REPO)
    assert "download" not in str(caught.value.hint)
    assert [path.name for path in resolver.local_paths(f"{REPO}:Q8_0")] == ["m.Q8_0.gguf"]
