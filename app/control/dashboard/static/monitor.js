"use strict";
/* Everything that comes from outside is set as text: names may hold anything. */

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function set(node, text) {
  const written = text === null || text === undefined ? "–" : String(text);
  if (node.textContent !== written) node.textContent = written;
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) set(node, text);
  return node;
}

/* Keep one child for each item, in order; what is there already stays, folded or open. */
function keep(parent, items, key, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    let node = known.get(id);
    if (node) known.delete(id);
    else {
      node = create(item);
      node.dataset.key = id;
    }
    update(node, item);
    if (node !== at) parent.insertBefore(node, at);
    else at = at.nextElementSibling;
  }
  for (const node of known.values()) node.remove();
}

function labelled(node, text) {
  set(node, text);
  node.title = node.textContent;
  node.dir = "auto";
}

function age(seconds) {
  if (!(seconds >= 0)) return "–";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

const since = (now, time) => (Date.parse(now) - Date.parse(time)) / 1000;
const percent = (value) => (value === null || value === undefined ? null : `${Math.round(value)} %`);
const compact = (number) => Intl.NumberFormat("en", { notation: "compact" }).format(number);
const gibibytes = (bytes) => (bytes === null ? null : (bytes / 2 ** 30).toFixed(1));

/* Parts of a card */

function meter(card, id, name, text, share) {
  let node = card.querySelector(`[data-meter="${id}"]`);
  if (!node) {
    node = make("div", "meter");
    node.dataset.meter = id;
    const row = make("div", "row");
    row.append(make("span"), make("span"));
    const track = make("div", "track");
    track.append(make("div", "fill"));
    node.append(row, track);
    card.append(node);
  }
  const [label, value] = node.querySelectorAll(".row span");
  set(label, name);
  set(value, text);
  const fill = node.querySelector(".fill");
  const known = share !== null && Number.isFinite(share);
  fill.parentNode.hidden = !known;
  fill.style.setProperty("width", `${known ? Math.min(100, Math.max(0, share * 100)) : 0}%`);
  fill.classList.toggle("full", known && share >= 1);
}

function facts(card, pairs) {
  let list = card.querySelector(".facts");
  if (!list) card.append((list = make("div", "facts")));
  keep(list, pairs, (pair) => pair[0], () => {
    const row = make("div");
    row.append(make("span"), make("span"));
    return row;
  }, (row, [name, value]) => {
    set(row.firstChild, name);
    labelled(row.lastChild, value);
  });
}

function card() {
  const node = make("article", "card");
  const top = make("div", "top");
  top.append(make("span", "name"), make("span", "status"));
  node.append(top);
  return node;
}

/* A square for each slot: at work, at work for others, holding a prompt, or empty. */
function slots(card, backend) {
  let strip = card.querySelector(".slots");
  if (!strip) card.append((strip = make("div", "slots")));
  const shown = backend.slots.slice(0, 64);
  strip.hidden = !shown.length;
  keep(strip, shown, (slot) => `${slot.instance} ${slot.number}`, () => make("span"), (square, slot) => {
    const held = slot.characters > 0;
    square.dataset.is = slot.busy ? "busy" : slot.others ? "others" : held ? "held" : "empty";
    const unused = slot.busy || slot.unused_seconds === null ? "" : `, unused for ${age(slot.unused_seconds)}`;
    square.title = `Slot ${slot.number}: ${{ busy: "at work", others: "at work for others", held: "holds a prompt", empty: "empty" }[square.dataset.is]}`
      + (held ? `, ${compact(slot.characters)} characters${unused}` : "");
  });
}

function gpuCard(node, gpu) {
  labelled(node.querySelector(".name"), gpu.name || `GPU ${gpu.index}`);
  set(node.querySelector(".status"), percent(gpu.utilization));
  meter(node, "load", "Utilisation", percent(gpu.utilization), gpu.utilization === null ? null : gpu.utilization / 100);
  const known = gpu.memory_used !== null && gpu.memory_total;
  meter(node, "memory", "Memory", known ? `${gibibytes(gpu.memory_used)} of ${gibibytes(gpu.memory_total)} GiB` : null,
    known ? gpu.memory_used / gpu.memory_total : null);
  facts(node, [
    ["Temperature", gpu.temperature === null ? null : `${Math.round(gpu.temperature)} °C`],
    ["Power", gpu.power === null ? null : `${Math.round(gpu.power)} W`],
  ]);
}

/* Tables and charts */

function rows(body, items, key, cells) {
  const labels = [...body.parentNode.querySelectorAll("th")].map((head) => head.textContent);
  keep(body, items.length ? items : [null], (item) => (item === null ? "none" : `row ${key(item)}`), (item) => {
    const row = make("tr");
    if (item === null) {
      const cell = make("td", "none", "none at present");
      cell.colSpan = labels.length;
      row.append(cell);
    } else for (const label of labels) {
      const cell = make("td", label === labels.at(-1) && labels.length > 2 ? "number" : "");
      cell.dataset.label = label;
      row.append(cell);
    }
    return row;
  }, (row, item) => {
    if (item !== null) cells(item).forEach((text, index) => {
      // On a phone the cell is a flex box: its text needs an element that can shrink.
      const cell = row.children[index];
      if (!cell.firstElementChild) cell.append(make("span"));
      labelled(cell.firstElementChild, text);
      cell.title = cell.firstElementChild.title;
    });
  });
}

function bars(parent, counts) {
  const shown = Object.entries(counts).slice(0, 8);
  const most = Math.max(1, ...shown.map((entry) => entry[1]));
  keep(parent, shown.length ? shown : [null], (entry) => (entry === null ? "none" : `bar ${entry[0]}`), (entry) => {
    if (entry === null) return make("div", "none", "none yet");
    const bar = make("div", "bar");
    const row = make("div", "row");
    row.append(make("span", "name"), make("span"));
    const track = make("div", "track");
    track.append(make("div", "fill"));
    bar.append(row, track);
    return bar;
  }, (bar, entry) => {
    if (entry === null) return;
    const [name, count] = bar.querySelectorAll(".row span");
    labelled(name, entry[0]);
    set(count, entry[1]);
    bar.querySelector(".fill").style.setProperty("width", `${(100 * entry[1]) / most}%`);
  });
}

function minutes(series, now) {
  const last = Math.floor(Date.parse(now) / 60000);
  const counts = [];
  for (let minute = last - 59; minute <= last; minute++) {
    counts.push(series[new Date(minute * 60000).toISOString().replace(".000", "")] || 0);
  }
  const most = Math.max(1, ...counts);
  const chart = $("minutes");
  chart.setAttribute("viewBox", "0 0 600 100");
  chart.setAttribute("preserveAspectRatio", "none");
  if (!chart.children.length) {
    const floor = document.createElementNS(SVG, "line");
    for (const [name, value] of [["x1", 0], ["x2", 600], ["y1", 99.5], ["y2", 99.5]]) floor.setAttribute(name, value);
    chart.append(floor);
    for (let index = 0; index < 60; index++) {
      const bar = document.createElementNS(SVG, "rect");
      bar.setAttribute("x", index * 10 + 1);
      bar.setAttribute("width", 8);
      bar.append(document.createElementNS(SVG, "title"));
      chart.append(bar);
    }
  }
  counts.forEach((count, index) => {
    const bar = chart.children[index + 1];
    const height = (98 * count) / most;
    bar.setAttribute("y", 99 - height);
    bar.setAttribute("height", height);
    set(bar.firstChild, `${new Date((last - 59 + index) * 60000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}: ${count}`);
  });
  const total = counts.reduce((sum, count) => sum + count, 0);
  set($("minutes-text"), `60 minutes ago to now · ${total} requests · at most ${Math.max(...counts)} in a minute`);
}

function totals(snapshot, stats) {
  const queue = snapshot.queue;
  const flying = snapshot.backends.reduce((sum, backend) => sum + inFlight(backend), 0);
  const cached = snapshot.backends.reduce((sum, backend) => sum + backend.prompt_tokens.cache, 0);
  const worked = snapshot.backends.reduce((sum, backend) => sum + backend.prompt_tokens.work, 0);
  const those = (...statuses) => snapshot.backends.filter((backend) => statuses.includes(backend.status)).length;
  const asleep = those("asleep", "waking");
  const well = snapshot.backends.length - asleep - those("invalid");
  const waiting = Object.entries(queue.by_model).map(([model, count]) => `${model}: ${count}`).join(", ");
  const items = [
    ["Servers up", well, `of ${snapshot.backends.length}${asleep ? `, ${asleep} asleep` : ""}`],
    ["In flight", flying, ""],
    ["Waiting", queue.waiting, queue.waiting ? `longest ${age(queue.oldest_wait_seconds)}` : `of at most ${queue.max}`, waiting],
    ["Requests, last hour", stats.total_requests, ""],
    ["Prompt tokens saved", cached + worked ? percent(100 * cached / (cached + worked)) : null,
      cached ? compact(cached) : ""],
    ...(snapshot.store ? [["Balancers", snapshot.store.replicas, snapshot.store.away ? "when last heard of" : "share the servers"],
      ["Waiting at other balancers", snapshot.store.waiting_elsewhere, ""]] : []),
    ["This machine's GPUs", snapshot.gpu_backend === "none" ? "unknown" : snapshot.local.status,
      snapshot.gpu_backend === "none" ? "" : percent(snapshot.local.gpu_util_max5s)],
  ];
  keep($("totals"), items, (item) => item[0], ([name]) => {
    const box = make("div");
    box.append(make("dt", "", name), make("dd"));
    box.lastChild.append(make("span"), " ", make("small"));
    return box;
  }, (box, [, value, more, title]) => {
    set(box.querySelector("span"), value);
    set(box.querySelector("small"), more);
    box.title = title || "";
  });
}

const CHANGES = { clock: "a time", hash: "a hash", tools: "the order of tools", moved: "a message's place", reasoning: "reasoning left out", other: "a text" };
const GOES_BY = {
  share: (balancers) => `Each of the ${balancers} balancers keeps to its share of each server's limit.`,
  full: () => "Each balancer goes by each server's whole limit: together they may exceed it.",
  reject: () => "No requests go to servers with a limit.",
};
let shownAt = "";
let mayOrder = false;

function showStore(store) {
  $("store-away").hidden = !(store && store.away);
  if (store) set($("store-rule"), `${GOES_BY[store.goes_by](store.replicas)} It is back by itself once Valkey responds.`);
}

function show({ snapshot, stats }) {
  shownAt = snapshot.now;
  mayOrder = snapshot.drain;
  const configured = snapshot.backends.length > 0;
  $("empty").hidden = configured;
  $("open").hidden = !snapshot.open_at;
  $("refused").hidden = snapshot.refused_settings.length === 0;
  set($("mistakes"), snapshot.refused_settings.join("\n"));
  showStore(snapshot.store);
  for (const id of ["totals", "servers-part", "traffic", "sticky-part", "models-part"]) $(id).hidden = !configured;
  $("gpus-part").hidden = snapshot.gpus.length === 0;
  $("changed-part").hidden = snapshot.changed_prompts.length === 0;
  keep($("gpus"), snapshot.gpus, (gpu) => `gpu ${gpu.index}`, card, gpuCard);
  if (!configured) return;
  totals(snapshot, stats);
  showRequests(snapshot.now);
  showServers(snapshot);
  tryModels(snapshot);
  readUsage();
  minutes(stats.time_series, snapshot.now);
  bars($("by-model"), stats.model_counts);
  bars($("by-user"), stats.username_counts);
  bars($("by-address"), stats.ip_counts);
  rows($("changed"), snapshot.changed_prompts, (one) => `${one.client} ${one.program} ${one.kind}`, (one) =>
    [one.client, one.program || null, `${CHANGES[one.kind]}, message ${one.message + 1}`, one.advice, one.requests, compact(one.tokens), age(one.seconds)]);
  rows($("sticky"), [...snapshot.sticky].reverse(), (pin) => `${pin.model} ${pin.key}`, (pin) =>
    [pin.key, pin.ip, pin.model, pin.instance === pin.model ? pin.server : `${pin.server}, ${pin.instance}`,
      `${age(since(snapshot.now, pin.updated_at))} ago`]);
  const routes = [...Object.entries(snapshot.models), ["anything else", [snapshot.fallback]]];
  rows($("models"), routes, (route) => route[0], ([pattern, servers]) => [pattern, servers.join(", ")]);
}

/* The stream, which the browser opens again by itself */

let events;
let heard = 0;
let told = {};
let first = true;  // since the stream was opened

function state(name, text) {
  $("live").dataset.state = document.body.dataset.state = name;
  set($("live"), text);
  document.title = name === "live" ? "llama-balancer" : `(${text}) llama-balancer`;
}

function listen() {
  events = new EventSource("/llmhealth-monitor/events");
  events.onmessage = (event) => {
    heard = Date.now();
    const news = JSON.parse(event.data);  // parts that have changed; all of them at first
    told = { snapshot: { ...told.snapshot, ...news.snapshot }, stats: { ...told.stats, ...news.stats } };
    takeRequests(news.requests, first);
    first = false;
    show(told);
    state("live", `live · ${new Date().toLocaleTimeString()}`);
  };
  events.onopen = () => (first = true);
  events.onerror = () => {
    state("lost", "reconnecting");
    // After an error's status browsers do not try again: the session is over, or we start.
    if (events.readyState === EventSource.CLOSED) setTimeout(again, 3000);
  };
}

async function again() {
  const answer = await fetch(location.pathname, { method: "HEAD" }).catch(() => null);
  if (answer && answer.status === 401) location.reload();
  else listen();
}

listen();
setInterval(() => {
  if (heard && Date.now() - heard > 10000) state("lost", `no news for ${age((Date.now() - heard) / 1000)}`);
}, 1000);
