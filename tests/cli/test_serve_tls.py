"""HTTPS of ``gguf-hub serve``, and llama-server's environment variables."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

Cli = Callable[..., tuple[int, str, str]]
OPENSSL = shutil.which("openssl")


@pytest.fixture(autouse=True)
def need() -> None:
    """Skip where the server's packages are not installed."""
    for package in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of localhost and its key."""
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]  # fmt: skip
    subprocess.run([OPENSSL, *map(str, make)], check=True, capture_output=True)
    return cert, key


@pytest.mark.slow
def test_a_server_speaks_https_with_a_certificate(embedded: Path, tls: tuple[Path, Path]) -> None:
    import httpx

    cert, key = tls
    line = [sys.executable, "-m", "gguf_hub", "serve", str(embedded), "--port", "0", "-c", "128",
            "--ssl-cert-file", str(cert), "--ssl-key-file", str(key)]  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        url = child.stdout.readline().strip()
        try:
            assert url.startswith("https://127.0.0.1:")
            context = ssl.create_default_context(cafile=str(cert))
            with httpx.Client(base_url=url, verify=context, timeout=60) as http:
                body = {"prompt": "Once", "n_predict": 3, "stream": True}
                text = http.post("/completion", json=body).text
                assert text.count("data: ") >= 2
            with pytest.raises(httpx.HTTPError):
                httpx.get(url.replace("https", "http"))
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/health")  # nobody vouches for it
        finally:
            child.send_signal(signal.SIGINT)
        err = child.stderr.read()
    assert child.returncode == 0, err
    assert "Traceback" not in err


def test_files_of_https_that_cannot_be_used_are_refused(
    gguf_hub: Cli, tls: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = tls
    assert OPENSSL is not None
    locked, other = tmp_path / "locked.pem", tmp_path / "other.pem"
    lock = [OPENSSL, "ec", "-in", key, "-out", locked, "-aes256", "-passout", "pass:horse"]
    make = [OPENSSL, "genpkey", "-algorithm", "ed25519", "-out", other]
    for line in (lock, make):
        subprocess.run(list(map(str, line)), check=True, capture_output=True)
    cases: list[tuple[list[Any], str]] = [
        (["--ssl-cert-file", cert], "expected --ssl-cert-file and --ssl-key-file"),
        (["--ssl-cert-file", cert, "--ssl-key-file", tmp_path / "none"], "no such file"),
        (["--ssl-cert-file", key, "--ssl-key-file", key], "in PEM, without a password"),
        (["--ssl-cert-file", cert, "--ssl-key-file", locked], "in PEM, without a password"),
        (["--ssl-cert-file", cert, "--ssl-key-file", other], "in PEM, without a password"),
    ]
    for options, message in cases:
        code, out, err = gguf_hub("serve", "no-such-model.gguf", "--port", 0, *options)
        assert (code, out) == (2, "")
        assert message in err
        assert "no-such-model" not in err


# -- variables ------------------------------------------------------------------------------------


def read(*arguments: str) -> dict[str, Any]:
    """Return the options that the command reads."""
    from gguf_hub.cli.serve.serve import command

    return command.make_context("serve", list(arguments)).params


def test_variables_are_read_where_the_command_line_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {"CTX_SIZE": "777", "N_GPU_LAYERS": "0", "OVERRIDE_TENSOR": "exps=CPU", "PORT": "81",
              "TEMPERATURE": "0.3", "MODELS_AUTOLOAD": "0", "CONTEXT_SHIFT": "on",
              "TENSOR_SPLIT": "3,1", "N_PARALLEL": "2", "MODELS_MAX": "3"}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"LLAMA_ARG_{name}", value)
    options = read("x", "--port", "82", "-np", "3")
    expected = {"ctx_size": 777, "gpu_layers": 0, "override_tensor": ("exps=CPU",), "port": 82,
                "temp": 0.3, "models_autoload": False, "context_shift": True,
                "tensor_split": (3.0, 1.0), "parallel": 3, "models_max": 3}  # fmt: skip
    assert expected.items() <= options.items()


def test_every_variable_is_of_an_option() -> None:
    from gguf_hub.cli.serve.serve import command
    from gguf_hub.cli.serve.variables import VARIABLES

    options = {each.name: each for each in command.params if isinstance(each, click.Option)}
    assert {name: options[name].envvar for name in VARIABLES} == VARIABLES


def test_a_variable_with_a_wrong_value_is_named(
    gguf_hub: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_PORT", "many")
    code, out, err = gguf_hub("serve", "x")
    assert (code, out) == (2, "")
    assert "LLAMA_ARG_PORT" in err
    monkeypatch.setenv("LLAMA_ARG_PORT", "0")
    monkeypatch.setenv("LLAMA_API_KEY", "a b")
    code, out, err = gguf_hub("serve", "x")
    assert (code, out) == (2, "")
    assert "`LLAMA_API_KEY`: the key contains whitespace" in err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["there.gguf"], "there.gguf"), (["-m", "there.gguf"], "there.gguf"), ([], "variable.gguf")],
)
def test_a_model_of_a_variable_gives_way_to_the_command_line(
    gguf_hub: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str], name: str
) -> None:
    monkeypatch.setenv("LLAMA_ARG_MODEL", "variable.gguf")
    code, _, err = gguf_hub("serve", *arguments, "--port", 0)
    assert code == 1
    assert name in err
