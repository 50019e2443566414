"""``Llama`` beyond what llama-cpp-python's answers show: state, seeds, streams, errors."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguf_hub
from gguf_hub.api.llama import (
    Llama,
    LlamaGrammar,
    LlamaRAMCache,
    LlamaValueError,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
)
from gguf_hub.errors import GrammarError, UsageError
from tests.api.llama.make_reference import OTHER_SCHEMA, TOOL
from tests.hub_server import HubServer

USER = [{"role": "user", "content": "Hi"}]


def text(answer: Any) -> str:
    found: str = answer["choices"][0]["text"]
    return found


def test_the_class_stands_at_the_top_of_the_package() -> None:
    assert gguf_hub.Llama is Llama
    with pytest.raises(AttributeError, match="no attribute 'Lama'"):
        gguf_hub.Lama  # type: ignore[attr-defined]  # noqa: B018


# -- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [[], ["girl"], [" little g"], ["."]])
def test_a_stream_joins_to_the_whole_text(llm: Llama, stop: list[str]) -> None:
    options: dict[str, Any] = {"max_tokens": 30, "temperature": 0, "stop": stop}
    whole = llm("Once upon", **options)
    chunks = list(llm("Once upon", stream=True, **options))
    assert "".join(map(text, chunks)) == text(whole)
    assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == (
        whole["choices"][0]["finish_reason"]
    )
    assert len({c["id"] for c in chunks}) == 1


def test_streamed_log_probabilities_are_those_of_the_whole(llm: Llama) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "logprobs": 3}
    whole = llm("Once", **options)["choices"][0]["logprobs"]
    parts = [c["choices"][0]["logprobs"] for c in llm("Once", stream=True, **options)]
    for key in whole:
        assert [x for part in parts if part for x in part[key]] == whole[key]


def test_a_chat_stream_says_who_speaks_first(llm: Llama) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    whole = llm.create_chat_completion(USER, **options)["choices"][0]["message"]["content"]
    deltas = [
        c["choices"][0]["delta"] for c in llm.create_chat_completion(USER, stream=True, **options)
    ]
    assert deltas[0] == {"role": "assistant"}
    assert "".join(d.get("content", "") for d in deltas) == whole


def test_two_streams_take_turns_without_mixing(llm: Llama) -> None:
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
    alone = [text(llm(prompt, **options)) for prompt in ("Once upon", "Tom")]
    streams = [llm(prompt, stream=True, **options) for prompt in ("Once upon", "Tom")]
    mixed = ["", ""]
    for chunks in zip(*streams, strict=True):
        mixed = [so_far + text(chunk) for so_far, chunk in zip(mixed, chunks, strict=True)]
    assert mixed == alone


def test_threads_share_a_model(llm: Llama) -> None:
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
    expected = [text(llm(prompt, **options)) for prompt in ("Once", "Tom", "Lily")]
    found: dict[str, str] = {}

    def work(prompt: str) -> None:
        found[prompt] = text(llm(prompt, **options))

    threads = [threading.Thread(target=work, args=(p,)) for p in ("Once", "Tom", "Lily")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[p] for p in ("Once", "Tom", "Lily")] == expected


# -- seeds --------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_text(llm: Llama) -> None:
    texts = [text(llm("The", seed=seed, max_tokens=16)) for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_the_seed_of_the_constructor_gives_the_same_row_of_texts(opened: Any) -> None:
    rows = []
    for _ in range(2):
        model = opened(seed=11)
        rows.append([text(model("The", max_tokens=12)) for _ in range(3)])
    assert rows[0] == rows[1]
    assert len(set(rows[0])) > 1


# -- grammar, formats, tools --------------------------------------------------------------------


def test_a_grammar_holds_the_output(llm: Llama) -> None:
    grammar = LlamaGrammar.from_string('root ::= ("yes" | "no") "!"')
    for given in (grammar, grammar.text):
        answer = llm("Is it?", grammar=given, seed=2)["choices"][0]
        assert answer["text"] in ("yes!", "no!")
        assert answer["finish_reason"] == "stop"


def test_an_empty_grammar_is_none_and_two_constraints_are_refused(llm: Llama) -> None:
    options: dict[str, Any] = {"max_tokens": 4, "temperature": 0}
    assert text(llm("Once", grammar="", **options)) == text(llm("Once", **options))
    json_format = {"type": "json_object"}
    with pytest.raises(GrammarError, match="a grammar or a JSON schema"):
        llm.create_chat_completion(USER, grammar='root ::= "a"', response_format=json_format)


def test_a_wrong_grammar_says_where(tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match="line 1"):
        LlamaGrammar.from_string("root ::= (")
    with pytest.raises(GrammarError, match="cannot read grammar file"):
        LlamaGrammar.from_file(tmp_path / "none.gbnf")


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object", "schema": OTHER_SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": OTHER_SCHEMA}},
    ],
    ids=["llama-cpp-python's", "OpenAI's"],
)
def test_a_response_format_holds_the_answer(llm: Llama, response_format: dict[str, Any]) -> None:
    answer = llm.create_chat_completion(USER, response_format=response_format, seed=4)
    found = json.loads(answer["choices"][0]["message"]["content"])
    assert set(found) == {"name", "age"}
    assert found["age"] in (1, 2)


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object"},
        {"type": "json_object", "schema": {"type": "object"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    ],
    ids=["no schema", "a schema of any object", "OpenAI's"],
)
def test_any_json_object_may_hold_something(
    embedded: Path, kernels: None, response_format: dict[str, Any]
) -> None:
    with Llama(embedded, n_ctx=256) as llm:
        vocab = range(llm.n_vocab())
        closing = [i for i in vocab if b"}" in llm.detokenize([1, i])]
        answer = llm.create_chat_completion(
            USER, response_format=response_format, seed=1, max_tokens=20,
            logit_bias=dict.fromkeys(closing, float("-inf")),
        )  # fmt: skip
    assert answer["choices"][0]["message"]["content"].split('"')[0].strip() == "{"
    assert answer["choices"][0]["finish_reason"] == "length"


IN_PART = {"type": "array", "uniqueItems": True, "items": {"type": "null"}, "maxItems": 1,
           "x": 1}  # fmt: skip


def test_what_is_not_held_of_a_schema_is_a_warning_or_with_strict_an_error(llm: Llama) -> None:
    def ask(**more: Any) -> Any:
        inner = {"name": "x", "schema": IN_PART, **more}
        response_format = {"type": "json_schema", "json_schema": inner}
        return llm.create_chat_completion(USER, response_format=response_format, max_tokens=9)

    with pytest.warns(UserWarning, match="at `/x`: `x` is not known"):
        ask()
    with pytest.raises(GrammarError, match="at `/x`: `x` is not known"):
        ask(strict=True)
    with pytest.warns(UserWarning, match="LlamaGrammar: schema, at `/x`"):
        LlamaGrammar.from_json_schema(json.dumps(IN_PART))
    assert "root" in LlamaGrammar.from_json_schema(json.dumps(IN_PART), verbose=False).text


def test_a_grammar_of_a_schema_counts_as_far_as_the_schema() -> None:
    text = LlamaGrammar.from_json_schema('{"type": "string", "maxLength": 500000}').text
    assert "{0,500000}" in text


def calls_of(stream: Any) -> list[dict[str, str]]:
    """Put streamed calls together as OpenAI's clients do: names and arguments add up."""
    calls: dict[int, dict[str, str]] = {}
    for chunk in stream:
        for part in chunk["choices"][0]["delta"].get("tool_calls", ()):
            call = calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
            call["id"] += part.get("id", "")
            call["name"] += part["function"].get("name", "")
            call["arguments"] += part["function"]["arguments"]
    return [{"name": c["name"], "arguments": c["arguments"]} for c in calls.values()]


OTHER = {"type": "function", "function": {"name": "tell", "parameters": OTHER_SCHEMA}}


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ([TOOL, OTHER], {"type": "function", "function": {"name": "weather"}}),
        ([TOOL], "required"),
        ([TOOL, OTHER], "required"),
    ],
    ids=["named", "the only one", "one of two"],
)
def test_a_tool_that_must_be_called_is(opened: Any, tools: list[Any], choice: Any) -> None:
    llm = opened(n_ctx=512)  # the prompt describes the tools
    options: dict[str, Any] = {"tools": tools, "tool_choice": choice, "seed": 8}
    answer = llm.create_chat_completion(USER, **options)["choices"][0]
    (call,) = answer["message"]["tool_calls"]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["content"] is None
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    assert calls_of(llm.create_chat_completion(USER, stream=True, **options)) == [call["function"]]


def test_a_tool_that_is_not_there_cannot_be_chosen(llm: Llama) -> None:
    choice = {"type": "function", "function": {"name": "wether"}}
    with pytest.raises(UsageError, match="no tool `wether`"):
        llm.create_chat_completion(USER, tools=[TOOL], tool_choice=choice)


def test_old_functions_are_tools(llm: Llama) -> None:
    answer = llm.create_chat_completion(
        USER, functions=[TOOL["function"]], function_call={"name": "weather"}, seed=1
    )
    assert answer["choices"][0]["message"]["function_call"]["name"] == "weather"


def test_a_chat_handler_answers_in_place_of_a_format(opened: Any) -> None:
    model = opened(chat_handler=lambda *, llama, messages, **_: (llama, messages))
    assert model.create_chat_completion(USER) == (model, USER)


def test_without_logits_all_the_last_position_can_be_sampled(opened: Any) -> None:
    model = opened()
    model.eval(model.tokenize(b"Once upon a time"))
    expected = model.sample(temp=0)
    assert model.sample(idx=model.n_tokens - 1, temp=0) == model.sample(idx=-1, temp=0) == expected
    with pytest.raises(ValueError, match=r"sample\(idx=2\).*were kept") as caught:
        model.sample(idx=2, temp=0)
    assert "logits_all=True" in caught.value.hint


# -- logits, cache and state --------------------------------------------------------------------


def test_scores_hold_the_logits_of_all_tokens(llm: Llama) -> None:
    tokens = llm.tokenize(b"Once upon a time")
    llm.reset()
    llm.eval(tokens[:2])
    llm.eval(tokens[2:])
    assert llm.n_tokens == len(tokens) == 5
    assert llm.scores.shape == (256, 512)
    assert llm.scores.dtype == np.float32
    at_once = llm.context.model.forward(tokens, 0, all_logits=True)
    assert np.array_equal(llm.scores[:5], at_once)
    assert llm.sample(temp=0) == at_once[-1].argmax()
    for idx in (0, 2, 4, -1, -5):
        assert llm.sample(idx=idx, temp=0) == at_once[idx].argmax()
    assert llm.input_ids[:5].tolist() == llm.eval_tokens == tokens
    assert np.allclose(np.exp(Llama.logits_to_logprobs(at_once)).sum(axis=1), 1, atol=1e-4)


def test_generate_goes_on_without_end_and_takes_tokens_in_between(llm: Llama) -> None:
    tokens = llm.tokenize(b"Once")
    stream = llm.generate(tokens, temp=0)
    first = [next(stream) for _ in range(3)]
    assert llm.detokenize(first) == b" upon a time"
    inserted = llm.tokenize(b"Tom", add_bos=False)
    after = stream.send(inserted)
    whole = [*tokens, *first, *inserted]
    assert after == llm.context.model.forward(whole, 0)[-1].argmax()


def test_a_state_can_be_come_back_to(llm: Llama) -> None:
    llm.reset()
    llm.eval(llm.tokenize(b"Once upon a time"))
    state, expected = llm.save_state(), llm.sample(temp=0)
    llm.reset()
    llm.eval(llm.tokenize(b"Tom went to the shop and"))
    llm.load_state(state)
    assert (llm.n_tokens, llm.sample(temp=0)) == (5, expected)
    llm.eval([expected])
    assert np.array_equal(llm.scores[5], llm.context.model.forward([*llm.eval_tokens], 0)[-1])


def test_a_cache_of_states_saves_work(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened()
    plain = text(model("Once upon a time", max_tokens=6, temperature=0))
    model.set_cache(LlamaRAMCache())
    for prompt in ("Once upon a time", "Tom and Lily went"):
        model(prompt, max_tokens=2, temperature=0)
    recorder, computed = model.context.recorder, []
    forward = recorder.forward

    def counted(ids: Any, *at: Any, **how: Any) -> Any:
        computed.append(len(ids))
        return forward(ids, *at, **how)

    monkeypatch.setattr(recorder, "forward", counted)
    assert text(model("Once upon a time", max_tokens=6, temperature=0)) == plain
    assert computed == [1] * 6  # of the prompt, only the last token
    assert model.cache.cache_size > 0


def test_a_cache_of_states_stays_below_its_capacity(opened: Any) -> None:
    model = opened()
    model.set_cache(LlamaRAMCache(capacity_bytes=60_000))
    for prompt in ("Once upon a time", "Tom", "Lily and her mom"):
        model(prompt, max_tokens=8)
    assert 0 < model.cache.cache_size <= 60_000


def test_processors_and_criteria_have_their_say(llm: Llama) -> None:
    forbidden = llm.tokenize(b" upon", add_bos=False)[-1]

    def forbid(ids: Any, scores: Any) -> Any:
        scores[forbidden] = -np.inf
        return scores

    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    processors = LogitsProcessorList([forbid, MinTokensLogitsProcessor(3, llm.token_eos())])
    assert " upon" not in text(llm("Once", logits_processor=processors, **options))
    answer = llm("Once", stopping_criteria=lambda ids, scores: len(ids) >= 5, **options)
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.slow
def test_the_cache_may_be_of_eight_bits(opened: Any) -> None:
    model = opened(type_k=8, type_v=8)
    assert text(model("Once upon", max_tokens=8, temperature=0)) == " a time, there was a little g"
    wide, small = opened(), model
    for each in (wide, small):
        each.eval(each.tokenize(b"Once upon a time"))
    assert small.save_state().llama_state_size < wide.save_state().llama_state_size


@pytest.mark.slow
def test_the_cache_may_be_of_float32_and_its_state_is_for_such_caches_alone(opened: Any) -> None:
    model = opened(type_k=0, type_v=0)
    usual = opened(type_k=None, type_v=1)
    assert [each.context.model.cache_types[0] for each in (model, usual)] == ["F32", "F16"]
    expected = text(model("Once upon", max_tokens=8, temperature=0))
    assert expected == " a time, there was a little g"
    for each in (usual, model):
        each.eval(each.tokenize(b"Once upon"))
    state = model.save_state()
    assert state.llama_state_size > usual.save_state().llama_state_size
    model.reset()
    model.load_state(state)
    assert text(model("Once upon", max_tokens=8, temperature=0)) == expected
    for other in (usual, opened(type_k=0)):
        with pytest.raises(ValueError, match="the state has keys of F32 and values of F32"):
            other.load_state(state)


def test_a_model_can_be_pickled(opened: Any) -> None:
    model = opened(n_ctx=64)
    twin = pickle.loads(pickle.dumps(model))
    assert (twin.n_ctx(), twin.model_path) == (64, model.model_path)
    assert text(twin("Once", temperature=0)) == text(model("Once", temperature=0))
    twin.close()


def test_facts_have_llama_cpp_pythons_names(llm: Llama) -> None:
    facts = (llm.n_ctx(), llm.n_vocab(), llm.n_embd(), llm.token_bos(), llm.token_eos())
    assert facts == (256, 512, 64, 1, 2)
    assert llm.metadata["llama.block_count"] == "5"
    assert llm.metadata["llama.attention.layer_norm_rms_epsilon"] == "0.000010"
    assert llm.chat_format == "llama-2"


@pytest.mark.parametrize(("max_tokens", "found"), [(1, "🙂"), (4, "🙂"), (5, "🙂🙂"), (9, "🙂🙂é")])
def test_max_tokens_do_not_cut_a_character(llm: Llama, max_tokens: int, found: str) -> None:
    options: dict[str, Any] = {
        "max_tokens": max_tokens, "temperature": 0, "grammar": 'root ::= "🙂🙂é" "a"*',
    }  # fmt: skip
    whole = llm("Once", **options)
    assert (text(whole), whole["choices"][0]["finish_reason"]) == (found, "length")
    assert "".join(map(text, llm("Once", stream=True, **options))) == found
    turn = llm.create_chat_completion(USER, **options)
    assert turn["choices"][0]["message"]["content"] == found


def test_a_full_context_does(opened: Any) -> None:
    small = opened(n_ctx=32)
    answer = small([1] * 30, max_tokens=1, grammar='root ::= "🙂"*')
    assert answer["usage"]["completion_tokens"] <= 3


# -- what cannot be -----------------------------------------------------------------------------


@pytest.mark.slow
def test_unknown_arguments_of_older_callers_are_accepted_with_a_warning(stories: Path) -> None:
    with pytest.warns(UserWarning, match="ignored: f16_kv, n_parts"):
        Llama(stories, n_ctx=32, n_parts=-1, f16_kv=True, n_gpu_layers=35, use_mlock=False).close()
    with pytest.warns(UserWarning, match="unsupported arguments are ignored: spm_infill"):
        Llama(stories, n_ctx=32, spm_infill=True).close()
    with pytest.raises(ValueError, match="kv_overrides 'a': expected bool, int, float or str"):
        Llama(stories, n_ctx=32, kv_overrides={"a": []})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rope_scaling_type": 3}, "rope_scaling_type: expected -1 .* found 3"),
        ({"rope_freq_base": 0.5}, "rope_freq_base: expected .* found 0.5"),
        ({"rope_freq_scale": float("nan")}, "rope_freq_scale: expected .* found nan"),
        ({"yarn_ext_factor": 2.0}, "yarn_ext_factor: expected .* found 2"),
    ],
    ids=str,
)
def test_a_position_embedding_that_cannot_be_is_a_value_error(
    stories: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Llama(stories, n_ctx=32, **arguments)


def test_the_defaults_of_llama_cpp_python_leave_the_position_embedding_alone(opened: Any) -> None:
    defaults = {"rope_scaling_type": -1, "rope_freq_base": 0.0, "rope_freq_scale": 0.0,
                "yarn_ext_factor": -1.0, "yarn_attn_factor": 1.0, "yarn_beta_fast": 32.0,
                "yarn_beta_slow": 1.0, "yarn_orig_ctx": 0}  # fmt: skip
    assert opened(**defaults).context.model.config == opened().context.model.config


@pytest.mark.parametrize("name", ["temperatur", "best_of", "more", "n_top"])
def test_unknown_arguments_of_a_call_are_type_errors(llm: Llama, name: str) -> None:
    calls: list[Any] = [llm, llm.create_completion, llm.generate]
    for call in (*calls, llm.create_chat_completion):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            call("Once" if call is not llm.create_chat_completion else USER, **{name: 0})
    with pytest.raises(TypeError, match="did you mean `temperature`"):
        calls[0]("Once", temperatur=0)


def test_a_warning_about_arguments_points_at_the_call(stories: Path) -> None:
    with pytest.warns(UserWarning, match="ignored: n_parts") as caught:
        Llama(stories, n_ctx=32, n_parts=-1).close()
    assert caught[0].filename == __file__


def test_wrong_values_are_value_errors(llm: Llama, opened: Any, stories: Path) -> None:
    with pytest.raises(ValueError, match="Model path does not exist"):
        Llama(stories.with_name("none.gguf"))
    with pytest.raises(ValueError, match=r"Requested tokens \(300\) exceed context window of 256"):
        llm([1] * 300)
    with pytest.raises(ValueError, match="logits_all=False"):
        opened()("Once", echo=True, logprobs=1)
    with pytest.raises(RuntimeError, match="embedding=True"):
        llm.embed("x")
    with pytest.raises(UsageError, match="top_p"):
        llm("Once", top_p=2)


def test_the_vocabulary_alone_needs_no_model(stories: Path) -> None:
    model = Llama(stories, vocab_only=True)
    assert model.detokenize(model.tokenize(b"Once upon")) == b"Once upon"
    with pytest.raises(LlamaValueError, match="the model is not open"):
        model.n_ctx()


# -- from_pretrained ----------------------------------------------------------------------------


@pytest.fixture
def repo(hub_server: HubServer, stories: Path) -> HubServer:
    files = {f"stories.{kind}.gguf": stories.read_bytes() for kind in ("F32", "Q4_0")}
    hub_server.add_repo("org/stories", {**files, "README.md": b"hello"})
    return hub_server


def test_a_pattern_finds_downloads_and_verifies(repo: HubServer, tmp_path: Path) -> None:
    counts = []
    for _ in range(2):
        model = Llama.from_pretrained(
            "org/stories", "*F32.gguf", local_dir=tmp_path / "models", n_ctx=64
        )
        assert text(model("Once", max_tokens=2, temperature=0)) == " upon a"
        model.close()
        counts.append(len(repo.body_requests()))
    assert counts[0] == counts[1]  # the second time nothing is to be fetched
    assert (tmp_path / "models" / "stories.F32.gguf").is_file()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("*Q8*", "No file found in org/stories"), ("*.gguf", "Multiple files found in org/stories")],
)
def test_a_pattern_must_match_one_file(repo: HubServer, pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Llama.from_pretrained("org/stories", pattern)
