// Requests to the server that this page came from, and to nobody else.

const KEY = "gguf-hub.key";

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// -- the API key: for this tab's session, or kept where that was asked for ------------------------

export function readKey() {
  try {
    return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function isKeyKept() {
  try {
    return localStorage.getItem(KEY) !== null;
  } catch {
    return false;
  }
}

export function saveKey(key, isKept) {
  try {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    if (key) (isKept ? localStorage : sessionStorage).setItem(KEY, key);
  } catch { /* a browser that keeps nothing: it is typed again */ }
}

// -- requests ------------------------------------------------------------------------------------

async function request(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  const key = readKey();
  if (key) headers.Authorization = "Bearer " + key;
  const reply = await fetch("." + path, { ...options, headers });  // a prefix may stand before it
  if (!reply.ok) throw new ApiError(await reasonOf(reply), reply.status);
  return reply;
}

async function reasonOf(reply) {
  try {
    const { error } = await reply.json();
    return error.message ?? String(error);
  } catch {
    return `the server answered ${reply.status}`;
  }
}

export async function get(path) {
  return (await request(path)).json();
}

export async function post(path, body) {
  return (await request(path, { method: "POST", body: JSON.stringify(body) })).json();
}

// Yields the data of server-sent events until [DONE].
export async function* events(path, body, signal) {
  for await (const block of parts(await stream(path, body, signal), "\n\n")) {
    const data = block.split("\n").filter((line) => line.startsWith("data:"))
      .map((line) => line.slice(5).trimStart()).join("\n");
    if (data === "[DONE]") return;
    if (data) yield JSON.parse(data);
  }
}

// Yields objects of which each is a line.
export async function* lines(path, body, signal) {
  for await (const line of parts(await stream(path, body, signal), "\n")) {
    if (line.trim()) yield JSON.parse(line);
  }
}

function stream(path, body, signal) {
  return request(path, { method: "POST", body: JSON.stringify(body), signal });
}

async function* parts(reply, end) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const found = (rest + value).split(end);
    rest = found.pop();
    yield* found;
  }
  if (rest.trim()) yield rest;
}
