"""``gguf-hub imatrix`` from the outside, on a synthetic model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gguf_hub.run.quants.imatrix_file import read_imatrix, write_imatrix
from tests.synth import TINY, write_mixtral


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "model.gguf", TINY, recipe="F32")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The hen and the fox went over the hill.\n" * 4)
    return path


@pytest.mark.slow
def test_writes_a_matrix_and_says_where(model: Path, text: Path, tmp_path: Path, gguf_hub) -> None:
    target = tmp_path / "i.gguf"
    code, out, err = gguf_hub("imatrix", model, "-f", text, "-o", target, "-c", 16, "-t", 1)
    assert (code, out) == (0, f"{target}\n")
    assert "perplexity: " in err
    matrix = read_imatrix(target)
    assert matrix.datasets == (str(text),)
    assert (matrix.chunk_size, matrix.n_chunks) == (16, matrix.n_chunks)
    assert "output.weight" not in matrix.entries
    code, _, err = gguf_hub("imatrix", model, "-f", text, "-o", target, "-c", 16)
    assert code == 1
    assert "exists already" in err
    args = ("-c", 16, "-t", 1, "--chunks", 1, "--force", "--process-output", "--no-ppl", "--json")
    report = json.loads(gguf_hub("imatrix", "-m", model, "-f", text, "-o", target, *args)[1])
    assert (report["written"], report["n_chunks"]) == (str(target), 1)
    assert report["perplexity"] is None
    assert "output.weight" in read_imatrix(target).entries


@pytest.mark.slow
def test_a_killed_run_is_gone_on_with(
    model: Path, text: Path, tmp_path: Path, gguf_hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gguf_hub.run.imatrix import collector

    def run(target: Path, *more: object) -> tuple[int, str, str]:
        return gguf_hub("imatrix", model, "-f", text, "-o", target, "-c", 16, "-t", 1, "-ofreq", 1,
                        *more)  # fmt: skip

    assert run(tmp_path / "whole.gguf")[0] == 0
    ends: list[int] = []
    end_chunk = collector.Collector.end_chunk

    def killed(self: collector.Collector) -> None:
        ends.append(1)
        if len(ends) == 3:
            raise KeyboardInterrupt
        end_chunk(self)

    with monkeypatch.context() as patch:
        patch.setattr(collector.Collector, "end_chunk", killed)
        assert run(tmp_path / "i.gguf")[0] == 130
    code, _, err = run(tmp_path / "i.gguf", "--process-output")
    assert code == 1
    assert "is unfinished, and of another model, text or setting" in err
    code, _, err = run(tmp_path / "i.gguf")
    assert code == 0
    assert "2 chunks are done; perplexity is measured on the other" in err
    assert (tmp_path / "i.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_matrices_are_merged_and_shown(model: Path, text: Path, tmp_path: Path, gguf_hub) -> None:
    one, two, both = (tmp_path / f"{name}.gguf" for name in ("one", "two", "both"))
    gguf_hub("imatrix", model, "-f", text, "-o", one, "-c", 16, "-t", 1, "--chunks", 1)
    gguf_hub("imatrix", model, "-f", text, "-o", two, "-c", 16, "-t", 1, "--chunk", 1)
    assert gguf_hub("imatrix", "--in-file", f"{one},{two}", "-o", both, "-c", 16)[0] == 0
    whole = tmp_path / "whole.gguf"
    gguf_hub("imatrix", model, "-f", text, "-o", whole, "-c", 16, "-t", 1)
    assert read_imatrix(both).n_chunks == read_imatrix(whole).n_chunks
    code, out, _ = gguf_hub("imatrix", "--in-file", both, "--show-statistics")
    assert code == 0
    assert {"attn_q", "ffn_down_exps"} <= {line.split()[1] for line in out.splitlines()[2:]}
    report = json.loads(gguf_hub("imatrix", "--in-file", both, "--show", "--json")[1])
    assert report["written"] is None
    assert len(report["statistics"]) == report["n_tensors"]


def test_entries_of_another_model_are_named_and_left_out(
    model: Path, text: Path, tmp_path: Path, gguf_hub
) -> None:
    def run(target: Path, *more: object) -> tuple[int, str, str]:
        return gguf_hub("imatrix", model, "-f", text, "-o", target, "-c", 16, "-t", 1, *more)

    run(tmp_path / "own.gguf")
    own = read_imatrix(tmp_path / "own.gguf")
    run(tmp_path / "twice.gguf", "--in-file", tmp_path / "own.gguf")
    some = own.entries["blk.0.attn_q.weight"]
    more = dict(own.entries) | {"blk.7.attn_q.weight": some, "blk.0.ffn_up_shexp.weight": some}
    write_imatrix(tmp_path / "more.gguf", replace(own, entries=more))
    code, _, err = run(tmp_path / "i.gguf", "--in-file", tmp_path / "more.gguf")
    assert code == 0
    names = "`blk.0.ffn_up_shexp.weight`, `blk.7.attn_q.weight`"
    assert f"more.gguf`: 2 entries are of tensors that the model lacks: {names}; left out" in err
    assert (tmp_path / "i.gguf").read_bytes() == (tmp_path / "twice.gguf").read_bytes()

    write_imatrix(tmp_path / "other.gguf", replace(own, entries={"blk.7.attn_q.weight": some}))
    code, _, err = run(tmp_path / "o.gguf", "--in-file", tmp_path / "other.gguf")
    assert code == 1
    assert "other.gguf` has no entry of any tensor of the model" in err
    assert not (tmp_path / "o.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "expected MODEL and --text FILE, or --in-file FILE"),
        (["MODEL"], 2, "expected a text: --text FILE"),
        (["-f", "TEXT"], 2, "expected a MODEL that reads the text"),
        (["MODEL", "-m", "MODEL", "-f", "TEXT"], 2, "expected one MODEL"),
        (["MODEL", "-f", "no.txt"], 1, "no.txt"),
        (["MODEL", "-f", "TEXT", "-c", "0"], 2, "--ctx-size 0: expected 1 or more"),
        (["MODEL", "-f", "TEXT", "-c", "16", "--chunk", "99"], 2, "skips 1,584 of"),
        (["MODEL", "-f", "TEXT", "--in-file", "TEXT", "-c", "16"], 1, "an importance matrix"),
        (["MODEL", "-f", "TEXT", "-c", "16", "-o", "MODEL"], 2, "is the input itself"),
        (["--in-file", "MODEL"], 1, "is a model, not an importance matrix"),
        (["--in-file", "a", "--in-file", "b", "--show"], 2, "shows one matrix: 2 were given"),
    ],
)
def test_bad_arguments_are_refused_and_leave_nothing(
    arguments: list[str], code: int, said: str, model: Path, text: Path, tmp_path: Path, gguf_hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    paths = {"MODEL": model, "TEXT": text}
    before = sorted(tmp_path.iterdir())
    found, out, err = gguf_hub("imatrix", *(paths.get(each, each) for each in arguments))
    assert (found, out) == (code, "")
    assert said in err
    assert sorted(tmp_path.iterdir()) == before
