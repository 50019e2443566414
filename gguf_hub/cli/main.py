"""The ``gguf-hub`` command: finds the sub-command, runs it, and turns errors into one clear line.

Sub-commands are imported only when they are called, so that ``--help`` is instant: the table below
holds their one-line help.
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module

import click

from gguf_hub import __version__
from gguf_hub.errors import GgufHubError

FAMILIES = {
    "start": (
        "First look",
        {
            "quickstart": "Run a full demo with a small built-in model.",
            "doctor": "Show what gguf-hub detects on this machine.",
        },
    ),
    "pick": (
        "Choose",
        {
            "pick": "Pick the right quant for this machine.",
            "list": "List the GGUF files of the catalog or of a repository.",
        },
    ),
    "download": (
        "Download",
        {"download": "Download files by name, quant or pattern, and verify them."},
    ),
    "run": (
        "Run",
        {
            "run": "Generate text.",
            "embed": "Print vectors of texts, or a reranker's scores.",
        },
    ),
    "serve": (
        "Serve",
        {
            "serve": "Serve models over HTTP: OpenAI-compatible API and a web page.",
            "mirror": "Serve verified files to other machines as a Hub endpoint.",
        },
    ),
    "cluster": (
        "Several machines",
        {"cluster": "Start, show or stop a cluster of machines."},
    ),
    "measure": (
        "Measure",
        {
            "bench": "Benchmark a model on this machine.",
            "perplexity": "Measure perplexity and KL divergence.",
            "compare": "Compare quants: perplexity, KL divergence, size and speed.",
            "imatrix": "Make, merge and show importance matrices.",
            "warmup": "Compile kernels ahead of the first run.",
        },
    ),
    "files": (
        "GGUF files",
        {
            "verify": "Check GGUF structure and SHA-256.",
            "inspect": "Show what a GGUF file contains.",
            "upgrade": "Convert an old GGUF to the current layout, losslessly.",
            "edit": "Edit metadata and tensor names.",
            "split": "Split a GGUF into shards.",
            "merge": "Merge the shards of a GGUF into one file.",
            "convert": "Convert a Hugging Face checkpoint to GGUF.",
            "quantize": "Quantize a model.",
        },
    ),
    "local": (
        "Model files on this machine",
        {
            "ls": "List the model files on this machine.",
            "path": "Print the path of a model on this machine.",
            "du": "Show disk usage by repository.",
            "share": "Let Ollama, LM Studio and others use a model without a copy.",
            "rm": "Remove model files; asks first.",
            "gc": "Show or remove unfinished downloads and unreferenced files.",
        },
    ),
}
"""Folder under ``cli/`` -> heading, and its commands with one line of help each."""

COMMANDS = {name: text for _, members in FAMILIES.values() for name, text in members.items()}
"""Command -> one line of help."""


def module_of(command: str) -> str:
    """Return the name of the module that holds a command, as ``command``."""
    family = next(name for name, (_, members) in FAMILIES.items() if command in members)
    return f"gguf_hub.cli.{family}.{command.replace('-', '_')}"


class LazyGroup(click.Group):
    """A group that imports only the command that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called ``cmd_name``."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(module_of(cmd_name)).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        width = max(map(len, COMMANDS)) + 2
        for heading, members in FAMILIES.values():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:{width}}", text) for name, text in members.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command and preprocess its arguments; suggest one for an unknown name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise _unknown(args[0])
        name, command, remaining = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            from gguf_hub.cli.arguments import read_arguments

            sub = click.Context(command, ctx, name, **command.context_settings)
            remaining = read_arguments(command, sub, remaining)
        return name, command, remaining


def _unknown(name: str) -> GgufHubError:
    from gguf_hub.cli.compatibility import COMMANDS as ELSEWHERE
    from gguf_hub.cli.console import near
    from gguf_hub.errors import UsageError

    if name in ELSEWHERE:
        return UsageError(f"no such command `{name}`", hint=ELSEWHERE[name])
    usage = "`gguf-hub --help` lists the commands"
    return UsageError(f"no such command `{name}`{near(name, COMMANDS)}", hint=usage)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="gguf-hub")
def cli() -> None:
    """Pick, download, verify and run GGUF models on this machine.

    Exit codes: 0 fine, 1 found a problem or failed, 2 wrong usage.
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with 0 (fine), 1 (problem or failure) or 2 (usage)."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run the command line and return the exit code; never a traceback for bad input."""
    from gguf_hub.cli import console
    from gguf_hub.cli.log_file import close_log

    console.use_text()
    console.escape_unencodable_characters()
    try:
        args = sys.argv[1:] if args is None else args
        code = cli.main(args=args or ["--help"], prog_name="gguf-hub", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except GgufHubError as error:
        console.error(error.message, hint=error.hint)
        return error.exit_code
    except click.UsageError as error:
        command_path = error.ctx.command_path if error.ctx else "gguf-hub"
        text = error.format_message().rstrip(".")
        if not text[:2].isupper():  # MODEL stays as it is
            text = text[:1].lower() + text[1:]
        console.error(text, hint=f"`{command_path} --help` shows the usage")
        return 2
    except click.ClickException as error:
        console.error(error.format_message())
        return error.exit_code
    except MemoryError:
        console.error(
            "not enough memory",
            hint="a smaller context (`-c`), a smaller batch (`-b`) or a smaller file takes less",
        )
        return 1
    except (click.Abort, KeyboardInterrupt):
        console.error("interrupted")
        return 130
    except BrokenPipeError:
        # the reader (`| head`) has closed the pipe
        sys.stderr.close()
        return 0
    except OSError as error:
        from gguf_hub.oserrors import is_full, reason_of

        if error.filename is not None or not is_full(error):
            raise
        with contextlib.suppress(OSError):
            sys.stdout.close()  # what it holds would fail again at the end of the process
        console.error(f"cannot write the output: {reason_of(error)}")
        return 1
    finally:
        close_log()
