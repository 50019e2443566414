"use strict";
// The page: a conversation, or a text that the model goes on with. Texts of people and models are
// only ever put in as text, never as HTML.

const DEFAULTS = {
  mode: "", system: "", temperature: 0.8, top_p: 0.95, top_k: 40, min_p: 0.05,
  repeat_penalty: 1, max_tokens: 512, seed: "", key: "",
};
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_tokens", "seed"];
const by = (id) => document.getElementById(id);
const settings = by("settings"), talk = by("talk"), input = by("input"), status = by("status");
const picker = by("model");

let facts = null;      // what the server tells of its model
let messages = [];     // the conversation: {role, content}
let running = null;    // AbortController of the answer under way

// -- settings ------------------------------------------------------------------------------------

function stored(name, fallback) {
  try { return JSON.parse(localStorage.getItem("gguf-hub." + name)) ?? fallback; }
  catch { return fallback; }
}

function store(name, value) {
  try { localStorage.setItem("gguf-hub." + name, JSON.stringify(value)); } catch { /* private */ }
}

function readSettings() {
  return Object.fromEntries(Object.keys(DEFAULTS).map((key) => [key, settings.elements[key].value]));
}

function showSettings(values) {
  for (const [key, value] of Object.entries(values)) {
    if (key in DEFAULTS && (key !== "mode" || value)) settings.elements[key].value = value;
  }
  // base models, which bring no template, go on with texts
  if (facts && !settings.elements.mode.value) {
    settings.elements.mode.value = facts.model && !facts.model.has_template ? "text" : "chat";
  }
}

function sampling() {
  const found = {};
  for (const key of NUMBERS) {
    const text = settings.elements[key].value.trim();
    if (text !== "" && Number.isFinite(Number(text))) found[key] = Number(text);
  }
  return found;
}

function headers() {
  const key = settings.elements.key.value;
  const found = { "Content-Type": "application/json" };
  if (key) found.Authorization = "Bearer " + key;
  return found;
}

// -- the model -----------------------------------------------------------------------------------

function size(bytes) {
  return bytes >= 1e9 ? (bytes / 1e9).toFixed(2) + " GB" : (bytes / 1e6).toFixed(1) + " MB";
}

function count(n) {
  return n >= 1e9 ? (n / 1e9).toFixed(1) + " billion" : (n / 1e6).toFixed(1) + " million";
}

async function loadFacts() {
  const reply = await fetch("/props", { headers: headers() });
  if (reply.status === 401) {
    by("facts").textContent = "this server needs an API key: see Settings";
    openSettings(true);
    settings.elements.key.focus();
    return;
  }
  facts = await reply.json();
  if (facts.role === "router") return loadModels();
  const m = facts.model;
  by("name").textContent = m.description;
  document.title = m.description + " · gguf-hub";
  by("facts").textContent = [
    count(m.n_params) + " weights", m.quant, size(m.size_bytes),
    "context " + facts.default_generation_settings.n_ctx, facts.total_slots + " slots",
  ].map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · ");
  showSettings(withDefaults(facts.default_generation_settings.params));
}

// A server of several models: the one that is chosen is named in every request.
async function loadModels() {
  const reply = await fetch("/v1/models", { headers: headers() });
  const models = (await reply.json()).data;
  picker.replaceChildren(...models.map((model) => new Option(model.id)));
  const loaded = models.find((model) => model.status.value === "loaded");
  const wanted = stored("model", "");
  picker.value = models.some((model) => model.id === wanted) ? wanted : (loaded ?? models[0])?.id;
  picker.hidden = false;
  by("facts").textContent = models.length ? "" : "no models yet: gguf-hub download fetches one";
  showSettings(readSettings());
  await showModel();
}

async function showModel() {
  const name = picker.value;
  if (!name) return;
  document.title = name + " · gguf-hub";
  const reply = await fetch("/v1/models/" + encodeURIComponent(name), { headers: headers() });
  const { meta, status } = await reply.json();
  if (!reply.ok || picker.value !== name) return;
  const known = [meta.quant, size(meta.size), meta.n_ctx && "context " + meta.n_ctx];
  by("facts").textContent = [...known, status.value].filter(Boolean).join(" · ");
}

// The settings, with the server's defaults where the page's own still stand.
function withDefaults(params) {
  const found = readSettings();
  for (const key of NUMBERS) {
    if (params[key] >= 0 && found[key] === String(DEFAULTS[key])) found[key] = params[key];
    if (params[key] >= 0) DEFAULTS[key] = params[key];
  }
  return found;
}

// -- texts on the page ---------------------------------------------------------------------------

function add(role, text) {
  by("empty")?.remove();
  const article = document.createElement("article");
  article.className = role;
  const body = document.createElement("div");
  body.textContent = text;
  article.append(body);
  talk.append(article);
  scrollDown(true);
  return article;
}

function scrollDown(always) {
  const isNear = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 80;
  if (always || isNear) talk.scrollTop = talk.scrollHeight;
}

function note(article, text, isError) {
  const small = document.createElement("small");
  small.textContent = text;
  if (isError) small.className = "error";
  article.append(small);
  scrollDown(false);
}

// -- asking --------------------------------------------------------------------------------------

function request(text) {
  const model = picker.hidden ? {} : { model: picker.value };
  const shared = { ...model, ...sampling(), stream: true, stream_options: { include_usage: true } };
  if (settings.elements.mode.value === "text") {
    return ["/v1/completions", { ...shared, prompt: text }];
  }
  const system = settings.elements.system.value.trim();
  const before = system ? [{ role: "system", content: system }] : [];
  const chat = { ...shared, messages: [...before, ...messages], reasoning_format: "none" };
  return ["/v1/chat/completions", chat];
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function answer(text) {
  const isText = settings.elements.mode.value === "text";
  if (!isText) messages.push({ role: "user", content: text });
  const article = add(isText ? "text" : "user", text);
  const place = isText ? article : add("assistant", "");
  if (isText) article.firstChild.className = "prompt";
  const output = isText ? article.appendChild(document.createElement("span")) : place.firstChild;
  const hasMore = await write(place, output, request(text));
  const found = output.textContent;
  if (!isText && found) messages.push({ role: "assistant", content: found });
  else if (!isText) messages.pop();
  store("messages", messages);
  if (isText && hasMore) offerMore(article, output, text);
}

// Writes after what `output` holds; returns whether there could be more: it was cut or stopped.
async function write(place, output, [path, body]) {
  const isChat = "messages" in body;
  let found = output.textContent, usage = null, began = 0, failed = "", reason = "";
  setRunning(new AbortController());
  place.classList.add("running");
  try {
    const reply = await fetch(path, {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
    });
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    for await (const chunk of events(reply)) {
      if (chunk.error) throw new Error(chunk.error.message);
      usage = chunk.usage ?? usage;
      const choice = chunk.choices[0];
      reason = choice?.finish_reason ?? reason;
      const piece = choice ? (choice.text ?? choice.delta.content ?? "") : "";
      if (piece) {
        began ||= performance.now();
        found += piece;
        output.textContent = isChat ? found.trimStart() : found;
        scrollDown(false);
      }
    }
  } catch (error) {
    failed = error.name === "AbortError" ? "stopped" : error.message;
  }
  place.classList.remove("running");
  note(place, failed || speed(usage, began), failed && failed !== "stopped");
  setRunning(null);
  if (!picker.hidden) showModel();
  return failed === "stopped" || reason === "length";
}

function offerMore(article, output, prompt) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Continue";
  article.lastChild.append(" ", button);
  scrollDown(false);
  button.addEventListener("click", async () => {
    if (running) return;
    article.lastChild.remove();  // the note, and the button in it
    const hasMore = await write(article, output, request(prompt + output.textContent));
    if (hasMore) offerMore(article, output, prompt);
  });
}

function speed(usage, began) {
  if (!usage) return "";
  const seconds = (performance.now() - began) / 1000;
  const rate = usage.completion_tokens > 1 ? (usage.completion_tokens - 1) / seconds : 0;
  return `${usage.completion_tokens} tokens` + (rate ? `, ${rate.toFixed(1)} per second` : "");
}

function setRunning(controller) {
  running = controller;
  by("send").hidden = controller !== null;
  by("stop").hidden = controller === null;
  talk.setAttribute("aria-busy", String(controller !== null));
  status.textContent = controller ? "generating …" : "";
  if (!controller) input.focus({ preventScroll: true });
}

// -- what people do ------------------------------------------------------------------------------

function openSettings(isOpen) {
  settings.hidden = !isOpen;
  by("toggle-settings").setAttribute("aria-expanded", String(isOpen));
}

function grow() {
  input.style.height = "auto";
  input.style.height = input.scrollHeight + 2 + "px";
}

by("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value;
  if (!text.trim() || running) return;
  input.value = "";
  grow();
  answer(text);
});
input.addEventListener("input", grow);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    by("ask").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
by("stop").addEventListener("click", () => running?.abort());
by("toggle-settings").addEventListener("click", () => openSettings(settings.hidden));
by("new").addEventListener("click", () => {
  running?.abort();
  messages = [];
  store("messages", messages);
  talk.replaceChildren();
  input.focus();
});
by("defaults").addEventListener("click", () => {
  showSettings({ ...DEFAULTS, key: settings.elements.key.value });
  store("settings", readSettings());
});
picker.addEventListener("change", () => {
  store("model", picker.value);
  showModel();
});
settings.addEventListener("submit", (event) => event.preventDefault());
settings.addEventListener("change", (event) => {
  store("settings", readSettings());
  if (event.target.name === "key") loadFacts();
});

showSettings({ ...DEFAULTS, ...stored("settings", {}) });
messages = stored("messages", []);
for (const message of messages) add(message.role, message.content);
loadFacts().catch((error) => { by("facts").textContent = "no response: " + error.message; });
