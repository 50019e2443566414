"""``--cluster`` of commands, and ``gguf-hub cluster``: no Ray is needed for most of it."""

from __future__ import annotations

import builtins
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.cluster import record, tokens
from gguf_hub.api.llama import Llama

Cli = Callable[..., tuple[int, str, str]]
WRITE = ("-p", "Once upon a time", "-n", 12, "--temp", 0, "-c", 64, "-t", 1)


@pytest.mark.slow
def test_run_and_llama_write_the_same_text_on_several_processes(
    embedded: Path, gguf_hub: Cli, kernels: None
) -> None:
    code, expected, err = gguf_hub("run", embedded, *WRITE)
    assert code == 0, err
    code, out, err = gguf_hub("run", embedded, *WRITE, "--cluster", "local:2")
    assert (code, out) == (0, expected), err
    assert "embeddings and layers 0 to 0 on `local-1`" in err
    assert "layers 1 to 2 and head on `local-2`" in err
    with Llama(embedded, n_ctx=64, n_threads=1, verbose=False, cluster="local:2") as llm:
        text = llm("Once upon a time", max_tokens=12, temperature=0)["choices"][0]["text"]
    assert f"Once upon a time{text}\n" == expected


@pytest.mark.slow
def test_bench_says_how_many_nodes_compute(embedded: Path, gguf_hub: Cli, kernels: None) -> None:
    flags = ("-p", 8, "-n", 4, "-r", 1, "-t", 1, "--cluster", "local:2", "--json")
    code, out, err = gguf_hub("bench", embedded, *flags)
    assert code == 0, err
    run = json.loads(out)["runs"][0]
    assert run["backend"] == "CPUs of 2 nodes"
    assert run["tg_tok_per_s"] > 0
    assert (run["read_bytes_per_s"], run["tg_read_share"]) == (None, None)


@pytest.mark.parametrize("command", ["run", "serve", "bench"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--cluster", "nonsense"), "cluster `nonsense`: expected HOST:PORT, `auto` or `local:N`"),
        (("--cluster", "local:0"), "expected HOST:PORT"),
        (("--cluster", "host:99999"), "expected HOST:PORT"),
        (("--cluster", "local:2", "-ngl", 3), "`-ngl` cannot go with `--cluster`"),
        (("--cluster", "local:2", "--no-mmap"), "`--no-mmap` cannot go with `--cluster`"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_opened(
    command: str, flags: tuple[Any, ...], message: str, gguf_hub: Cli
) -> None:
    code, out, err = gguf_hub(command, "no-such-file.gguf", *flags)
    assert (code, out) == (2, "")
    assert message in err


def test_a_prompt_cache_is_refused(embedded: Path, gguf_hub: Cli, tmp_path: Path) -> None:
    code, _, err = gguf_hub(
        "run", embedded, *WRITE, "--cluster", "local:2", "--prompt-cache", tmp_path / "x"
    )
    assert code == 2
    assert "`--prompt-cache` cannot go with `--cluster`" in err


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    load = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] == "ray":
            raise ImportError(name)
        return load(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize(
    "words",
    [("run", "MODEL", "-p", "a", "--cluster", "auto"), ("cluster", "up"), ("cluster", "status")],
)
def test_without_ray_one_line_says_how_to_get_it(
    words: tuple[str, ...], embedded: Path, gguf_hub: Cli, without_ray: None
) -> None:
    code, out, err = gguf_hub(*(embedded if word == "MODEL" else word for word in words))
    assert (code, out) == (2, "")
    assert "a cluster needs Ray, which is not installed here" in err
    assert "pip install 'gguf-hub[cluster]'" in err


def test_an_address_where_nobody_is_is_named_at_once(embedded: Path, gguf_hub: Cli) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    for words in (("run", embedded, "-p", "a"), ("cluster", "status")):
        code, out, err = gguf_hub(*words, "--cluster", address)
        assert (code, out) == (1, "")
        assert f"no cluster at {address}: connection refused" in err


def test_down_and_join_without_a_cluster(gguf_hub: Cli) -> None:
    assert gguf_hub("cluster", "down") == (0, "", "this machine belongs to no cluster\n")
    _, out, _ = gguf_hub("cluster", "down", "--json")
    assert json.loads(out) == {"left": None}


def test_joining_needs_a_token(gguf_hub: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        code, _, err = gguf_hub("cluster", "up", "--join", address)
        assert (code, "joining a cluster needs its token" in err) == (2, True)
        monkeypatch.setenv(tokens.TOKEN_VARIABLE, "short secret")
        code, _, err = gguf_hub("cluster", "up", "--join", address)
        assert (code, "secret" in err) == (2, False)


def test_a_token_is_kept_for_its_user_alone() -> None:
    token = tokens.make_token()
    assert tokens.make_token() == tokens.read_token() == token
    assert len(token) == 64
    assert tokens.token_path().stat().st_mode & 0o777 == 0o600
    found = dict[str, str]()
    tokens.use_token(found)
    assert found == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tokens.token_path())}
    own = {"RAY_AUTH_MODE": "disabled"}
    tokens.use_token(own)
    assert own == {"RAY_AUTH_MODE": "disabled"}
    given = {tokens.TOKEN_VARIABLE: "x" * 40}
    tokens.use_token(given)
    assert given["RAY_AUTH_TOKEN"] == "x" * 40


def test_a_record_of_a_process_that_is_gone_is_none(tmp_path: Path) -> None:
    path = record.record_path()
    path.parent.mkdir(parents=True)
    for text in (
        "",
        "{}",
        json.dumps({"pid": os.getpid(), "started": 1.0, "address": "a:1", "host": "a"}),
        json.dumps({"pid": 2**22 + 1, "started": 1.0, "address": "a:1", "host": "a"}),
    ):
        path.write_text(text)
        assert record.membership() is None


# -- pick ----------------------------------------------------------------------------------------


def test_pick_plans_for_machines_that_are_described(gguf_hub: Cli) -> None:
    nodes = ("--node", "ram=16GB,bw=40", "--node", "ram=64GB,bw=60,name=desk,link=10GB/s,cores=16")
    code, out, err = gguf_hub("pick", *nodes, "--policy", "quality", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert [n["name"] for n in report["nodes"]] == ["node-1", "desk"]
    assert report["nodes"][1]["link_bytes_per_s"] == 1e10
    assert report["recommended"] == "Q8_0"
    chosen = next(f for f in report["files"] if f["quant"] == "Q8_0")
    assert [s["node"] for s in chosen["stages"]] == ["desk"]
    code, out, err = gguf_hub("pick", "Q8_0", *nodes[:2], *nodes[:2], "--node", "ram=32GB",
                              "--explain")  # fmt: skip
    assert code == 0, err
    assert "embeddings, layers 0 to" in out
    assert "hops, the last one back to where the text is written" in out


def test_pick_says_what_a_cluster_lacks(gguf_hub: Cli) -> None:
    code, out, _ = gguf_hub("pick", "Q8_0", "--node", "ram=16GB", "--node", "ram=16GB")
    assert code == 1
    assert "no file fits: Q8_0, which is nearest, lacks 21.7" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--node", "bw=4"), "--node bw=4: expected ram=SIZE"),
        (("--node", "ram=x"), "`x` is not a size"),
        (("--node", "ram=4GB,cores=0"), "cores=0: expected a number of cores"),
        (("--node", "ram=4GB,isa=mmx"), "isa=mmx: expected one of"),
        (("--node", "ram=4GB,bw=0"), "is not a rate"),
        (("--node", "ram=4GB,colour=red"), "expected ram=SIZE"),
        (("--node", "ram=4GB,name=a", "--node", "ram=4GB,name=a"), "two machines are called `a`"),
        (("--node", "ram=4GB", "--ram", "5GB"), "`--ram` is about one machine"),
        (("--node", "ram=4GB", "--for", "llama.cpp"), "clusters run gguf-hub"),
        (("--cluster", "local:2"), "have no memory of their own"),
        (("--cluster", "x"), "expected HOST:PORT"),
    ],
)
def test_pick_refuses_what_describes_no_machine(
    flags: tuple[str, ...], message: str, gguf_hub: Cli
) -> None:
    code, out, err = gguf_hub("pick", *flags)
    assert (code, out) == (2, "")
    assert message in err
