"""Run commands on thousands of crafted files and count what goes wrong.

    python tools/crafted_runs.py -n 5000 -j 2
    python tools/crafted_runs.py -n 500 --commands chat,upgrade,edit,split,merge

Each command runs in a child that is forked from a process which has imported everything, and so
costs a fraction of a start. Told apart are tracebacks, warnings of Python, deaths by signal,
strange exit codes, more than 2 s of CPU time or 500 MB of memory, runs that never end, control
characters that reach the terminal, JSON that is none, and files that a failing command changes or
leaves behind. Exit code 1 if there is any. Needs fork and pidfd, so Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.crafted_files import Case, cases, kinds

MOST_CPU_S = 2.0
MOST_RSS_MB = 500
TIMEOUT_S = 60.0
ADDRESS_BYTES = 16 << 30
"""What a child may ask for: a mistake must not take the machine's memory."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_WARNING = re.compile(r"\.py:\d+: \w*Warning:")
_TEXT = "Once upon a time there was a cat. " * 20

# a sound file generates text of any kind, which is passed on as it is where it is piped
_GENERATES = ("run", "chat")
COMMANDS: dict[str, Callable[[Path, Path], list[Any]]] = {
    "run": lambda f, d: ["run", f, "-p", "hi there", "-n", 4, "--temp", 0, "-c", 64, "-t", 1],
    "chat": lambda f, d: ["run", f, "-cnv", "-st", "-p", "hi", "-n", 2, "-t", 1],
    "serve": lambda f, d: ["serve", f, "--port", 0, "-c", 64, "-t", 1, "-np", 1],
    "perplexity": lambda f, d: ["perplexity", f, "--text", d / "text", "-c", 32, "-t", 1],
    "inspect": lambda f, d: ["inspect", f, "--metadata", "--tensors"],
    "inspect-json": lambda f, d: ["inspect", f, "--metadata", "--tensors", "--json", "--full"],
    "quantize": lambda f, d: ["quantize", f, d / "out.gguf", "Q4_0"],
    "pick": lambda f, d: ["pick", f, "--no-probe"],
    "pick-json": lambda f, d: ["pick", f, "--no-probe", "--json", "--explain"],
    "verify": lambda f, d: ["verify", f],
    "verify-deep": lambda f, d: ["verify", f, "--deep", "--json"],
    "upgrade": lambda f, d: ["upgrade", f, d / "out.gguf"],
    "edit": lambda f, d: ["edit", f, "--set", "general.name=x", "--dry-run"],
    "split": lambda f, d: ["split", f, d / "out.gguf", "--max-size", "1MB"],
    "merge": lambda f, d: ["merge", f, d / "out.gguf"],
    "warmup": lambda f, d: ["warmup", f],
    "bench": lambda f, d: ["bench", f, "-p", 8, "-n", 2, "-r", 1, "-t", 1],
}
"""Name -> arguments, given a file and a folder to write to."""
DEFAULT = ("run", "serve", "perplexity", "inspect", "quantize", "pick", "verify")


@dataclass(frozen=True)
class Outcome:
    """How one command ended on one file."""

    status: int
    cpu_s: float
    rss_mb: int
    has_ended: bool
    was_stopped: bool
    out: str
    err: str

    @property
    def code(self) -> int:
        """Exit code; negative for a signal."""
        return os.waitstatus_to_exitcode(self.status)


def preload() -> None:
    """Import what the commands import, so that children need not."""
    from gguf_hub.cli.main import COMMANDS as NAMES
    from gguf_hub.cli.main import module_of

    for name in NAMES:
        importlib.import_module(module_of(name))
    for module in (
        "numpy", "jinja2", "tabulate", "tqdm", "psutil", "llvmlite.binding", "uvicorn",
        "gguf_hub.cli.run.opening", "gguf_hub.cli.run.generating", "gguf_hub.cli.measure.measuring",
        "gguf_hub.cli.measure.benching", "gguf_hub.cli.files.inspect_output",
        "gguf_hub.cli.pick.pick_report",
        "gguf_hub.cli.run.session", "gguf_hub.cli.run.text_generator", "gguf_hub.run.chat.sandbox",
        "gguf_hub.hub.download.verify", "gguf_hub.gguf.edit", "gguf_hub.gguf.upgrade",
        "gguf_hub.run.model.transformer", "gguf_hub.run.perplexity", "gguf_hub.run.quants",
        "gguf_hub.api.server.app", "gguf_hub.api.server.opening", "gguf_hub.hub.survey.headers",
    ):  # fmt: skip
        importlib.import_module(module)


def run(arguments: Sequence[Any], *, stops_when_served: bool = False) -> Outcome:
    """Run a command in a child."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _child([str(argument) for argument in arguments], out, err)
        was_stopped = _wait(pid, out if stops_when_served else None)
        _, status, used = os.wait4(pid, 0)
        return Outcome(
            status, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024,
            was_stopped is not None, bool(was_stopped), _read(out), _read(err),
        )  # fmt: skip


def _child(arguments: list[str], out: IO[bytes], err: IO[bytes]) -> None:
    """Be the command; never return."""
    code = 99
    try:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
        from gguf_hub.cli.main import run as command

        code = command(arguments)
        sys.stdout.flush()
    except BaseException:
        code = 1
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)


def _wait(pid: int, served: IO[bytes] | None) -> bool | None:
    """Wait for a child; stop it once it serves. Return whether that was; None if it hangs."""
    watched = os.pidfd_open(pid)
    try:
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            step_s = 0.01 if served else end - time.monotonic()
            if select.select([watched], [], [], max(0.0, step_s))[0]:
                return False
            if served and _answers(served):
                os.kill(pid, signal.SIGINT)
                done = select.select([watched], [], [], TIMEOUT_S)[0]
                if done:
                    return True
                break
        os.kill(pid, signal.SIGKILL)
        return None
    finally:
        os.close(watched)


def _answers(out: IO[bytes]) -> bool:
    """Tell whether a server that has printed its address answers there."""
    found = re.search(rb"http://([\d.]+):(\d+)", os.pread(out.fileno(), 4096, 0))
    if not found:
        return False
    link = http.client.HTTPConnection(found[1].decode(), int(found[2]), timeout=TIMEOUT_S)
    with contextlib.closing(link), contextlib.suppress(OSError, http.client.HTTPException):
        link.request("GET", "/health")
        return link.getresponse().status == 200
    return False


def _read(stream: IO[bytes]) -> str:
    return os.pread(stream.fileno(), 1 << 24, 0).decode("utf-8", "surrogateescape")


def problems(name: str, outcome: Outcome, is_changed: bool, left: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with an outcome, a word each."""
    if "Traceback (most recent call last)" in outcome.out + outcome.err:
        yield "traceback"
    if _WARNING.search(outcome.err):
        yield "Python warning"
    if not outcome.has_ended:
        yield "never ends"
    elif outcome.code < 0:
        yield f"signal {-outcome.code}"
    elif outcome.code not in (0, 1, 2) and not outcome.was_stopped:
        yield f"exit code {outcome.code}"
    if outcome.cpu_s > MOST_CPU_S:
        yield "over 2 s"
    if outcome.rss_mb > MOST_RSS_MB:
        yield "over 500 MB"
    printed = outcome.err + ("" if name in _GENERATES else outcome.out)
    if _CONTROLS.search(printed):
        yield "control characters"
    if name.endswith("json") and outcome.out and not _is_json(outcome.out):
        yield "no JSON"
    if is_changed:
        yield "file changed"
    if left and outcome.code:
        yield "files left"


def _is_json(text: str) -> bool:
    def refuse(word: str) -> Any:
        raise ValueError(word)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


class Tally:
    """Counts of runs, and of what is wrong by kind and command, with examples."""

    def __init__(self) -> None:
        self.n_runs = 0
        self.cpu_s = 0.0
        self.codes: Counter[int] = Counter()
        self.found: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.worst = (0.0, ""), (0, "")

    def add(self, name: str, case: Case, outcome: Outcome, wrong: Sequence[str]) -> None:
        """Count a run."""
        self.n_runs += 1
        self.cpu_s += outcome.cpu_s
        self.codes[outcome.code] += 1
        what = f"{case.name!r:.120} {name}"
        slowest, largest = self.worst
        self.worst = max(slowest, (outcome.cpu_s, what)), max(largest, (outcome.rss_mb, what))
        for word in wrong:
            last = (outcome.err.strip().splitlines() or [""])[-1]
            self.found[word, name].append(f"{case.name!r:.160}: {last!r:.160}")

    def merge(self, other: Tally) -> None:
        """Add what another process counted."""
        self.n_runs += other.n_runs
        self.cpu_s += other.cpu_s
        self.codes += other.codes
        (slow, large), (slow_too, large_too) = self.worst, other.worst
        self.worst = max(slow, slow_too), max(large, large_too)
        for key, examples in other.found.items():
            self.found[key] += examples

    def print(self, names: Sequence[str], n_examples: int = 3) -> None:
        """Print a table of kinds and commands, and some of each."""
        kinds = sorted({kind for kind, _ in self.found})
        print(f"{'':20}" + "".join(f"{name:>13}" for name in names))
        for kind in kinds or ["nothing wrong"]:
            counts = (len(self.found.get((kind, name), ())) for name in names)
            print(f"{kind:20}" + "".join(f"{count:>13}" for count in counts))
        for (kind, name), examples in sorted(self.found.items()):
            print(f"\n{kind}, {name}: {len(examples)}")
            print("".join(f"  {example}\n" for example in examples[:n_examples]), end="")
        (cpu_s, slowest), (rss_mb, largest) = self.worst
        codes = ", ".join(f"{code}: {n}" for code, n in sorted(self.codes.items()))
        print(f"\n{self.n_runs} runs, {self.cpu_s / max(1, self.n_runs):.3f} s of CPU each; "
              f"exit codes {codes}\nslowest {cpu_s:.2f} s: {slowest}\n"
              f"largest {rss_mb} MB: {largest}")  # fmt: skip


def campaign(
    n: int, seed: int, names: Sequence[str], *, part: int = 0, n_parts: int = 1,
    keep: Path | None = None,
) -> Tally:  # fmt: skip
    """Run commands on cases ``part``, ``part + n_parts``, ... of ``n``.

    Args:
        keep: Where to keep the files that something is wrong with.
    """
    tally = Tally()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "text").write_text(_TEXT, encoding="utf-8")
        file, target = folder / "crafted.gguf", folder / "target"
        for i, case in enumerate(cases(n, seed)):
            if i % n_parts != part:
                continue
            raw = case.encode()
            file.write_bytes(raw)
            for name in names:
                wrong = _run_one(name, case, raw, file, target, tally)
                if wrong and keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{i:05}.gguf").write_bytes(raw)
            if part == 0 and i % 100 < n_parts and sys.stderr.isatty():
                print(f"\r{i} of {n}", end="", file=sys.stderr, flush=True)
    return tally


def _run_one(
    name: str, case: Case, raw: bytes, file: Path, target: Path, tally: Tally
) -> list[str]:
    target.mkdir(exist_ok=True)
    if not (target / "text").exists():
        (target / "text").hardlink_to(file.with_name("text"))
    outcome = run(COMMANDS[name](file, target), stops_when_served=name == "serve")
    left = [path for path in target.iterdir() if path.name != "text"]
    is_changed = file.read_bytes() != raw
    wrong = list(problems(name, outcome, is_changed, [path.name for path in left]))
    for path in left:
        path.unlink()
    if is_changed:
        file.write_bytes(raw)
    tally.add(name, case, outcome, wrong)
    return wrong


def warm_up(names: Sequence[str]) -> None:
    """Run commands on sound files, uncounted, so that kernels are there and nobody compiles."""
    sound = [case for case in kinds() if case.name.startswith(("sound", "type="))]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "text").write_text(_TEXT, encoding="utf-8")
        for case in sound:
            (folder / "crafted.gguf").write_bytes(case.encode())
            for name in names:
                if name in ("run", "perplexity", "quantize", "serve", "chat", "bench"):
                    run(COMMANDS[name](folder / "crafted.gguf", folder), stops_when_served=True)
                    (folder / "out.gguf").unlink(missing_ok=True)


def in_parallel(n_jobs: int, work: Callable[[int], Tally]) -> Tally:
    """Do parts of the work in processes of their own."""
    import pickle

    children: list[tuple[int, IO[bytes]]] = []
    for part in range(n_jobs):
        result = tempfile.TemporaryFile()  # noqa: SIM115
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                pickle.dump(work(part), result)
                result.flush()
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)  # the parent's files are not a child's to clean up
        children.append((pid, result))
    tally = Tally()
    for pid, result in children:
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("a part of the campaign failed")
        result.seek(0)
        tally.merge(pickle.load(result))
        result.close()
    return tally


def main() -> int:
    """Run a campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=500, help="how many files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-j", type=int, default=1, help="processes at a time")
    parser.add_argument("--commands", default=",".join(DEFAULT), help="or `all`")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep files with problems")
    arguments = parser.parse_args()
    names = list(COMMANDS) if arguments.commands == "all" else arguments.commands.split(",")
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as home:
        os.environ["GGUF_HUB_HOME"] = home
        preload()
        warm_up(names)
        tally = in_parallel(arguments.j, lambda part: campaign(
            arguments.n, arguments.seed, names, part=part, n_parts=arguments.j,
            keep=arguments.keep,
        ))  # fmt: skip
    tally.print(names)
    return 1 if tally.found else 0


if __name__ == "__main__":
    sys.exit(main())
