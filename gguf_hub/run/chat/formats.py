"""Conversation formats by name: llama-cpp-python's ``chat_format`` and llama.cpp's built-in ones.

Each is a row: what stands around the system message and around each turn. The names and texts are
those of llama-cpp-python (llama_cpp/llama_chat_format.py) and llama.cpp (src/llama-chat.cpp), with
these differences to llama-cpp-python, where its text is not what the model was trained on: alpaca
ends with the heading of the answer; llama-2 does not begin with a blank; intel puts the system
message in place of its placeholder; open-orca keeps the turns; zephyr and openchat have no stray
line breaks; saiga keeps the bot's turns; and a system message is used everywhere, never dropped.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf_hub.errors import UsageError
from gguf_hub.run.chat import generic
from gguf_hub.run.chat.harmony import HarmonyFormat
from gguf_hub.run.chat.messages import (
    ChatFormat,
    ChatPrompt,
    Message,
    merge_system,
    plain_messages,
)

Around = tuple[str, str]
"""What stands before and after a text."""


@dataclass(frozen=True)
class NamedFormat:
    """One format, as text around the messages."""

    user: Around
    assistant: Around
    opening: str
    """Start of the assistant's next turn."""
    system: Around | None = None
    """None: the system message goes in front of the user's first one."""
    start: str = ""
    """In front of everything."""
    default_system: str | None = None
    """Used without a system message; None: nothing stands in its place."""
    after_system: Around | None = None
    """Around the user's turn that follows a system message, where that differs."""
    stop: tuple[str, ...] = ()
    trim: tuple[str, ...] = ()
    """Roles whose messages lose the blanks at both ends."""

    @property
    def source(self) -> str:
        """No template (see ``ChatFormat``)."""
        return ""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> ChatPrompt:
        """Return the prompt of a conversation (see ``ChatFormat``)."""
        turns = generic.system_developers(plain_messages(messages))
        if tools:
            turns = generic.with_tools(turns, tools)
        if generic.special_turns(turns):
            turns = generic.plain_turns(turns)
        has_system = bool(turns) and turns[0]["role"] == "system"
        if has_system and self.system is None:
            turns, has_system = merge_system(turns), False
        if not has_system and self.default_system is not None:
            turns = [{"role": "system", "content": self.default_system}, *turns]
        parts = [self.start]
        for i, turn in enumerate(turns):
            before, after = self._around(turn["role"], i == 1 and turns[0]["role"] == "system")
            content = turn["content"].strip() if turn["role"] in self.trim else turn["content"]
            parts.append(f"{before}{content}{after}")
        if add_generation_prompt:
            parts.append(self.opening)
        return ChatPrompt("".join(parts), self.stop)

    def _around(self, role: str, follows_system: bool) -> Around:
        if role == "assistant":
            return self.assistant
        if role == "system" and self.system is not None:
            return self.system
        return self.after_system if follows_system and self.after_system else self.user


def _same(before: str, after: str, *, system: str | None, user: str, assistant: str,
          opening: str | None = None, **options: Any) -> NamedFormat:  # fmt: skip
    """Return a format whose turns differ in the name of the role alone, ``{}`` in ``before``."""
    return NamedFormat(
        user=(before.format(user), after),
        assistant=(before.format(assistant), after),
        opening=before.format(assistant) if opening is None else opening,
        system=None if system is None else (before.format(system), after),
        **options,
    )


_ALL = ("system", "user", "assistant")
_NAMES = {"system": "system", "user": "user", "assistant": "assistant"}
_CHATML = _same("<|im_start|>{}\n", "<|im_end|>\n", **_NAMES, stop=("<|im_end|>",))
_GRANITE = _same("<|start_of_role|>{}<|end_of_role|>", "<|end_of_text|>\n", **_NAMES)
_PHI = _same("<|{}|>\n", "<|end|>\n", **_NAMES, stop=("<|end|>",))
_GEMMA = _same("<start_of_turn>{}\n", "<end_of_turn>\n", system=None, user="user",
               assistant="model", stop=("<end_of_turn>",), trim=_ALL)  # fmt: skip

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
_SNOOZY_SYSTEM = (
    "The prompt below is a question to answer, a task to complete, or a conversation to respond "
    "to; decide which and write an appropriate response."
)
_ORCA_SYSTEM = (
    "You are a helpful assistant. Please answer truthfully and write out your thinking step by "
    "step to be sure you get the right answer. If you make a mistake or encounter an error in "
    "your thinking, say so out loud and attempt to correct it. If you don't know or aren't sure "
    "about something, say so clearly. You will act as a professional logician, mathematician, and "
    "physicist. You will also act as the most appropriate type of expert to answer any particular "
    "question or solve the relevant problem; state which expert type your are, if so. Also think "
    "of any particular named expert that would be ideal to answer the relevant question or solve "
    "the relevant problem; name and act as them, if appropriate."
)
_BUDDY_SYSTEM = (
    "You are a helpful, respectful and honest INTP-T AI Assistant named Buddy. You are talking to "
    "a human User.\nAlways answer as helpfully and logically as possible, while being safe. Your "
    "answers should not include any harmful, political, religious, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially "
    "unbiased and positive in nature.\nIf a question does not make any sense, or is not factually "
    "coherent, explain why instead of answering something not correct. If you don't know the "
    "answer to a question, please don't share false information.\nYou can speak fluently in many "
    "languages, for example: English, Chinese.\nYou cannot access the internet, but you have vast "
    "knowledge, cutoff: 2021-09.\nYou are trained by OpenBuddy team, (https://openbuddy.ai, "
    "https://github.com/OpenBuddy/OpenBuddy), you are based on LLaMA and Falcon transformers "
    "model, not related to GPT or OpenAI.\n\n"
)

FORMATS: dict[str, NamedFormat] = {
    # llama-cpp-python's names
    "llama-2": NamedFormat(
        ("<s>[INST]", "  "), ("[/INST]", " </s>"), "[/INST]",
        system=("[INST] <<SYS>>\n", "\n<</SYS>> "), after_system=("", " "),
    ),
    "llama-3": _same("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", **_NAMES,
                     stop=("<|eot_id|>",)),
    "alpaca": NamedFormat(
        ("### Instruction: ", "\n\n"), ("### Response: ", "</s>"), "### Response:",
        system=("", "\n\n"), default_system="", stop=("### Instruction",),
    ),
    "qwen": _same("<|im_start|>{}\n", "<|im_end|>\n", **_NAMES, stop=("<|endoftext|>",),
                  default_system="You are a helpful assistant."),
    "vicuna": NamedFormat(
        ("USER: ", " "), ("ASSISTANT: ", "</s>"), "ASSISTANT:",
        system=("", " "), default_system=_VICUNA_SYSTEM,
    ),
    "oasst_llama": NamedFormat(
        ("<|prompter|>", "</s>"), ("<|assistant|>", "</s>"), "<|assistant|>",
        system=("[INST] <<SYS>>\n", "\n<</SYS>>\n\n"), default_system="",
    ),
    "baichuan": NamedFormat(("<reserved_102>", ""), ("<reserved_103>", ""), "<reserved_103>",
                            system=("", "")),
    "baichuan-2": NamedFormat(("<reserved_106>", ""), ("<reserved_107>", ""), "<reserved_107>",
                              system=("", "")),
    "openbuddy": NamedFormat(("User: ", "\n"), ("Assistant: ", "\n"), "Assistant:",
                             system=("", "\n"), default_system=_BUDDY_SYSTEM),
    "redpajama-incite": NamedFormat(
        ("<human>: ", "\n"), ("<bot>: ", "\n"), "<bot>:",
        system=("", "\n"), default_system="", stop=("<human>",),
    ),
    "snoozy": NamedFormat(
        ("### Prompt: ", "\n"), ("### Response: ", "\n"), "### Response:",
        system=("", "\n"), default_system=_SNOOZY_SYSTEM, stop=("###",),
    ),
    "phind": NamedFormat(
        ("### User Message: ", "\n\n"), ("### Assistant: ", "\n\n"), "### Assistant:",
        system=("### System Prompt\n", "\n\n"),
        default_system="You are an intelligent programming assistant.",
    ),
    "intel": NamedFormat(("### User:\n", "\n"), ("### Assistant:\n", "\n"), "### Assistant:\n",
                         system=("### System:\n", "\n")),
    "open-orca": NamedFormat(
        ("User: ", "<|end_of_turn|>\n"), ("Assistant: ", "<|end_of_turn|>\n"), "Assistant: ",
        system=("", "<|end_of_turn|>\n"), default_system=_ORCA_SYSTEM, stop=("User",),
    ),
    "mistrallite": NamedFormat(
        ("<|prompter|>", " "), ("</s>\n<|assistant|>", " "), "</s>\n<|assistant|>",
        system=("<|system|>", "</s>"), default_system="",
    ),
    "zephyr": _same("<|{}|>\n", "</s>\n", **_NAMES, stop=("</s>",)),
    "pygmalion": NamedFormat(
        ("<|user|>\n", "\n\n"), ("<|model|>\n", "\n\n"), "<|model|>\n",
        system=("<|system|>", "\n\n"), default_system="", stop=("\n",),
    ),
    "chatml": _CHATML,
    "mistral-instruct": NamedFormat(("[INST] ", ""), (" [/INST]", "</s>"), " [/INST]",
                                    stop=("</s>",)),
    "chatglm3": NamedFormat(
        ("<|user|>\n ", ""), ("<|assistant|>\n ", ""), "<|assistant|>",
        system=("<|system|>\n", ""), default_system="", stop=("</s>",),
    ),
    "openchat": _same("GPT4 Correct {}: ", "<|end_of_turn|>", system=None, user="User",
                      assistant="Assistant", opening="GPT4 Correct Assistant:",
                      stop=("<|end_of_turn|>",)),
    "saiga": _same("<s>{}\n", "</s>", system="system", user="user", assistant="bot",
                   opening="<s>bot"),
    "gemma": _GEMMA,
    # llama.cpp's names
    "llama2-sys": NamedFormat(
        ("[INST] ", " [/INST]"), ("", "</s>"), "", system=("[INST] <<SYS>>\n", "\n<</SYS>>\n\n"),
        after_system=("", " [/INST]"),
    ),
    "llama3": _same("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", **_NAMES,
                    stop=("<|eot_id|>",), trim=_ALL),
    "bailing": _same("<role>{}</role>", "", system="SYSTEM", user="HUMAN", assistant="ASSISTANT"),
    "chatglm4": NamedFormat(("<|user|>\n", ""), ("<|assistant|>\n", ""), "<|assistant|>\n",
                            system=("<|system|>\n", ""), start="[gMASK]<sop>"),
    "command-r": _same(
        "<|START_OF_TURN_TOKEN|><|{}_TOKEN|>", "<|END_OF_TURN_TOKEN|>", system="SYSTEM",
        user="USER", assistant="CHATBOT", trim=_ALL,
    ),
    "deepseek": NamedFormat(
        ("### Instruction:\n", "\n"), ("### Response:\n", "\n<|EOT|>\n"), "### Response:\n",
        system=("", ""),
    ),
    "deepseek2": NamedFormat(("User: ", "\n\n"), ("Assistant: ", "<｜end▁of▁sentence｜>"),
                             "Assistant:", system=("", "\n\n")),
    "gigachat": NamedFormat(
        ("user<|role_sep|>", "<|message_sep|>available functions<|role_sep|>[]<|message_sep|>"),
        ("assistant<|role_sep|>", "<|message_sep|>"), "assistant<|role_sep|>",
        system=("<s>", "<|message_sep|>"),
    ),
    "glmedge": _same("<|{}|>\n", "", **_NAMES, opening="<|assistant|>"),
    "granite": _GRANITE,
    "megrez": _same("<|role_start|>{}<|role_end|>", "<|turn_end|>", **_NAMES),
    "minicpm": NamedFormat(("<用户>", "<AI>"), ("", ""), "", system=("", ""), trim=_ALL),
    "mistral-v1": NamedFormat((" [INST] ", " [/INST]"), (" ", "</s>"), "",
                              system=(" [INST] ", "\n\n"), after_system=("", " [/INST]")),
    "mistral-v3": NamedFormat(("[INST] ", "[/INST]"), (" ", "</s>"), "", trim=("assistant",),
                              system=("[INST] ", "\n\n"), after_system=("", "[/INST]")),
    "mistral-v3-tekken": NamedFormat(("[INST]", "[/INST]"), ("", "</s>"), "",
                                     system=("[INST]", "\n\n"), after_system=("", "[/INST]")),
    "mistral-v7": NamedFormat(("[INST] ", "[/INST]"), (" ", "</s>"), "",
                              system=("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]")),
    "monarch": NamedFormat(("<s>user\n", "</s>\n"), ("<s>assistant\n", "</s>\n"),
                           "<s>assistant\n", system=("system\n", "</s>\n")),
    "orion": NamedFormat(
        ("Human: ", "\n\nAssistant: </s>"), ("", "</s>"), "",
        system=("Human: ", "\n\n"), after_system=("", "\n\nAssistant: </s>"),
    ),
    "phi3": _PHI,
    "phi4": _same("<|im_start|>{}<|im_sep|>", "<|im_end|>", **_NAMES),
    "seed_oss": _same("<seed:bos>{}\n", "<seed:eos>", **_NAMES, trim=_ALL),
    "vicuna-orca": NamedFormat(("USER: ", "\n"), ("ASSISTANT: ", "</s>\n"), "ASSISTANT:",
                               system=("SYSTEM: ", "\n")),
}  # fmt: skip
"""Name -> format."""

_ALIASES = {
    "llama2": "llama2-sys",
    "mistral": "mistral-instruct",
    # its tools are held by their schemas, as with every format
    "chatml-function-calling": "chatml",
}


def find_format(name: str) -> ChatFormat:
    """Return the format of this name.

    Raises:
        UsageError: There is none; the nearest names are in the hint.
    """
    known: dict[str, ChatFormat] = {**FORMATS, "gpt-oss": HarmonyFormat()}
    known |= {alias: FORMATS[target] for alias, target in _ALIASES.items()}
    format_ = known.get(name.strip().lower())
    if format_ is None:
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        raise UsageError(
            f"no chat format `{name}`",
            hint=("did you mean " + ", ".join(f"`{n}`" for n in near) + "?")
            if near
            else f"known are {', '.join(sorted(known))}",
        )
    return format_
