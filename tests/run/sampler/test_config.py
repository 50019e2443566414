"""Settings: llama.cpp's defaults, checks that quote interval and value, orders as text."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_hub.errors import UsageError
from gguf_hub.run.sampler import SamplerConfig, parse_samplers


def test_the_defaults_are_in_their_intervals_and_in_llama_cpps_order() -> None:
    config = SamplerConfig.from_options(temp=None)
    assert config == SamplerConfig()
    assert config.samplers == parse_samplers("edskypmxt")
    assert ";".join(config.samplers) == (
        "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": 1.5}, r"top_p: expected \[0, 1\], found 1.5"),
        ({"min_p": -0.1}, r"min_p: expected \[0, 1\], found -0.1"),
        ({"seed": 2**32}, r"seed: expected a whole number in \[-1, 4294967295\], found 4294967296"),
        ({"top_k": 4.5}, r"top_k: expected a whole number in \(-inf, inf\), found 4.5"),
        ({"top_k": True}, "top_k: expected a whole number"),
        ({"temp": float("nan")}, r"temp: expected \(-inf, inf\), found nan"),
        ({"temp": float("inf")}, "temp: expected"),
        ({"temp": "hot"}, "temp: expected .*, found 'hot'"),
        ({"repeat_penalty": 0}, r"repeat_penalty: expected \(0, inf\), found 0"),
        ({"repeat_last_n": -2}, r"repeat_last_n: expected a whole number in \[-1, inf\), found -2"),
        ({"mirostat": 3}, r"mirostat: expected a whole number in \[0, 2\], found 3"),
        ({"logit_bias": {-1: 0.0}}, "logit_bias: .*found -1: 0.0"),
        ({"logit_bias": {5: float("nan")}}, "logit_bias: .*found 5: nan"),
        ({"samplers": ("top_k", "beam")}, "samplers: no step `beam`"),
        ({"samplers": "kz"}, "samplers: no step `z`"),
        ({"samplers": "top_k;beam"}, "samplers: no step `beam`"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value)[:40],
)
def test_a_value_out_of_its_interval_is_quoted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        SamplerConfig.from_options(**options)
    assert caught.value.exit_code == 2


def test_an_unknown_option_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="no sampling option `top_pp`") as caught:
        SamplerConfig.from_options(top_pp=1)
    assert caught.value.hint == "did you mean `top_p`?"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("kpt", ("top_k", "top_p", "temperature")),
        ("top_k;top_p;temperature", ("top_k", "top_p", "temperature")),
        ("top-k; nucleus ;TEMP;", ("top_k", "top_p", "temperature")),
        ("min_p", ("min_p",)),
        ("typical", ("typ_p",)),
        ("", ()),
    ],
)
def test_an_order_is_names_or_letters(text: str, names: tuple[str, ...]) -> None:
    assert parse_samplers(text) == names
