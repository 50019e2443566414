"""Run llama-cpp-python's own tests on it and on gguf-hub, and compare which pass.

    pip download --no-binary :all: --no-deps llama-cpp-python==0.3.36
    tar xf llama_cpp_python-0.3.36.tar.gz
    python tools/peer_tests.py llama_cpp_python-0.3.36 --peer PYTHON [--model MODEL]

PYTHON is an interpreter that has llama-cpp-python, pytest, scipy and huggingface_hub; the one that
runs this needs the last three, too. The tests want models from the Hub: each is replaced by MODEL,
by stories260K of tests/data if none is named, so that tests which compare texts of a model fail on
both sides. Exits 1 if a test passes there and not here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

_MODEL, _SIDE = "PEER_TESTS_MODEL", "PEER_TESTS_SIDE"
STORIES = "stories260K.f32.gguf"


def pytest_configure(config: Any) -> None:
    """Prepare a run, as a plugin of pytest: the stand-in on our side, the model on both."""
    if os.environ[_SIDE] == "gguf-hub":
        from gguf_hub.api.compat import llama_cpp

        llama_cpp.install()
    import huggingface_hub

    huggingface_hub.hf_hub_download = lambda *args, **options: os.environ[_MODEL]


def run(python: str, side: str, folder: Path, model: Path) -> dict[str, str]:
    """Return the outcome of each test: ``passed``, or how it failed in one line."""
    environment = {
        **os.environ,
        _MODEL: str(model.resolve()),
        _SIDE: side,
        "PYTHONPATH": str(Path(__file__).parent.resolve()),
    }
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        command = [python, "-m", "pytest", "-q", "-p", "peer_tests", "-p", "no:cacheprovider",
                   "tests", f"--junitxml={report}"]  # fmt: skip
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if not report.exists():
            sys.exit(f"error: pytest did not run on {side}:\n{done.stdout}{done.stderr}")
        return dict(map(outcome, ElementTree.parse(report).iter("testcase")))


def outcome(case: Any) -> tuple[str, str]:
    """Return a test's name and outcome."""
    name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
    for kind in ("failure", "error", "skipped"):
        if (found := case.find(kind)) is not None:
            return name, f"{kind}: {(found.get('message') or '').splitlines()[0][:60]}"
    return name, "passed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the unpacked sdist of llama-cpp-python")
    parser.add_argument("--peer", required=True, help="a Python with llama-cpp-python")
    parser.add_argument("--model", type=Path, help="a GGUF that both can load")
    options = parser.parse_args()
    if not (options.folder / "tests" / "test_llama.py").exists():
        parser.error(f"no tests of llama-cpp-python in `{options.folder}`")
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model
        if model is None:
            with tarfile.open(Path(__file__).parents[1] / "tests/data/models.tar.xz") as archive:
                (member,) = (m for m in archive if Path(m.name).name == STORIES)
                model = Path(scratch, STORIES)
                model.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
        there = run(options.peer, "llama-cpp-python", options.folder, model)
        here = run(sys.executable, "gguf-hub", options.folder, model)
    width = max(map(len, there))
    for name, result in there.items():
        print(f"{name:<{width}}  {result:<30.30}  {here.get(name, 'missing')}")
    lost = [name for name, r in there.items() if r == "passed" and here.get(name) != "passed"]
    n_there, n_here = (list(results.values()).count("passed") for results in (there, here))
    print(f"\npassed: {n_there} there, {n_here} here, of {len(there)}")
    print(*(f"lost: {name}" for name in lost), sep="\n")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
