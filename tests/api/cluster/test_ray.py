"""A cluster of Ray on this machine: begun, used, shown and left. Skipped where Ray is missing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytest.importorskip("ray", reason="Ray is not installed")

WRITE = ("-p", "Once upon a time", "-n", "12", "--temp", "0", "-c", "64", "-t", "1")


def gguf_hub(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own: Ray is a part of a process for good."""
    return subprocess.run(
        [sys.executable, "-m", "gguf_hub", *words],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, **variables}, timeout=200,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def cluster(home: Path, kernels: None) -> Iterator[dict[str, Any]]:
    """A cluster of this machine alone."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    variables = {"GGUF_HUB_HOME": str(home)}
    done = gguf_hub("cluster", "up", "--port", port, "--ram", "1GB", "--json", **variables)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    yield found | {"variables": variables}
    left = gguf_hub("cluster", "down", "--json", **variables)
    assert json.loads(left.stdout) == {"left": found["address"]}
    with pytest.raises(ProcessLookupError):
        os.kill(found["pid"], 0)


def test_a_text_of_the_cluster_is_that_of_one_process(
    cluster: dict[str, Any], embedded: Path
) -> None:
    alone = gguf_hub("run", str(embedded), *WRITE, **cluster["variables"])
    for address in ("auto", cluster["address"]):
        done = gguf_hub("run", str(embedded), *WRITE, "--cluster", address, **cluster["variables"])
        assert done.returncode == 0, done.stderr
        assert done.stdout == alone.stdout
        assert "embeddings and layers 0 to 2 and head on" in done.stderr


def test_status_and_pick_show_the_machine(cluster: dict[str, Any], embedded: Path) -> None:
    report = json.loads(gguf_hub("cluster", "status", "--json", **cluster["variables"]).stdout)
    (node,) = report["nodes"]
    assert (report["address"], node["ram_bytes"], node["stages"]) == (cluster["address"], 10**9, [])
    done = gguf_hub("pick", str(embedded), "--cluster", "auto", "--json", **cluster["variables"])
    picked = json.loads(done.stdout)
    assert [n["name"] for n in picked["nodes"]] == [node["name"]]
    assert [s["node"] for s in picked["files"][0]["stages"]] == [node["name"]]


def test_another_token_is_refused_in_one_line(cluster: dict[str, Any], embedded: Path) -> None:
    variables = cluster["variables"] | {"GGUF_HUB_CLUSTER_TOKEN": "wrong-token-" * 4}
    done = gguf_hub("run", str(embedded), *WRITE, "--cluster", cluster["address"], **variables)
    assert (done.returncode, done.stdout) == (1, "")
    error, _, hint = done.stderr.strip().partition("\n\n")
    assert error == f"error: the cluster at {cluster['address']} refuses this machine's token"
    assert hint.startswith("hint: set GGUF_HUB_CLUSTER_TOKEN") and "\n" not in hint


def test_a_model_that_does_not_fit_is_refused(cluster: dict[str, Any], embedded: Path) -> None:
    flags = ("-p", "a", "-n", "1", "-c", "2000000", "--cluster", "auto")
    done = gguf_hub("run", str(embedded), *flags, **cluster["variables"])
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not fit the cluster: about" in done.stderr


def test_a_machine_is_in_one_cluster_at_a_time(cluster: dict[str, Any]) -> None:
    done = gguf_hub("cluster", "up", **cluster["variables"])
    assert done.returncode == 1
    assert f"belongs to the cluster at {cluster['address']} already" in done.stderr
    assert cluster["token_path"].endswith("token")
