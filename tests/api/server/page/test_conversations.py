"""Conversations: kept, found, branched, in files, in several tabs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.page.browser import Page
from tests.api.server.page.scripted_server import Answer, ScriptedServer

NAMES = "#conversations li button[data-action=open]"


def chat_of(server: ScriptedServer, place: int = -1) -> list[tuple[str, str]]:
    """The messages of a request."""
    return [(m["role"], m["content"]) for m in server.bodies[place][1]["messages"]]


def test_an_answer_streams_and_tells_its_speed_and_the_context(
    page: Page, server: ScriptedServer
) -> None:
    server.say("abcdefghijklmnopqrstuvwxyz", piece_s=0.03)
    page.ask("Hello", waits=False)
    page.wait(lambda: 3 < len(page.messages[-1]) < 26)
    assert "generating" in page.status
    assert page.run("return document.getElementById('talk').ariaBusy") == "true"
    page.settle()
    assert page.messages == ["Hello", "abcdefghijklmnopqrstuvwxyz"]
    assert "26 tokens, 12.5 per second" in page.text("article.assistant footer")
    assert page.text("#context-text") == "126 of 4,096 tokens of context"
    assert page.run("return document.getElementById('context').value") == 126
    path, body = server.bodies[0]
    assert path == "/v1/chat/completions"
    assert "tools" not in body  # off unless they are asked for
    assert body["temperature"] == 0.7  # the server's own default


def test_an_answer_is_stopped_by_key_and_continued(page: Page, server: ScriptedServer) -> None:
    server.say("a" * 200, piece_s=0.03)
    page.ask("Go", waits=False)
    page.wait(lambda: len(page.messages[-1]) > 3)
    page.keys("\ue00c")  # Escape
    page.settle()
    half = page.messages[-1]
    assert len(half) < 200
    assert "stopped" in page.text("article.assistant footer")
    server.say(" and the rest")
    page.press("continue")
    page.wait(lambda: page.messages[-1].endswith("rest"))
    assert chat_of(server) == [("user", "Go"), ("assistant", half)]
    assert page.messages[-1] == half + " and the rest"


def test_what_is_cut_short_can_be_continued(page: Page, server: ScriptedServer) -> None:
    server.say("the beginning", reason="length")
    page.ask("Go")
    assert page.all("article button[data-action=continue]")
    server.say(" of it")
    page.press("continue")
    page.wait(lambda: page.messages[-1] == "the beginning of it")
    page.settle()
    assert not page.all("article button[data-action=continue]")


def test_an_answer_is_written_anew_and_all_versions_stay(
    page: Page, server: ScriptedServer
) -> None:
    server.say("one", "two", "three")
    page.ask("Count")
    page.press("regenerate")
    page.wait(lambda: page.messages[-1:] == ["two"])
    assert "2/2" in page.text(".versions")
    assert chat_of(server) == [("user", "Count")]
    page.press("version", 0)
    page.wait(lambda: page.messages == ["Count", "one"])
    page.ask("More")
    assert chat_of(server) == [("user", "Count"), ("assistant", "one"), ("user", "More")]
    page.press("version", 1)
    page.wait(lambda: page.messages == ["Count", "two"])
    page.reload()
    page.click(NAMES)
    page.wait(lambda: page.messages == ["Count", "two"])


def test_a_question_is_edited_into_a_branch(page: Page, server: ScriptedServer) -> None:
    server.say("first", "second", "third")
    page.ask("One")
    page.ask("Two")
    page.press("edit", 0)
    field = page.one("form.edit textarea")
    assert field.get_attribute("value") == "One"
    field.clear()
    field.send_keys("Other")
    page.click("form.edit button[type=submit]")
    page.wait(lambda: page.messages == ["Other", "third"])
    assert chat_of(server) == [("user", "Other")]
    page.press("version", 0)
    page.wait(lambda: page.messages == ["One", "first", "Two", "second"])
    page.press("edit", 0)
    page.one("form.edit textarea").send_keys("x\ue00c")  # Escape leaves it as it was
    page.wait(lambda: page.messages[0] == "One")


def test_an_answer_can_be_edited_too(page: Page, server: ScriptedServer) -> None:
    server.say("wrong")
    page.ask("Say it")
    page.press("edit")
    field = page.one("form.edit textarea")
    field.clear()
    field.send_keys("right")
    page.click("form.edit button[type=submit]")
    page.wait(lambda: page.messages == ["Say it", "right"])
    assert len(server.bodies) == 1  # nothing was asked for that
    page.ask("Go on")
    assert chat_of(server)[1] == ("assistant", "right")


def test_conversations_are_kept_listed_found_named_and_removed(
    page: Page, server: ScriptedServer
) -> None:
    server.say("about apples", "about pears")
    page.ask("First question")
    page.click("#new")
    assert page.messages == []
    page.ask("Second question")
    page.wait(lambda: page.texts(NAMES) == ["Second question", "First question"])
    page.reload()
    assert page.messages == []
    page.wait(lambda: len(page.texts(NAMES)) == 2)
    page.keys("\ue009", "k")  # Ctrl+K
    page.one("#search").send_keys("APPLES")
    page.wait(lambda: page.texts(NAMES) == ["First question"])
    page.click(NAMES)
    page.wait(lambda: page.messages == ["First question", "about apples"])
    page.click("#conversations button[data-action=rename]")
    prompt = page.driver.switch_to.alert
    prompt.send_keys("Fruit")
    prompt.accept()
    page.one("#search").clear()
    page.one("#search").send_keys("fruit")
    page.wait(lambda: page.texts(NAMES) == ["Fruit"])
    page.click("#conversations button[data-action=remove]")
    page.driver.switch_to.alert.accept()
    page.wait(lambda: page.text("#no-conversations") == "Nothing found.")
    assert page.messages == []
    page.keys("\ue009", "\ue008", "o")  # Ctrl+Shift+O
    page.ask("Third")
    assert page.messages == ["Third", "ok"]


def test_conversations_go_to_a_file_and_come_back(
    page: Page, server: ScriptedServer, downloads: Path,
    start_server: Callable[..., ScriptedServer], open_page: Callable[..., Page],
) -> None:  # fmt: skip
    server.say("one", "two")
    page.set("system", "Be brief.")
    page.ask("Question")
    page.press("regenerate")
    page.wait(lambda: page.messages[-1:] == ["two"])
    page.click("#export-all")
    file = downloads / "conversations.json"
    page.wait(lambda: file.is_file() and file.stat().st_size)
    data = json.loads(file.read_text())
    assert "key" not in json.dumps(data["conversations"][0]["settings"])
    other = open_page(start_server().url)
    assert other.texts(NAMES) == []
    for n in (1, 2):  # twice: nothing is written over
        other.one("#import-file").send_keys(str(file))
        other.wait(lambda n=n: len(other.texts(NAMES)) == n)
    assert "1 conversation imported" in other.status
    other.click(NAMES, 0)
    other.wait(lambda: other.messages == ["Question", "two"])
    assert other.setting("system") == "Be brief."
    other.press("version", 0)
    other.wait(lambda: other.messages == ["Question", "one"])
    file.unlink()


BROKEN: list[tuple[Any, str]] = [
    ("{", "cannot be imported"),
    ({"format": "x"}, "expected a file of"),
    ({"conversations": [{"messages": 3}]}, "conversation 1: it has no messages"),
    ({"conversations": [{"messages": [{"role": "system", "content": "x"}]}]}, "message 1"),
    ({"conversations": [{"messages": [{"role": "user", "content": 1}]}]}, "a role and a text"),
    ({"conversations": [{"messages": [
        {"id": 1, "parent": 2, "role": "user", "content": "a"},
        {"id": 2, "parent": 1, "role": "user", "content": "b"},
    ]}]}, "in a circle"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "text"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_refused_whole(data: Any, text: str, page: Page, tmp_path: Path) -> None:
    if isinstance(data, dict):
        data = json.dumps({"format": "gguf-hub conversations", "version": 1} | data)
    (tmp_path / "bad.json").write_text(data)
    page.one("#import-file").send_keys(str(tmp_path / "bad.json"))
    page.wait(lambda: text in page.status)
    assert page.texts(NAMES) == []


def test_tabs_do_not_overwrite_each_other(page: Page, server: ScriptedServer) -> None:
    server.say("from the first", "first again", "from the second", "more")
    page.ask("One")
    other = page.tab()
    other.wait(lambda: len(other.texts(NAMES)) == 1)
    other.click(NAMES)
    other.wait(lambda: other.messages == ["One", "from the first"])
    page.ask("In the first tab")
    other.wait(lambda: other.messages[-1] == "first again" or len(other.messages) == 2)
    # the second tab goes on from what it shows; both branches stay
    other.run("document.getElementById('new').click()")
    other.ask("New in the second tab")
    page.wait(lambda: page.texts(NAMES) == ["New in the second tab", "One"])
    page.set("temperature", "0.1")
    other.set("top_k", "7")
    page.reload()
    other.reload()
    for tab in (page, other):  # neither has taken the other's setting back
        assert (tab.setting("temperature"), tab.setting("top_k")) == ("0.1", "7")
        tab.click(NAMES, 1)
        tab.wait(lambda tab=tab: len(tab.messages) == 4)
        assert tab.messages[2:] == ["In the first tab", "first again"]


# runs when the page has begun to read a conversation, before it has read it
WHILE_READING = """
const told = new BroadcastChannel("gguf-hub");
await new Promise((read) => {
  told.onmessage = () => { told.close(); document.getElementById("new").click(); read(); };
  new BroadcastChannel("gguf-hub").postMessage({ id: arguments[0] });
});
"""


def test_a_new_conversation_stays_while_another_tab_writes_in_the_last_one(
    page: Page, server: ScriptedServer
) -> None:
    server.say("first answer", "second answer")
    page.ask("One")
    page.wait(lambda: page.texts(NAMES) == ["One"])
    id_ = page.run("return document.querySelector('#conversations li').dataset.id")
    page.run_async(WHILE_READING, id_)
    page.ask("Two")
    assert page.messages == ["Two", "second answer"]
    page.wait(lambda: page.texts(NAMES) == ["Two", "One"])


def test_of_conversations_opened_one_after_another_the_last_one_is_shown(
    page: Page, server: ScriptedServer
) -> None:
    server.say("first answer", "second answer", "third answer")
    page.ask("One")
    page.click("#new")
    page.ask("Two")
    page.wait(lambda: page.texts(NAMES) == ["Two", "One"])
    page.run(
        "document.querySelectorAll(arguments[0])[1].click();document.getElementById('new').click()",
        NAMES,
    )
    page.ask("Three")
    assert page.messages == ["Three", "third answer"]
    page.wait(lambda: page.texts(NAMES) == ["Three", "Two", "One"])


def test_two_tabs_that_answer_in_one_conversation_make_branches(
    page: Page, server: ScriptedServer
) -> None:
    server.say("start")
    server.answers += [Answer("a" * 60, piece_s=0.02), Answer("b" * 30, piece_s=0.02)]
    page.ask("One")
    other = page.tab()
    other.wait(lambda: len(other.texts(NAMES)) == 1)
    other.click(NAMES)
    other.wait(lambda: other.messages == ["One", "start"])
    page.ask("left", waits=False)
    other.ask("right")
    page.settle()
    page.reload()
    page.click(NAMES)
    page.wait(lambda: len(page.messages) == 4)
    page.wait(lambda: "2/2" in page.text(".versions") or "1/2" in page.text(".versions"))
    seen = {tuple(page.messages[2:])}
    page.click(".versions button:not(:disabled)")
    page.wait(lambda: tuple(page.messages[2:]) not in seen)
    seen.add(tuple(page.messages[2:]))
    assert seen == {("left", "a" * 60), ("right", "b" * 30)}


def test_settings_and_the_system_prompt_belong_to_a_conversation(
    page: Page, server: ScriptedServer
) -> None:
    page.set("system", "Be brief.")
    page.set("max_tokens", "7")
    page.set("seed", "")
    page.ask("One")
    body = server.bodies[0][1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["max_tokens"], "seed" in body) == (7, False)
    page.click("#new")
    page.set("system", "")
    page.ask("Two")
    assert server.bodies[1][1]["messages"] == [{"role": "user", "content": "Two"}]
    page.click(NAMES, 1)
    page.wait(lambda: page.setting("system") == "Be brief.")


def test_tools_are_off_until_they_are_switched_on(page: Page, server: ScriptedServer) -> None:
    page.set("tools", True)
    server.answers += [Answer(calls=[("calculate", '{"expression": "(3 + 4) * 2 ^ 3"}')])]
    server.say("It is 56.")
    page.ask("Compute")
    page.wait(lambda: page.messages[-1:] == ["It is 56."])
    assert [tool["function"]["name"] for tool in server.bodies[0][1]["tools"]] == [
        "current_time", "calculate"
    ]  # fmt: skip
    sent = server.bodies[1][1]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == '{"expression": "(3 + 4) * 2 ^ 3"}'
    assert (sent[2]["tool_call_id"], sent[2]["content"]) == ("call_0", "56")
    assert "calculate(" in page.text("article .call")


@pytest.mark.parametrize(
    ("expression", "value"),
    [("1 + 2 * 3", 7), ("-2 ^ 2", -4), ("2 ^ 3 ^ 2", 512), ("(1 - 2) - 3", -4), ("7 % 4 / 2", 1.5),
     ("1e3 * .5", 500), ("2 * -3", -6)],
)  # fmt: skip
def test_the_page_computes(expression: str, value: float, page: Page) -> None:
    script = "return (await import('/page/tools.js')).calculate(arguments[0])"
    assert page.run_async(script, expression) == value


@pytest.mark.parametrize("expression", ["", "1 +", "(1", "1)", "constructor", "1 2", "(" * 300])
def test_what_is_no_expression_is_an_error(expression: str, page: Page) -> None:
    script = "return (await import('/page/tools.js')).calculate(arguments[0])"
    assert str(page.run_async(script, expression)).startswith("failed: ")


def test_reasoning_is_folded_away(page: Page, server: ScriptedServer) -> None:
    server.say("Answer", reasoning="I wonder")
    page.ask("Think")
    assert page.messages == ["Think", "Answer"]
    assert page.run("return document.querySelector('details').open") is False
    page.click("details summary")
    assert "I wonder" in page.text("details")
    page.ask("Again")
    assert chat_of(server)[1] == ("assistant", "Answer")  # thoughts are not sent back


def test_a_base_model_goes_on_with_a_text(
    start_server: Callable[..., ScriptedServer], open_page: Callable[..., Page]
) -> None:
    server = start_server(has_template=False)
    page = open_page(server.url)
    page.wait(lambda: page.setting("mode") == "text")
    server.say(" was a fox", " who ran")
    server.answers[0].reason = "length"
    page.ask("There")
    assert server.bodies[0][0] == "/v1/completions"
    assert server.bodies[0][1]["prompt"] == "There"
    page.press("continue")
    page.wait(lambda: page.messages == ["There", " was a fox who ran"])
    assert server.bodies[1][1]["prompt"] == "There was a fox"


def test_the_key_is_kept_for_the_session_unless_asked(
    start_server: Callable[..., ScriptedServer], open_page: Callable[..., Page]
) -> None:
    server = start_server(key="SECRET")
    page = open_page(server.url)
    page.wait(lambda: "needs an API key" in page.text("#facts"))
    assert page.run("return document.activeElement.name") == "key"
    page.set("key", "SECRET")
    page.wait(lambda: "weights" in page.text("#facts"))
    page.ask("Hello")
    kept = "return JSON.stringify({...localStorage}) + location.href + document.cookie"
    assert "SECRET" not in page.run(kept)
    page.reload()
    page.wait(lambda: "weights" in page.text("#facts"))
    other = page.tab()  # another session
    other.wait(lambda: "needs an API key" in other.text("#facts"))
    page.set("keep_key", True)
    other.reload()
    other.wait(lambda: "weights" in other.text("#facts"))
    page.set("keep_key", False)
    assert "SECRET" not in page.run(kept)


def test_the_conversation_of_earlier_versions_is_taken_over(page: Page) -> None:
    old = [{"role": "user", "content": "Old"}, {"role": "assistant", "content": "Answer"}]
    page.run("localStorage.setItem('gguf-hub.messages', arguments[0])", json.dumps(old))
    page.run("localStorage.setItem('gguf-hub.settings', '{\"key\": \"SECRET\"}')")
    page.reload()
    page.wait(lambda: page.texts(NAMES) == ["Old"])
    page.click(NAMES)
    page.wait(lambda: page.messages == ["Old", "Answer"])
    assert "SECRET" not in page.run("return JSON.stringify({...localStorage})")


def test_an_error_of_the_server_is_shown_and_nothing_is_lost(
    page: Page, server: ScriptedServer
) -> None:
    page.ask("One")
    page.run("window.fetch = async () => { throw new TypeError('Failed to fetch') }")
    page.ask("Two")
    assert "Failed to fetch" in page.text("article:last-child .error")
    page.reload()
    page.click(NAMES)
    page.wait(lambda: page.messages[:3] == ["One", "ok", "Two"])
