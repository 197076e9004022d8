// Asks a balancer by the packages of each API, and prints which error each request has raised.
import Anthropic from "@anthropic-ai/sdk";
import { Ollama } from "ollama";
import OpenAI from "openai";

const [base, cases] = [process.argv[2], JSON.parse(process.argv[3])];
const messages = [{ role: "user", content: "hi" }];

async function read(created, stream) {
  if (!stream) return;
  for await (const event of created) {
    if (event.type === "response.failed") throw new OpenAI.APIError(undefined, event.response.error, "failed");
  }
}

function clients(key) {
  const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
  const anthropic = new Anthropic({ baseURL: base, apiKey: null, authToken: key, maxRetries: 0 });
  const ollama = new Ollama({ host: base, headers: { authorization: `Bearer ${key}` } });
  return [
    ["chat", (model, stream) => openai.chat.completions.create({ model, messages, stream })],
    ["completions", (model, stream) => openai.completions.create({ model, prompt: "hi", stream })],
    ["responses", (model, stream) => openai.responses.create({ model, input: "hi", stream })],
    ["messages", (model, stream) => anthropic.messages.create({ model, messages, max_tokens: 9, stream })],
    ["ollama", (model, stream) => ollama.chat({ model, messages, stream })],
    ["ollama", (model, stream) => ollama.generate({ model, prompt: "hi", stream })],
  ];
}

async function meet(name, model, stream, [client, ask]) {
  let error = null;
  try {
    await read(await ask(model, stream), stream);
  } catch (raised) {
    error = raised;
  }
  const status = error?.status ?? error?.status_code ?? null;
  const told = { case: name, client, stream, raised: error !== null, status };
  console.log(JSON.stringify({ ...told, name: error?.constructor.name, message: String(error) }));
}

for (const [name, { model, key, streams }] of Object.entries(cases)) {
  for (const stream of streams ? [true] : [false, true]) {
    await Promise.all(clients(key).map((one) => meet(name, model, stream, one)));
  }
}
