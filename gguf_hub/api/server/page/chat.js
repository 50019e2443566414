// The conversation that is open: its messages, its branches, and the answer under way.

import { events } from "./api.js";
import * as settings from "./settings.js";
import * as store from "./store.js";
import * as tools from "./tools.js";
import { newestLeaf, pathTo, versionsOf } from "./tree.js";
import * as view from "./view.js";

const MAX_ROUNDS = 5;       // of tools, one after another
const SAVE_MS = 2000;       // an answer under way is kept this often
const DRAW_MS = 50;         // an answer is drawn this often, or less if drawing takes long

let conversation = null;    // as in the store; null for one that nothing was written in yet
let messages = new Map();   // id -> message
let leaf = null;            // the last message of the branch that is shown
let running = null;         // AbortController of the answer under way
let asked = 0;              // what was read before another conversation was asked for is dropped
let model = "";             // which model answers; "" where there is only one
let told = { running() {}, usage() {}, opened() {} };

export const isRunning = () => running !== null;
export const openId = () => conversation?.id ?? null;

const isText = () => settings.current().mode === "text";

// Begins; `listeners` are told of the state and of tokens.
export function start(listeners) {
  told = { ...told, ...listeners };
}

export function setModel(name) {
  model = name;
}

export function redraw() {
  view.show(pathTo(messages, leaf), (message) => versionsOf(messages, message), isText());
}

// -- which conversation --------------------------------------------------------------------------

export function openNew() {
  asked++;
  stop();
  conversation = null;
  messages = new Map();
  leaf = null;
  settings.showFor(null);
  redraw();
  told.opened(null);
}

export async function open(id) {
  const mine = ++asked;
  if (id === openId()) return;
  stop();
  const found = await store.read(id);
  if (mine !== asked) return;
  if (!found) return openNew();
  take(found);
  leaf = messages.has(conversation.leaf) ? conversation.leaf : newestLeaf(messages, null);
  settings.showFor(conversation);
  redraw();
  told.opened(conversation);
}

function take(found) {
  conversation = found.conversation;
  messages = new Map(found.messages.map((message) => [message.id, message]));
}

// Takes in what another tab has written; the branch that is shown here stays.
export async function refresh(id) {
  const mine = asked;
  if (id !== openId() || running) return;
  const found = await store.read(id);
  if (mine !== asked || running) return;
  if (!found) return openNew();
  take(found);
  if (!messages.has(leaf)) leaf = conversation.leaf;
  if (!document.querySelector("form.edit")) redraw();
}

export function changeSetting(name, value) {
  if (name === "mode") redraw();
  if (!conversation) return;
  conversation.settings = { ...conversation.settings, [name]: value };
  keep(store.change(conversation.id, { settings: conversation.settings }));
}

// -- what people do ------------------------------------------------------------------------------

export async function send(text) {
  await write({ role: "user", content: text, parent: leaf });
  await answer();
}

export async function regenerate(id) {
  leaf = messages.get(id).parent;
  await answer();
}

export function edit(id) {
  const message = messages.get(id);
  const { role, parent } = message;
  view.edit(message, async (content) => {
    await write({ role, content, parent });
    if (role === "user") await answer();
  }, redraw);
}

export function selectVersion(id) {
  if (running) return;
  leaf = newestLeaf(messages, id);
  redraw();
  keep(store.change(conversation.id, { leaf }));
}

export async function goOn(id) {
  await stream(messages.get(id));
  redraw();
}

export function stop() {
  running?.abort();
}

export const textOf = (id) => messages.get(id).content;

// -- writing down --------------------------------------------------------------------------------

async function keep(written) {
  await written.catch((error) => told.failed?.(`not kept by this browser: ${error.message}`));
}

async function write(fields) {
  if (!conversation) {
    const title = fields.content.trim().slice(0, 60).replace(/\s+/g, " ");
    conversation = {
      id: store.newId(), title, updated: Date.now(), settings: settings.current(), leaf: null,
    };
    try {
      await store.create(conversation);
    } catch (error) {
      told.failed?.(`not kept by this browser: ${error.message}`);
    }
    told.opened(conversation);
  }
  const message = {
    id: store.newId(), conversation: conversation.id, created: Date.now(), ...fields,
  };
  messages.set(message.id, message);
  leaf = message.id;
  keep(store.put(message).then(() => store.change(message.conversation, { leaf: message.id })));
  redraw();
  return message;
}

// -- answers -------------------------------------------------------------------------------------

// Writes an answer after the branch that is shown; runs the tools that it calls.
async function answer() {
  for (let round = 0; round <= MAX_ROUNDS; round++) {
    const mine = await write({ role: "assistant", content: "", parent: leaf, model });
    const isWhole = await stream(mine);
    if (!isWhole || !mine.tool_calls || round === MAX_ROUNDS) break;
    for (const call of mine.tool_calls) {
      const content = tools.run(call.function);
      await write({ role: "tool", content, tool_call_id: call.id, parent: leaf });
    }
  }
  redraw();
}

// Streams into a message, after what it holds already; returns whether the answer is whole.
async function stream(message) {
  const controller = new AbortController();
  const shown = messages;  // another conversation may be opened meanwhile
  const text = isText();
  let next = 0, saved = performance.now(), reason = "";
  const draw = (isLast) => {
    const now = performance.now();
    if (shown !== messages || (!isLast && now < next)) return;
    view.grow(message, text);
    const after = performance.now();
    next = after + Math.max(DRAW_MS, 4 * (after - now));
  };
  Object.assign(message, { note: "", isOpen: false, isError: false });
  setRunning(controller);
  draw(true);
  try {
    const [path, body] = request(message, text);
    for await (const chunk of events(path, body, controller.signal)) {
      if (chunk.error) throw new Error(chunk.error.message);
      reason = add(chunk, message) || reason;
      draw(false);
      if (performance.now() - saved > SAVE_MS) {
        saved = performance.now();
        keep(store.put({ ...message, isOpen: true }));
      }
    }
    message.isOpen = reason === "length";
  } catch (error) {
    const isStopped = error.name === "AbortError";
    Object.assign(message, {
      note: isStopped ? "stopped" : error.message, isError: !isStopped, isOpen: true,
    });
    if (error.status === 401) settings.focusKey();
  }
  await keep(store.put(message));  // it is done when nothing of it can be lost
  if (running === controller) setRunning(null);
  if (shown === messages) draw(true);
  return !message.isOpen;
}

function setRunning(controller) {
  running = controller;
  told.running(controller !== null);
}

// Takes a chunk into a message; returns why the answer ended, if it did.
function add(chunk, message) {
  const choice = chunk.choices?.[0];
  const { content, reasoning_content, tool_calls } = choice?.delta ?? { content: choice?.text };
  if (content) message.content += content;
  if (reasoning_content) message.reasoning = (message.reasoning ?? "") + reasoning_content;
  for (const call of tool_calls ?? []) addCall(message, call);
  if (chunk.timings) message.note = speed(chunk.timings);
  if (chunk.timings) told.usage(chunk.timings);
  return choice?.finish_reason;
}

function addCall(message, { index, id, function: piece }) {
  message.tool_calls ??= [];
  const call = message.tool_calls[index] ??= {
    id, type: "function", function: { name: "", arguments: "" },
  };
  call.function.name += piece?.name ?? "";
  call.function.arguments += piece?.arguments ?? "";
}

function speed({ predicted_n, predicted_per_second }) {
  const tokens = `${predicted_n} ${predicted_n === 1 ? "token" : "tokens"}`;
  const isKnown = predicted_n > 1 && Number.isFinite(predicted_per_second);
  return isKnown ? `${tokens}, ${predicted_per_second.toFixed(1)} per second` : tokens;
}

// Returns path and body of the request that writes on after `message`.
function request(message, text) {
  const shared = {
    ...(model ? { model } : {}), ...settings.sampling(), stream: true, timings_per_token: true,
    stream_options: { include_usage: true },
  };
  const path = pathTo(messages, message.id);
  if (text) return ["/v1/completions", { ...shared, prompt: path.map((each) => each.content).join("") }];
  const { system, tools: hasTools } = settings.current();
  const before = system.trim() ? [{ role: "system", content: system }] : [];
  const turns = path.filter((each) => each !== message || each.content).map(turn);
  const more = hasTools ? { tools: tools.definitions } : {};
  return ["/v1/chat/completions", { ...shared, ...more, messages: [...before, ...turns] }];
}

function turn({ role, content, tool_calls, tool_call_id }) {
  return {
    role, content, ...(tool_calls ? { tool_calls } : {}), ...(tool_call_id ? { tool_call_id } : {}),
  };
}
