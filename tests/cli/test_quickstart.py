"""``gguf-hub quickstart`` from end to end, on a small random model in place of the embedded one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.cli.start.embedded import embedded_model
from gguf_hub.cli.start.quickstart_steps import why_no_download
from gguf_hub.errors import GgufHubError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.hub.hardware import Hardware
from gguf_hub.units import GB
from tests.synth import Shape, write_mixtral

TINY = Shape(
    n_layer=1, n_embd=256, n_head=8, n_head_kv=2, n_ff=256, n_expert=8, n_vocab=320, n_ctx=48
)
QUANTS = ["Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0"]
COMMANDS = ["doctor", "pick", "quantize", "mirror", "download", "verify", "run"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def quickstart(gguf_hub: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command with a small model, a known machine and a temporary folder of its own."""
    model = write_mixtral(tmp_path / "tiny.f16.gguf", TINY, recipe="F16")
    seen = Hardware(64 * GB, 64 * GB, None, 2, 2, "a cpu", (), 9 * GB, ())
    monkeypatch.setattr("gguf_hub.cli.start.embedded.embedded_model", lambda: model)
    monkeypatch.setattr("gguf_hub.hub.hardware.detect", lambda target: seen)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return lambda *args: gguf_hub("quickstart", *args)


def run_json(quickstart: Run, *args: object) -> dict[str, Any]:
    code, out, err = quickstart("--json", *args)
    assert code == 0, err
    return json.loads(out)


def test_every_step_is_shown_with_its_command_and_time(quickstart: Run, tmp_path: Path) -> None:
    code, out, err = quickstart("--seed", 7)
    assert code == 0, err
    commands = [line.strip() for line in out.splitlines() if line.strip().startswith("$ ")]
    found = [line.split("gguf-hub ")[1].split()[0] for line in commands]
    assert found == [*COMMANDS, "run"]
    assert "-s 7" in commands[-2]
    assert commands[-1] == '$ gguf-hub run Q5_K_M -p "Once upon a time"'
    for word in ("a cpu", "<- pick", *QUANTS, "HF_ENDPOINT=http://127.0.0.1:", "verified", "tok/s"):
        assert word in out
    assert out.count("Once upon a time") == 3
    assert list((tmp_path / "tmp").iterdir()) == []  # nothing is left behind


@pytest.mark.slow
def test_a_file_of_somebodys_is_not_replaced(quickstart: Run, tmp_path: Path) -> None:
    mine = tmp_path / "kept" / f"tiny.{QUANTS[0]}.gguf"
    mine.parent.mkdir()
    mine.write_bytes(b"GGUF of another model")
    code, _, err = quickstart("--keep", mine.parent)
    assert (code, f"`{mine}` exists and is not a file that `quickstart` made" in err) == (1, True)
    assert mine.read_bytes() == b"GGUF of another model"
    mine.unlink()
    for _ in range(2):  # what it made itself is made again
        assert quickstart("--keep", mine.parent)[0] == 0


@pytest.mark.slow
def test_what_is_kept_is_what_was_reported(quickstart: Run, tmp_path: Path) -> None:
    report = run_json(quickstart, "--keep", tmp_path / "kept", "-s", 3)
    assert set(report) == {
        "seconds", "steps", "machine", "recommended", "model", "files", "skipped", "verified",
        "story", "kept",
    }  # fmt: skip
    assert [step["command"].split("gguf-hub ")[1].split()[0] for step in report["steps"]] == (
        COMMANDS
    )
    assert report["seconds"] == pytest.approx(sum(step["seconds"] for step in report["steps"]))
    assert (report["verified"], report["skipped"]) == (True, None)
    assert (report["kept"], report["recommended"]) == (str(tmp_path / "kept"), "Q5_K_M")
    assert [file["quant"] for file in report["files"]] == QUANTS
    by_quant = {file["quant"]: file for file in report["files"]}
    for file in by_quant.values():
        with GgufFile.open(file["path"]) as opened:
            assert opened.size_bytes == file["size_bytes"]
    fetched = tmp_path / "kept" / "downloaded" / "tiny.Q4_K_M.gguf"
    assert fetched.read_bytes() == Path(by_quant["Q4_K_M"]["path"]).read_bytes()
    sizes = [by_quant[quant]["size_bytes"] for quant in ("Q2_K", "Q4_0", "Q6_K", "Q8_0")]
    assert sizes == sorted(sizes)
    assert (report["story"]["seed"], report["story"]["prompt"]) == (3, "Once upon a time")
    assert report["story"]["text"]


@pytest.mark.slow
def test_nothing_of_the_user_is_asked_or_changed(
    quickstart: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record, no cache, no endpoint: a machine without network and with a read-only home."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o500)
    monkeypatch.setenv("GGUF_HUB_HOME", str(home / "gguf-hub"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    before = dict(os.environ)
    report = run_json(quickstart)
    assert report["verified"] is True
    assert dict(os.environ) == before
    assert [path for path in home.rglob("*") if path.suffix in (".gguf", ".json")] == []


@pytest.mark.slow
def test_where_downloads_are_forbidden_that_step_is_left_out_and_said(
    quickstart: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = quickstart()
    assert code == 0
    assert "HF_HUB_OFFLINE=0 gguf-hub quickstart" in err
    assert "gguf-hub download" not in out
    assert "tok/s" in out


def test_a_proxy_with_an_exception_for_this_machine_is_no_hindrance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert "NO_PROXY=127.0.0.1 gguf-hub quickstart" in str(why_no_download())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert why_no_download() is None


def test_an_interruption_leaves_nothing_behind(
    quickstart: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        assert list((tmp_path / "tmp").iterdir()) != []
        raise KeyboardInterrupt

    monkeypatch.setattr("gguf_hub.run.quants.quantize.write_quantized", interrupt)
    code, _, err = quickstart()
    assert code == 130
    assert "interrupted" in err
    assert list((tmp_path / "tmp").iterdir()) == []


def test_no_place_for_the_files_is_told(quickstart: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    code, out, err = quickstart("--keep", tmp_path / "file" / "inside")
    assert (code, out) == (1, "")
    assert "--keep DIR" in err


def test_the_embedded_model_is_there_or_its_absence_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf_hub.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(GgufHubError, match="embedded model is missing"):
        embedded_model()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny-mixtral.f16.gguf").write_bytes(b"")
    assert embedded_model() == tmp_path / "data" / "tiny-mixtral.f16.gguf"


def test_the_model_in_the_package_is_a_small_mixtral() -> None:
    path = embedded_model()
    assert path.stat().st_size <= 12_000_000
    with GgufFile.open(path) as file:
        assert file.metadata["llama.expert_count"] == 8
        assert file.metadata["llama.expert_used_count"] == 2
        assert {tensor.shape[0] % 256 for tensor in file.tensors.values()} == {0}
