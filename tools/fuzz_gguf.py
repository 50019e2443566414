"""Coverage-guided fuzzing of the GGUF reader, validator, upgrade and edit, by hand.

    pip install -e '.[fuzz]'
    python tools/fuzz_gguf.py CORPUS_DIR [SEEDS_DIR...] -atheris_runs=2000000

CORPUS_DIR collects what reaches new code; the seeds are read only, e.g. the files in
tests/data/malformed.tar.xz.
Small whole models are added as seeds by themselves. An exception other than ours, an input that
takes over a second or an allocation over 64 MB ends the run, and libFuzzer writes the input down.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gguf_hub"]):
    from gguf_hub.errors import GgufHubError
    from gguf_hub.gguf.edit import Edits, plan_edit
    from gguf_hub.gguf.inspection import inspect
    from gguf_hub.gguf.reader import GgufFile
    from gguf_hub.gguf.shards import plan_split
    from gguf_hub.gguf.upgrade import plan_upgrade
    from gguf_hub.gguf.validate import validate_file

LIMITS = ["-timeout=1", "-malloc_limit_mb=64", "-rss_limit_mb=1024", "-max_len=65536"]
SCRATCH = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
INPUT = SCRATCH / f"fuzz-{os.getpid()}.gguf"
OUTPUT = SCRATCH / f"fuzz-{os.getpid()}.out.gguf"
MOST_SECONDS = 1.0
MOST_WRITTEN_BYTES = 1 << 20


def one_input(data: bytes) -> None:
    """Do to one input everything that the commands do."""
    start = time.process_time()
    INPUT.write_bytes(data)
    report = validate_file(INPUT, "deep")
    report.as_dict()
    for action in (GgufFile.open, look, upgrade, edit, plan_split):
        try:
            action(INPUT)
        except GgufHubError as error:
            # a sound file may still be refused for what it is, never silently
            assert error.message
    seconds = time.process_time() - start
    assert seconds < MOST_SECONDS, f"{seconds:.2f} s"


def look(path: Path) -> None:
    """Inspect, and touch every value and tensor."""
    found = inspect(path.read_bytes(), "input")
    for field in found.header.fields.values():
        str(field.value)[:100]
    with GgufFile.open(path) as file:
        dict(file.metadata)
        for name, info in file.tensors.items():
            assert file.tensor_bytes(name).size == info.size_bytes


def upgrade(path: Path) -> None:
    """Upgrade; what comes out needs no upgrade."""
    plan = plan_upgrade(path)
    if plan.size_bytes < MOST_WRITTEN_BYTES:
        plan.write(OUTPUT, compare=True)
        assert plan_upgrade(OUTPUT).changes == ()


def edit(path: Path) -> None:
    """Add a key and change one."""
    plan_edit(path, Edits({"general.name": "x", "general.license": "y"}))


def main() -> None:
    """Write the seeds and start."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.synth import TINY, Shape, write_mixtral

    narrow = Shape(1, 32, 2, 1, 32, 2, 1, 5, 16)
    with tempfile.TemporaryDirectory() as folder:
        for i, options in enumerate(
            ({}, {"layout": "merged"}, {"version": 1}, {"byte_order": "big"}, {"alignment": 8})
        ):
            write_mixtral(Path(folder) / f"{i}.gguf", narrow, **options)  # type: ignore[arg-type]
        write_mixtral(Path(folder) / "tiny.gguf", TINY, sparse=True)
        arguments = [argument for argument in sys.argv if not argument.startswith("-")]
        options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        atheris.Setup([*arguments, folder, *LIMITS, *options], one_input)
        try:
            atheris.Fuzz()
        finally:
            for path in (INPUT, OUTPUT):
                path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
