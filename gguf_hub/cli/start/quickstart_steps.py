"""The steps of ``gguf-hub quickstart``: every part of the program, on one small model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.cli.start.quickstart_output import INDENT, Tour, format_seconds, machine_lines, since
from gguf_hub.progress import SILENT, Progress

if TYPE_CHECKING:
    from gguf_hub.hub.catalog import Catalog
    from gguf_hub.hub.download.verify import Verification
    from gguf_hub.hub.fit import Pick
    from gguf_hub.hub.hardware import Hardware
    from gguf_hub.hub.mirror import Mirror
    from gguf_hub.hub.store import Store

REPO_ID = "gguf-hub/tiny-mixtral"
"""What the mirror calls the embedded model."""
FETCHED_QUANT = "Q4_K_M"
N_CTX = 4096
TEMPERATURE = 0.7
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class QuantizedFile:
    """A quantized file, and the seconds that it took."""

    quant: str
    path: Path
    size_bytes: int
    sha256: str
    seconds: float


@dataclass(frozen=True)
class Story:
    """Generated text."""

    prompt: str
    text: str
    seed: int
    n_tokens: int
    tok_per_s: float


@dataclass(frozen=True)
class Guide:
    """Runs the steps.

    Args:
        tour: Shows them.
        model: The model in full precision.
        folder: Where all files go.
        progress: Notified about compiling and copying.
    """

    tour: Tour
    model: Path
    folder: Path
    progress: Progress = SILENT

    def detect(self) -> Hardware:
        """Detect this machine."""
        from gguf_hub.hub.hardware import detect

        with self.tour.step("look", "detect this machine", "gguf-hub doctor"):
            hardware = detect(self.folder)
            for line in machine_lines(hardware):
                self.tour.say(line)
        return hardware

    def pick(self, hardware: Hardware) -> tuple[Catalog, Pick]:
        """Pick a quant of the catalog."""
        from gguf_hub.cli.pick.machines import machine_of
        from gguf_hub.cli.pick.pick_output import print_pick
        from gguf_hub.hub import fit
        from gguf_hub.hub.catalog import load_catalog

        with self.tour.step("pick", "pick the quant of Mixtral 8x7B for it", "gguf-hub pick"):
            catalog = load_catalog()
            machine = machine_of(hardware)
            engine: fit.EngineName = "llama.cpp" if machine.vram_bytes else "gguf-hub"
            files = [fit.facts_from_catalog(catalog, file) for file in catalog.files]
            result = fit.pick(files, machine, fit.Constraints(n_ctx=N_CTX, engine=engine))
            if not self.tour.is_silent:
                print_pick(result, [])
        return catalog, result

    def quantize(self, catalog: Catalog, n_threads: int) -> list[QuantizedFile]:
        """Quantize the model to every type of the catalog."""
        from gguf_hub.gguf.types import FileType
        from gguf_hub.run.kernels.build.build import KernelBuilder
        from gguf_hub.run.quants.plan import plan_quantize
        from gguf_hub.run.quants.quantize import kernel_names

        quants = [file.quant for file in catalog.files if file.quant in FileType.__members__]
        title = f"quantize the embedded model to the {len(quants)} types of the catalog"
        stem = self.model.name.split(".")[0]
        command = f"gguf-hub quantize {self.model} {stem}.Q4_K_M.gguf Q4_K_M --recipe card"
        with self.tour.step("quantize", title, command):
            plans = [plan_quantize(self.model, FileType[q], recipe="card") for q in quants]
            names = [name for plan in plans for name in kernel_names(plan)]
            start_time = time.perf_counter()
            KernelBuilder().addresses(names, self.progress)  # all at once, on all cores
            self.tour.say(f"kernels for this CPU are ready  {since(start_time)}")
            files = []
            for quant, plan in zip(quants, plans, strict=True):
                files.append(
                    self._quantize_to(quant, plan, self.folder / f"{stem}.{quant}.gguf", n_threads)
                )
        return files

    def _quantize_to(self, quant: str, plan: Any, path: Path, n_threads: int) -> QuantizedFile:
        from gguf_hub.files import require_distinct, require_ours
        from gguf_hub.hub.download.digest import sha256_file
        from gguf_hub.run.quants.quantize import write_quantized
        from gguf_hub.units import format_size

        require_distinct([path], [plan.source])
        name_field = plan.fields.get("general.name")
        name = str(name_field.value).encode() if name_field else b""
        require_ours(
            path,
            "a file that `quickstart` made",
            lambda head: head.startswith(b"GGUF") and name in head,
        )
        start_time = time.perf_counter()
        write_quantized(plan, path, n_threads=n_threads, progress=self.progress)
        seconds = time.perf_counter() - start_time
        file = QuantizedFile(quant, path, path.stat().st_size, sha256_file(path), seconds)
        bits = f"{plan.bits_per_weight:.2f} bits per weight"
        self.tour.say(
            f"{quant:<8}{format_size(file.size_bytes):>9}  {bits}  {format_seconds(seconds)}"
        )
        return file

    @contextmanager
    def serve(self, files: list[QuantizedFile]) -> Iterator[Mirror]:
        """Serve the files to this machine as a hub, while the block runs."""
        from gguf_hub.hub.mirror import Mirror, RepositoryIndex
        from gguf_hub.hub.store import Store, StoredFile

        with self.tour.step("mirror", "serve them as a hub on loopback", "gguf-hub mirror"):
            store = Store(self.folder / "served")
            for file in files:
                store.add(StoredFile.of(file.path, file.sha256, repo_id=REPO_ID))
            mirror = Mirror(RepositoryIndex(store), host=LOOPBACK)
            self.tour.say(f"HF_ENDPOINT={mirror.endpoint}")
        with mirror:
            yield mirror.start()

    def fetch(self, mirror: Mirror, store: Store) -> Path:
        """Download one file by a pattern, with the client for Hugging Face."""
        from gguf_hub.hub.client import HfHub
        from gguf_hub.hub.download.destinations import LocalFolder
        from gguf_hub.hub.download.fetch import Fetcher
        from gguf_hub.hub.download.plan import FileSelector, select
        from gguf_hub.units import format_size

        pattern = f"*{FETCHED_QUANT}*"
        command = f"HF_ENDPOINT={mirror.endpoint} gguf-hub download {REPO_ID} --include '{pattern}'"
        with self.tour.step("download", "download one of them by a pattern", command):
            destination = LocalFolder(self.folder / "downloaded")
            fetcher = Fetcher(HfHub(mirror.endpoint), destination, store, self.progress)
            listing = fetcher.hub.list_files(REPO_ID)
            (fetched,) = fetcher.fetch(listing, select(listing, FileSelector(include=(pattern,))))
            size = format_size(fetched.file.size_bytes)
            self.tour.say(f"{fetched.path.name}  {size} of {len(listing.files)} files")
        return fetched.path

    def verify(self, path: Path, store: Store) -> Verification:
        """Check the structure and the SHA-256 of the download."""
        from gguf_hub.hub.download.verify import verify_file

        with self.tour.step("verify", "verify it", f"gguf-hub verify {path.name}"):
            verification = verify_file(path, store=store, progress=self.progress)
            self.tour.say(f"{verification.verdict.value}: SHA-256 {verification.sha256}")
        return verification

    def generate(self, path: Path, seed: int, prompt: str) -> Story:
        """Generate a story."""
        options = f'-p "{prompt}" --temp {TEMPERATURE} -s {seed}'
        with self.tour.step("run", "generate a story", f"gguf-hub run {path.name} {options}"):
            story = _generate(path, prompt, seed, self)
            speed = f"{story.n_tokens} tokens, {story.tok_per_s:.0f} tok/s"
            self.tour.write("\n\n")
            self.tour.say(speed, indent="")
        return story


def _generate(path: Path, prompt: str, seed: int, guide: Guide) -> Story:
    from gguf_hub.run.generation import Generation, GenerationRequest, LogitsSampler
    from gguf_hub.run.opening import open_model
    from gguf_hub.run.sampler import Sampler, SamplerConfig

    start_time = time.perf_counter()
    with open_model(path, progress=guide.progress) as loaded:
        tokenizer, engine = loaded.tokenizer, loaded.engine()
        guide.tour.say(f"loaded, kernels included  {since(start_time)}\n")
        guide.tour.write(INDENT + prompt)
        config = SamplerConfig.from_options(temp=TEMPERATURE, seed=seed)
        request = GenerationRequest(
            tuple(tokenizer.encode(prompt)),
            LogitsSampler(Sampler(config, tokenizer)),
            stop_ids=tokenizer.eog_ids,
        )
        text = Generation(request, tokenizer, engine.model.n_ctx)
        parts = []
        for delta in engine.stream(text):
            parts.append(delta.text)
            guide.tour.write(delta.text)
    return Story(prompt, "".join(parts), seed, text.n_generated, text.timings.generate_tok_per_s)


def why_no_download() -> str | None:
    """Return why the hub's client cannot reach a server on this machine, or None."""
    from urllib.request import getproxies, proxy_bypass

    from gguf_hub.hub.client import is_offline

    if is_offline():
        return "HF_HUB_OFFLINE is set; `HF_HUB_OFFLINE=0 gguf-hub quickstart` includes it"
    proxies = getproxies()
    if ("http" in proxies or "all" in proxies) and not proxy_bypass(LOOPBACK):
        return (
            "a proxy is set for loopback too; "
            f"`NO_PROXY={LOOPBACK} gguf-hub quickstart` includes it"
        )
    return None
