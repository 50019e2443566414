// The settings: those of a conversation with it, those of new ones each under a name of its own, so
// that tabs do not overwrite each other's.

import { isKeyKept, readKey, saveKey } from "./api.js";

const DEFAULTS = {
  mode: "", system: "", temperature: "0.8", top_p: "0.95", top_k: "40", min_p: "0.05",
  repeat_penalty: "1", max_tokens: "512", seed: "", tools: false,
};
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_tokens", "seed"];
const PREFIX = "gguf-hub.setting.";
const form = document.getElementById("settings");

function kept(name) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name)) ?? DEFAULTS[name];
  } catch {
    return DEFAULTS[name];
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch { /* a browser that keeps nothing */ }
}

function valueOf(name) {
  const field = form.elements[name];
  return field.type === "checkbox" ? field.checked : field.value;
}

function show(name, value) {
  const field = form.elements[name];
  if (field.type === "checkbox") field.checked = value === true;
  else field.value = String(value);
}

// Returns the settings as they are.
export function current() {
  return Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, valueOf(name)]));
}

// Shows those of a conversation; what it has none of is as for new ones.
export function showFor(conversation) {
  for (const name of Object.keys(DEFAULTS)) {
    show(name, conversation?.settings?.[name] ?? kept(name));
  }
  if (!valueOf("mode")) show("mode", form.dataset.mode || "chat");
}

// Takes over what the server says of its model: its own defaults, and whether it knows turns.
export function adopt(params, hasTemplate) {
  for (const name of NUMBERS) {
    const before = DEFAULTS[name];
    if (!(params[name] >= 0)) continue;
    DEFAULTS[name] = String(params[name]);
    if (valueOf(name) === before) show(name, DEFAULTS[name]);
  }
  // base models, which bring no template, go on with texts
  form.dataset.mode = hasTemplate ? "chat" : "text";
  if (!kept("mode")) show("mode", form.dataset.mode);
}

// Returns the sampling settings as a request has them; empty fields are left to the server.
export function sampling() {
  const found = {};
  for (const name of NUMBERS) {
    const text = String(valueOf(name)).trim();
    if (text !== "" && Number.isFinite(Number(text))) found[name] = Number(text);
  }
  return found;
}

export function isOpen() {
  return !form.hidden;
}

export function open(isOpen) {
  form.hidden = !isOpen;
  document.getElementById("toggle-settings").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) form.querySelector("input:checked, textarea")?.focus();
}

export function focusKey() {
  open(true);
  form.elements.key.focus();
}

// Begins; `changed` gets the name and value of a setting, `keyChanged` is told of another key.
export function start(changed, keyChanged) {
  forgetOldKey();
  showFor(null);
  form.elements.key.value = readKey();
  form.elements.keep_key.checked = isKeyKept();
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    const { name } = event.target;
    if (name === "key" || name === "keep_key") {
      saveKey(form.elements.key.value, form.elements.keep_key.checked);
      if (name === "key") keyChanged();
      return;
    }
    keep(name, valueOf(name));
    changed(name, valueOf(name));
  });
  document.getElementById("defaults").addEventListener("click", () => {
    for (const name of Object.keys(DEFAULTS)) {
      show(name, DEFAULTS[name]);
      keep(name, DEFAULTS[name]);
      changed(name, DEFAULTS[name]);
    }
    if (!valueOf("mode")) show("mode", form.dataset.mode || "chat");
  });
}

// Versions before this one kept the key for good, unasked.
function forgetOldKey() {
  try {
    localStorage.removeItem("gguf-hub.settings");
  } catch { /* a browser that keeps nothing */ }
}
