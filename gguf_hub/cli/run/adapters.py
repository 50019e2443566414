"""LoRA adapters: llama.cpp's flags, for every command that opens a model."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import together

if TYPE_CHECKING:
    from gguf_hub.run.model.settings import AdapterFile


def _check(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what is no file and scale before anything is downloaded."""
    try:
        for value in values:
            list((_scaled if option.name == "lora_scaled" else _plain)(value))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, option) from None
    return values


adapter_options = together(
    click.option(
        "--lora", multiple=True, metavar="FILE", callback=_check,
        help="Apply a LoRA adapter in GGUF form; repeatable, or commas between several.",
    ),
    click.option(
        "--lora-scaled", multiple=True, metavar="FILE:SCALE", callback=_check,
        help="The same, with a factor of what it adds.",
    ),
)  # fmt: skip
"""Add the options that ``adapters_of`` reads."""


def adapters_of(options: Mapping[str, Any]) -> tuple[AdapterFile, ...]:
    """Return the adapters of the options, those without a scale first."""
    from gguf_hub.run.model.settings import AdapterFile

    found = [each for value in options.get("lora", ()) for each in _plain(value)]
    found += [each for value in options.get("lora_scaled", ()) for each in _scaled(value)]
    return tuple(AdapterFile(Path(path), scale) for path, scale in found)


def make_absolute(options: dict[str, Any]) -> None:
    """Name the adapters so that a process that works in another folder finds them."""
    found = adapters_of(options)
    options["lora"] = ()
    options["lora_scaled"] = tuple(
        '"' + f"{adapter.path.absolute()}:{adapter.scale!r}".replace('"', '""') + '"'
        for adapter in found
    )


def _plain(value: str) -> Iterator[tuple[str, float]]:
    for path in next(csv.reader([value]), []):
        if not path:
            raise ValueError(f"{value!r} has an empty name: expected FILE[,FILE...]")
        yield path, 1.0


def _scaled(value: str) -> Iterator[tuple[str, float]]:
    """Yield files and scales; a colon in the name of a file is none of a scale."""
    for text in next(csv.reader([value]), []):
        path, _, scale = text.rpartition(":")
        try:
            number = float(scale)
        except ValueError:
            number = None
        if not path or number is None:
            raise ValueError(f"{text!r}: expected FILE:SCALE, SCALE a number")
        yield path, number
