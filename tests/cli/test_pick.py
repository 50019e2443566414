"""``gguf-hub pick`` as people and programs call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.hardware import Gpu, Hardware
from gguf_hub.units import GB
from tests.conftest import ROOT


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Make ``detect`` see another machine."""

    def become(ram_gb: float | None, *vram_gb: float) -> None:
        ram_bytes = None if ram_gb is None else round(ram_gb * GB)
        gpus = tuple(Gpu("card", 99 * GB, round(each * GB)) for each in vram_gb)
        seen = Hardware(ram_bytes, ram_bytes, None, 4, 4, "cpu", gpus, None, ())
        monkeypatch.setattr("gguf_hub.hardware.detect", lambda: seen)

    return become


def picked(gguf_hub, *args: object) -> tuple[int, dict[str, Any]]:
    """Exit code and data of ``gguf-hub pick --json``."""
    code, out, _ = gguf_hub("pick", "--json", *args)
    return code, json.loads(out)


@pytest.mark.parametrize(
    ("args", "quant"),
    [
        (["--ram", "24GB", "--ctx", 4096], "Q3_K_M"),
        (["--ram", "24"], "Q3_K_M"),
        (["--ram", "64GB"], "Q5_K_M"),
        (["--ram", "64GB", "--policy", "quality"], "Q8_0"),
        (["--ram", "64GB", "--policy", "fast"], "Q3_K_M"),
        (["--ram", "8GB", "--vram", "80GB"], "Q5_K_M"),
        (["--ram", "12GB"], None),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else value,
)
def test_recommends(gguf_hub, args: list[object], quant: str | None) -> None:
    code, data = picked(gguf_hub, *args)
    assert code == (0 if quant else 1)
    assert data["recommended"] == quant
    assert [row["quant"] for row in data["files"] if row["recommended"]] == ([quant] * bool(quant))
    assert bool(data["commands"]) == bool(quant)


def test_rows_hold_the_keys_that_programs_read(gguf_hub) -> None:
    _, data = picked(gguf_hub, "--ram", "24GB", "--ctx", 4096)
    assert set(data) == {
        "repo_id", "revision", "ram_bytes", "vram_bytes", "n_ctx", "policy", "recommended",
        "reason", "commands", "files",
    }  # fmt: skip
    assert (data["ram_bytes"], data["vram_bytes"], data["n_ctx"]) == (24 * GB, 0, 4096)
    assert len(data["files"]) == 8
    for row in data["files"]:
        assert set(row) == {
            "quant", "filename", "bits", "size_bytes", "need_ram_bytes", "weights_bytes",
            "kv_bytes", "scratch_bytes", "active_bytes", "active_bytes_is_estimated", "verdict",
            "perplexity", "perplexity_is_estimated", "loss", "recommended", "recommended_by_card",
        }  # fmt: skip
        terms = (row["weights_bytes"], row["kv_bytes"], row["scratch_bytes"])
        assert row["need_ram_bytes"] == sum(terms)
        assert row["verdict"] == ("fits in RAM" if row["need_ram_bytes"] <= 24 * GB else "too big")


def test_table_ends_with_the_reason_and_the_next_commands(gguf_hub) -> None:
    code, out, err = gguf_hub("pick", "--ram", "24GB")
    assert code == 0
    lines = out.splitlines()
    row = next(line for line in lines if line.startswith("Q3_K_M"))
    assert row.split() == [
        "Q3_K_M",
        "3",
        "20.36",
        "GB",
        "21.17",
        "GB",
        "fits",
        "in",
        "RAM",
        "4.4194",
        "7.7",
        "%",
        "<-",
        "pick",
    ]
    assert any(line.startswith("Q3_K_M: the best that fits 24 GB") for line in lines)
    assert lines[-2:] == [
        "  gguf-hub download Q3_K_M",
        '  gguf-hub run Q3_K_M -c 4096 -p "Once upon a time"',
    ]
    assert " ~4.1191 " in out
    assert "~ Q6_K: estimated" in err


def test_none_fits_tells_the_smallest_need(gguf_hub) -> None:
    code, out, err = gguf_hub("pick", "--ram", "12GB")
    assert code == 1
    assert out.splitlines()[-1] == (
        "none of the 8 files fits 12 GB of RAM: Q2_K, the smallest, needs 16.5 GB "
        "at 4096 tokens of context"
    )
    assert "hint" not in err  # no context is small enough


def test_none_fits_names_a_context_that_would(gguf_hub) -> None:
    code, _, err = gguf_hub("pick", "--ram", "17GB", "--ctx", 32768)
    assert code == 1
    n_ctx = int(err.split("--ctx ")[1].split("`")[0])
    assert picked(gguf_hub, "--ram", "17GB", "--ctx", n_ctx)[0] == 0
    assert picked(gguf_hub, "--ram", "17GB", "--ctx", n_ctx + 1)[0] == 1


def test_context_beyond_training_is_a_warning(gguf_hub) -> None:
    code, _, err = gguf_hub("pick", "--ram", "64GB", "--ctx", 32769)
    assert code == 0
    assert "warning: the model was trained on 32768 tokens" in err
    assert "warning" not in gguf_hub("pick", "--ram", "64GB", "--ctx", 32768)[2]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--ram", "lots"], "`--ram`: `lots` is not a size"),
        (["--ram", "-5"], "`-5` is not a size"),
        (["--ram", "9" * 400], "is not a size"),
        (["--vram", "5XB"], "`--vram`: `5XB` is not a size"),
        (["--ctx", "0"], "0 is not in the range"),
        (["--ctx", "-1"], "-1 is not in the range"),
        (["--ctx", "1048577"], "1048577 is not in the range"),
        (["--ctx", "many"], "not a valid integer"),
        (["--policy", "best"], "'balanced', 'quality', 'fast'"),
        (["extra"], "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_impossible_value_is_a_usage_error(gguf_hub, args: list[str], expected: str) -> None:
    code, out, err = gguf_hub("pick", *args)
    assert (code, out) == (2, "")
    assert expected in err
    assert "hint: " in err


def test_memory_is_that_of_this_machine(gguf_hub, machine) -> None:
    machine(24.9)
    code, data = picked(gguf_hub)
    assert (code, data["recommended"]) == (0, "Q3_K_M")
    assert (data["ram_bytes"], data["vram_bytes"]) == (round(24.9 * GB), 0)


def test_gpus_of_this_machine_count_together(gguf_hub, machine) -> None:
    machine(8, 24, 24)
    code, data = picked(gguf_hub)
    assert (code, data["recommended"]) == (0, "Q5_K_M")
    assert data["vram_bytes"] == 48 * GB
    err = gguf_hub("pick")[2]
    assert "Q5_K_M fits in VRAM, not in RAM: `gguf-hub run` computes on the CPU" in err


def test_a_question_about_other_memory_leaves_this_machines_gpu_out(gguf_hub, machine) -> None:
    machine(8, 80)
    assert picked(gguf_hub, "--ram", "12GB")[1]["vram_bytes"] == 0
    assert picked(gguf_hub, "--vram", "0")[0] == 1  # its own RAM, no GPU


def test_memory_that_cannot_be_read_has_to_be_told(gguf_hub, machine) -> None:
    machine(None)
    code, out, err = gguf_hub("pick")
    assert (code, out) == (1, "")
    assert "hint: say how much: `--ram 24GB`" in err


def test_a_catalog_of_ones_own(gguf_hub, tmp_path: Path) -> None:
    text = (ROOT / "catalog.yaml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("TheBloke/Mixtral-8x7B-v0.1-GGUF\nrev", "me/mine\nrev"))
    _, data = picked(gguf_hub, "--ram", "24GB", "--catalog", path)
    assert data["commands"][0] == "gguf-hub download me/mine:Q3_K_M"


def test_files_without_figures_are_shown_with_dashes(gguf_hub, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "repo_id: me/tiny\n"
        "architecture: {n_layer: 2, n_embd: 64, n_head: 4, n_head_kv: 2, head_dim: 16,\n"
        "               n_ff: 128, n_vocab: 512, n_ctx_train: 256}\n"
        "files: [{quant: F16, filename: tiny.gguf, size_bytes: 5000000}]\n"
    )
    code, out, _ = gguf_hub("pick", "--ram", "1GB", "--ctx", "256", "--catalog", path)
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("F16 "))
    assert row.split()[:2] + row.split()[-4:] == ["F16", "-", "-", "-", "<-", "pick"]
    assert "F16: the largest that fits 1 GB of RAM" in out
