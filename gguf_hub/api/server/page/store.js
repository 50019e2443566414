// Conversations, kept by this browser in IndexedDB. Each message is a record of its own, and a
// change of a conversation writes only the fields that change, so tabs do not overwrite each other.

const NAME = "gguf-hub", VERSION = 1;
const FORMAT = "gguf-hub conversations";
const ROLES = new Set(["user", "assistant", "tool"]);
const channel = new BroadcastChannel(NAME);

let opening = null;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open(NAME, VERSION);
    asked.onupgradeneeded = () => {
      asked.result.createObjectStore("conversations", { keyPath: "id" });
      const messages = asked.result.createObjectStore("messages", { keyPath: "id" });
      messages.createIndex("conversation", "conversation");
    };
    asked.onsuccess = () => {
      asked.result.onversionchange = () => asked.result.close();
      resolve(asked.result);
    };
    asked.onerror = () => reject(asked.error);
    asked.onblocked = () => reject(new Error("another tab has an older version of this page open"));
  });
  opening.catch(() => { opening = null; });
  return opening;
}

function result(asked) {
  return new Promise((resolve, reject) => {
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

// Runs `work` in one transaction; it may wait for requests of that transaction and nothing else.
async function transact(mode, work) {
  const transaction = (await open()).transaction(["conversations", "messages"], mode);
  const ended = new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error ?? new Error("the browser has stopped it"));
  });
  const conversations = transaction.objectStore("conversations");
  const messages = transaction.objectStore("messages");
  try {
    const found = await work(conversations, messages);
    await ended;
    return found;
  } catch (error) {
    ended.catch(() => {});
    try { transaction.abort(); } catch { /* it has ended */ }
    throw error;
  }
}

function announce(id) {
  channel.postMessage({ id });
}

// Calls `changed` with the conversation that another tab has changed.
export function onChange(changed) {
  channel.addEventListener("message", (event) => changed(event.data.id));
}

export function newId() {
  return crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)),
    (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// -- reading -------------------------------------------------------------------------------------

export async function list() {
  const all = await transact("readonly", (conversations) => result(conversations.getAll()));
  return all.sort((a, b) => b.updated - a.updated);
}

export async function read(id) {
  return transact("readonly", async (conversations, messages) => {
    const conversation = await result(conversations.get(id));
    const found = conversation ? await result(messages.index("conversation").getAll(id)) : [];
    return conversation && { conversation, messages: found };
  });
}

// Returns the ids of the conversations that have a text, in titles or messages.
export async function search(text) {
  const wanted = text.toLowerCase();
  const has = (value) => value.toLowerCase().includes(wanted);
  return transact("readonly", async (conversations, messages) => {
    const titles = await result(conversations.getAll());
    const texts = await result(messages.getAll());
    return new Set([
      ...titles.filter((each) => has(each.title)).map((each) => each.id),
      ...texts.filter((each) => has(each.content)).map((each) => each.conversation),
    ]);
  });
}

// -- writing -------------------------------------------------------------------------------------

export async function create(conversation) {
  await transact("readwrite", (conversations) => result(conversations.add(conversation)));
  announce(conversation.id);
}

// Changes fields of a conversation, and nothing if it has been removed.
export async function change(id, fields) {
  await transact("readwrite", async (conversations) => {
    const found = await result(conversations.get(id));
    if (found) await result(conversations.put({ ...found, ...fields }));
  });
  announce(id);
}

// Writes a message; of a conversation that has been removed in the meantime, nothing.
export async function put(message) {
  await transact("readwrite", async (conversations, messages) => {
    const found = await result(conversations.get(message.conversation));
    if (!found) return;
    await result(messages.put(message));
    await result(conversations.put({ ...found, updated: Date.now() }));
  });
  announce(message.conversation);
}

export async function remove(id) {
  await transact("readwrite", async (conversations, messages) => {
    await result(conversations.delete(id));
    for (const key of await result(messages.index("conversation").getAllKeys(id))) {
      await result(messages.delete(key));
    }
  });
  announce(id);
}

// -- files ---------------------------------------------------------------------------------------

// Returns conversations as data for a file: one, or all with null.
export async function exported(id = null) {
  const found = [];
  for (const { id: each } of id === null ? await list() : [{ id }]) {
    const { conversation, messages } = await read(each);
    found.push({ ...conversation, messages });
  }
  return { format: FORMAT, version: VERSION, conversations: found };
}

// Adds the conversations of a file, each under ids of its own; returns how many.
export async function imported(data) {
  if (data?.format !== FORMAT || data.version !== VERSION || !Array.isArray(data.conversations)) {
    throw new Error(`expected a file of "${FORMAT}", version ${VERSION}`);
  }
  const all = data.conversations.map(checked);
  await transact("readwrite", async (conversations, messages) => {
    for (const each of all) {
      await result(conversations.add(each.conversation));
      for (const message of each.messages) await result(messages.add(message));
    }
  });
  all.forEach((each) => announce(each.conversation.id));
  return all.length;
}

function checked(raw, place) {
  const where = `conversation ${place + 1}`;
  if (!Array.isArray(raw?.messages)) throw new Error(`${where}: it has no messages`);
  const id = newId();
  const ids = new Map(raw.messages.map((message) => [message?.id, newId()]));
  const messages = raw.messages.map((message, i) => {
    if (!ROLES.has(message?.role) || typeof message.content !== "string") {
      throw new Error(`${where}, message ${i + 1}: expected a role and a text`);
    }
    return {
      id: ids.get(message.id), conversation: id, parent: ids.get(message.parent) ?? null,
      role: message.role, content: message.content, created: Number(message.created) || i,
      ...optional(message),
    };
  });
  requireTree(messages, where);
  const title = typeof raw.title === "string" ? raw.title.slice(0, 200) : "Imported";
  const updated = Number(raw.updated) || Date.now();
  const settings = {};
  for (const [name, value] of Object.entries(raw.settings ?? {})) {
    if (typeof value === "string" || typeof value === "boolean") settings[name] = value;
  }
  const leaf = ids.get(raw.leaf) ?? messages.at(-1)?.id ?? null;
  return { conversation: { id, title, updated, settings, leaf }, messages };
}

// Only the fields that this page shows, each of the type that it shows.
function optional(message) {
  const found = {};
  for (const name of ["reasoning", "note", "tool_call_id", "model"]) {
    if (typeof message[name] === "string") found[name] = message[name];
  }
  if (Array.isArray(message.tool_calls)) {
    found.tool_calls = message.tool_calls.map((call) => ({
      id: String(call?.id), type: "function",
      function: {
        name: String(call?.function?.name), arguments: String(call?.function?.arguments),
      },
    }));
  }
  return found;
}

function requireTree(messages, where) {
  const parents = new Map(messages.map((message) => [message.id, message.parent]));
  for (const message of messages) {
    let steps = 0;
    for (let at = message.id; at !== null; at = parents.get(at) ?? null) {
      if (++steps > messages.length) throw new Error(`${where}: its messages go in a circle`);
    }
  }
}

// Takes over the one conversation that versions before this one kept.
export async function adoptOld() {
  const text = localStorage.getItem("gguf-hub.messages");
  if (!text) return;
  localStorage.removeItem("gguf-hub.messages");
  const old = JSON.parse(text);
  if (!Array.isArray(old) || !old.length) return;
  const messages = old.map((message, i) => ({ ...message, id: i, parent: i ? i - 1 : null }));
  const title = String(messages[0].content).slice(0, 60);
  await imported({ format: FORMAT, version: VERSION, conversations: [{ title, messages }] });
}
