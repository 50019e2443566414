"""Every surface opens a model alike: memory, cache types, threads, drafts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.llama import Llama, LlamaPromptLookupDecoding, LlamaValueError
from gguf_hub.gguf import shards
from gguf_hub.progress import SILENT
from gguf_hub.resources import cpus
from gguf_hub.run import opening
from gguf_hub.run.generation.draft_length import DraftLength
from gguf_hub.run.generation.model_drafter import DraftSettings, ModelDrafter
from gguf_hub.run.model import residency
from gguf_hub.run.model.transformer import Transformer
from tests.synth import SMALL, write_mixtral

TEXT = "the quick brown fox jumps over the lazy dog " * 40
SURFACES = ("run", "perplexity", "bench", "Llama", "server")
Open = Callable[..., None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "m.gguf", SMALL, recipe="Q4_K_M")


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[Transformer]:
    """Every model that is opened."""
    found: list[Transformer] = []
    real = Transformer.__init__

    def noted(self: Transformer, *arguments: Any) -> None:
        found.append(self)
        real(self, *arguments)

    monkeypatch.setattr(Transformer, "__init__", noted)
    return found


@pytest.fixture
def surfaces(gguf_hub: Any, tmp_path: Path) -> dict[str, Open]:
    """Surface -> open a model, and compute with it."""
    (tmp_path / "text").write_text(TEXT)
    lines = {
        "run": ("-p", "hi", "-n", 1, "-c", 64),
        "perplexity": ("-f", tmp_path / "text", "-c", 32, "--chunks", 1),
        "bench": ("-p", 4, "-n", 2, "-r", 1),
    }

    def command(name: str) -> Open:
        def call(path: Path, *flags: Any) -> None:
            code, _, err = gguf_hub(name, path, *lines[name], *flags)
            assert code == 0, err

        return call

    def llama(path: Path, **arguments: Any) -> None:
        Llama(str(path), n_ctx=64, **arguments).close()

    def server(path: Path, **options: Any) -> None:
        from tests.api.server.running import Running

        with ExitStack() as stack:
            http = Running(path, stack, {}, n_ctx=64, **options).http
            http.post("/completion", json={"prompt": "hi", "n_predict": 1}).raise_for_status()

    return {**{name: command(name) for name in lines}, "Llama": llama, "server": server}


@pytest.mark.slow
@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("is_larger", [True, False])
def test_a_file_larger_than_memory_is_read_ahead(
    surface: str,
    is_larger: bool,
    path: Path,
    surfaces: dict[str, Open],
    models: list[Transformer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size_bytes = path.stat().st_size
    monkeypatch.setattr(residency, "available_ram_bytes", lambda: size_bytes - is_larger)
    surfaces[surface](path)
    (model,) = models
    kernels = {step.kernel for step in model._program.steps}
    assert ("prefetch_experts" in kernels) == is_larger


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "perplexity", "bench"])
def test_cache_types_and_no_mmap_are_followed(
    command: str,
    path: Path,
    surfaces: dict[str, Open],
    models: list[Transformer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_mapped = []
    real = opening.open_gguf

    def noted(path: Path, **how: Any) -> Any:
        is_mapped.append(how["is_mapped"])
        return real(path, **how)

    for module in (opening, shards):
        monkeypatch.setattr(module, "open_gguf", noted)
    surfaces[command](path, "-ctk", "q8_0", "-ctv", "f32", "--no-mmap")
    assert [model.cache_types for model in models] == [("Q8_0", "F32")]
    assert is_mapped == [False]


@pytest.mark.slow
def test_bench_reads_a_file_once_for_several_numbers_of_threads(
    path: Path, surfaces: dict[str, Open], monkeypatch: pytest.MonkeyPatch, models: list[Any]
) -> None:
    paths = []
    real = shards.open_gguf

    def noted(path: Path, **how: Any) -> Any:
        paths.append(path)
        return real(path, **how)

    monkeypatch.setattr(shards, "open_gguf", noted)
    surfaces["bench"](path, "--no-mmap", "-t", "1,2")
    assert (paths.count(path), len(models)) == (1, 2)


@pytest.mark.slow
def test_llama_follows_its_arguments_of_cache_and_memory(
    path: Path, models: list[Transformer], surfaces: dict[str, Open]
) -> None:
    for type_k, type_v in ((8, 8), (0, None), (1, 0)):
        surfaces["Llama"](path, type_k=type_k, type_v=type_v, use_mmap=False)
    types = [model.cache_types for model in models]
    assert types == [("Q8_0", "Q8_0"), ("F32", "F16"), ("F16", "F32")]


# -- threads ---------------------------------------------------------------------------------------


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable_cpus", lambda: frozenset({0, 1}))
    monkeypatch.setattr(cpus, "cpu_quota", lambda root: None)


@pytest.mark.slow
@pytest.mark.parametrize("surface", SURFACES)
def test_no_more_threads_compute_than_can_run_at_once(
    surface: str,
    path: Path,
    surfaces: dict[str, Open],
    models: list[Transformer],
    two_cpus: None,
) -> None:
    if surface in ("Llama", "server"):
        surfaces[surface](path, n_threads=8)
    else:
        surfaces[surface](path, "-t", 8)
    assert [model.n_threads for model in models] == [2]


@pytest.mark.parametrize("command", ["run", "quantize"])
def test_fewer_threads_than_asked_for_are_announced(
    command: str, path: Path, gguf_hub: Any, two_cpus: None, tmp_path: Path
) -> None:
    rest = {
        "run": ("-p", "hi", "-n", 1),
        "quantize": (tmp_path / "out.gguf", "Q8_0", "--requantize"),
    }[command]
    code, _, err = gguf_hub(command, path, *rest, "-t", 8)
    assert code == 0, err
    assert "8 threads: only 2 can run at once here, so 2 are used" in err


def test_a_quota_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable_cpus", lambda: frozenset(range(16)))
    monkeypatch.setattr(cpus, "cpu_quota", lambda root: 3.5)
    assert [cpus.limit_threads(n, SILENT) for n in (0, 2, 3, 4, 100)] == [0, 2, 3, 3, 3]


# -- drafts ----------------------------------------------------------------------------------------

PROMPT = "Tim had a red ball. Tim had a red ball. Tim had"


@pytest.fixture
def stories(data: Path) -> Path:
    return data / "models" / "stories260K.f32.gguf"


def test_a_draft_model_changes_the_number_of_passes_and_not_the_text(stories: Path) -> None:
    texts, n_passes = [], []
    for draft_model in (None, LlamaPromptLookupDecoding(num_pred_tokens=5)):
        with Llama(str(stories), n_ctx=256, draft_model=draft_model) as llm:
            passes = counted(llm)
            answer = llm(PROMPT, max_tokens=100, temperature=0.8, seed=3)
            texts.append(answer["choices"][0]["text"])
            n_passes.append(len(passes))
            scores = llm.scores[llm.n_tokens - 1] if draft_model else llm.scores[0]
            last = llm.sample(temp=0)
            assert last == int(scores.argmax())
    assert texts[0] == texts[1]
    assert n_passes[1] < n_passes[0] == 100


def test_any_callable_is_a_draft_model(stories: Path) -> None:
    lengths: list[int] = []

    def useless(ids: Any) -> list[int]:
        lengths.append(len(ids))
        return [1, 2, 3]

    texts = []
    for draft_model in (None, useless):
        with Llama(str(stories), n_ctx=64, draft_model=draft_model) as llm:
            answer = llm("Once upon", max_tokens=8, temperature=0)
            texts.append((answer["choices"][0]["text"], llm.eval_tokens))
    assert texts[0] == texts[1]
    assert lengths == list(range(lengths[0], lengths[0] + 6))


@pytest.mark.slow
def test_a_llama_drafts_for_another(stories: Path) -> None:
    """Its own texts go on between; sampled texts are other ones, greedy ones the same."""
    small = Llama(str(stories.with_name("stories260K.q4_0.gguf")), n_ctx=64, verbose=False)
    with small, Llama(str(stories), n_ctx=256, draft_model=small, verbose=False) as llm:
        drafter = llm.context.engine.drafter
        assert isinstance(drafter, ModelDrafter)
        drafter.n_min = drafter.n_draft  # whatever it costs
        llm.context.engine._length = DraftLength(4, 4)
        own = small("Tim had", max_tokens=8, temperature=0)["choices"][0]["text"]
        texts = [llm("Once upon", max_tokens=100, temperature=0)["choices"][0]["text"]]
        assert small("Tim had", max_tokens=8, temperature=0)["choices"][0]["text"] == own
        assert len(small.eval_tokens) <= 64 < len(llm.eval_tokens)  # no drafts beyond its context
        assert llm.scores.shape[0] == 1
        small.close()
        with pytest.raises(LlamaValueError, match=r"`stories260K.q4_0.gguf` is closed"):
            llm("Once upon", max_tokens=9, temperature=0)
    with Llama(str(stories), n_ctx=256, verbose=False) as llm:
        texts.append(llm("Once upon", max_tokens=100, temperature=0)["choices"][0]["text"])
    assert texts[0] == texts[1]


def counted(llm: Llama) -> list[int]:
    """Return a list that gets the length of every pass."""
    passes: list[int] = []
    recorder = llm.context.recorder
    forward = recorder.forward

    def counting(ids: Any, *at: Any, **how: Any) -> Any:
        passes.append(len(ids))
        return forward(ids, *at, **how)

    recorder.forward = counting  # type: ignore[method-assign]
    return passes


@pytest.fixture
def servers(stories: Path) -> Iterator[list[Any]]:
    from gguf_hub.run.generation.lookup import PromptLookup
    from tests.api.server.running import Running

    with ExitStack() as stack:
        yield [
            Running(stories, stack, {}, drafter=each) for each in (None, PromptLookup(5, n_min=5))
        ]


def test_the_server_drafts_too(servers: list[Any]) -> None:
    body = {"prompt": PROMPT, "n_predict": 100, "temperature": 0.8, "seed": 3}
    plain, drafting = (server.http.post("/completion", json=body).json() for server in servers)
    assert plain["content"] == drafting["content"]
    assert "draft_n" not in plain["timings"]
    assert drafting["timings"]["draft_n"] > drafting["timings"]["draft_n_accepted"] > 0


@pytest.mark.slow
def test_the_server_drafts_with_a_model(stories: Path) -> None:
    from tests.api.server.running import Running

    draft = DraftSettings(stories.with_name("stories260K.q4_0.gguf"), n_max=4, n_min=4)
    bodies = [
        {"prompt": PROMPT[: 20 * k], "n_predict": 20 * k, "temperature": 0} for k in (1, 2, 3)
    ]
    texts, counts = [], []
    for settings in ({}, {"draft": draft}):
        with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
            post = Running(stories, stack, {}, **settings).http.post
            done = pool.map(lambda body, post=post: post("/completion", json=body).json(), bodies)
            answers = list(done)
        texts.append([answer["content"] for answer in answers])
        counts.append([answer["timings"].get("draft_n_accepted", 0) for answer in answers])
    assert texts[0] == texts[1]
    assert counts[0] == [0, 0, 0] and min(counts[1]) > 0


def test_texts_side_by_side_are_the_same_with_drafts(servers: list[Any]) -> None:
    bodies = [
        {"prompt": PROMPT[: 20 * k], "n_predict": 20 * k, "temperature": 0.8, "seed": k}
        for k in (1, 2, 3)
    ]
    texts = []
    for server in servers:
        post = server.http.post
        with ThreadPoolExecutor(3) as pool:
            done = pool.map(lambda body, post=post: post("/completion", json=body).json(), bodies)
            texts.append([answer["content"] for answer in done])
    assert texts[0] == texts[1]
