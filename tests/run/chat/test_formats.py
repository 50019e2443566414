"""Formats by name, against llama.cpp's published texts and llama-cpp-python's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_hub.errors import UsageError
from gguf_hub.run.chat import FORMATS, find_format

PUBLISHED = {
    "chatml": "teknium/OpenHermes-2.5-Mistral-7B", "monarch": "mlabonne/AlphaMonarch-7B",
    "orion": "OrionStarAI/Orion-14B-Chat", "deepseek": "deepseek-ai/deepseek-coder-33b-instruct",
    "vicuna-orca": "Orca-Vicuna", "command-r": "CohereForAI/c4ai-command-r-plus",
    "llama3": "Llama-3", "phi3": "Phi-3-small", "chatglm4": "ChatGLM4", "glmedge": "GLMEdge",
    "minicpm": "MiniCPM-3B-OpenHermes-2.5-v2-GGUF", "deepseek2": "DeepSeek-V2",
    "granite": "ibm-granite/granite-3.0-8b-instruct",
    "mistral-v1": "mistralai/Mistral-7B-Instruct-v0.2 (mistralai 'v1' template with a system "
                  "prompt)",
    "mistral-v3": "Mistral-Large-Instruct-2407 (mistralai 'v3' template; modified to have system "
                  "prompt at start)",
    "mistral-v3-tekken": "Mistral-Nemo-Instruct-2407 (mistralai 'v3-tekken' template; modified to "
                         "have system prompt at start)",
    "mistral-v7": "mistralai/Mistral-Large-Instruct-2411 (mistralai 'v7' template)",
    "gigachat": "ai-sage/GigaChat-20B-A3B-instruct", "megrez": "Infinigence/Megrez-3B-Instruct",
    "phi4": "phi-4", "bailing": "inclusionAI/Ling-lite",
    "seed_oss": "ByteDance-Seed/Seed-OSS-36B-Instruct",
}  # fmt: skip

SYSTEM = {"role": "system", "content": "S"}
TURNS = [
    {"role": "user", "content": "u1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "u2"},
]

# name -> the text of S, u1, a1, u2
EXPECTED = {
    "llama-2": "[INST] <<SYS>>\nS\n<</SYS>> u1 [/INST]a1 </s><s>[INST]u2  [/INST]",
    "llama2": "[INST] <<SYS>>\nS\n<</SYS>>\n\nu1 [/INST]a1</s>[INST] u2 [/INST]",
    "llama-3": "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nu1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\na1<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nu2<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "alpaca": "S\n\n### Instruction: u1\n\n### Response: a1</s>### Instruction: u2\n\n"
    "### Response:",
    "vicuna": "S USER: u1 ASSISTANT: a1</s>USER: u2 ASSISTANT:",
    "oasst_llama": "[INST] <<SYS>>\nS\n<</SYS>>\n\n<|prompter|>u1</s><|assistant|>a1</s>"
    "<|prompter|>u2</s><|assistant|>",
    "baichuan-2": "S<reserved_106>u1<reserved_107>a1<reserved_106>u2<reserved_107>",
    "redpajama-incite": "S\n<human>: u1\n<bot>: a1\n<human>: u2\n<bot>:",
    "snoozy": "S\n### Prompt: u1\n### Response: a1\n### Prompt: u2\n### Response:",
    "phind": "### System Prompt\nS\n\n### User Message: u1\n\n### Assistant: a1\n\n"
    "### User Message: u2\n\n### Assistant:",
    "intel": "### System:\nS\n### User:\nu1\n### Assistant:\na1\n### User:\nu2\n### Assistant:\n",
    "mistrallite": "<|system|>S</s><|prompter|>u1 </s>\n<|assistant|>a1 <|prompter|>u2 </s>\n"
    "<|assistant|>",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nu1</s>\n<|assistant|>\na1</s>\n<|user|>\nu2</s>\n"
    "<|assistant|>\n",
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n"
    "<|im_start|>assistant\na1<|im_end|>\n<|im_start|>user\nu2<|im_end|>\n"
    "<|im_start|>assistant\n",
    "mistral-instruct": "[INST] S\nu1 [/INST]a1</s>[INST] u2 [/INST]",
    "chatglm3": "<|system|>\nS<|user|>\n u1<|assistant|>\n a1<|user|>\n u2<|assistant|>",
    "openchat": "GPT4 Correct User: S\nu1<|end_of_turn|>GPT4 Correct Assistant: a1<|end_of_turn|>"
    "GPT4 Correct User: u2<|end_of_turn|>GPT4 Correct Assistant:",
    "saiga": "<s>system\nS</s><s>user\nu1</s><s>bot\na1</s><s>user\nu2</s><s>bot",
    "gemma": "<start_of_turn>user\nS\nu1<end_of_turn>\n<start_of_turn>model\na1<end_of_turn>\n"
    "<start_of_turn>user\nu2<end_of_turn>\n<start_of_turn>model\n",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_formats_give_the_texts_that_llama_cpp_publishes(name: str, data: Path) -> None:
    published = json.loads((data / "chat" / "chat_templates.llamacpp.json").read_text("utf-8"))
    (case,) = (case for case in published["cases"] if case["name"] == PUBLISHED[name])
    messages = [{"role": role, "content": text} for role, text in published["conversation"]]
    assert find_format(name).render(messages).text == case["expected_output"]


@pytest.mark.parametrize("name", EXPECTED)
def test_formats_give_the_texts_written_out_here(name: str) -> None:
    assert find_format(name).render([SYSTEM, *TURNS]).text == EXPECTED[name]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_every_message_and_opens_the_answer(name: str) -> None:
    form = FORMATS[name]
    messages = [{**m, "content": f"«{m['content']}»"} for m in (SYSTEM, *TURNS)]
    text = form.render(messages).text
    places = [text.index(m["content"]) for m in messages]
    assert places == sorted(places)
    closed = form.render(messages, add_generation_prompt=False).text
    assert text == closed + form.opening


@pytest.mark.parametrize(
    ("name", "start"),
    [("qwen", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nu1"),
     ("vicuna", "A chat between a curious user"), ("openbuddy", "You are a helpful, respectful"),
     ("open-orca", "You are a helpful assistant. Please answer truthfully"),
     ("chatml", "<|im_start|>user\nu1"), ("llama-2", "<s>[INST]u1  [/INST]a1"),
     ("snoozy", "The prompt below is a question")],
)  # fmt: skip
def test_without_a_system_message_some_formats_bring_their_own(name: str, start: str) -> None:
    assert find_format(name).render(TURNS).text.startswith(start)


def test_stop_texts_come_with_the_prompt() -> None:
    assert find_format("ChatML ").render(TURNS).stop == ("<|im_end|>",)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="no chat format `chatmll`") as caught:
        find_format("chatmll")
    assert "`chatml`" in str(caught.value.hint)
    with pytest.raises(UsageError) as caught:
        find_format("zzz")
    assert "known are" in str(caught.value.hint)
