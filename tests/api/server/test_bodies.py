"""Bodies of requests: what stands for a default, what is refused, what is read how."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")

from pydantic import BaseModel, ValidationError

from gguf_hub.api.server import bodies
from gguf_hub.api.server.anthropic import bodies as anthropic_bodies
from gguf_hub.api.server.bodies import (
    MAX_STOP_BYTES,
    Body,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    NativeBody,
)
from gguf_hub.api.server.ollama import bodies as ollama_bodies
from gguf_hub.api.server.responses import bodies as responses_bodies
from gguf_hub.run.generation import sampler_config

USER = [{"role": "user", "content": "Hi"}]
REQUIRED: dict[str, Any] = {"messages": USER, "input": "x", "role": "user"}
ROUTES = (bodies, anthropic_bodies, responses_bodies, ollama_bodies)
FOUND = {
    model
    for module in ROUTES
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, BaseModel) and model is not BaseModel
}
MODELS = sorted(FOUND - {Body}, key=lambda model: f"{model.__module__}.{model.__name__}")


def sample(name: str, field: Any) -> Any:
    """Return a value of a field that must be given."""
    if get_origin(field.annotation) is Literal:
        return get_args(field.annotation)[0]
    if isinstance(field.annotation, type) and issubclass(field.annotation, Body):
        inner = field.annotation.model_fields.items()
        return {name: sample(name, each) for name, each in inner if each.is_required()}
    kinds: dict[Any, Any] = {str: "x", int: 1, dict: {}}
    kind = get_origin(field.annotation) or field.annotation
    return kinds[kind] if kind in kinds else REQUIRED.get(name, "x")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_null_is_the_default_of_every_optional_field(model: type[Body]) -> None:
    given = {
        field.alias or name: sample(name, field)
        for name, field in model.model_fields.items()
        if field.is_required()
    }
    optional = model.model_fields.keys() - given.keys()
    expected = model.model_validate(given).model_dump()
    assert model.model_validate({**given, **dict.fromkeys(optional)}).model_dump() == expected


def test_every_body_is_one_of_these() -> None:
    assert all(issubclass(model, Body) for model in MODELS)


def test_null_is_no_default_of_what_must_be_given() -> None:
    for model, name in ((ChatBody, "messages"), (EmbeddingBody, "input")):
        with pytest.raises(ValidationError, match=name):
            model.model_validate({name: None})


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "\ud83d"},
        {"prompt": ["a", [1, "b\udc00"]]},
        {"stop": ["x", "\ud800\ud800"]},
        {"grammar": 'root ::= "\ud83d"'},
        {"json_schema": {"enum": [{"\udfff": 1}]}},
        {"response_format": {"\ud83d": 1}},
        {"unknown": {"deep": [["\udfff"]]}},
    ],
    ids=str,
)
def test_halves_of_characters_are_refused_wherever_they_stand(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="half of a UTF-16 surrogate pair"):
        CompletionBody.model_validate(body)
    with pytest.raises(ValidationError, match=r"messages\.0\.content: .* surrogate pair"):
        ChatBody.model_validate({"messages": [{"role": "user", "content": "a\ud83d"}]})


def test_stop_texts_are_limited_by_their_bytes_alone() -> None:
    n = MAX_STOP_BYTES // 4
    for stops, is_taken in ((["€"] * 1000, True), (["🙂"] * n, True), (["🙂"] * n + ["a"], False)):
        if is_taken:
            assert CompletionBody.model_validate({"stop": stops}).stop == stops
        else:
            with pytest.raises(ValidationError, match=f"expected at most {MAX_STOP_BYTES} bytes"):
                CompletionBody.model_validate({"stop": stops})


@pytest.mark.parametrize("model", [NativeBody, CompletionBody])
@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"grammar": ""}, (None, None)),
        ({"grammar": "", "json_schema": {}}, (None, None)),
        ({"grammar": "g", "json_schema": {}}, ("g", None)),
        ({"grammar": "", "json_schema": {"enum": [1]}}, (None, {"enum": [1]})),
        ({"json_schema": {}}, (None, {})),
    ],
    ids=str,
)
def test_an_empty_grammar_is_none(model: Any, fields: dict[str, Any], constraint: Any) -> None:
    body = model.model_validate(fields)
    assert (body.grammar, body.json_schema) == constraint
    assert body.has_grammar == (constraint != (None, None))


def test_limits_of_answers_have_llama_servers_names() -> None:
    assert NativeBody.model_validate({"max_tokens": 5}).n_predict == 5
    assert NativeBody.model_validate({"n_predict": 3, "max_tokens": 5}).n_predict == 3


@pytest.mark.parametrize("n", [1, 2])
def test_more_texts_than_are_returned_are_refused(n: int) -> None:
    assert CompletionBody.model_validate({"n": n, "best_of": n}).n == n
    with pytest.raises(ValidationError, match="best_of"):
        CompletionBody.model_validate({"n": n, "best_of": n + 1})


@pytest.mark.parametrize("samplers", ["kt", ["top_k", "tfs_z", "temp"], "top-k;temperature"])
def test_steps_and_breakers_reach_the_sampler(samplers: Any) -> None:
    fields = {"samplers": samplers, "dry_sequence_breakers": ["x", "\n"]}
    config = sampler_config(CompletionBody.model_validate(fields).settings())
    assert config.samplers == ("top_k", "temperature")
    assert list(config.dry_sequence_breakers) == ["x", "\n"]
    assert sampler_config({"samplers": ["tfs_z"]}).samplers == ()
