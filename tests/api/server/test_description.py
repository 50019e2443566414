"""The OpenAPI description of the servers."""

from __future__ import annotations

import pytest

from tests.api.server.conftest import need

ROUTERS = ("ollama.routes", "router.ollama", "router.routes", "openai_routes")


@pytest.mark.parametrize("name", ROUTERS)
def test_each_parameter_of_a_path_is_described(name: str) -> None:
    need()
    from importlib import import_module

    router = import_module(f"gguf_hub.api.server.{name}").router
    described = [route for route in router.routes if getattr(route, "include_in_schema", False)]
    assert described
    for route in described:
        params = {param.name for param in route.dependant.path_params}
        assert params == set(route.param_convertors), route.path
