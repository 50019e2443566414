"""Commands and flags of llama.cpp, Ollama and huggingface_hub, and their equivalents here.

Only names: ``arguments`` reads them, ``docs/flags.md`` lists the flags.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from gguf_hub.cli.options import together

COMMANDS = {
    "pull": "`gguf-hub download` downloads models; `gguf-hub run` does it when it needs one",
    "get": "`gguf-hub download` downloads models",
    "show": "`gguf-hub inspect` shows what a model file contains",
    "info": "`gguf-hub inspect` shows what a model file contains",
    "ps": "no model stays loaded in the background; `gguf-hub ls` lists the model files on this "
    "machine",
    "stop": "no model stays loaded in the background; Ctrl-C stops `gguf-hub serve`",
    "search": "`gguf-hub list ORG/REPO` lists the GGUF files of a repository; "
    "https://huggingface.co/models?library=gguf searches for repositories",
    "prune": "`gguf-hub gc` removes unfinished downloads and unreferenced files",
    "clean": "`gguf-hub gc` removes unfinished downloads and unreferenced files",
    "remove": "`gguf-hub rm` removes model files",
    "delete": "`gguf-hub rm` removes model files",
    "scan-cache": "`gguf-hub ls` lists the model files on this machine",
    "cache": "`gguf-hub ls` lists the model files on this machine, `gguf-hub du` their sizes",
    "chat": "`gguf-hub run MODEL -cnv` opens a conversation",
    "generate": "`gguf-hub run MODEL -p PROMPT` generates text",
    "server": "`gguf-hub serve` serves a model over HTTP",
    "create": "`gguf-hub convert` makes a GGUF from a checkpoint, `gguf-hub quantize` another "
    "quant",
    "login": "`hf auth login` stores the Hugging Face token that all commands use",
    "env": "`gguf-hub doctor` shows versions and settings",
}
"""Command of another program -> its equivalent."""


@dataclass(frozen=True)
class IgnoredFlag:
    """A flag of llama.cpp that is accepted and changes nothing.

    Attributes:
        names: Its spellings.
        reason: Why it is ignored.
        value: Metavar of its value; None for a flag without one.
        choices: Values of a flag that may come without one.
    """

    names: tuple[str, ...]
    reason: str
    value: str | None = None
    choices: tuple[str, ...] = ()


_WHOLE = "`-ngl` and `--n-cpu-moe` say what stays in RAM"
_LOG = "there is no log; messages go to stderr"
_THREADS = "the system places the threads"
_DRAFT = "the CPU computes the draft model, with the threads, context and cache types of the model"
_ON_OFF = ("on", "off", "auto", "enabled", "disabled", "true", "false", "1", "0")


def _plain(reason: str, *names: str) -> IgnoredFlag:
    return IgnoredFlag(names, reason)


def _valued(reason: str, value: str, *names: str) -> IgnoredFlag:
    return IgnoredFlag(names, reason, value)


def _optional(reason: str, *names: str) -> IgnoredFlag:
    return IgnoredFlag(names, reason, choices=_ON_OFF)


IGNORED = (
    _valued(_WHOLE, "N", "-ncffn", "--n-cpu-ffn"),
    _valued(_WHOLE, "N", "--moe-cache-mib"),
    _plain("keys and values are where their layer is computed", "-kvo", "--kv-offload", "-nkvo",
           "--no-kv-offload"),
    _plain("layers are computed where their weights are", "--op-offload", "--no-op-offload",
           "--no-host"),
    _plain("tokens are sampled on the CPU", "-bs", "--backend-sampling"),
    _optional("`gguf-hub pick` shows what fits", "-fit", "--fit"),
    _valued("`gguf-hub pick` shows what fits", "MIB", "-fitt", "--fit-target"),
    _valued("`gguf-hub pick` shows what fits", "N", "-fitc", "--fit-ctx"),
    _optional("attention always works in blocks", "-fa", "--flash-attn"),
    _valued("the K/V cache has no fragments", "N", "-dt", "--defrag-thold"),
    _plain("each sequence has a cache of its own", "-kvu", "--kv-unified", "-no-kvu",
           "--no-kv-unified"),
    _plain("requests are always batched", "-cb", "--cont-batching", "-nocb",
           "--no-cont-batching"),
    _valued("-b sets the batch size", "N", "-ub", "--ubatch-size"),
    _valued("-t sets both", "N", "-tb", "--threads-batch"),
    _valued(_DRAFT, "N", "-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft", "-td",
            "--threads-draft", "-tbd", "--threads-batch-draft", "-cd", "--ctx-size-draft",
            "--spec-draft-ngl", "--spec-draft-threads", "--spec-draft-threads-batch"),
    _valued(_DRAFT, "TYPE", "-ctkd", "--cache-type-k-draft", "-ctvd", "--cache-type-v-draft",
            "--spec-draft-type-k", "--spec-draft-type-v"),
    _valued(_DRAFT, "DEVICES", "-devd", "--device-draft", "--spec-draft-device"),
    _plain("weights are used as they are in the file", "-nr", "--repack", "--no-repack"),
    _plain("nothing is computed ahead of the prompt", "--warmup", "--no-warmup"),
    _plain("chat templates are always Jinja templates", "--jinja", "--no-jinja"),
    _valued(_THREADS, "TYPE", "--numa"),
    _valued(_THREADS, "MASK", "-C", "--cpu-mask", "-Cb", "--cpu-mask-batch"),
    _valued(_THREADS, "RANGE", "-Cr", "--cpu-range", "-Crb", "--cpu-range-batch"),
    _valued(_THREADS, "0|1", "--cpu-strict", "--cpu-strict-batch"),
    _valued(_THREADS, "N", "--prio", "--prio-batch", "--poll", "--poll-batch"),
    _plain(_LOG, "--log-disable", "--log-prefix", "--no-log-prefix", "--log-timestamps",
           "--no-log-timestamps", "--log-jsonl", "--no-log-jsonl", "--log-verbose"),
    _valued(_LOG, "N", "-lv", "--verbosity", "--log-verbosity"),
    _optional(_LOG, "--log-colors"),
)  # fmt: skip
"""Flags that `run`, `serve` and `embed` ignore."""

_OF_PROMPTS = (
    _plain(_LOG, "-v", "--verbose"),
    _plain("-p is printed as it is", "--verbose-prompt"),
)
IGNORED_BY_RUN = (
    *_OF_PROMPTS,
    _plain("text in three quotes has several lines", "-mli", "--multiline-input"),
    _valued("reasoning is printed as the model writes it", "FORMAT", "--reasoning-format"),
)
IGNORED_BY_EMBED = (
    *_OF_PROMPTS,
    _plain("escapes in -p are always processed", "-e", "--escape"),
    _plain("vectors are all that it prints", "--embedding", "--embeddings"),
    _valued("texts are computed one after another", "N", "-np", "--parallel"),
)
IGNORED_BY_SERVE = (
    _plain("`/metrics` has the timings", "--perf", "--no-perf"),
    _plain("`/metrics` is always available", "--metrics"),
    _plain("`/v1/embeddings` is always available", "--embedding", "--embeddings"),
    _valued("one process answers all requests", "N", "--threads-http"),
    _valued(
        "a slot is chosen by the longest common beginning", "N", "-sps", "--slot-prompt-similarity"
    ),
    _plain(
        "slots keep what they hold until they are needed",
        "--cache-idle-slots",
        "--no-cache-idle-slots",
    ),
    _valued(
        "checkpoints are kept where a model needs them",
        "N",
        "-ctxcp",
        "--ctx-checkpoints",
        "--swa-checkpoints",
        "-cms",
        "--checkpoint-min-step",
    ),
    _valued("streams show every ten seconds that they are alive", "N", "--sse-ping-interval"),
)

_NO_DRAFT_KIND = "`--model-draft` drafts with a second model, `--lookup` from the text so far"
_TEXT_ONLY = "this version is text only, no images or audio"
_PROXY = "put a reverse proxy in front of the server"
_IN_REQUESTS = "clients send it in each request"

REFUSED = {
    ("-dr", "--docker-repo"): "models come from the Hugging Face Hub: `-hf ORG/REPO`",
    ("--lora-init-without-apply",): "adapters have the scale of the command line: `--lora-scaled "
    "FILE:0` leaves one out",
    ("--control-vector", "--control-vector-scaled", "--control-vector-layer-range"): "a LoRA "
    "adapter changes a model, too: `--lora FILE`",
    ("--spec-type", "-lcs", "--lookup-cache-static", "-lcd", "--lookup-cache-dynamic",
     "--draft-p-split", "--spec-draft-p-split", "--spec-replace"): _NO_DRAFT_KIND,
    ("-mm", "--mmproj", "-mmu", "--mmproj-url", "--image", "--audio", "--video"): _TEXT_ONLY,
    ("--check-tensors",): "`gguf-hub verify --deep MODEL` checks every weight",
    ("-cl", "--cache-list"): "`gguf-hub ls` lists the model files on this machine",
    ("--completion-bash",): "`eval \"$(_GGUF_HUB_COMPLETE=bash_source gguf-hub)\"` installs it",
    ("-lm", "--load-mode", "-dio", "--direct-io", "-ndio"): "`--mmap`, `--no-mmap` and `--mlock` "
    "choose how the file is loaded",
    ("-o", "--output", "--output-file"): "redirect stdout: `> FILE`",
    ("-gan", "--grp-attn-n", "-gaw", "--grp-attn-w"): "`--rope-scaling yarn --rope-scale N` "
    "extends the context",
    ("--adaptive-target", "--adaptive-decay"): "`gguf-hub run --help` lists the sampling flags",
    ("--rpc",): "a model runs on one machine",
}  # fmt: skip
"""Flags of llama.cpp that no command accepts -> what to do instead."""

REFUSED_BY_RUN = {
    ("-np", "--parallel"): "`gguf-hub serve -np N` answers several requests at once",
    ("--host", "--port"): "`gguf-hub serve` serves a model over HTTP",
    ("--server-base",): "any OpenAI client talks to `gguf-hub serve`",
}
REFUSED_BY_SERVE = {
    ("-p", "--prompt", "-f", "--file", "-sys", "--system-prompt", "-sysf",
     "--system-prompt-file", "-l", "--logit-bias", "--grammar", "--grammar-file",
     "-j", "--json-schema", "-jf", "--json-schema-file", "-r",
     "--reverse-prompt", "--ignore-eos"): _IN_REQUESTS,
    ("-cnv", "--conversation", "-i", "--interactive"): "`gguf-hub run MODEL -cnv` opens a "
    "conversation; the web page of the server has one too",
    ("--path", "--reuse-port"): _PROXY,
    ("--tools", "--mcp-servers-config", "--mcp-servers-json", "-ag", "--agent"): "this server "
    "runs no tools: clients do, with the calls of answers",
    ("--models-preset",): "all models have the settings of the command line",
    ("--cache-reuse", "-cram", "--cache-ram"): "prompts are cached from their first token on in "
    "the slots, and nowhere else; `--slot-save-path FOLDER` saves them to files",
}  # fmt: skip
REFUSED_BY_DOWNLOAD: dict[tuple[str, ...], str] = {
    ("--repo-type",): "only repositories of models have GGUF files",
    ("--force-download",): "`gguf-hub verify --repair MODEL` downloads the damaged parts again",
}

IGNORED_OF = {
    "run": IGNORED + IGNORED_BY_RUN,
    "embed": IGNORED + IGNORED_BY_EMBED,
    "serve": IGNORED + IGNORED_BY_SERVE,
}
"""Command -> the flags that it accepts and ignores."""
REFUSED_OF: Mapping[str, Mapping[tuple[str, ...], str]] = {
    "run": REFUSED | REFUSED_BY_RUN,
    "embed": REFUSED,
    "serve": REFUSED | REFUSED_BY_SERVE,
    "download": REFUSED_BY_DOWNLOAD,
}
"""Command -> flags of other programs that it refuses -> what to do instead."""


def refusal(command: str, flag: str) -> str | None:
    """Return what to do instead of using a flag of another program; None for an unknown flag."""
    refused = REFUSED_OF.get(command, {})
    return next((hint for names, hint in refused.items() if flag in names), None)


def ignored_options(command: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator that adds the flags that a command accepts and ignores."""
    return together(*(_option(flag, name) for flag in IGNORED_OF[command] for name in flag.names))


def _option(flag: IgnoredFlag, name: str) -> Any:
    """Return one spelling as a hidden option of its own, so that the note can name it."""

    def note(ctx: click.Context, option: click.Parameter, value: Any) -> None:
        """Say that a flag that was given changes nothing, and why."""
        from gguf_hub.cli import console

        if value not in (None, False, "0") and not ctx.resilient_parsing:
            console.note(f"{name} is ignored: {flag.reason}")

    settings: dict[str, Any] = {"is_flag": True}
    if flag.choices:
        choice = click.Choice(flag.choices, case_sensitive=False)
        settings = {"is_flag": False, "flag_value": flag.choices[0], "type": choice}
    elif flag.value:
        settings = {"metavar": flag.value}
    parameter = "ignored" + name.replace("-", "_").replace("_C", "_mask_c")
    return click.option(name, parameter, hidden=True, expose_value=False, callback=note, **settings)
