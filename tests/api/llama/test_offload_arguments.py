"""``n_gpu_layers`` and the like of ``Llama``: what they ask for."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_hub.api.llama import arguments
from gguf_hub.api.llama.arguments import offload_request
from gguf_hub.api.llama.parts import LlamaValueError
from gguf_hub.run.model.settings import ALL_LAYERS


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"n_layers": 0}),
        ({"n_gpu_layers": 0}, {"n_layers": 0}),
        ({"n_gpu_layers": None}, {"n_layers": 0}),
        ({"n_gpu_layers": 35}, {"n_layers": 35, "label": "n_gpu_layers=35"}),
        ({"n_gpu_layers": -1}, {"n_layers": ALL_LAYERS}),
        ({"n_gpu_layers": 1, "split_mode": 0, "main_gpu": 2}, {"mode": "none", "main_gpu": 2}),
        ({"split_mode": 1, "tensor_split": [0.7, 0.3]}, {"mode": "layer", "split": (0.7, 0.3)}),
        ({"split_mode": None, "tensor_split": None, "main_gpu": None}, {"mode": "layer"}),
    ],
)
def test_what_is_asked_for(given: dict[str, Any], expected: dict[str, Any]) -> None:
    request = offload_request(given)
    assert {name: getattr(request, name) for name in expected} == expected


@pytest.mark.parametrize(
    "given", [{"n_gpu_layers": "many"}, {"split_mode": 7}, {"tensor_split": [-1.0]},
              {"main_gpu": -1}]
)  # fmt: skip
def test_invalid_values_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(LlamaValueError, match="expected"):
        offload_request(given)


def test_they_are_known_arguments(recwarn: pytest.WarningsRecorder) -> None:
    arguments.check_extra({"n_gpu_layers": 3, "split_mode": 1, "main_gpu": 0, "tensor_split": None})
    assert not recwarn
