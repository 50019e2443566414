"""``gguf-hub quantize``: order of arguments, the plan, what is said, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_hub.gguf.reader import GgufFile
from tests.synth import SMALL, TINY, Shape, write_mixtral


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "in.gguf", SMALL, layout="split", recipe="F16")


@pytest.mark.slow
def test_writes_the_file_and_says_where(source: Path, tmp_path: Path, gguf_hub) -> None:
    target = tmp_path / "out.gguf"
    code, out, err = gguf_hub("quantize", source, target, "q8_0", "--layout", "merged", "-t", 2)
    assert (code, out) == (0, f"{target}\n")
    assert "bits per weight (was 13.6 MB)" in err
    assert "blk.0.ffn_up_exps.weight" in GgufFile.open(target).tensors


def test_a_dry_run_shows_every_tensor_and_writes_nothing(source: Path, gguf_hub) -> None:
    target = source.with_name("out.gguf")
    code, out, err = gguf_hub("quantize", source, target, "Q4_K_M", "--dry-run")
    assert code == 0
    rows = [" ".join(line.split()) for line in out.splitlines()[2:]]
    assert len(rows) == len(GgufFile.open(source).tensors)
    assert rows[0] == "token_embd.weight 256 x 320 F16 Q4_K 163.8 kB 46.1 kB"
    assert "would be: 4.2 MB, 4.9" in err
    assert "--layout merged" in err
    assert not target.exists()


@pytest.mark.slow
def test_json_tells_the_same(source: Path, gguf_hub) -> None:
    target = source.with_name("out.gguf")
    arguments = ["quantize", source, target, "Q4_K", "--recipe", "card", "--dry-run", "--json"]
    report = json.loads(gguf_hub(*arguments)[1])
    assert (report["file_type"], report["written"]) == ("Q4_K_M", None)
    kinds = {tensor["name"]: tensor["to"] for tensor in report["tensors"]}
    assert kinds["blk.0.attn_output.weight"] == "Q4_K"  # today's mix says Q5_K
    assert kinds["output.weight"] == "Q6_K"
    written = json.loads(gguf_hub(*arguments[:-2], "--json", "-t", 1)[1])
    assert written["written"] == str(target)
    assert written["size_bytes"] == report["size_bytes"] == target.stat().st_size


def test_pure_and_the_outputs_type(source: Path, gguf_hub) -> None:
    options = ["--pure", "--output-tensor-type", "f16", "--dry-run", "--json"]
    report = json.loads(gguf_hub("quantize", source, "out.gguf", "Q5_K_M", *options)[1])
    kinds = {tensor["name"]: tensor["to"] for tensor in report["tensors"]}
    assert kinds["blk.1.attn_v.weight"] == "Q5_K"
    assert kinds["output.weight"] == "F16"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Q9"], "`Q9` is not a type to quantise to"),
        (["Q4_0", "--output-tensor-type", "Q4_K_M"], "`Q4_K_M` is not a tensor type"),
        (["Q4_0", "--recipe", "best"], "'best' is not one of"),
        (["Q4_0", "-t", "-1"], "-1"),
        (["Q4_0", "--tensor-type", "attn_v"], "expected REGEX=TYPE, found `attn_v`"),
        (["Q4_0", "--tensor-type", "attn_v=Q9"], "`Q9` is not a tensor type"),
        (["Q4_0", "--tensor-type", "attn_(=Q8_0"], "`attn_(` is not a pattern"),
        (["Q4_0", "--tensor-type-file", "no.txt"], "cannot read `no.txt`"),
        (["Q4_0", "--token-embedding-type", "x"], "`--token-embedding-type`: `x` is not"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], said: str, source: Path, gguf_hub) -> None:
    code, out, err = gguf_hub("quantize", source, "out.gguf", *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_the_cards_recipe_wants_eight_experts(tmp_path: Path, gguf_hub) -> None:
    source = write_mixtral(tmp_path / "in.gguf", TINY)
    code, _, err = gguf_hub("quantize", source, "out.gguf", "Q4_0", "--recipe", "card")
    assert code == 2
    assert "8 experts: this one has 4" in err


def test_an_existing_file_is_kept_unless_forced(source: Path, tmp_path: Path, gguf_hub) -> None:
    target = tmp_path / "out.gguf"
    target.write_text("mine")
    code, _, err = gguf_hub("quantize", source, target, "Q8_0")
    assert (code, target.read_text()) == (1, "mine")
    assert "--force" in err
    assert gguf_hub("quantize", source, target, "Q8_0", "-f", "-t", 2)[0] == 0
    assert gguf_hub("quantize", target, tmp_path / "x.gguf", "F16")[0] == 1  # Q8_0 has fewer bits
    assert gguf_hub("quantize", source, source, "Q8_0", "-f")[0] == 2


def test_an_input_that_is_not_there(tmp_path: Path, gguf_hub) -> None:
    code, out, err = gguf_hub("quantize", tmp_path / "no.gguf", tmp_path / "out.gguf", "Q8_0")
    assert (code, out) == (1, "")
    assert "no such file" in err


@pytest.fixture
def imatrix(source: Path, tmp_path: Path, gguf_hub) -> Path:
    text, path = tmp_path / "text.txt", tmp_path / "m.imatrix.gguf"
    text.write_text("The hen and the fox went over the hill.\n" * 40)
    args = ("-f", text, "-o", path, "-c", 64, "-t", 2, "--no-ppl")
    code, _, err = gguf_hub("imatrix", source, *args)
    assert code == 0, err
    return path


@pytest.mark.slow
def test_an_importance_matrix_is_used(source: Path, imatrix: Path, gguf_hub) -> None:
    out = source.with_name("out.gguf")
    report = json.loads(
        gguf_hub("quantize", source, out, "Q4_K_M", "--imatrix", imatrix, "--json", "-t", 2)[1]
    )
    used = {tensor["name"] for tensor in report["tensors"] if tensor["has_importance"]}
    assert "blk.0.ffn_up.3.weight" in used
    assert "token_embd.weight" not in used
    assert GgufFile.open(out).metadata["quantize.imatrix.file"] == str(imatrix)
    code, stdout, err = gguf_hub("quantize", source, source.with_name("s.gguf"), "Q2_K_S")
    assert (code, stdout) == (1, "")
    assert "is of no use without an importance matrix" in err
    assert not source.with_name("s.gguf").exists()
    code, _, err = gguf_hub("quantize", source, "s.gguf", "Q2_K_S", "--dry-run")
    assert code == 0
    assert "this needs an importance matrix" in err
    code, _, err = gguf_hub("quantize", source, imatrix, "Q4_0", "--imatrix", imatrix, "-f")
    assert code == 2
    assert "is the input itself" in err
    code, _, err = gguf_hub("quantize", source, out, "Q4_0", "--imatrix", source, "-f")
    assert code == 1
    assert "is a model, not an importance matrix" in err


def test_types_by_name_and_a_file(source: Path, tmp_path: Path, gguf_hub) -> None:
    types = tmp_path / "types.txt"
    types.write_text("blk\\.1\\.ffn_up=q5_1 attn_q=q8_0\n\nattn_k=f16\n")
    args = ("--tensor-type", "attn_q=Q4_1", "--tensor-type-file", types, "--leave-output-tensor",
            "--token_embedding_type", "q5_0", "--dry-run", "--json")  # fmt: skip
    report = json.loads(gguf_hub("quantize", source, "out.gguf", "Q4_K_M", *args)[1])
    kinds = {tensor["name"]: tensor["to"] for tensor in report["tensors"]}
    assert kinds["blk.0.attn_q.weight"] == "Q4_1"
    assert kinds["blk.0.attn_k.weight"] == "F16"
    assert kinds["blk.1.ffn_up.0.weight"] == "Q5_1"
    assert kinds["blk.0.ffn_up.0.weight"] == "Q4_K"
    assert kinds["output.weight"] == "F16"
    assert kinds["token_embd.weight"] == "Q5_0"


def test_shards_are_kept_where_asked(source: Path, tmp_path: Path, gguf_hub) -> None:
    gguf_hub("split", source, tmp_path / "part", "--split-max-tensors", 20)
    first = next(tmp_path.glob("part-00001*"))
    args = (first, tmp_path / "out.gguf", "Q8_0", "--keep-split", "-t", 2)
    code, out, _ = gguf_hub("quantize", *args)
    shards = sorted(tmp_path.glob("out-*"))
    assert (code, out) == (0, f"{shards[0]}\n")
    assert len(shards) == len(list(tmp_path.glob("part-*")))
    assert gguf_hub("verify", shards[0])[0] == 0
    code, _, err = gguf_hub("quantize", *args)
    assert code == 1
    assert "exists already" in err


# ---- made to measure ---------------------------------------------------------------------------

FEW = ("--tensor-type", "attn_[qko]=q8_0", "--tensor-type", "gate|up|output|embd=q8_0")
"""Leaves only values and down projections a choice, so that little has to be measured."""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The hen and the fox went over the hill.\n" * 30)
    return path


@pytest.mark.slow
def test_a_file_is_made_to_measure(
    tmp_path: Path, text: Path, gguf_hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shape = Shape(
        n_layer=1, n_embd=256, n_head=4, n_head_kv=4, n_ff=256, n_expert=2, n_vocab=300, n_ctx=64
    )
    source = write_mixtral(tmp_path / "in.F16.gguf", shape, recipe="F16")
    arguments = ["quantize", source, "--text", text, "--chunks", 2, "-t", 1, *FEW]
    sizes = {}
    for size in ("1MB", "0.9MB"):
        code, out, err = gguf_hub(*arguments, "--target-size", size, "--dry-run", "--json")
        assert code == 0, err
        sizes[size] = json.loads(out)
    large, small = sizes["1MB"], sizes["0.9MB"]
    assert 850_000 < small["size_bytes"] <= 900_000 < large["size_bytes"] <= 1_000_000
    assert 0 < large["kl"] < small["kl"]
    of_experts = [t for t in small["tensors"] if ".ffn_down." in t["name"]]
    assert len({t["to"] for t in of_experts}) == 1
    assert sum(t["kl"] or 0 for t in small["tensors"]) == pytest.approx(small["kl"])
    code, out, err = gguf_hub(*arguments, "--target-size", "0.9MB")
    assert (code, out) == (0, "in.size-900.0kB.gguf\n")
    assert "expected KL divergence" in err
    assert "without an importance matrix" in err
    written = GgufFile.open(tmp_path / "in.size-900.0kB.gguf")
    assert written.size_bytes == small["size_bytes"]
    assert {t["name"]: t["to"] for t in small["tensors"]} == {
        name: info.type.name for name, info in written.tensors.items()
    }
    code, out, err = gguf_hub(*arguments, "--target-size", "0.9MB")
    assert (code, out) == (1, "")
    assert "exists already" in err
    code, _, err = gguf_hub(*arguments, "--target-size", "0.1MB", "--dry-run")
    assert code == 1
    assert "the smallest file of it has" in err


@pytest.mark.slow
def test_a_file_that_is_made_to_fit_is_one_that_pick_takes(
    tmp_path: Path, text: Path, gguf_hub
) -> None:
    shape = Shape(
        n_layer=1, n_embd=256, n_head=4, n_head_kv=4, n_ff=1024, n_expert=4, n_vocab=300, n_ctx=64
    )
    source, target = write_mixtral(tmp_path / "in.gguf", shape, recipe="F16"), tmp_path / "out.gguf"
    machine = ("--ctx", 64, "--reserve", "0GB")
    report = json.loads(gguf_hub("pick", source, "--ram", "4GB", *machine, "--json")[1])
    need = report["files"][0]["need_ram_bytes"]
    assert report["made_to_measure"] is None  # the source fits itself
    ram = f"{need - 1_000_000}b"
    report = json.loads(gguf_hub("pick", source, "--ram", ram, *machine, "--json")[1])
    made = report["made_to_measure"]
    assert made["size_bytes"] < report["files"][0]["size_bytes"]
    assert "--ctx 64 --for gguf-hub --reserve 0B --imatrix FILE" in made["command"]
    code, out, err = gguf_hub("pick", source, "--ram", ram, *machine)
    assert code == 1  # it is not there yet
    assert "made to measure" in out
    assert "gguf-hub quantize" in err
    arguments = ["quantize", source, target, "--text", text, "--chunks", 2, "-t", 1, *machine]
    few = ("--tensor-type", "attn|output|embd|gate=q8_0", "--tensor-type", "up=q6_k")
    code, out, err = gguf_hub(*arguments, "--fit", ram, *few)
    assert code == 0, err
    assert "that a model may take" in err
    judged = json.loads(gguf_hub("pick", target, "--ram", ram, *machine, "--json")[1])["files"][0]
    assert judged["verdict"] == "fits in RAM"
    code, _, err = gguf_hub(*arguments, "--fit", "4GB", *few, "--force")
    assert code == 1
    assert "fits as it is" in err
    code, _, err = gguf_hub(*arguments, "--fit", "20MB", *few, "--force")
    assert code == 1
    assert "cannot be made to fit: the smallest file of it has" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fit", "24GB"], "need --text FILE"),
        (["--fit", "much", "--text", "t"], "`--fit`: `much` is not a size"),
        (["--fit", "1GB", "--target-size", "1GB", "--text", "t"], "exclude each other"),
        (["--fit", "1GB", "--text", "t", "--pure"], "cannot go with --fit"),
        (["out.gguf", "Q4_0", "--fit", "1GB", "--text", "t"], "leave TYPE out"),
        (["out.gguf", "Q4_0", "--text", "t"], "--text needs --fit"),
        (["out.gguf", "Q4_0", "--vram", "1GB"], "--vram needs --fit"),
        (["--target-size", "1GB", "--text", "t", "--ctx", "64"], "--ctx needs --fit"),
        ([], "missing argument 'OUT'"),
        (["out.gguf"], "missing argument 'TYPE'"),
    ],
)
def test_wrong_usage_of_fit_exits_with_2(
    arguments: list[str], said: str, source: Path, gguf_hub
) -> None:
    code, out, err = gguf_hub("quantize", source, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_text_that_is_too_short_is_refused(source: Path, tmp_path: Path, gguf_hub) -> None:
    path = tmp_path / "short.txt"
    path.write_text("hen")
    code, _, err = gguf_hub("quantize", source, "--target-size", "4MB", "--text", path)
    assert code == 2
    assert "two chunks of" in err


def test_a_pattern_that_matches_no_tensor_is_named(source: Path, tmp_path: Path, gguf_hub) -> None:
    args = ("quantize", source, "out.gguf", "Q4_0", "--dry-run")
    patterns = tmp_path / "types.txt"
    patterns.write_text("attn_v=Q8_0 fnn_up=Q6_K")
    code, _, err = gguf_hub(
        *args, "--tensor-type", "atn_v=Q8_0", "--tensor-type", "attn_k=Q8_0",
        "--tensor-type-file", patterns,
    )  # fmt: skip
    assert code == 0
    assert f"`atn_v=Q8_0` matches no tensor of `{source}`" in err
    assert "`fnn_up=Q6_K` matches no tensor" in err
    assert "attn_k=" not in err
    assert "attn_v=" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Q4_K_M"], "missing argument 'OUT'"),
        (["out.gguf"], "missing argument 'TYPE'"),
        (["-", "Q8_0"], "expected a file, as a GGUF is not written to stdout"),
    ],
)
def test_the_argument_that_is_missing_is_named(
    arguments: list[str], said: str, gguf_hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = gguf_hub("quantize", "in.gguf", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []
