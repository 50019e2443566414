// Messages as elements. Texts of people are put in as text; those of models as sanitised Markdown.

import { render } from "./markdown.js";

const talk = document.getElementById("talk");
const NAMES = { user: "You", assistant: "Model", tool: "Tool" };

function element(tag, { text, ...fields } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  if (text !== undefined) made.textContent = text;
  made.append(...children.filter(Boolean));
  return made;
}

function button(action, text, label = "") {
  const made = element("button", { type: "button", text });
  made.dataset.action = action;
  if (label) made.setAttribute("aria-label", label);
  return made;
}

// Shows a conversation: messages with the versions that each has.
export function show(path, versionsOf, isText) {
  talk.replaceChildren(...path.map((message) => article(message, versionsOf(message), isText)));
  talk.classList.toggle("texts", isText);
  if (!path.length) talk.append(element("p", { id: "empty", text: "Write something below." }));
  scrollDown(true);
}

function article(message, versions, isText) {
  const made = element("article", { className: message.role },
    element("h2", { className: "unseen", text: NAMES[message.role] }));
  made.dataset.id = message.id;
  if (message.reasoning) made.append(thoughts(message.reasoning));
  made.append(body(message, isText));
  for (const call of message.tool_calls ?? []) made.append(toolCall(call));
  made.append(footer(message, versions));
  return made;
}

function body(message, isText) {
  const made = element("div", { className: "body" });
  if (message.role !== "assistant" || isText) made.textContent = message.content;
  else made.append(render(message.content.trimStart()));
  return made;
}

function thoughts(text) {
  return element("details", { className: "reasoning" },
    element("summary", { text: "Reasoning" }), element("p", { text: text.trim() }));
}

function toolCall(call) {
  const { name, arguments: given } = call.function;
  return element("p", { className: "call", text: `${name}(${given})` });
}

function footer(message, versions) {
  const made = element("footer");
  if (versions.length > 1) made.append(versionSwitch(message, versions));
  made.append(button("copy", "Copy", "Copy message"));
  if (message.role !== "tool") made.append(button("edit", "Edit", "Edit message"));
  if (message.role === "assistant") {
    made.append(button("regenerate", "Regenerate", "Write this answer anew"));
    if (message.isOpen) made.append(button("continue", "Continue", "Continue this answer"));
  }
  const note = element("small", { text: message.note ?? "" });
  if (message.isError) note.className = "error";
  made.append(note);
  return made;
}

function versionSwitch(message, versions) {
  const at = versions.findIndex((each) => each.id === message.id);
  const before = button("version", "‹", "Previous version");
  const after = button("version", "›", "Next version");
  before.disabled = at === 0;
  after.disabled = at === versions.length - 1;
  before.dataset.to = versions[at - 1]?.id ?? "";
  after.dataset.to = versions[at + 1]?.id ?? "";
  const made = element("span", { className: "versions" },
    before, element("span", { text: `${at + 1}/${versions.length}` }), after);
  made.setAttribute("role", "group");
  made.setAttribute("aria-label", `Version ${at + 1} of ${versions.length}`);
  return made;
}

function find(id) {
  return talk.querySelector(`article[data-id="${CSS.escape(id)}"]`);
}

// Shows an answer that grows.
export function grow(message, isText) {
  const found = find(message.id);
  if (!found) return;
  found.classList.add("running");
  let details = found.querySelector("details");
  if (message.reasoning && !details) {
    details = thoughts("");
    found.querySelector(".body").before(details);
  }
  if (details) details.lastChild.textContent = message.reasoning.trim();
  found.querySelector(".body").replaceWith(body(message, isText));
  found.querySelector("footer small").textContent = message.note ?? "";
  scrollDown(false);
}

// Puts a form in place of a message's text; `done` gets the new text.
export function edit(message, done, cancelled) {
  const found = find(message.id);
  const field = element("textarea", { value: message.content, rows: 3 });
  field.setAttribute("aria-label", "Text of the message");
  const form = element("form", { className: "edit" }, field,
    element("button", { type: "submit", text: message.role === "user" ? "Send" : "Save" }),
    button("cancel-edit", "Cancel"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) done(field.value);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      cancelled();
    }
  });
  form.lastChild.addEventListener("click", cancelled);
  found.classList.add("edited");
  found.querySelector(".body").replaceWith(form);
  found.querySelector("footer").hidden = true;
  field.style.height = `${Math.min(field.scrollHeight + 4, innerHeight / 2)}px`;
  field.focus();
}

export function scrollDown(isAlways) {
  const isNear = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120;
  if (isAlways || isNear) talk.scrollTop = talk.scrollHeight;
}
