// JavaScript's clients against a server, for test_javascript.py: node clients.mjs URL MODEL.
// Prints one line of JSON for each: [client, what, result or error].
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import { embed, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [url, model] = process.argv.slice(2);
const base = `${url}/v1`;
const messages = [{ role: "user", content: "Tell me a story." }];
const person = z.object({ age: z.number() });
const add = { description: "Add two numbers.", inputSchema: z.object({ a: z.number(), b: z.number() }) };

async function run(client, what, ask) {
  let result;
  try {
    result = { value: await ask() };
  } catch (error) {
    result = { error: `${error.name}: ${error.message}` };
  }
  console.log(JSON.stringify([client, what, result]));
}

async function count(items) {
  let n = 0;
  for await (const _ of items) n++;
  return n;
}

const openai = new OpenAI({ baseURL: base, apiKey: "x", maxRetries: 0 });
const chat = (options) => openai.chat.completions.create({ model, messages, max_tokens: 8, ...options });
await run("openai", "chat", async () => (await chat()).choices[0].message.content);
await run("openai", "stream", async () => count(await chat({ stream: true })));
await run("openai", "parse", async () => (await openai.chat.completions.parse({
  model, messages, max_tokens: 200, response_format: zodResponseFormat(person, "person"),
})).choices[0].message.parsed);
await run("openai", "embeddings", async () =>
  (await openai.embeddings.create({ model, input: "a" })).data[0].embedding.length);
await run("openai", "responses", async () =>
  (await openai.responses.create({ model, input: "Tell me a story.", max_output_tokens: 8 })).output_text);

const compatible = createOpenAICompatible({
  name: "gguf-hub", baseURL: base, apiKey: "x", includeUsage: true, supportsStructuredOutputs: true,
});
const models = {
  "openai-compatible": compatible(model),
  "openai chat": createOpenAI({ baseURL: base, apiKey: "x" }).chat(model),
  "openai responses": createOpenAI({ baseURL: base, apiKey: "x" })(model),
};
for (const [name, each] of Object.entries(models)) {
  const asked = { model: each, prompt: "Tell me a story.", maxOutputTokens: 200, maxRetries: 0 };
  await run(`ai-sdk ${name}`, "text", async () => (await generateText({ ...asked, maxOutputTokens: 16 })).text);
  await run(`ai-sdk ${name}`, "stream", async () =>
    count(streamText({ ...asked, maxOutputTokens: 16 }).textStream));
  await run(`ai-sdk ${name}`, "object", async () => (await generateObject({ ...asked, schema: person })).object);
  await run(`ai-sdk ${name}`, "tool", async () => (await generateText({
    ...asked, toolChoice: "required", stopWhen: stepCountIs(1),
    tools: { add: tool({ ...add, execute: async ({ a, b }) => a + b }) },
  })).toolResults.map(({ toolName, input, output }) => [toolName, output === input.a + input.b]));
}
await run("ai-sdk openai-compatible", "embedding", async () =>
  (await embed({ model: compatible.textEmbeddingModel(model), value: "a" })).embedding.length);

const langchain = new ChatOpenAI({
  model, apiKey: "x", maxTokens: 200, maxRetries: 0, configuration: { baseURL: base },
});
await run("langchain", "invoke", async () => (await langchain.invoke("Tell me a story.")).content);
await run("langchain", "structured output", async () => langchain.withStructuredOutput(person).invoke("How old?"));

const ollama = new Ollama({ host: url });
const options = { num_predict: 8 };
await run("ollama", "list", async () => (await ollama.list()).models.map((each) => each.name));
await run("ollama", "chat", async () => (await ollama.chat({ model, messages, options })).message.content);
await run("ollama", "stream", async () => count(await ollama.chat({ model, messages, options, stream: true })));
await run("ollama", "embed", async () => (await ollama.embed({ model, input: "a" })).embeddings[0].length);

const anthropic = new Anthropic({ baseURL: url, apiKey: "x", maxRetries: 0 });
const message = { model, max_tokens: 8, messages };
await run("anthropic", "message", async () => (await anthropic.messages.create(message)).content[0].text);
await run("anthropic", "stream", async () => count(anthropic.messages.stream(message)));
