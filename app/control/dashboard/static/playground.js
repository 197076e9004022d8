/* A conversation with a model, through the balancer, as any client has it. */

const talk = { messages: [], stop: null };

function tryModels(snapshot) {
  const names = [...new Set(snapshot.backends.flatMap((backend) => backend.models || []))].sort();
  choices($("try-model"), "pick a model", names);
  $("try-part").hidden = !names.length;
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: {")) yield JSON.parse(line.slice(6));
  }
}

function said(role, text) {
  const node = make("p", role, text);
  node.dir = "auto";
  $("try-talk").append(node);
  return node;
}

async function ask(text) {
  const begun = performance.now();
  const key = $("try-key").value;
  talk.stop = new AbortController();
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    signal: talk.stop.signal,
    headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
    body: JSON.stringify({
      model: $("try-model").value, stream: true, stream_options: { include_usage: true },
      messages: [...talk.messages, { role: "user", content: text }],
    }),
  });
  if (!response.ok) {
    if (response.status === 401) $("try-key").parentNode.hidden = false;
    throw new Error((await response.json()).error.message);
  }
  const told = (name) => decodeURIComponent(response.headers.get(`x-balancer-${name}`) || "");
  const where = [told("server"), told("reason").replaceAll("_", " ")];
  set($("try-facts"), where.filter(Boolean).join(", "));
  said("user", text);
  const shown = said("assistant", "");
  let answer = "";
  let first = 0;
  let used = null;
  for await (const event of eventsOf(response.body)) {
    if (event.error) throw new Error(event.error.message);
    const delta = event.choices && event.choices.length ? event.choices[0].delta : {};
    const piece = delta.content || delta.reasoning_content || delta.reasoning || "";
    if (piece && !first) first = performance.now();
    answer += piece;
    if (piece) set(shown, answer);
    used = event.usage || used;
  }
  talk.messages.push({ role: "user", content: text }, { role: "assistant", content: answer });
  const facts = [...where, first && `first token after ${brief((first - begun) / 1000)}`];
  if (used) {
    const cached = used.prompt_tokens_details && used.prompt_tokens_details.cached_tokens;
    facts.push(`${used.prompt_tokens} tokens read${cached ? `, ${cached} of them from the cache` : ""}`, `${used.completion_tokens} written`);
    const seconds = (performance.now() - first) / 1000;
    if (first && used.completion_tokens > 1) facts.push(`${((used.completion_tokens - 1) / seconds).toFixed(1)} tokens/s`);
  }
  set($("try-facts"), facts.filter(Boolean).join(" · "));
}

$("try").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("try-go").disabled = true;
  $("try-stop").hidden = false;
  set($("try-error"), "");
  try {
    await ask($("try-text").value);
    $("try-text").value = "";
  } catch (error) {
    set($("try-error"), error.name === "AbortError" ? "Stopped." : error.message);
  }
  $("try-go").disabled = false;
  $("try-stop").hidden = true;
});
$("try-stop").addEventListener("click", () => talk.stop.abort());
$("try-new").addEventListener("click", () => {
  talk.messages = [];
  $("try-talk").replaceChildren();
  set($("try-facts"), "");
  set($("try-error"), "");
});
