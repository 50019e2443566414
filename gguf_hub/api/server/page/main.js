// Puts the parts together: what is typed and pressed, and what is shown of the state.

import * as chat from "./chat.js";
import * as list from "./list.js";
import * as models from "./models.js";
import * as settings from "./settings.js";
import * as store from "./store.js";

const by = (id) => document.getElementById(id);
const input = by("input"), talk = by("talk"), state = by("status");
let nCtx = 0;

// -- what is shown -------------------------------------------------------------------------------

function say(text, isError = true) {
  state.textContent = text;
  state.classList.toggle("error", isError);
}

function showRunning(isRunning) {
  by("send").hidden = isRunning;
  by("stop").hidden = !isRunning;
  talk.setAttribute("aria-busy", String(isRunning));
  say(isRunning ? "generating …" : "", false);
  if (isRunning) return;
  list.refresh();
  if (!document.querySelector("dialog[open], form.edit")) input.focus({ preventScroll: true });
  models.refresh().catch(() => {});
}

function showUsage({ cache_n = 0, prompt_n = 0, predicted_n = 0 }) {
  const used = cache_n + prompt_n + predicted_n;
  const meter = by("context");
  by("context-text").textContent = nCtx
    ? `${used.toLocaleString("en")} of ${nCtx.toLocaleString("en")} tokens of context`
    : `${used.toLocaleString("en")} tokens of context`;
  meter.hidden = !nCtx;
  meter.max = nCtx || 1;
  meter.high = nCtx * 0.9;
  meter.value = Math.min(used, nCtx);
}

function clearUsage() {
  by("context").hidden = true;
  by("context-text").textContent = "";
}

// -- what people do ------------------------------------------------------------------------------

function guarded(work) {
  work.catch((error) => say(error.message));
}

function fitHeight() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

async function copy(text, button) {
  await (navigator.clipboard?.writeText(text) ?? copyOldWay(text));
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}

// Where the page comes by plain http from another machine, browsers have no clipboard for it.
function copyOldWay(text) {
  const field = Object.assign(document.createElement("textarea"), { value: text });
  field.className = "unseen";
  document.body.append(field);
  field.select();
  const isDone = document.execCommand("copy");
  field.remove();
  if (!isDone) throw new Error("this browser does not copy from a page that came by plain http");
}

function act(button) {
  const id = button.closest("article")?.dataset.id;
  const { action } = button.dataset;
  if (action === "copy-code") {
    return copy(button.closest(".code").querySelector("pre").textContent, button);
  }
  if (action === "copy") return copy(chat.textOf(id), button);
  if (chat.isRunning()) return null;
  if (action === "edit") return chat.edit(id);
  if (action === "regenerate") return chat.regenerate(id);
  if (action === "continue") return chat.goOn(id);
  if (action === "version") return chat.selectVersion(button.dataset.to);
  return null;
}

function startOver() {
  chat.openNew();
  list.openSide(false);
  input.focus();
}

by("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value;
  if (!text.trim() || chat.isRunning()) return;
  input.value = "";
  fitHeight();
  guarded(chat.send(text));
});
input.addEventListener("input", fitHeight);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    by("ask").requestSubmit();
  }
});
talk.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) guarded(Promise.resolve(act(button)));
});
by("stop").addEventListener("click", () => chat.stop());
by("new").addEventListener("click", startOver);
by("toggle-settings").addEventListener("click", () => settings.open(!settings.isOpen()));
document.addEventListener("keydown", (event) => {
  const isCommand = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") {
    if (chat.isRunning()) chat.stop();
    else list.openSide(false);
  } else if (isCommand && event.key.toLowerCase() === "k") {
    event.preventDefault();
    list.focusSearch();
  } else if (isCommand && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    startOver();
  }
});

// -- begin ---------------------------------------------------------------------------------------

async function loadModels() {
  try {
    await models.load();
  } catch (error) {
    by("facts").textContent = error.status === 401
      ? "this server needs an API key: see Settings" : "no response: " + error.message;
    if (error.status === 401) settings.focusKey();
  }
}

settings.start(chat.changeSetting, loadModels);
chat.start({
  running: showRunning, usage: showUsage, failed: say,
  opened: () => { clearUsage(); list.refresh(); },
});
models.start({ chosen: chat.setModel, context: (n) => { nCtx = n; } });
list.start(say);
store.onChange((id) => guarded(chat.refresh(id)));
chat.redraw();
guarded(store.adoptOld().then(list.refresh));
loadModels();
