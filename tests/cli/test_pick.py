"""``gguf-hub pick`` as people and programs call it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gguf_hub.errors import GpuError
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.shards import plan_split, write_shards
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.hardware import Gpu, Hardware
from gguf_hub.hub.hardware.gpus import NVIDIA
from gguf_hub.run.gpu.adapters import Adapter
from gguf_hub.run.gpu.device import AdapterInfo
from gguf_hub.units import GB
from tests.conftest import ROOT
from tests.hub_server import Fault, HubServer
from tests.synth import Shape, metadata, write_mixtral

SCHEMA = json.loads((ROOT / "docs/pick.schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Make ``detect`` see another machine."""

    def become(
        ram_gb: float | None, *vram_gb: float, can_offload: bool = False, **more: Any
    ) -> None:
        monkeypatch.setattr("gguf_hub.cli.pick.machines.can_offload", lambda hardware: can_offload)
        ram_bytes = None if ram_gb is None else round(ram_gb * GB)
        gpus = tuple(Gpu("card", 99 * GB, round(each * GB), 9e11) for each in vram_gb)
        known = {"gpus": gpus, "disk_free_bytes": None, "notes": (), **more}
        seen = Hardware(ram_bytes, ram_bytes, None, 4, 4, "cpu", **known)
        monkeypatch.setattr("gguf_hub.hub.hardware.detect", lambda: seen)

    return become


def picked(gguf_hub, *args: object) -> tuple[int, dict[str, Any]]:
    """Exit code and data of ``gguf-hub pick --json``; they always are as documented."""
    code, out, err = gguf_hub("pick", "--json", "--no-probe", *args)
    assert out, err
    data = json.loads(out)
    jsonschema.validate(data, SCHEMA)
    return code, data


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


def test_terms_add_up(gguf_hub) -> None:
    _, data = picked(gguf_hub, "--ram", "24GB", "--ctx", 4096)
    assert (data["ram_bytes"], data["vram_bytes"], data["n_ctx"]) == (24 * GB, 0, 4096)
    assert (data["engine"], data["reserve_bytes"]) == ("gguf-hub", 1.5 * GB)
    assert len(data["files"]) == 8
    for row in data["files"]:
        terms = ("weights_bytes", "kv_bytes", "scratch_bytes", "overhead_bytes")
        assert row["need_ram_bytes"] == sum(row[term] for term in terms)
        parts = ("dense_bytes", "expert_bytes", "embedding_bytes")
        assert row["weights_bytes"] == sum(row[part] for part in parts)
        is_fitting = row["need_ram_bytes"] <= 22.5 * GB
        assert row["verdict"] == ("fits in RAM" if is_fitting else "from disk")
        assert row["placement"]["lacking_bytes"] == max(0, row["need_ram_bytes"] - 22.5 * GB)


def test_schema_describes_every_key_and_no_other() -> None:
    for part in (SCHEMA, SCHEMA["$defs"]["file"], SCHEMA["properties"]["machine"]):
        assert set(part["required"]) == set(part["properties"])


@pytest.mark.parametrize("width", [80, 120])
def test_table_ends_with_the_reason_and_the_next_commands(
    gguf_hub, machine, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    machine(64)
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = gguf_hub("pick", "--ram", "24GB", "--no-probe")
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines[:10])) <= width
    row = next(line for line in lines if line.startswith("Q3_K_M"))
    for cell in ("20.36", "21.1", "94 %", "fits in RAM", "~", "7.7 %", "<- pick"):
        assert cell in row
    assert ("4.4194" in row) == (width == 120)
    assert any(
        line.startswith("Q3_K_M: the best that fits 22.5 GB of RAM (24 GB less") for line in lines
    )
    assert lines[-2:] == [
        "  gguf-hub download Q3_K_M",
        '  gguf-hub run Q3_K_M -c 4096 -p "Once upon a time"',
    ]
    assert "~0.3 %" in out
    assert "~ Q6_K: estimated" in err
    assert "24.00 GB of RAM, 1.50 GB left for other programs, read speed not measured" in err


def test_none_fits_tells_the_smallest_need(gguf_hub) -> None:
    code, out, err = gguf_hub("pick", "--ram", "1500MB", "--no-probe")
    assert code == 1
    assert out.splitlines()[-1] == (
        "none of the 8 files fits 1.35 GB of RAM (1.5 GB less 0.15 GB for other programs): "
        "Q2_K, the smallest, needs 16.5 GB "
        "at 4096 tokens of context"
    )
    assert "hint" not in err  # no context is small enough, and the dense part has no room


def test_none_fits_offers_the_disk(gguf_hub) -> None:
    code, out, err = gguf_hub("pick", "--ram", "12GB", "--disk", "2GB/s", "--no-probe")
    assert code == 1
    assert "; from disk it would run at about " in out
    assert "hint: `--min-tok-per-s 0` accepts files that run from disk" in err
    code, data = picked(gguf_hub, "--ram", "12GB", "--disk", "2GB/s", "--min-tok-per-s", 0)
    assert (code, data["recommended"]) == (0, "Q5_K_M")
    assert data["machine"]["disk_bytes_per_s"] == 2e9


def test_none_fits_names_a_context_that_would(gguf_hub) -> None:
    code, _, err = gguf_hub("pick", "--ram", "19GB", "--ctx", 32768, "--no-probe")
    assert code == 1
    n_ctx = int(err.split("--ctx ")[1].split("`")[0])
    assert picked(gguf_hub, "--ram", "19GB", "--ctx", n_ctx)[0] == 0
    assert picked(gguf_hub, "--ram", "19GB", "--ctx", n_ctx + 1)[0] == 1


def test_context_beyond_training_is_a_warning(gguf_hub) -> None:
    code, _, err = gguf_hub("pick", "--ram", "64GB", "--ctx", 32769, "--no-probe")
    assert code == 0
    assert "warning: the model was trained on 32768 tokens" in err
    assert "was trained" not in gguf_hub("pick", "--ram", "64GB", "--ctx", 32768, "--no-probe")[2]


def test_no_model_is_planned_beyond_its_training_unasked(gguf_hub, tmp_path: Path) -> None:
    write_mixtral(tmp_path / "short.gguf", SHAPE, recipe="Q4_0")
    plan = ("--ram", "8GB", "--no-probe")
    found = [picked(gguf_hub, tmp_path, *plan, *ctx)[1]["n_ctx"] for ctx in ((), ("--ctx", 600))]
    assert found == [512, 600]
    assert picked(gguf_hub, *plan)[1]["n_ctx"] == 4096


@pytest.mark.slow
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
        (["--kv-type", "q2"], "'f16', 'q8_0', 'f32'"),
        (["--for", "ollama"], "'gguf-hub', 'llama.cpp'"),
        (["-fa", "maybe"], "'on', 'off', 'auto'"),
        (
            ["--for", "llama.cpp", "--kv-type", "q8_0", "-fa", "off"],
            "keeps values as q8_0 only with flash attention",
        ),
        (["--gpu-bandwidth", "fast"], "`--gpu-bandwidth`: `fast` is not a size"),
        (["--gpu-bandwidth", "0"], "`--gpu-bandwidth`: `0` is not a rate"),
        (["--disk", "slow/s"], "`--disk`: `slow` is not a size"),
        (["--min-tok-per-s", "-1"], "-1.0 is not in the range"),
        (["--plot", "pick.pdf"], "expected a name that ends with .png or .svg"),
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


@pytest.mark.slow
def test_small_changes_of_memory_do_not_change_the_pick(gguf_hub, machine) -> None:
    def at(ram_gb: float, *more: object) -> tuple[str, float]:
        machine(ram_gb)
        data = picked(gguf_hub, *more)[1]
        return data["recommended"], data["ram_bytes"] / GB

    assert at(22.8) == ("Q3_K_M", 22.8)  # it needs 21.1, and 1.5 are left to others
    for ram_gb in (22.4, 22.9, 22.1, 23.5, 22.2):
        assert at(ram_gb) == ("Q3_K_M", 22.8)
    err = gguf_hub("pick", "--no-probe")[2]
    assert "22.80 GB of RAM as at the last pick (22.20 GB available now)" in err
    assert at(20) == ("Q2_K", 20)
    assert at(20.7) == ("Q2_K", 20)
    assert at(24.9) == ("Q3_K_M", 24.9)
    # who says how much is to be left gets no more of it taken
    assert at(24.5, "--reserve", "200MB") == ("Q3_K_M", 24.5)


def test_a_file_on_disk_is_preferred_and_not_downloaded_again(
    gguf_hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--TheBloke--Mixtral-8x7B-v0.1-GGUF" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "mixtral-8x7b-v0.1.Q6_K.gguf").write_bytes(b"GGUF")
    (folder / "mixtral-8x7b-v0.1.Q5_K_M.gguf").symlink_to(tmp_path / "gone")
    _, data = picked(gguf_hub, "--ram", "64GB")
    assert (data["recommended"], data["commands"]) == (
        "Q6_K", ['gguf-hub run Q6_K -c 4096 -p "Once upon a time"'],
    )  # fmt: skip
    assert [row["quant"] for row in data["files"] if row["on_disk"]] == ["Q6_K"]
    assert "Q6_K: on disk already, and within 1 % of Q8_0" in data["reason"]
    assert picked(gguf_hub, "--ram", "24GB")[1]["recommended"] == "Q3_K_M"


@pytest.mark.slow
def test_gpus_of_this_machine_count_together(gguf_hub, machine) -> None:
    machine(8, 24, 24)
    code, data = picked(gguf_hub)
    assert (code, data["recommended"]) == (0, "Q5_K_M")
    assert data["vram_bytes"] == 48 * GB
    assert data["engine"] == "llama.cpp"
    assert data["commands"] == [
        "gguf-hub download Q5_K_M --local-dir .",
        "gguf-hub upgrade mixtral-8x7b-v0.1.Q5_K_M.gguf mixtral-8x7b-v0.1.Q5_K_M.merged.gguf",
        "llama-completion -m mixtral-8x7b-v0.1.Q5_K_M.merged.gguf -c 4096 -ngl 99 "
        '-p "Once upon a time"',
    ]
    # who wants our runner asks for it
    assert picked(gguf_hub, "--for", "gguf-hub")[0] == 1


def test_a_split_between_gpu_and_ram_is_in_the_command(gguf_hub, machine) -> None:
    machine(32, 24)
    code, data = picked(gguf_hub, "--kv-type", "q8_0")
    assert (code, data["recommended"]) == (0, "Q5_K_M")
    row = next(row for row in data["files"] if row["recommended"])
    assert row["verdict"] == "GPU and RAM"
    k = row["placement"]["n_cpu_moe"]
    assert f" -ngl 99 --n-cpu-moe {k} -ctk q8_0 -ctv q8_0 " in data["commands"][-1]
    assert data["machine"]["gpu_bytes_per_s"] == 9e11


def test_a_gpu_that_our_runner_can_use_is_used_by_it(gguf_hub, machine) -> None:
    machine(16, 48, can_offload=True)
    code, data = picked(gguf_hub)
    assert (code, data["engine"], data["recommended"]) == (0, "gguf-hub", "Q5_K_M")
    row = next(row for row in data["files"] if row["recommended"])
    assert row["verdict"] == "fits in VRAM"
    assert row["placement"]["ram_bytes"] < GB < row["placement"]["vram_bytes"] < 47 * GB
    assert row["tok_per_s"]["basis"] == "assumed"
    assert " -ngl all " in data["commands"][-1]
    out, err = gguf_hub("pick", "--no-probe", "--explain")[1:]
    assert "in VRAM" in out
    assert "of VRAM" in err
    assert picked(gguf_hub, "--for", "llama.cpp")[1]["engine"] == "llama.cpp"


CARD = AdapterInfo("card", "Vulkan", "DiscreteGPU", "550", NVIDIA, 1, 2**31, 2**40)


@pytest.fixture
def gpu_speed(machine, monkeypatch: pytest.MonkeyPatch):
    """Make this machine one of cards whose weights are read at these GB/s; lists what is asked."""
    from gguf_hub.run.gpu import adapters, probe

    asked: list[str] = []
    monkeypatch.setattr("gguf_hub.hub.hardware.probe.read_bandwidth", lambda *_: 50e9)
    monkeypatch.setattr(adapters, "may_have_gpu", lambda: True)

    def become(*speeds: float) -> list[str]:
        def ask(adapter: Adapter) -> float:
            asked.append(adapter.info.name)
            if not (speed := speeds[adapter.index]):
                raise GpuError(f"measuring `{adapter.info.name}` failed: signal 6")
            return speed * 1e9

        names = [f"card {i}" for i in range(len(speeds))]
        report = adapters.judge([replace(CARD, name=name) for name in names])
        gpus = tuple(Gpu(name, 99 * GB, 48 * GB, 9e11, vendor_id=NVIDIA) for name in names)
        monkeypatch.setattr(adapters, "find_gpus", lambda: report)
        monkeypatch.setattr(probe, "_ask", ask)
        machine(16, can_offload=True, gpus=gpus)
        return asked

    return become


def test_what_kernels_read_of_a_gpu_is_measured_once(gguf_hub, gpu_speed) -> None:
    asked = gpu_speed(250)
    before = picked(gguf_hub)[1]  # --no-probe
    assert (asked, before["machine"]["gpu_weights_bytes_per_s"]) == ([], None)
    assert {row["tok_per_s"]["basis"] for row in before["files"]} == {"assumed"}
    first, second = gguf_hub("pick", "--json"), gguf_hub("pick", "--json", "--no-probe")
    assert asked == ["card 0"]
    assert "measuring how fast `card 0` reads weights, once" in first[2]
    assert "measuring" not in second[2]
    for _, out, _ in (first, second):
        data = json.loads(out)
        jsonschema.validate(data, SCHEMA)
        assert data["machine"]["gpu_weights_bytes_per_s"] == 250e9
        assert data["machine"]["gpu_bytes_per_s"] == 9e11
        for row, guess in zip(data["files"], before["files"], strict=True):
            assert row["tok_per_s"]["basis"] == "measured"
            if row["verdict"] == "fits in VRAM":  # guessed: 0.4 x 900 GB/s
                assert row["tok_per_s"]["about"] < guess["tok_per_s"]["about"]
    out, err = gguf_hub("pick", "--explain", "--no-probe")[1:]
    assert "250.0 GB/s on the GPU" in err
    assert re.search(r"kernels read there +250\.0 GB/s +measured", out)
    assert "by measured bandwidth" in out


def test_the_slowest_of_several_gpus_counts(gguf_hub, gpu_speed) -> None:
    asked = gpu_speed(500, 250)
    data = json.loads(gguf_hub("pick", "--json")[1])
    assert (asked, data["machine"]["gpu_weights_bytes_per_s"]) == (["card 0", "card 1"], 250e9)


@pytest.mark.parametrize(
    "args",
    [
        ("--for", "llama.cpp"), ("--vram", "24GB"), ("--vram", "24GB", "--for", "gguf-hub"),
        ("--ram", "64GB"), ("--gpu-bandwidth", "500GB/s"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_gpu_that_is_not_used_as_it_is_is_not_measured(
    gguf_hub, gpu_speed, args: tuple[str, ...]
) -> None:
    asked = gpu_speed(250)
    data = json.loads(gguf_hub("pick", "--json", *args)[1])
    assert (asked, data["machine"]["gpu_weights_bytes_per_s"]) == ([], None)


@pytest.mark.parametrize("speeds", [(0,), (250, 0)], ids=["the only one", "one of two"])
def test_a_gpu_that_cannot_be_measured_is_a_note(
    gguf_hub, gpu_speed, speeds: tuple[float, ...]
) -> None:
    gpu_speed(*speeds)
    code, out, err = gguf_hub("pick", "--json")
    data = json.loads(out)
    assert (code, data["machine"]["gpu_weights_bytes_per_s"]) == (0, None)
    assert {row["tok_per_s"]["basis"] for row in data["files"]} == {"assumed"}
    failed = f"note: measuring `card {len(speeds) - 1}` failed: signal 6"
    assert f"{failed}: speeds there are not measured" in err


def test_our_runner_can_use_the_gpus_whose_memory_counts(machine, monkeypatch) -> None:
    from gguf_hub.cli.pick import machines
    from gguf_hub.run.gpu import adapters

    card = CARD
    graphics = replace(card, kind="IntegratedGPU", vendor_id=0x8086, name="Arc")
    gpu = Gpu("card", 24 * GB, 22 * GB, vendor_id=NVIDIA)
    one = Hardware(64 * GB, 64 * GB, None, 4, 4, "cpu", (gpu,), None, ())
    two = replace(one, gpus=(gpu, gpu))
    shared = replace(one, gpus=(Gpu("GB10", 0, 0, is_unified=True, vendor_id=NVIDIA),))
    monkeypatch.setattr(adapters, "may_have_gpu", lambda: True)
    for infos, hardware, expected in (
        ([card], one, True), ([card, card], two, True), ([card], two, False), ([], one, False),
        ([graphics], one, False), ([graphics, card], one, True), ([card, card], one, True),
        ([replace(card, kind="IntegratedGPU")], shared, True),
    ):  # fmt: skip
        monkeypatch.setattr(adapters, "find_gpus", lambda infos=infos: adapters.judge(infos))
        assert machines.can_offload(hardware) is expected, (infos, hardware.gpus)


def test_layers_that_find_room_are_in_the_command(gguf_hub, machine) -> None:
    machine(64, 12, can_offload=True)
    data = picked(gguf_hub)[1]
    row = next(row for row in data["files"] if row["recommended"])
    assert row["verdict"] == "GPU and RAM"
    n = row["placement"]["n_gpu_layers"]
    assert 0 < n < 32
    assert row["placement"]["n_cpu_moe"] == 0
    assert f" -ngl {n} " in data["commands"][-1]


def test_a_gpu_that_our_runner_cannot_use_is_explained(gguf_hub, machine, monkeypatch) -> None:
    from gguf_hub.run.gpu.adapters import GpuReport

    report = GpuReport(problem="the extra `gpu` is not installed", hint="`pip install ...`")
    monkeypatch.setattr("gguf_hub.run.gpu.adapters.find_gpus", lambda: report)
    machine(64, 24)
    err = gguf_hub("pick", "--no-probe", "--for", "gguf-hub")[2]
    assert "the GPU is not counted: the extra `gpu` is not installed; `pip install ...`" in err


def test_flash_attention_is_part_of_the_question_and_of_the_command(gguf_hub) -> None:
    asked = ("--ram", 64, "--for", "llama.cpp", "--ctx", 32768)
    (_, usual), (_, without) = picked(gguf_hub, *asked), picked(gguf_hub, *asked, "-fa", "off")
    assert (usual["flash_attn"], without["flash_attn"]) == ("auto", "off")
    for one, other in zip(usual["files"], without["files"], strict=True):
        assert other["scratch_bytes"] > 2 * GB > 8 * one["scratch_bytes"]
    assert " -fa off " in without["commands"][-1]
    assert "-fa" not in usual["commands"][-1]
    out, err = gguf_hub("pick", "--ram", 64, "-fa", "off", "--no-probe", "--explain")[1:]
    assert "`--flash-attn` is llama.cpp's" in err
    out = gguf_hub("pick", *asked, "-fa", "off", "--no-probe", "--explain")[1]
    assert "f16: 32 layers of 32768 tokens" in out
    assert "buffers of a batch of 512 tokens, without flash attention" in out


def test_memory_that_a_gpu_shares_is_not_counted_twice(gguf_hub, machine) -> None:
    machine(36, gpus=(Gpu("M3 Pro", 24 * GB, 24 * GB, is_unified=True),))
    code, data = picked(gguf_hub)
    assert (code, data["recommended"]) == (0, "Q5_K_M")
    assert (data["vram_bytes"], data["machine"]["is_unified"]) == (24 * GB, True)
    assert "34.5 GB of unified memory (36 GB less 1.5 GB for other programs)" in data["reason"]


def test_what_could_not_be_seen_is_told(gguf_hub, machine) -> None:
    machine(64, notes=("nvidia-smi failed: no message",), swap_total_bytes=8 * GB)
    err = gguf_hub("pick", "--no-probe")[2]
    assert "note: nvidia-smi failed: no message" in err
    assert "swap of 8.00 GB is not counted" in err


def test_a_disk_that_is_too_small_is_a_warning(gguf_hub, machine) -> None:
    machine(64, disk_free_bytes=20 * GB)
    assert (
        "Q5_K_M is larger than the free disk space of 20.00 GB"
        in (gguf_hub("pick", "--no-probe")[2])
    )
    assert "larger" not in gguf_hub("pick", "--no-probe", "--disk", "500GB")[2]


def test_speeds_are_measured_once(gguf_hub, machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(64)
    monkeypatch.setattr("gguf_hub.hub.hardware.probe.MAX_BUFFER_BYTES", 2**20)
    monkeypatch.setattr("gguf_hub.hub.hardware.probe.read_bandwidth", lambda *_: 50e9)
    first, second = gguf_hub("pick", "--json"), gguf_hub("pick", "--json", "--no-probe")
    assert "measuring the read speed of the memory" in first[2]
    assert "measuring" not in second[2]
    for _, out, _ in (first, second):
        data = json.loads(out)
        assert data["machine"]["ram_bytes_per_s"] == 50e9
        assert {row["tok_per_s"]["basis"] for row in data["files"]} == {"measured"}


def test_a_question_about_other_memory_leaves_this_machines_gpu_out(gguf_hub, machine) -> None:
    machine(8, 80)
    assert picked(gguf_hub, "--ram", "12GB")[1]["vram_bytes"] == 0
    assert picked(gguf_hub, "--vram", "0")[0] == 1  # its own RAM, no GPU


def test_on_a_warm_cache_nothing_slow_is_imported() -> None:
    code = (
        "from gguf_hub.cli.main import run\nimport sys\nrun(['pick', '--no-probe', '--ram', '64'])"
    )
    code += "\nprint(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert loaded & {"numpy", "huggingface_hub", "numba", "llvmlite", "matplotlib"} == set()


def test_memory_that_cannot_be_read_has_to_be_told(gguf_hub, machine) -> None:
    machine(None)
    code, out, err = gguf_hub("pick", "--no-probe")
    assert (code, out) == (1, "")
    assert "hint: give it with `--ram 24GB`" in err


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
    args = ["--ram", "1GB", "--ctx", "256", "--catalog", path, "--no-probe"]
    code, out, _ = gguf_hub("pick", *args)
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("F16 "))
    assert row.split()[-3:] == ["-", "<-", "pick"]
    assert "F16: the largest that fits 0.9 GB of RAM (1 GB less" in out


def test_every_term_is_explained(gguf_hub) -> None:
    out = gguf_hub("pick", "--ram", "24GB", "--explain", "--no-probe")[1]
    terms = out.split("Q3_K_M, run by gguf-hub\n")[1]
    for label, amount in (
        ("dense part", "0.93 GB"), ("experts", "19.38 GB"), ("embeddings", "56.3 MB"),
        ("K/V cache", "0.54 GB"), ("needs", "21.1"), ("RAM to use", "22.50 GB"),
        ("a token reads", "5.77 GB"), ("memory gives", "20 GB/s"),
    ):  # fmt: skip
        assert re.search(rf"^  {label} +{re.escape(amount)}", terms, re.MULTILINE), label
    out = gguf_hub("pick", "--ram", "16", "--vram", "8", "--explain", "--no-probe")[1]
    assert re.search(r"in VRAM +6.90 GB  -ngl 99 --n-cpu-moe 21", out)


# ---- repositories and files --------------------------------------------------------------------

SHAPE = Shape(n_layer=2, n_embd=256, n_head=4, n_head_kv=2, n_ff=512, n_vocab=320, n_ctx=512)
EIGHT = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small models of the catalog's types, the last one in shards."""
    path = tmp_path_factory.mktemp("models")
    for quant in EIGHT:
        layout = "merged" if quant == "Q6_K" else "split"
        write_mixtral(path / f"m.{quant}.gguf", SHAPE, recipe=quant, layout=layout)
    whole = path / "m.Q8_0.gguf"
    write_shards(path / "m.Q8_0", plan_split(whole, max_size_bytes=2_000_000))
    whole.unlink()
    return path


@pytest.fixture(params=[False, True], ids=["direct", "redirected"])
def repo(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A hub that has them, and what must not be taken for a model."""
    with HubServer(redirect=request.param) as server:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        files |= {"README.md": b"# m", "mmproj-m.gguf": b"GGUF", "notes/broken.Q4_1.gguf": b"GGUFx"}
        server.add_repo("org/m", files)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
        assert server.errors == []


FIGURES = (
    "quant", "size_bytes", "weights_bytes", "dense_bytes", "expert_bytes", "embedding_bytes",
    "kv_bytes", "scratch_bytes", "need_ram_bytes", "active_bytes", "layout", "loss", "verdict",
)  # fmt: skip


@pytest.mark.slow
def test_a_repository_gives_the_figures_of_its_files(
    gguf_hub, repo: HubServer, folder: Path
) -> None:
    args = ("--ram", "1GB", "--ctx", 512)
    _, remote = picked(gguf_hub, "org/m", *args)
    requests = [r for r in repo.body_requests() if r.status != 302]
    paths = [r.path for r in requests]
    assert len(paths) == len(set(paths)), "a small header takes one request"
    assert all(r.sent_bytes <= 2_000_000 for r in requests)
    _, local = picked(gguf_hub, folder, *args)

    def figures(data: dict[str, Any]) -> list[dict[str, Any]]:
        rows = [{key: row[key] for key in FIGURES} for row in data["files"]]
        return sorted(rows, key=lambda row: row["quant"])

    assert len(remote["files"]) == 8
    assert figures(remote) == figures(local)
    assert remote["recommended"] == local["recommended"] == "Q5_K_M"
    assert remote["repo_id"] == "org/m"
    assert "notes/broken.Q4_1.gguf" in remote["notes"][0]
    assert all(row["loss_is_estimated"] for row in remote["files"])


def test_a_folder_is_searched_below_and_what_is_no_model_is_named(
    gguf_hub, folder: Path, tmp_path: Path
) -> None:
    for name in ("a.Q2_K.gguf", "deep/er/b.Q4_0.GGUF", ".cache/c.Q6_K.gguf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        quant = name.split(".")[-2]
        (tmp_path / name).write_bytes((folder / f"m.{quant}.gguf").read_bytes())
    whole = (folder / "m.Q5_0.gguf").read_bytes()
    (tmp_path / "deep/cut.gguf").write_bytes(whole[:-99])
    (tmp_path / "page.gguf").write_bytes(b"<html>")
    first = next(folder.glob("m.Q8_0-00001-of-*.gguf"))
    (tmp_path / "deep" / first.name).write_bytes(first.read_bytes())
    _, data = picked(gguf_hub, tmp_path, "--ram", "1GB")
    assert [row["quant"] for row in data["files"]] == ["Q2_K", "Q4_0"]
    notes = "\n".join(data["notes"])
    assert len(data["notes"]) == 3
    assert all(text in notes for text in ("cut.gguf", "page.gguf", "m.Q8_0-00002-of-"))
    (tmp_path / "a.Q2_K.gguf").unlink()
    _, data = picked(gguf_hub, tmp_path, "--ram", "1GB")
    assert [row["quant"] for row in data["files"]] == ["Q4_0"]
    code, _, err = gguf_hub("pick", tmp_path / ".cache" / "none", "--no-probe")
    assert code != 0
    (tmp_path / "empty").mkdir()
    code, _, err = gguf_hub("pick", tmp_path / "empty", "--no-probe")
    assert (code, f"`{tmp_path / 'empty'}` holds no GGUF file" in err) == (2, True)


def test_where_nothing_runs_here_the_program_is_named_that_runs_it(
    gguf_hub, folder: Path, tmp_path: Path
) -> None:
    fields = {"general.architecture": Field.of("qwen9")}
    for key, field in metadata(SHAPE, "Q4_0").items():
        if key.startswith("llama."):
            fields[key.replace("llama", "qwen9")] = field
    path = write_mixtral(tmp_path / "m.Q4_0.gguf", SHAPE, recipe="Q4_0", fields=fields)
    code, _, err = gguf_hub("pick", path, "--ram", "1GB", "--no-probe")
    assert code == 1
    assert "hint: for llama.cpp, Q4_0 would be the pick: `--for llama.cpp`" in err
    assert gguf_hub("pick", path, "--ram", "1GB", "--no-probe", "--for", "llama.cpp")[0] == 0
    # one that runs here, too large, is nothing to ask another program for
    code, _, err = gguf_hub("pick", folder / "m.Q4_0.gguf", "--ram", "1MB", "--no-probe")
    assert (code, "--for llama.cpp" in err) == (1, False)


@pytest.mark.slow
def test_headers_are_read_once_for_a_commit(gguf_hub, repo: HubServer) -> None:
    first = picked(gguf_hub, "org/m", "--ram", "1GB")[1]
    repo.requests.clear()
    assert picked(gguf_hub, "org/m", "--ram", "1GB")[1]["files"] == first["files"]
    assert [r.path.split("/")[-2] for r in repo.requests][:2] == ["revision", "tree"]
    # a damaged header is not believed for ever: it may be a proxy's
    assert {r.path.split("/")[-1] for r in repo.body_requests() if "/resolve/" in r.path} == {
        "broken.Q4_1.gguf"
    }
    assert len(picked(gguf_hub, "org/m", "--ram", "1GB", "--refresh")[1]["files"]) == 8
    assert len([r for r in repo.requests if "/resolve/" in r.path]) > 8


def test_a_commit_whose_headers_are_known_takes_no_request(
    gguf_hub, hub_server: HubServer, folder: Path
) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    commit = hub_server.add_repo("org/m", files | {"mmproj-m.gguf": b"GGUF"})
    first = picked(gguf_hub, "org/m", "--ram", "1GB")[1]
    hub_server.requests.clear()
    named = picked(gguf_hub, "org/m", "--ram", "1GB", "--revision", commit)[1]
    assert hub_server.requests == []
    assert named["files"][0]["size_bytes"] == first["files"][0]["size_bytes"]
    picked(gguf_hub, "org/m", "--ram", "1GB", "--revision", commit, "--refresh")
    assert len(hub_server.body_requests()) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"status": 503}, {"drop_after": 9}, {"body": b"<html>"}])
def test_a_header_that_does_not_come_leaves_the_others_to_pick_from(
    gguf_hub, hub_server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, Any],
) -> None:  # fmt: skip
    monkeypatch.setitem(HfHub.__init__.__kwdefaults__, "retry_waits_s", (0.0,))
    hub_server.add_repo("org/m", {path.name: path.read_bytes() for path in folder.iterdir()})
    best = picked(gguf_hub, "org/m", "--ram", "1GB")[1]["recommended"]
    hub_server.faults.append(Fault("GET", f"*/resolve/*{best}*", **fault))
    code, data = picked(gguf_hub, "org/m", "--ram", "1GB", "--refresh")
    assert (code, len(data["files"])) == (0, 7)
    assert best not in [row["quant"] for row in data["files"]]
    assert data["recommended"] not in (None, best)
    assert "left out, as no header could be read: `" in data["notes"][0]
    assert best in data["notes"][0]
    code, _, err = gguf_hub("pick", f"org/m:{best}", "--ram", "1GB", "--no-probe")
    assert (code, "left out, as no header could be read" in err) == (1, True)
    hub_server.faults.clear()
    hub_server.requests.clear()
    assert picked(gguf_hub, "org/m", "--ram", "1GB")[1]["recommended"] == best
    assert len(hub_server.body_requests()) == 1, "only what was not read before"


def test_no_header_at_all_is_an_error(
    gguf_hub, hub_server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HfHub.__init__.__kwdefaults__, "retry_waits_s", ())
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub_server.add_repo("org/m", files, gated=True)
    code, _, err = gguf_hub("pick", "org/m", "--ram", "1GB", "--no-probe")
    assert (code, "org/m` is gated" in err) == (1, True)


def test_a_header_longer_than_a_megabyte_takes_two_requests(
    gguf_hub, hub_server: HubServer, tmp_path: Path
) -> None:
    shape = Shape(n_layer=1, n_embd=64, n_head=4, n_head_kv=2, n_ff=96, n_vocab=60_000)
    path = write_mixtral(tmp_path / "m.F16.gguf", shape, recipe="F16")
    hub_server.add_repo("org/long", {path.name: path.read_bytes()})
    picked(gguf_hub, "org/long", "--ram", "1GB")
    sent = [r.sent_bytes for r in hub_server.body_requests()]
    assert len(sent) == 2
    assert sum(sent) <= 2_000_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "quants"),
    [
        ("org/m:Q4_K_M", ["Q4_K_M"]),
        ("org/m/m.Q6_K.gguf", ["Q6_K"]),
        ("org/m@main:q8_0", ["Q8_0"]),
    ],
)
def test_one_model_of_a_repository(
    gguf_hub, repo: HubServer, argument: str, quants: list[str]
) -> None:
    _, data = picked(gguf_hub, argument, "--ram", "1GB")
    assert [row["quant"] for row in data["files"]] == quants


@pytest.mark.slow
def test_commands_for_a_repository(gguf_hub, repo: HubServer, folder: Path) -> None:
    say = '-p "Once upon a time"'
    _, data = picked(gguf_hub, "org/m:Q4_K_M", "--ram", "1GB", "--ctx", 64)
    assert data["commands"] == [
        "gguf-hub download org/m:Q4_K_M", f"gguf-hub run org/m:Q4_K_M -c 64 {say}",
    ]  # fmt: skip
    _, data = picked(gguf_hub, "org/m:Q8_0", "--ram", "1GB", "--ctx", 64)
    assert data["commands"] == [  # a set of shards
        "gguf-hub download org/m:Q8_0", f"gguf-hub run org/m:Q8_0 -c 64 {say}",
    ]  # fmt: skip
    for kv in ("q8_0", "f32"):
        args = (folder / "m.Q6_K.gguf", "--ram", "1GB", "--ctx", 64, "--kv-type", kv)
        _, data = picked(gguf_hub, *args)
        run = f"gguf-hub run {folder / 'm.Q6_K.gguf'} -c 64 -ctk {kv} -ctv {kv}"
        assert data["commands"] == [f"{run} {say}"]
    _, data = picked(gguf_hub, "org/m:Q6_K", "--for", "llama.cpp", "--ram", "1GB", "--ctx", 64)
    assert data["commands"] == [
        "gguf-hub download org/m:Q6_K --local-dir .",
        f"llama-completion -m m.Q6_K.gguf -c 64 -ngl 0 {say}",
    ]


@pytest.mark.slow
def test_commands_do_what_they_say(
    gguf_hub, repo: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    llama_cpp = ("--for", "llama.cpp")
    _, data = picked(gguf_hub, "org/m:Q8_0", "--ram", "1GB", "--ctx", 64, *llama_cpp)
    for line in data["commands"][:-1]:
        code, _, err = gguf_hub(*shlex.split(line)[1:])
        assert code == 0, err
    assert len(list(tmp_path.glob("m.Q8_0-0000*.gguf"))) > 1
    assert (tmp_path / "m.Q8_0.merged.gguf").is_file()
    assert "-m m.Q8_0.merged.gguf" in data["commands"][-1]


@pytest.mark.slow
def test_models_of_a_repository_that_are_here_are_compared_without_the_hub(
    gguf_hub, repo: HubServer
) -> None:
    for quant in ("Q8_0", "Q4_0"):
        assert gguf_hub("download", f"org/m:{quant}", "-q")[0] == 0
    _, data = picked(gguf_hub, "org/m", "--ram", "1GB", "--offline")
    assert {row["quant"] for row in data["files"]} == {"Q8_0", "Q4_0"}
    assert any("only files on this machine are compared" in note for note in data["notes"])
    _, data = picked(gguf_hub, "org/m:Q8_0", "--ram", "1GB", "--offline")
    assert [len(row["filenames"]) > 1 for row in data["files"]] == [True]
    code, _, err = gguf_hub("pick", "org/m:Q6_K", "--offline")
    assert (code, "offline mode is on" in err) == (1, True)


@pytest.mark.slow
def test_several_arguments_are_compared(gguf_hub, repo: HubServer, folder: Path) -> None:
    _, data = picked(gguf_hub, folder / "m.Q2_K.gguf", "org/m:Q6_K", "--ram", "1GB")
    assert [row["quant"] for row in data["files"]] == ["Q2_K", "Q6_K"]
    assert data["repo_id"] is None
    _, data = picked(gguf_hub, "Q4_0", "q4_k_m", "--ram", "64GB")
    assert [row["quant"] for row in data["files"]] == ["Q4_0", "Q4_K_M"]
    assert data["recommended"] == "Q4_K_M"


def test_the_catalogs_own_repository_keeps_its_perplexities(
    gguf_hub, hub_server: HubServer, folder: Path
) -> None:
    name = "mixtral-8x7b-v0.1.Q4_0.gguf"
    content = (folder / "m.Q4_0.gguf").read_bytes()
    hub_server.add_repo("TheBloke/Mixtral-8x7B-v0.1-GGUF", {name: content})
    _, data = picked(gguf_hub, "TheBloke/Mixtral-8x7B-v0.1-GGUF", "--ram", "1GB")
    assert data["files"][0]["perplexity"] == 4.2232


def test_unknown_repository_names_what_is_near(gguf_hub, repo: HubServer) -> None:
    repo.add_repo("org/mixtral-8x7b-GGUF", {"a.gguf": b""})
    code, _, err = gguf_hub("pick", "org/mixtral-8x7-GGUF", "--no-probe")
    assert code == 1
    assert "did you mean `org/mixtral-8x7b-GGUF`" in err
    code, _, err = gguf_hub("list", "thebloke/Mixtral-8x7B-GGUF")
    assert code == 1
    assert "did you mean `TheBloke/Mixtral-8x7B-v0.1-GGUF`" in err


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("org/m:Q9_K", "has no model `Q9_K`"),
        ("no-such-file.gguf", "no model `no-such-file.gguf`"),
        ("Q4_K_X", "the catalog has no quant `Q4_K_X`"),
        ("org/empty", "has no GGUF model to compare"),
    ],
)
def test_what_names_nothing(gguf_hub, repo: HubServer, argument: str, expected: str) -> None:
    repo.add_repo("org/empty", {"README.md": b""})
    code, out, err = gguf_hub("pick", argument, "--no-probe")
    assert (code, out) == (1, "")
    assert expected in err


# ---- the picture -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pick.png", "pick.svg"])
@pytest.mark.parametrize(
    "more", [(), ("--dark",), ("--vram", "24GB")], ids=["light", "dark", "gpu"]
)
def test_plot(gguf_hub, tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    path = tmp_path / name
    code, _, err = gguf_hub("pick", "--ram", "24GB", "--plot", path, "--no-probe", *more)
    assert code == 0
    assert f"plot written: {path}" in err
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    assert len(content) > 10_000
    line = ("pick", "--ram", "24GB", "--plot", path, "--no-probe")
    assert gguf_hub(*line)[0] == 0  # one of ours is drawn anew


@pytest.mark.parametrize("kind", ["photo", "link", "hard link", "text"])
def test_a_plot_replaces_no_other_picture(gguf_hub, tmp_path: Path, kind: str) -> None:
    precious, path = tmp_path / "precious.png", tmp_path / "pick.png"
    precious.write_bytes(b"my notes" if kind == "text" else b"\x89PNG\r\n\x1a\n of my cat")
    before = precious.read_bytes()
    if kind == "link":
        path.symlink_to(precious)
    else:
        path.hardlink_to(precious)
    code, out, err = gguf_hub("pick", "--ram", "24GB", "--plot", path, "--no-probe")
    assert (code, out) == (1, "")
    assert f"`{path}` exists and is not a plot of" in err
    assert (precious.read_bytes(), path.read_bytes()) == (before, before)


@pytest.mark.slow
def test_a_plot_does_not_depend_on_files_of_the_working_folder(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    line = [sys.executable, "-m", "gguf_hub", "pick", "--ram", "24GB", "--no-probe"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for name in ("plain", "settings"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "settings":  # LaTeX runs what it is given
            (folder / "matplotlibrc").write_text("text.usetex: True\nfont.size: 40\n")
        words = [*line, "--plot", "p.png"]
        subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
    plain, other = (tmp_path / name / "p.png" for name in ("plain", "settings"))
    assert plain.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("ram_gb", [12, 24, 32, 40, 64, 300])
def test_labels_of_a_plot_do_not_overlap(ram_gb: int) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    from gguf_hub.cli.pick import pick_plot
    from gguf_hub.hub import fit
    from gguf_hub.hub.catalog import load_catalog

    catalog = load_catalog()
    files = [fit.facts_from_catalog(catalog, file) for file in catalog.files]
    found = fit.pick(files, fit.Machine(ram_gb * GB), fit.Constraints())
    figure = pick_plot._figure(found, "title", pick_plot.LIGHT)
    texts = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(texts) == 9
    assert not any(a.overlaps(b) for i, a in enumerate(texts) for b in texts[:i])


def test_without_matplotlib_the_extra_is_named(
    gguf_hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = gguf_hub("pick", "--plot", tmp_path / "pick.png", "--no-probe")
    assert (code, out) == (1, "")
    assert "pip install 'gguf-hub[plot]'" in err
