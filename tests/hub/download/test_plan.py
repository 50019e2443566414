"""Which files are meant."""

from __future__ import annotations

import pytest

from gguf_hub.errors import GgufHubError, HubError, RemoteFileNotFoundError, UsageError
from gguf_hub.hub.client import RemoteFile, RepoListing
from gguf_hub.hub.download.plan import FileSelector, models_of, quants_of, select

MIXTRAL = [f"mixtral-8x7b-v0.1.{q}.gguf" for q in ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q8_0")]
SHARDS = [f"BF16/m-BF16-0000{i}-of-00003.gguf" for i in (3, 1, 2)]


def listing(*paths: str) -> RepoListing:
    files = tuple(RemoteFile(path, 1_000_000, "0" * 64, "1" * 40) for path in paths)
    return RepoListing("org/repo", "main", "c" * 40, files)


CARD = listing("README.md", *MIXTRAL)


def names(repo: RepoListing, **wanted: object) -> list[str]:
    return [file.path for file in select(repo, FileSelector(**wanted))]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"quant": "Q4_K_M"}, [MIXTRAL[3]]),
        ({"quant": "q4_k_m"}, [MIXTRAL[3]]),
        ({"include": ("*Q4_K*gguf",)}, [MIXTRAL[3]]),
        ({"include": ("*Q4*",)}, MIXTRAL[2:4]),
        ({"include": ("*Q4*", "*.md")}, ["README.md", *MIXTRAL[2:4]]),
        ({"include": ("*Q4*",), "exclude": ("*_0*",)}, [MIXTRAL[3]]),
        ({"exclude": ("*.gguf",)}, ["README.md"]),
        ({"include": ("*",)}, ["README.md", *MIXTRAL]),
        ({"filenames": (MIXTRAL[4], "README.md")}, [MIXTRAL[4], "README.md"]),
        ({"filenames": (MIXTRAL[4], MIXTRAL[4])}, [MIXTRAL[4]]),
        ({"filenames": ("README.md",), "include": ("*Q4*",)}, ["README.md"]),
    ],
)
def test_files_are_chosen(wanted: dict[str, object], expected: list[str]) -> None:
    assert names(CARD, **wanted) == expected


def test_patterns_beside_filenames_are_idle() -> None:
    assert FileSelector(("a",), include=("b",)).has_idle_patterns
    assert not FileSelector(("a",)).has_idle_patterns
    assert not FileSelector(include=("b",)).has_idle_patterns


def test_a_folder_stands_for_its_files() -> None:
    repo = listing("a.gguf", "b/c.gguf", "b/d/e.gguf", "bb.gguf")
    assert names(repo, filenames=("b/",)) == ["b/c.gguf", "b/d/e.gguf"]
    assert names(repo, include=("b/",)) == ["b/c.gguf", "b/d/e.gguf"]
    assert names(repo, include=("b\\*",)) == ["b/c.gguf", "b/d/e.gguf"]


def test_case_matters_in_patterns_as_it_does_for_hf() -> None:
    with pytest.raises(RemoteFileNotFoundError):
        names(CARD, include=("*q4_k*",))


def test_all_shards_of_a_quant_come_in_order() -> None:
    repo = listing("m-Q4_0.gguf", *SHARDS)
    assert names(repo, quant="bf16") == sorted(SHARDS)
    assert names(listing(*SHARDS)) == sorted(SHARDS)


def test_a_set_with_a_missing_shard_is_refused() -> None:
    with pytest.raises(HubError, match=r"`BF16/m-BF16-00001-of-00003.gguf` is missing"):
        names(listing(SHARDS[0], SHARDS[2]), quant="BF16")


def test_the_only_model_needs_no_name() -> None:
    assert names(listing("README.md", "m.gguf", "mmproj-m-F16.gguf")) == ["m.gguf"]


def test_sidecars_do_not_make_a_quant_ambiguous() -> None:
    repo = listing("m-Q8_0.gguf", "mmproj-m-Q8_0.gguf")
    assert names(repo, quant="Q8_0") == ["m-Q8_0.gguf"]


def test_patterns_narrow_a_quant() -> None:
    repo = listing("a-Q8_0.gguf", "b-Q8_0.gguf")
    assert names(repo, quant="Q8_0", include=("b*",)) == ["b-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("repo", "wanted", "error", "words"),
    [
        (CARD, {}, UsageError, ["which of the 5 models", "1.0 MB", "Q8_0.gguf", "org/repo:Q2_K"]),
        (CARD, {"quant": "Q4_K"}, RemoteFileNotFoundError, ["no quant `Q4_K`", "`Q4_K_M`"]),
        (CARD, {"quant": "Q9"}, RemoteFileNotFoundError, ["Q2_K, Q3_K_M, Q4_0, Q4_K_M, Q8_0"]),
        (CARD, {"include": ("*Q9*",)}, RemoteFileNotFoundError, ["--include '*Q9*'", "Q3_K_M"]),
        (CARD, {"exclude": ("*",)}, RemoteFileNotFoundError, ["--exclude '*'"]),
        (
            CARD,
            {"filenames": ("mixtral-8x7b-v0.1.q4_K_M.gguf",)},
            RemoteFileNotFoundError,
            ["no file `mixtral-8x7b-v0.1.q4_K_M.gguf`", f"`{MIXTRAL[3]}`"],
        ),
        (CARD, {"filenames": ("nothing/",)}, RemoteFileNotFoundError, ["no file `nothing/`"]),
        (listing("README.md"), {}, RemoteFileNotFoundError, ["no GGUF file"]),
        (listing("x.md"), {"quant": "Q4_0"}, RemoteFileNotFoundError, ["it has x.md"]),
        (listing(), {"quant": "Q4_0"}, RemoteFileNotFoundError, ["no files"]),
        (
            listing("a-Q8_0.gguf", "b-Q8_0.gguf"),
            {"quant": "Q8_0"},
            UsageError,
            ["could be any of", "a-Q8_0.gguf", "b-Q8_0.gguf"],
        ),
    ],
)
def test_what_is_not_there_or_not_clear_is_explained(
    repo: RepoListing, wanted: dict[str, object], error: type[GgufHubError], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        select(repo, FileSelector(**wanted))
    text = f"{caught.value.message}\n{caught.value.hint}"
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("wanted", [{"include": ("*",)}, {"quant": "Q4_0"}])
def test_a_listing_that_leads_out_of_the_folder_is_refused(wanted: dict[str, object]) -> None:
    with pytest.raises(HubError, match="refused"):
        names(listing("../../m.Q4_0.gguf"), **wanted)


def test_an_evil_name_does_not_spoil_the_others() -> None:
    assert names(listing("../x.gguf", "m.Q4_0.gguf"), quant="Q4_0") == ["m.Q4_0.gguf"]


def test_quants_are_listed_once() -> None:
    assert quants_of(listing(*SHARDS, "m.Q4_0.gguf", "x.gguf", "README.md")) == ["BF16", "Q4_0"]


# -- repositories as they are published ----------------------------------------------------------

UNSLOTH = [
    "imatrix_unsloth.gguf_file", "m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf",
    "m-Q8_0.gguf", "Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf",
    "mmproj-F16.gguf", "MTP/m-Q4_K_M-MTP.gguf",
]  # fmt: skip
HEADS = ["mtp-m-Q8_0.gguf", "mtp-m-BF16.gguf", "README.md"]
PARTS = [f"m.Q8_0.gguf.part{i}of2" for i in (2, 1)]
SPLIT = [f"m.Q6_K.gguf-split-{letter}" for letter in "ba"]


@pytest.mark.parametrize(
    ("paths", "wanted", "expected"),
    [
        (UNSLOTH, {"quant": "Q4_K_M"}, ["m-Q4_K_M.gguf"]),
        (UNSLOTH, {"quant": "UD-Q4_K_M"}, ["m-UD-Q4_K_M.gguf"]),
        (UNSLOTH, {"quant": "Q4_K_XL"}, ["m-UD-Q4_K_XL.gguf"]),
        (UNSLOTH, {"filenames": ("mmproj-F16.gguf",)}, ["mmproj-F16.gguf"]),
        (["m-mtp-kl-Q8_0.gguf", *HEADS], {"quant": "Q8_0"}, ["m-mtp-kl-Q8_0.gguf"]),
        (HEADS, {"quant": "Q8_0"}, ["mtp-m-Q8_0.gguf"]),
        (["m-imatrix-Q4_0.gguf", "m.imatrix.gguf"], {}, ["m-imatrix-Q4_0.gguf"]),
        (["Q4_0/model.gguf", "Q8_0/model.gguf"], {"quant": "Q8_0"}, ["Q8_0/model.gguf"]),
        (["m-F16-LoRA.gguf", "README.md"], {}, ["m-F16-LoRA.gguf"]),
        (["m.Q4_0.gguf", *PARTS], {"quant": "Q8_0"}, sorted(PARTS)),
        (["m.Q4_0.gguf", *PARTS], {"filenames": (PARTS[0],)}, sorted(PARTS)),
        (["m.Q4_0.gguf", *PARTS], {"filenames": ("m.Q8_0.gguf",)}, sorted(PARTS)),
        ([*SPLIT, *PARTS], {"quant": "Q6_K"}, sorted(SPLIT)),
    ],
)
def test_layouts_of_publishers(
    paths: list[str], wanted: dict[str, object], expected: list[str]
) -> None:
    assert names(listing(*paths), **wanted) == expected


@pytest.mark.parametrize(
    ("paths", "quant", "words"),
    [
        (UNSLOTH, "Q8_0", ["m-Q8_0.gguf", "00001-of-00002", "download org/repo/m-Q8_0.gguf`"]),
        (["m-UD-Q4_0.gguf", "m-i1-Q4_0.gguf"], "Q4_0", ["download org/repo:UD-Q4_0`"]),
        (["m-Q8_0.gguf", "m-draft-Q8_0.gguf"], "Q8_0", ["could be any of", "m-draft-Q8_0.gguf"]),
        ([*PARTS, "m.Q8_0.gguf"], "Q8_0", ["part2of2", "could be any of"]),
    ],
)
def test_two_models_of_a_quant_are_never_mixed(
    paths: list[str], quant: str, words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        names(listing(*paths), quant=quant)
    text = f"{caught.value.message}\n{caught.value.hint}"
    assert [word for word in words if word not in text] == []


def test_a_missing_raw_part_is_named() -> None:
    repo = listing(PARTS[0], "m.Q4_0.gguf")
    with pytest.raises(HubError, match=r"`m.Q8_0.gguf.part1of2` is missing"):
        names(repo, quant="Q8_0")
    assert [[file.path for file in model] for model in models_of(repo)] == [["m.Q4_0.gguf"]]


def test_a_listing_that_may_lack_files_settles_only_what_is_exact() -> None:
    repo = listing("m-UD-Q4_0.gguf", "mmproj-Q8_0.gguf")
    near, head = FileSelector(quant="Q4_0"), FileSelector(quant="Q8_0")
    assert len(select(repo, near)) == 1
    for selector in (near, head):
        with pytest.raises(RemoteFileNotFoundError):
            select(repo, selector, is_partial=True)
    assert len(select(repo, FileSelector(quant="UD-Q4_0"), is_partial=True)) == 1
