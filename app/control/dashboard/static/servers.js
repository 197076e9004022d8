/* The servers: a row each, which opens to all that is known of one. */

const STATUSES = {
  idle: "idle", busy: "busy", invalid: "unreachable", loading: "loads its model", draining: "drains", ejected: "left alone",
  asleep: "asleep", waking: "wakes up",
};
const REASONS = {
  refused: "it refuses connections", timeout: "it does not respond in time", bad_response: "its response is not as it should be",
  probe: "by a probe", response: "by a response", admin: "by the administrator", agent: "its agent said so, or keeps silent",
};
const WORST = ["invalid", "ejected", "draining", "loading", "waking", "busy", "idle", "asleep"];
const FEW = 8;

const fleet = { by: "", down: false, open: new Set() };

/* "busy" is what a server has to do, whatever its GPU says. */
function status(backend) {
  if (backend.status === "draining" && !backend.drained_by.includes("admin")) return "its agent is gone";
  if (backend.status === "idle" && inFlight(backend) > 0) return "at work";
  return STATUSES[backend.status] || backend.status;
}

const median = (numbers) => (numbers.length ? numbers.sort((a, b) => a - b)[Math.floor(numbers.length / 2)] : null);

/* What the last requests say of a server: half of them were faster. */
function pace(name) {
  const there = log.ended.filter((one) => one.server === name).slice(0, 100);
  return {
    first: median(there.map((one) => one.first_token_seconds).filter((seconds) => seconds !== null)),
    writes: median(there.map(speed).filter((rate) => rate !== null)),
  };
}

/* Whoever has sent them: the page is the same at each of several balancers. */
const inFlight = (backend) => backend.total_inflight + backend.others_inflight;

function load(backend) {
  const limit = backend.request_max;
  return limit === null ? inFlight(backend) : `${inFlight(backend)} of ${limit}`;
}

const COLUMNS = [
  ["Server", (one) => one.backend.name],
  ["Status", (one) => WORST.indexOf(one.backend.status)],
  ["In flight", (one) => -inFlight(one.backend)],
  ["Slots", (one) => -one.backend.slots.length],
  ["GPU", (one) => -(one.backend.last ? one.backend.last.gpu_util_max5s : -1)],
  ["Loaded", (one) => (one.backend.loaded || []).join(", ")],
  ["Reads tokens/s", (one) => -(one.backend.prefill_tokens_per_second || 0)],
  ["Writes tokens/s", (one) => -(one.pace.writes || 0)],
  ["First token", (one) => one.pace.first || 0],
];

function inOrder(servers) {
  const column = COLUMNS.find(([name]) => name === fleet.by);
  if (!column) return servers;
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const sorted = [...servers].sort((a, b) => compare(column[1](a), column[1](b)));
  return fleet.down ? sorted.reverse() : sorted;
}

function showServers(snapshot) {
  $("servers-search").parentNode.hidden = snapshot.backends.length <= FEW;
  const asked = $("servers-search").value.trim().toLowerCase();
  const found = snapshot.backends.filter((backend) => !asked
    || [backend.name, backend.model_base, backend.kind || "", status(backend), ...(backend.models || [])].some((text) => text.toLowerCase().includes(asked)));
  const listed = inOrder(found.map((backend) => ({ backend, pace: pace(backend.name) }))).flatMap((one) =>
    (fleet.open.has(one.backend.name) ? [one, { ...one, detail: true }] : [one]));
  keep($("servers"), listed, (one) => `${one.detail ? "detail" : "row"} ${one.backend.name}`, serverRow, (row, one) => fillServer(row, one, snapshot));
}

function serverRow(one) {
  const row = make("tr");
  if (one.detail) {
    const cell = make("td", "detail");
    cell.colSpan = COLUMNS.length;
    row.append(cell);
    return row;
  }
  COLUMNS.forEach(([label], index) => {
    const cell = make("td", index > 5 ? "number" : "");
    cell.dataset.label = label;
    cell.append(make(index ? "span" : "button", index ? "" : "opens"));
    row.append(cell);
  });
  row.children[1].firstChild.className = "status";
  row.firstChild.firstChild.addEventListener("click", () => {
    const name = row.dataset.server;
    if (!fleet.open.delete(name)) fleet.open.add(name);
    showServers(told.snapshot);
  });
  return row;
}

function fillServer(row, { backend, pace: its, detail }, snapshot) {
  row.dataset.server = backend.name;
  row.dataset.status = backend.status;
  if (detail) {
    serverDetail(row.firstChild, backend, its, snapshot);
    return;
  }
  const { last } = backend;
  const cells = [backend.name, status(backend), load(backend), null, last && percent(last.gpu_util_max5s),
    backend.loaded && (backend.loaded.join(", ") || "nothing"), rate(backend.prefill_tokens_per_second), rate(its.writes), known(its.first)];
  cells.forEach((text, index) => {
    if (index === 3) return;
    row.children[index].classList.toggle("blank", text === null);
    labelled(row.children[index].firstChild, text);
  });
  row.children[1].firstChild.dataset.status = status(backend) === "at work" ? "busy" : backend.status;
  slots(row.children[3], backend);
  row.children[3].classList.toggle("blank", !backend.slots.length);
  row.firstChild.firstChild.setAttribute("aria-expanded", fleet.open.has(backend.name));
}

const rate = (tokens) => (tokens ? compact(Number(tokens.toPrecision(3))) : null);

function serverDetail(cell, backend, its, { now, drain: mayDrain }) {
  const limit = backend.request_max;
  meter(cell, "flight", "In flight", load(backend), limit === null ? null : inFlight(backend) / limit);
  const { last, changed } = backend;
  if (last) meter(cell, "gpu", "GPU, 5 s peak", percent(last.gpu_util_max5s), last.gpu_util_max5s / 100);
  const pairs = [];
  if (changed) pairs.push([`${STATUSES[changed.status] || changed.status} since`,
    `${new Date(changed.at).toLocaleString()}, ${age(since(now, changed.at))} ago: ${REASONS[changed.reason] || changed.reason}`]);
  for (const text of Object.values(backend.faults)) pairs.push(["Its last probe", text]);
  if (backend.ejected_until) pairs.push(["Left alone until", new Date(backend.ejected_until).toLocaleTimeString()]);
  pairs.push(...Object.entries(backend.model_inflight).map(([model, count]) => [`In flight, ${model}`, count]));
  if (backend.others_inflight) pairs.push(["Of these, of others", backend.others_inflight]);
  if (backend.loaded) pairs.push(["Loaded", backend.loaded.join(", ") || "nothing"]);
  if (backend.pinned_models.length) pairs.push(["Pinned", backend.pinned_models.join(", ")]);
  if (backend.starting.length) pairs.push(["Loads", backend.starting.join(", ")]);
  if (backend.context) pairs.push(["Context", `${compact(backend.context)} tokens`]);
  if (backend.prefill_tokens_per_second) pairs.push(["Reads prompts at", `${rate(backend.prefill_tokens_per_second)} tokens/s`]);
  if (its.writes) pairs.push(["Writes at", `${rate(its.writes)} tokens/s, half of its last responses faster`]);
  if (its.first !== null) pairs.push(["First token after", `${brief(its.first)}, half of them sooner`]);
  const { cache, work } = backend.prompt_tokens;
  if (cache + work) pairs.push(["Prompts from its cache", `${percent(100 * cache / (cache + work))}, ${compact(cache)} tokens`]);
  const { hit, miss } = backend.forecasts;
  if (hit + miss) pairs.push(["Expected in its cache, and was not", `${miss} of ${hit + miss}`]);
  if (backend.kind) pairs.push(["Kind", backend.kind]);
  pairs.push(["Address", backend.model_base]);
  if (last) pairs.push(["Its agent told its load", `${age(since(now, last.updated_at))} ago`]);
  pairs.push(["Models", backend.models === null ? "unknown" : backend.models.join(", ") || "none"]);
  facts(cell, pairs);
  modelButtons(cell, backend, mayDrain);
  drainButton(cell, backend, mayDrain);
}

/* Load what is not in memory; unload what is, or have it stay. */
function modelButtons(cell, backend, allowed) {
  let list = cell.querySelector(".orders");
  if (!list) cell.append((list = make("div", "orders")));
  const models = allowed && backend.loaded ? (backend.models || []).slice(0, 40) : [];
  const orders = models.flatMap((model) => {
    const loaded = backend.loaded.includes(model);
    const pinned = backend.pinned_models.includes(model);
    return [
      backend.orders_models && { path: "models", model, undo: loaded, text: `${loaded ? "Unload" : "Load"} ${model}` },
      (loaded || pinned) && { path: "pinned", model, undo: pinned, text: `${pinned ? "Unpin" : "Pin"} ${model}` },
    ].filter(Boolean);
  });
  keep(list, orders, ({ path, model }) => `${path} ${model}`, ({ path, model }) => {
    const button = make("button");
    button.addEventListener("click", () => order(button.dataset.method,
      `/llmhealth-${path}/${encodeURIComponent(backend.name)}?model=${encodeURIComponent(model)}`, `${button.textContent}, ${backend.name}`));
    return button;
  }, (button, { path, undo, text }) => {
    button.dataset.method = undo ? "DELETE" : "POST";
    labelled(button, text);
    if (path === "pinned") button.title = "A pinned model is unloaded for no other while another server can load that one";
  });
}

function drainButton(cell, backend, allowed) {
  let button = cell.querySelector(".drain");
  if (!button) {
    cell.append((button = make("button", "drain")));
    button.addEventListener("click", () => order(button.dataset.method, `/llmhealth-drain/${encodeURIComponent(backend.name)}`,
      `${button.textContent}: ${backend.name}`));
  }
  button.hidden = !allowed;
  const drained = backend.drained_by.includes("admin");
  button.dataset.method = drained ? "DELETE" : "POST";
  set(button, drained ? "Give it requests again" : "Drain");
  button.title = drained ? "" : "No new requests; those in flight go on";
}

for (const head of $("servers").parentNode.querySelectorAll("th button")) {
  head.addEventListener("click", () => {
    const by = head.textContent;
    fleet.down = fleet.by === by && !fleet.down;
    fleet.by = by;
    for (const th of $("servers").parentNode.querySelectorAll("th")) {
      if (th.textContent === by) th.setAttribute("aria-sort", fleet.down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
    showServers(told.snapshot);
  });
}
$("servers-search").addEventListener("input", () => showServers(told.snapshot));
