// The model that answers: what is known of it, and of a server of several the choice among them,
// with how each fits this machine, loading, unloading and downloading.

import { get, lines, post } from "./api.js";
import * as settings from "./settings.js";

const by = (id) => document.getElementById(id);
const dialog = by("models"), rows = by("model-rows"), opener = by("model");
const CHOSEN = "gguf-hub.model";
const GOOD = new Set(["fits in VRAM", "GPU and RAM", "fits in RAM"]);

let told = { chosen() {}, context() {}, failed() {} };
let all = [], chosen = "", pulling = null;

function size(bytes) {
  return bytes >= 1e9 ? (bytes / 1e9).toFixed(2) + " GB" : (bytes / 1e6).toFixed(1) + " MB";
}

function count(n) {
  return n >= 1e9 ? (n / 1e9).toFixed(1) + " billion" : (n / 1e6).toFixed(1) + " million";
}

function facts(...known) {
  by("facts").textContent = known.filter(Boolean)
    .map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · ");
}

// Asks the server which models it has.
export async function load() {
  const props = await get("/props");
  if (props.role === "router") return loadSeveral();
  const { model, default_generation_settings: given } = props;
  by("name").textContent = model.description;
  document.title = model.description + " · gguf-hub";
  facts(count(model.n_params) + " weights", model.quant, size(model.size_bytes),
    "context " + given.n_ctx, props.total_slots + " slots");
  settings.adopt(given.params, model.has_template);
  told.context(given.n_ctx);
}

async function loadSeveral() {
  all = (await get("/v1/models")).data;
  const wanted = remembered();
  const loaded = all.find((model) => model.status.value === "loaded");
  const first = all.find((model) => model.id === wanted) ?? loaded ?? all[0];
  opener.hidden = false;
  if (first) choose(first.id);
  else facts("no models yet: choose one to download");
}

function remembered() {
  try {
    return localStorage.getItem(CHOSEN);
  } catch {
    return null;
  }
}

function choose(name) {
  chosen = name;
  try {
    localStorage.setItem(CHOSEN, name);
  } catch { /* a browser that keeps nothing */ }
  opener.textContent = name;
  document.title = name + " · gguf-hub";
  told.chosen(name);
  refresh();
}

// Shows what the chosen model is and does.
export async function refresh() {
  if (!chosen) return;
  const name = chosen;
  const { meta, status } = await get("/v1/models/" + name.split("/").map(encodeURIComponent).join("/"));
  if (name !== chosen) return;
  facts(meta.quant, size(meta.size), meta.n_ctx && "context " + meta.n_ctx, status.value);
  if (meta.n_ctx) told.context(meta.n_ctx);
}

// -- the dialog ----------------------------------------------------------------------------------

async function show() {
  if (!dialog.open) dialog.showModal();
  rows.setAttribute("aria-busy", "true");
  try {
    all = (await get("/v1/models?fit=1&catalog=1")).data;
    draw();
  } catch (error) {
    by("model-note").textContent = error.message;
  }
  rows.setAttribute("aria-busy", "false");
}

function draw() {
  const wanted = by("model-search").value.trim().toLowerCase();
  const shown = all.filter((model) => model.id.toLowerCase().includes(wanted));
  rows.replaceChildren(...shown.map(row));
  by("model-note").textContent = shown.length ? "" : "No model has this name.";
}

function row(model) {
  const made = document.createElement("tr");
  const state = model.status.failed ? "failed" : model.status.value.replace("_", " ");
  const name = cell("th", model.id);
  name.scope = "row";
  const actions = document.createElement("td");
  made.append(name, cell("td", size(model.meta.size)), verdict(model.fit ?? {}), cell("td", state), actions);
  made.dataset.name = model.id;
  if (model.id === chosen) made.setAttribute("aria-current", "true");
  if (state === "not downloaded") return actions.append(button("pull", "Download", model.id)), made;
  actions.append(button("use", "Use", model.id));
  const isLoaded = state === "loaded" || state === "loading";
  actions.append(isLoaded ? button("unload", "Unload", model.id) : button("load", "Load", model.id));
  return made;
}

function verdict({ verdict: text = "unknown", ram_bytes, reason }) {
  const made = cell("td", text);
  const kind = GOOD.has(text) ? "good" : text === "from disk" ? "slow" : text === "too big" ? "bad" : "";
  if (kind) made.className = kind;
  made.title = reason || (ram_bytes ? `takes ${size(ram_bytes)} of memory` : "");
  return made;
}

function cell(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function button(action, text, name) {
  const made = cell("button", text);
  made.type = "button";
  made.dataset.action = action;
  made.setAttribute("aria-label", `${text} ${name}`);
  return made;
}

async function act(action, name) {
  if (action === "use") {
    choose(name);
    dialog.close();
  } else if (action === "pull") {
    await pull(name);
  } else {
    await post(`/models/${action}`, { model: name });
    await show();
    await refresh();
  }
}

// -- downloading ---------------------------------------------------------------------------------

async function pull(name) {
  if (pulling) throw new Error("a download is under way");
  pulling = new AbortController();
  by("pull-progress").hidden = false;
  try {
    for await (const line of lines("/api/pull", { model: name, stream: true }, pulling.signal)) {
      if (line.error) throw new Error(line.error);
      showProgress(name, line);
    }
    by("pull-status").textContent = `${name} is here`;
  } catch (error) {
    by("pull-status").textContent = error.name === "AbortError"
      ? `${name}: stopped; the next download goes on from there` : `${name}: ${error.message}`;
  } finally {
    pulling = null;
    by("pull-stop").hidden = true;
    by("pull-bar").hidden = true;
  }
  await show();
}

function showProgress(name, { status, total, completed }) {
  const bar = by("pull-bar");
  by("pull-stop").hidden = bar.hidden = false;
  if (total) {
    bar.max = total;
    bar.value = completed ?? 0;
  } else {
    bar.removeAttribute("value");
  }
  const done = total ? `: ${size(completed ?? 0)} of ${size(total)}` : "";
  by("pull-status").textContent = `${name}, ${status}${done}`;
}

// Begins; `listeners` are told which model was chosen, its context, and what fails.
export function start(listeners) {
  told = { ...told, ...listeners };
  const guarded = (work) => work.catch((error) => { by("model-note").textContent = error.message; });
  opener.addEventListener("click", show);
  by("models-close").addEventListener("click", () => dialog.close());
  by("model-search").addEventListener("input", draw);
  by("pull-stop").addEventListener("click", () => pulling?.abort());
  by("pull-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = by("pull-name").value.trim();
    if (name) guarded(pull(name));
  });
  rows.addEventListener("click", (event) => {
    const pressed = event.target.closest("button");
    if (pressed) guarded(act(pressed.dataset.action, pressed.closest("tr").dataset.name));
  });
}
