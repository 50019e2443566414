"""``--lora`` and ``--lora-scaled``, and ``lora_path`` of ``Llama``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.cli.run.adapters import adapters_of, make_absolute
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.model.settings import AdapterFile
from tests.lora import adaptable, make_pairs, write_adapter
from tests.synth import write_mixtral

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, kernels: None) -> Path:
    return write_mixtral(tmp_path_factory.mktemp("model") / "m.gguf", layout="merged")


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    with GgufFile.open(model) as file:
        pairs = make_pairs(file, adaptable(file))
    return write_adapter(model.parent / "lora.gguf", "llama", pairs)


@pytest.fixture
def text(model: Path, gguf_hub: Cli) -> Callable[..., str]:
    """Return what ``run`` writes with more options."""

    def run(*options: object) -> str:
        shared = ("-p", "w1 w2 w3", "-n", "12", "--temp", "0", "--no-perf", "-c", "64")
        code, out, err = gguf_hub("run", model, *shared, *options)
        assert code == 0, err
        return out

    return run


def test_run_applies_adapters_by_their_scales(text: Callable[..., str], adapter: Path) -> None:
    plain, adapted = text(), text("--lora", adapter)
    assert plain != adapted
    assert text("--lora-scaled", f"{adapter}:1.0") == adapted
    assert text("--lora", f"{adapter},{adapter}") == text("--lora-scaled", f"{adapter}:2")
    assert text("--lora", adapter, "--lora-scaled", f"{adapter}:-1") == plain
    assert text("--lora-scaled", f"{adapter}:0") == plain


def test_llama_applies_an_adapter(model: Path, adapter: Path, text: Callable[..., str]) -> None:
    options = {"n_ctx": 64, "verbose": False}
    found = {}
    for scale in (0.0, 1.0):
        with Llama(model, lora_path=str(adapter), lora_scale=scale, **options) as llm:
            answer = llm("w1 w2 w3", max_tokens=12, temperature=0)
            found[scale] = answer["choices"][0]["text"]
    for scale, options in ((1.0, ("--lora", adapter)), (0.0, ())):
        expected = text(*options).removeprefix("w1 w2 w3").rstrip("\n\ufffd")
        assert found[scale].rstrip("\ufffd") == expected


def test_wrong_arguments_of_llama_are_value_errors(model: Path, adapter: Path) -> None:
    with pytest.raises(ValueError, match=r"lora path: none.gguf does not exist"):
        Llama(model, lora_path="none.gguf")
    with pytest.raises(ValueError, match=r"lora_scale: expected a number, found 'x'"):
        Llama(model, lora_path=str(adapter), lora_scale="x")
    with pytest.raises(ValueError, match=r"lora_path: expected the path of an adapter, found 5"):
        Llama(model, lora_path=5)
    with pytest.warns(UserWarning, match="unsupported arguments are ignored: lora_base"):
        Llama(model, lora_base="m.gguf", n_ctx=32, verbose=False).close()


def test_bench_and_perplexity_apply_an_adapter(
    model: Path, adapter: Path, gguf_hub: Cli, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 " * 20)
    found = []
    for options in ((), ("--lora", adapter)):
        code, out, err = gguf_hub(
            "perplexity", model, "-f", tmp_path / "text.txt", "-c", "32", "--chunks", "2", "--json",
            *options,
        )  # fmt: skip
        assert code == 0, err
        found.append(json.loads(out)["perplexity"])
    plain, adapted = found
    assert plain != adapted
    code, _, err = gguf_hub("bench", model, "-p", "8", "-n", "2", "-r", "1", "--lora", model)
    assert code == 1
    assert "is a model: expected a LoRA adapter" in err


def test_a_prompt_cache_made_without_the_adapter_is_not_used(
    model: Path, adapter: Path, gguf_hub: Cli, tmp_path: Path
) -> None:
    shared = ("run", model, "-p", "w1 w2 w3", "-n", "4", "--temp", "0", "--no-perf", "-c", "64",
              "--prompt-cache", tmp_path / "cache")  # fmt: skip
    assert gguf_hub(*shared)[0] == 0
    assert "is not used" not in gguf_hub(*shared)[2]
    code, _, err = gguf_hub(*shared, "--lora", adapter)
    assert code == 0
    assert "another model" in err and "it is not used" in err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--lora-scaled", "x.gguf"), "'x.gguf': expected FILE:SCALE, SCALE a number"),
        (("--lora-scaled", "x.gguf:much"), "'x.gguf:much': expected FILE:SCALE"),
        (("--lora", "a.gguf,,b.gguf"), "has an empty name: expected FILE[,FILE...]"),
    ],
    ids=str,
)
def test_what_is_no_file_and_scale_is_a_usage_error(
    option: tuple[str, ...], message: str, gguf_hub: Cli
) -> None:
    code, _, err = gguf_hub("run", "org/none", "--offline", *option)
    assert code == 2
    assert message in " ".join(err.split())


def test_an_adapter_as_the_model_is_refused_with_the_flag_to_use(
    adapter: Path, gguf_hub: Cli
) -> None:
    code, _, err = gguf_hub("run", adapter, "-p", "x")
    assert code == 1
    assert "is a LoRA adapter, not a model" in err
    assert "`gguf-hub run MODEL --lora FILE` applies it" in err


def test_names_may_have_commas_and_colons_and_become_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"lora": ('"a,b.gguf",c', 'd"e'), "lora_scaled": ("x:y:0.25,z:-1",)}
    expected = [("a,b.gguf", 1.0), ("c", 1.0), ('d"e', 1.0), ("x:y", 0.25), ("z", -1.0)]
    assert adapters_of(options) == tuple(AdapterFile(Path(p), scale) for p, scale in expected)
    make_absolute(options)
    assert adapters_of(options) == tuple(AdapterFile(Path.cwd() / p, s) for p, s in expected)


def test_several_models_refuse_an_adapter(model: Path, adapter: Path, gguf_hub: Cli) -> None:
    code, _, err = gguf_hub("serve", model, model.parent / "other.gguf", "--lora", adapter)
    assert code == 2
    assert "`--lora` applies to one model, and there are several" in err
