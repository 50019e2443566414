// The list of conversations at the side: searching, naming, removing, files.

import * as chat from "./chat.js";
import * as store from "./store.js";

const by = (id) => document.getElementById(id);
const side = by("side"), names = by("conversations"), search = by("search");
let failed = () => {};
let asked = 0;  // answers to an older search are dropped

export async function refresh() {
  const mine = ++asked;
  const text = search.value.trim();
  try {
    const [all, matches] = await Promise.all([store.list(), text ? store.search(text) : null]);
    if (mine !== asked) return;
    draw(matches ? all.filter((each) => matches.has(each.id)) : all, text);
  } catch (error) {
    failed(`conversations cannot be read: ${error.message}`);
  }
}

function draw(conversations, text) {
  const open = chat.openId();
  names.replaceChildren(...conversations.map((each) => entry(each, each.id === open)));
  by("no-conversations").textContent = conversations.length ? "" :
    text ? "Nothing found." : "No conversations yet.";
}

function entry({ id, title }, isOpen) {
  const item = document.createElement("li");
  const name = control("open", title || "Untitled");
  if (isOpen) name.setAttribute("aria-current", "true");
  item.dataset.id = id;
  item.append(name, control("rename", "✎", `Rename ${title}`),
    control("export", "↓", `Export ${title}`), control("remove", "✕", `Remove ${title}`));
  return item;
}

function control(action, text, label = "") {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.dataset.action = action;
  if (label) {
    made.title = label.split(" ")[0];
    made.setAttribute("aria-label", label);
  }
  return made;
}

async function act(action, id, title) {
  if (action === "open") {
    await chat.open(id);
    openSide(false);
  } else if (action === "rename") {
    const name = prompt("Name of the conversation", title);
    if (name?.trim()) await store.change(id, { title: name.trim().slice(0, 200) });
  } else if (action === "export") {
    save(await store.exported(id), title);
  } else if (confirm(`Remove “${title}”?`)) {
    if (id === chat.openId()) chat.openNew();
    await store.remove(id);
  }
  await refresh();
}

function save(data, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(data, null, 1)], { type: "application/json" }));
  link.download = `${name.replace(/[^\w -]+/g, "").trim().slice(0, 60) || "conversations"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function read(file) {
  try {
    const n = await store.imported(JSON.parse(await file.text()));
    failed(`${n} ${n === 1 ? "conversation" : "conversations"} imported`, false);
  } catch (error) {
    failed(`\`${file.name}\` cannot be imported: ${error.message}`);
  }
  await refresh();
}

// On a phone the list lies over the conversation.
export function openSide(isOpen) {
  side.classList.toggle("open", isOpen);
  by("toggle-side").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) search.focus();
}

export function focusSearch() {
  openSide(true);
  search.focus();
  search.select();
}

// Begins; `failure` is told what went wrong, or right.
export function start(failure) {
  failed = failure;
  names.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const item = event.target.closest("li");
    if (!button) return;
    act(button.dataset.action, item.dataset.id, item.firstChild.textContent)
      .catch((error) => failed(error.message));
  });
  search.addEventListener("input", refresh);
  by("export-all").addEventListener("click", async () => save(await store.exported(), "conversations"));
  by("import").addEventListener("click", () => by("import-file").click());
  by("import-file").addEventListener("change", (event) => {
    if (event.target.files.length) read(event.target.files[0]);
    event.target.value = "";
  });
  by("toggle-side").addEventListener("click", () => openSide(!side.classList.contains("open")));
  store.onChange(refresh);
  refresh();
}
